"""Learnt visual prompts: a few trained vectors beside a picture's tokens, with every other weight left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.pieces import Slots, StreamName

if TYPE_CHECKING:
    from torch import nn


class VisualPrompts(Config):
    """Trained vectors for a task: among the tokens of encoders (Jia et al. 2022, section 3.2), or between a picture's entries and the text after it. Trained by naming `prompts`."""

    place: Literal["text", "encoder"] = "text"
    """text: after the entries of each picture, of the language model's width. encoder: in front of the tokens of each encoder, taken out again behind it."""
    count: int = Field(default=8, ge=1)
    """Vectors of a picture, or of a crop in each encoder."""
    deep: bool = False
    """With place encoder: fresh vectors before every block (VPT-deep), not before the first alone (VPT-shallow)."""

    @model_validator(mode="after")
    def _fits(self) -> VisualPrompts:
        if self.deep and self.place != "encoder":
            raise ValueError("deep prompts stand before every block of an encoder: set place: encoder")
        return self

    @property
    def entries(self) -> int:
        """Lines of the feature table, after the layout's vectors."""
        return self.count if self.place == "text" else 0

    def slots(self, picture: int, vectors: int, stream: StreamName) -> list[Slots]:
        """The places that they take after a picture, where they do; `vectors` = those of the layout, which come before them in the feature table."""
        return [Slots(picture=picture, entries=range(-1 - vectors, -1 - vectors - self.entries, -1), stream=stream)] if self.entries else []

    def build(self, encoders: Sequence[tuple[str, Any]], width: int) -> nn.Module:
        """The vectors beside these encoders (name, module) and a language model of this width. Refused lists the encoders that take none."""
        from sightline.model.prompt_modules import EncoderPrompts, TextPrompts

        return EncoderPrompts(self, encoders) if self.place == "encoder" else TextPrompts(self.count, width)
