"""All kinds of language model, in one table. Who needs them by kind imports LANGUAGE_MODEL from here."""

from __future__ import annotations

from sightline.model.language import LANGUAGE_MODEL
from sightline.model.text_kinds.med import MedText

LANGUAGE_MODEL.add(MedText)
