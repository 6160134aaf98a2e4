"""All kinds of text encoder, in one table. Who needs them by kind imports TEXT_ENCODER from here."""

from __future__ import annotations

from sightline.model.text_kinds.med import MedText
from sightline.model.text_tower import TEXT_ENCODER

TEXT_ENCODER.add(MedText)
