"""All kinds of objective, in one table. Who needs them by kind imports from here."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from sightline.kinds import Config
from sightline.train.mask_objective import MaskLikelihood
from sightline.train.objectives import OBJECTIVE
from sightline.train.picture_text import PictureText

ObjectiveField = Annotated[Config, OBJECTIVE, BeforeValidator(lambda value: {"kind": value} if isinstance(value, str) else value)]
"""An objective of a recipe; its name alone stands for its defaults."""
OBJECTIVE.add(PictureText)
OBJECTIVE.add(MaskLikelihood)
