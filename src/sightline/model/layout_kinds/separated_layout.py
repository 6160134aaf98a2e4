"""Slices set apart by plain text, the overview last (LLaVA-UHD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sightline.model.layouts import Layout, Route, crop_of, crop_slots, parted, texts
from sightline.model.pieces import Piece
from sightline.model.tiling import Grid, Tiling


class SeparatedLayout(Layout):
    """Tiles in reading order, each followed by a text, another one at the end of a row; then the overview, followed by nothing.

    LLaVA-UHD (https://arxiv.org/abs/2403.11703, section 3.3): a comma between slices, a line end after each row.
    """

    kind: Literal["separated"] = "separated"
    between: str = ","
    """Text after each tile but the last of its row."""
    row_end: str = "\n"
    """Text after the last tile of each row."""
    after: str = ""
    """Text after all of it."""

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """(tile between ..., tile row_end) for each row, overview, [after]."""
        overviews, tiles = parted(tiling, crop_slots(picture, tiling, grids, route))
        found: list[Piece] = []
        for tile in tiles:
            ends = crop_of(tiling, tile).place[0] == tiling.grid[0] - 1
            found += [tile, *texts(self.row_end if ends else self.between, tile.stream)]
        return [*found, *overviews, *texts(self.after)]
