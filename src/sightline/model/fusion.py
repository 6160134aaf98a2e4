"""Fusions: how picture entries reach the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sightline.kinds import Config, Family

if TYPE_CHECKING:
    from sightline.model.fusion_modules import Sequence

FUSION = Family("fusion")


@FUSION.add
class SequenceFusion(Config):
    """Entries stand in the decoder's sequence among the text tokens (LLaVA and most others)."""

    kind: Literal["sequence"] = "sequence"

    def route(self, role: str) -> Literal["decoder", "memory"]:
        """Every role goes to the decoder."""
        return "decoder"

    @property
    def packs(self) -> bool:
        """Several samples may share a bin."""
        return True

    def build(self) -> Sequence:
        """The module."""
        from sightline.model.fusion_modules import Sequence

        return Sequence()
