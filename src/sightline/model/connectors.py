"""Connectors: from encoder tokens (C channels) to language-model tokens (width D)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_modules import Mlp

CONNECTOR = Family("connector")


@CONNECTOR.add
class MlpConnector(Config):
    """Per-token perceptron (depth 1 = linear, LLaVA; 2 = LLaVA-1.5), optionally after s x s space-to-depth and a LayerNorm."""

    kind: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1)
    """Linear layers; GELU between them."""
    merge: int = Field(default=1, ge=1)
    """s: token (i, j) is the concatenation over di then dj of the tokens (s*i+di, s*j+dj)."""
    norm: bool = False
    """LayerNorm of the (merged) input."""
    coordinates: int = Field(default=0, ge=0, le=8)
    """0: none. n: the centre of each token (x, y in -1..1) and n-1 octaves of its sine and cosine join the input."""

    def twin(self) -> MlpConnector:
        """Itself: its sizes follow from its neighbours."""
        return self

    def grid(self, grid: Grid) -> Grid:
        """The grid after merging; lead tokens cannot be merged."""
        if self.merge == 1:
            return grid
        if grid.lead or grid.columns % self.merge or grid.rows % self.merge:
            raise Refused(
                Problem(
                    code="model/merge-grid",
                    place="connector.merge",
                    found=f"{grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens",
                    allowed=f"no lead tokens, columns and rows divisible by {self.merge}",
                    fix="change the tiler's size or connector.merge",
                )
            )
        return Grid(columns=grid.columns // self.merge, rows=grid.rows // self.merge)

    def build(self, channels: int, width: int) -> Mlp:
        """The module for C channels in, width D out."""
        from sightline.model.connector_modules import Mlp

        return Mlp(self, channels, width)
