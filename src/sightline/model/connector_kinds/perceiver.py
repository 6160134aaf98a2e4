"""The perceiver: learnt vectors that read a crop of any size in several layers (Idefics2, https://arxiv.org/abs/2405.02246, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from sightline.model.connectors import PictureConnector
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.perceiver_modules import Perceiver


class PerceiverConnector(PictureConnector):
    """A gated perceptron to the language model's width, then latents that read it; one key and value head serves several query heads."""

    kind: Literal["perceiver"] = "perceiver"
    latents: int = Field(default=64, ge=1)
    """Tokens that a crop becomes; they have no place on a grid."""
    depth: int = Field(default=3, ge=1)
    """Layers."""
    heads: int = Field(default=16, ge=1)
    """Query heads."""
    key_heads: int = Field(default=4, ge=1)
    """Key and value heads, a divisor of `heads`."""
    head_width: int = Field(default=96, ge=1)
    """Channels of a head."""
    inner: int = Field(default=14336, ge=1)
    """Hidden width of the gated perceptron, as published that of the language model's own (Mistral-7B)."""

    @model_validator(mode="after")
    def _grouped(self) -> PerceiverConnector:
        if self.heads % self.key_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of key_heads {self.key_heads}")
        return self

    def twin(self) -> PerceiverConnector:
        """Few latents, two layers, heads in the same groups, a perceptron as wide as that of a twin's language model."""
        groups = min(self.heads // self.key_heads, 4)
        return self.model_copy(
            update={
                "latents": min(self.latents, 4),
                "depth": min(self.depth, 2),
                "heads": groups,
                "key_heads": 1,
                "head_width": 16,
                "inner": min(self.inner, 128),
            }
        )

    def grid(self, grid: Grid) -> Grid:
        """The latents, whatever the crop."""
        return Grid(columns=0, rows=0, lead=self.latents)

    def build(self, channels: int, width: int) -> Perceiver:
        """The module for C channels in, width D out."""
        from sightline.model.connector_kinds.perceiver_modules import Perceiver

        return Perceiver(self, channels, width)
