"""Heads: what a model makes of hidden states besides text. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self

from sightline.kinds import Config, Family
from sightline.model.encoders import VisionEncoder

if TYPE_CHECKING:
    from torch import nn

HEAD = Family("head")
Encoders = Sequence[VisionEncoder]
"""Those of the head's model: a head may look through one of them."""


class MaskHead(Protocol):
    """What every kind of head that draws masks offers.

    Its module: forward(taps (G, D), asked, encoders) -> logits (G, s, s), s = side / stride; see batch.MaskTaps. The mask of a tap comes out the same whatever else is in the batch.
    """

    @property
    def kind(self) -> str:
        """Its name in the table."""
        ...

    @property
    def side(self) -> int:
        """Side in px of the square in which it sees a picture."""
        ...

    @property
    def stride(self) -> int:
        """Px of that square in one place of its grid."""
        ...

    def bands(self, encoders: Encoders) -> tuple[str, ...]:
        """Bands that it sees, in order."""
        ...

    def fill(self, encoders: Encoders) -> tuple[float, ...]:
        """What stands beside pictures, per band, 0..1: what its tower subtracts; 0 where neither head nor encoders are resolved."""
        ...

    def tokens(self, encoders: Encoders) -> int:
        """Places of a picture that its tower computes."""
        ...

    def faults(self, encoders: Encoders) -> list[str]:
        """What does not fit the encoders of its model, as a recipe is told."""
        ...

    def resolve(self, encoders: Encoders) -> Self:
        """With everything that checkpoints say copied in. Refused: what does not fit them, or the resolved encoders of its model."""
        ...

    def weightless(self) -> Self:
        """The same without checkpoints: its weights come from a model directory."""
        ...

    def twin(self) -> Self:
        """Same structure at toy size."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Its fields, as pydantic gives them."""
        ...

    def build(self, width: int, encoders: Encoders) -> nn.Module:
        """The module for hidden states of width D, beside resolved encoders."""
        ...


class Heads(Config):
    """Parts that read hidden states of the language model, paths `heads.NAME`."""

    mask: Annotated[MaskHead, HEAD] | None = None
    """Turns the hidden state that predicts a codec's token into a mask; needs a codec such as `seg`."""

    def named(self) -> Mapping[str, MaskHead]:
        """Those that are there, by name."""
        return {"mask": self.mask} if self.mask is not None else {}
