"""The merger of Qwen2-VL (https://arxiv.org/abs/2409.12191, section 2.1): tokens are normalised one by one, then joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sightline.model.connectors import PictureConnector, merged
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.merger_modules import Merger


class MergerConnector(PictureConnector):
    """LayerNorm of each token, s x s space-to-depth, two linear layers whose inner width is that of the joined token."""

    kind: Literal["merger"] = "merger"
    merge: int = Field(default=2, ge=1)
    """s: token (i, j) is the concatenation over di then dj of the tokens (s*i+di, s*j+dj)."""

    def twin(self) -> MergerConnector:
        """Itself: its sizes follow from its neighbours."""
        return self

    def grid(self, grid: Grid) -> Grid:
        """The grid after merging; lead tokens cannot be merged."""
        return merged(grid, self.merge, "connector.merge")

    def build(self, channels: int, width: int) -> Merger:
        """The module for C channels in, width D out."""
        from sightline.model.connector_kinds.merger_modules import Merger

        return Merger(self, channels, width)
