"""Attention pooling of small windows (Molmo, https://arxiv.org/abs/2409.17146, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.model.connectors import PictureConnector, merged
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.attention_pool_modules import AttentionPool


class AttentionPoolConnector(PictureConnector):
    """Each window of pool x pool tokens is read by its own mean in one attention layer, then goes through a gated perceptron."""

    kind: Literal["attention-pool"] = "attention-pool"
    pool: int = Field(default=2, ge=1)
    """Side of a window in tokens."""
    layers: int = Field(default=2, ge=1)
    """Layers of the encoder that its tokens join; pooling leaves the channels of one."""
    heads: int = Field(default=16, ge=1)
    """Attention heads."""
    inner: int = Field(default=18944, ge=1)
    """Hidden width of the gated perceptron, as published that of the language model's own (Qwen2-7B)."""
    padding: Literal["own", "next", "none"] = "own"
    """Learnt vectors for tokens that show no picture, or picture in part. own: by what the crop itself shows. next: by what the crop after it in its picture shows,
    and in part throughout for the last crop; the published weights were trained so. none: no such vectors."""

    def twin(self) -> AttentionPoolConnector:
        """Four heads and a toy perceptron."""
        return self.model_copy(update={"heads": min(self.heads, 4), "inner": min(self.inner, 96)})

    def grid(self, grid: Grid) -> Grid:
        """One token for each window."""
        return merged(grid, self.pool, "connector.pool")

    def pooled(self, channels: int) -> int:
        """Channels after pooling, of C before. Refused where layers or heads do not divide them."""
        if channels % (self.layers * self.heads):
            raise Refused(
                Problem(
                    code="model/head-width",
                    place="connector.heads",
                    found=f"{self.heads} heads on one of {self.layers} layers in {channels} channels",
                    allowed=f"layers x heads that divides {channels}",
                    fix="connector.layers: the number of layers that the encoder is read at",
                )
            )
        return channels // self.layers

    def build(self, channels: int, width: int) -> AttentionPool:
        """The module for C channels in, width D out."""
        from sightline.model.connector_kinds.attention_pool_modules import AttentionPool

        return AttentionPool(self, channels, width)
