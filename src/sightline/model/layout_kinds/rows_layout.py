"""Maps row by row, with a control token after each row (Molmo, Pixtral)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from sightline.model.layout_kinds.tile_map import EntryMap, raster, tile_map
from sightline.model.layouts import Layout, Route, crop_slots, named, parted, texts, tokens
from sightline.model.pieces import Piece, Slots, StreamName
from sightline.model.tiling import Grid, Tiling


class RowsLayout(Layout):
    """The overview's rows, then those of the tiles' map; each row ends with a token, each block may begin and end with one. Overlaps of tiles are halved between them.

    Molmo (https://arxiv.org/abs/2409.17146, section 2): `begin: <im_start>`, `row_end: <im_col>`, `end: <im_end>`.
    Pixtral (https://arxiv.org/abs/2410.07073, section 2): `row_end: [IMG_BREAK]`, `end: [IMG_END]`, `last_row: end`.
    """

    kind: Literal["rows"] = "rows"
    begin: str = ""
    """Control token before a block."""
    row_end: str = Field(min_length=1)
    """Control token after each row."""
    end: str = ""
    """Control token after a block."""
    last_row: Literal["both", "end"] = "both"
    """What follows the last row of a block: `row_end` and then `end`, or `end` in place of `row_end`."""
    after: str = ""
    """Text after all of it."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Its tokens."""
        return named(self.begin, self.row_end, self.end)

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """A block for the overview, a block for the tiles, [after]. Raises Refused where crops are no rasters or the tiles no map."""
        overviews, tiles = parted(tiling, crop_slots(picture, tiling, grids, route))
        found = [piece for one in overviews for piece in self._block(picture, raster(one), one.stream)]
        found += self._block(picture, tile_map(tiling, tiles), tiles[0].stream) if tiles else []
        return [*found, *texts(self.after)]

    def _block(self, picture: int, lines: EntryMap, stream: StreamName) -> list[Piece]:
        found = tokens(self.begin, stream)
        for number, line in enumerate(lines):
            ends = self.last_row == "both" or number < len(lines) - 1
            found += [Slots(picture=picture, entries=tuple(line), stream=stream), *tokens(self.row_end if ends else "", stream)]
        return [*found, *tokens(self.end, stream)]
