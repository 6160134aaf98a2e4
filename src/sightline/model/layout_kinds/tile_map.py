"""Tiles put together to one map of entries, and what layouts cut off it."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.model.layouts import crop_of, misfit
from sightline.model.pieces import Slots
from sightline.model.tiling import Tiling

EntryMap = list[list[int]]
"""Entries row by row; all rows have one length."""


def raster(slots: Slots) -> EntryMap:
    """The entries of one crop, row by row. Raises Refused where they are not a raster, such as class tokens or queries."""
    grid = slots.grid
    if grid is None:
        allowed = "tokens that are all cells of a raster"
        raise misfit(
            "layout.kind",
            f"{len(slots.entries)} tokens of a crop with class tokens or queries among them",
            allowed,
            "choose layout flat, or drop the lead tokens",
        )
    return [list(slots.entries[row * grid.columns : (row + 1) * grid.columns]) for row in range(grid.rows)]


def tile_map(tiling: Tiling, tiles: Sequence[Slots]) -> EntryMap:
    """The entries of all tiles as one map: each tile at its place; where windows of neighbours overlap, each gives up its half of what both show.

    Raises Refused where the tiles are no rasters, do not fill the tiling's grid, do not fit together, or overlap by an odd number of cells.
    """
    columns, rows = tiling.grid
    at = {crop_of(tiling, one).place: one for one in tiles}
    if len(at) != len(tiles) or set(at) != {(column, row) for row in range(rows) for column in range(columns)}:
        allowed = "one tile for each place of the grid"
        raise misfit("layout.kind", f"{len(tiles)} crops on a grid of {columns}x{rows}", allowed, "choose a tiler with one grid of tiles, or layout flat")
    cells = {place: _inside(tiling, at, place) for place in at}
    heights = [{len(cells[column, row]) for column in range(columns)} for row in range(rows)]
    widths = [{len(line) for row in range(rows) for line in cells[column, row]} for column in range(columns)]
    if any(len(sizes) > 1 for sizes in (*heights, *widths)):
        raise misfit("layout.kind", f"{columns}x{rows} tiles of different sizes", "tiles that form rows and columns", "choose a tiler with tiles of one size")
    found: EntryMap = []
    for row in range(rows):
        for line in range(len(cells[0, row])):
            found.append([entry for column in range(columns) for entry in cells[column, row][line]])
    return found


def _inside(tiling: Tiling, at: dict[tuple[int, int], Slots], place: tuple[int, int]) -> EntryMap:
    """A tile's entries without its half of what it shares with its neighbours."""
    column, row = place
    lines = raster(at[place])
    left, right = (_shared(tiling, at, place, (column + step, row), 0) for step in (-1, 1))
    top, bottom = (_shared(tiling, at, place, (column, row + step), 1) for step in (-1, 1))
    return [line[left : len(line) - right] for line in lines[top : len(lines) - bottom]]


def _shared(tiling: Tiling, at: dict[tuple[int, int], Slots], place: tuple[int, int], neighbour: tuple[int, int], axis: int) -> int:
    """Cells of a tile, along an axis, in its half of the overlap with a neighbour. Tiles of different views touch."""
    if neighbour not in at:
        return 0
    grid, crop, other = at[place].grid, crop_of(tiling, at[place]), crop_of(tiling, at[neighbour])
    if grid is None or crop.view != other.view:
        return 0
    first, second = sorted((crop.window, other.window), key=lambda window: window[axis])
    overlap = first[axis] + first[axis + 2] - second[axis]
    count = (grid.columns, grid.rows)[axis]
    side = crop.window[axis + 2]
    cells, rest = divmod(overlap * count, 2 * side)
    if rest:
        allowed = "an overlap of an even number of cells, half for each"
        raise misfit(
            "layout.kind", f"tiles of {side} px and {count} cells that overlap by {overlap} px", allowed, "change the tiler's margin, or choose layout flat"
        )
    return cells


def unpadded(entries: EntryMap, size: tuple[int, int]) -> EntryMap:
    """The map without the rows or columns that show padding, for a picture of `size` (w, h): LLaVA-NeXT's rule, which may keep one row of padding."""
    (width, height), rows, columns = size, len(entries), len(entries[0])
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return entries[cut : rows - cut]
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return [line[cut : columns - cut] for line in entries]
