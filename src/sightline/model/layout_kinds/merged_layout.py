"""Overview first, then the tiles as one map (LLaVA-NeXT, Ferret-v2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sightline.model.layout_kinds.tile_map import tile_map, unpadded
from sightline.model.layouts import Layout, Route, crop_slots, parted, texts
from sightline.model.pieces import Piece, Slots
from sightline.model.tiling import Grid, Tiling

_NEWLINE = -1


class MergedLayout(Layout):
    """The overview's entries, then those of all tiles as one map in reading order, each row followed by a learnt vector.

    LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/, image features merged with "spatial_unpad"); a picture without tiles is its overview and one vector.
    Ferret-v2 (https://arxiv.org/abs/2404.07973, section 3.1): `unpad: false`, `newline: false`.
    """

    kind: Literal["merged"] = "merged"
    unpad: bool = True
    """Leave out rows or columns of the map that show padding: the tiler puts the picture in the middle of its canvas."""
    newline: bool = True
    """Whether the vector `newline` follows each row."""
    after: str = ""
    """Text after all of it."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """`newline`."""
        return ("newline",) if self.newline else ()

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """Overview, map, [after]. Raises Refused where the tiles are no map."""
        overviews, tiles = parted(tiling, crop_slots(picture, tiling, grids, route))
        ended = [_NEWLINE] if self.newline else []
        if not tiles:
            last = [Slots(picture=picture, entries=(_NEWLINE,), stream=overviews[-1].stream)] if overviews and ended else []
            return [*overviews, *last, *texts(self.after)]
        lines = tile_map(tiling, tiles)
        lines = [[*line, *ended] for line in (unpadded(lines, tiling.size) if self.unpad else lines)]
        entries = tuple(entry for line in lines for entry in line)
        grid = Grid(columns=len(lines[0]), rows=len(lines)) if entries else None
        whole = [Slots(picture=picture, entries=entries, grid=grid, stream=tiles[0].stream)] if entries else []
        return [*overviews, *whole, *texts(self.after)]
