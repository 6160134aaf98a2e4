"""Each crop between two equal control tokens, of which neighbours share one (Idefics2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sightline.model.layouts import Layout, Route, crop_slots
from sightline.model.pieces import Control, Piece
from sightline.model.tiling import Grid, Tiling


class WrappedLayout(Layout):
    """Crops in the tiler's order, each between two wraps; where two wraps meet, of one picture or of two, one is written.

    Idefics2 (https://arxiv.org/abs/2405.02246, section 3): 64 entries a crop, 5 * 64 + 6 tokens for a picture that is split in four.
    """

    kind: Literal["wrapped"] = "wrapped"
    wrap: str = Field(default="<fake_token_around_image>", min_length=1)
    """The control token."""

    @property
    def controls(self) -> tuple[str, ...]:
        """The wrap."""
        return (self.wrap,)

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """(wrap crop wrap) ..."""
        found: list[Piece] = []
        for one in crop_slots(picture, tiling, grids, route):
            wrap = Control(token=self.wrap, merge=True, stream=one.stream)
            found += [wrap, one, wrap]
        return found
