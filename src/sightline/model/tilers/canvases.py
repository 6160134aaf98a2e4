"""A canvas of a few tiles, padded at the right and bottom, without an overview (Llama 3.2 Vision)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sightline.kinds import Config
from sightline.model.tilers.aspect_grids import grids
from sightline.model.tilers.windows import made, raster, shown, within
from sightline.model.tiling import Filter, Tiling, View


class CanvasTiler(Config):
    """Tiles of the smallest canvas on which the picture need not shrink, else of the one that shrinks it least; of equals the one with fewest tiles.

    The picture keeps its shape and stands at the top left. It grows to one tile at most. Frame "seen": the canvas.
    """

    kind: Literal["canvas"] = "canvas"
    size: int = Field(default=560, ge=1)
    """Side of a tile in px (448 in the base models)."""
    most: int = Field(default=4, ge=1)
    """Most tiles."""
    filter: Filter = "bilinear"
    """Resampling filter."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the padding, 0..255."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Tiles of one canvas."""
        return ("canvas",)

    def twin(self) -> CanvasTiler:
        """Same grids at toy size."""
        return self.model_copy(update={"size": min(self.size, 32)})

    def canvases(self) -> list[tuple[int, int]]:
        """Grids (columns, rows) in published order, fewer rows first: the place in this list + 1 is the aspect id of the tile embeddings."""
        return sorted(grids(1, self.most), key=lambda grid: (grid[1], grid[0]))

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Tiles in reading order."""
        side = self.size
        grid = self._best(width, height)
        canvas = (grid[0] * side, grid[1] * side)
        room = (min(max(width, side), canvas[0]), min(max(height, side), canvas[1]))
        main = View(resized=within((width, height), room), filter=self.filter, canvas=canvas, fill=self.fill)
        return made((width, height), grid, (main,), raster(0, grid, (side, side), shown(main), role="canvas"))

    def _best(self, width: int, height: int) -> tuple[int, int]:
        scales = {(columns, rows): min(columns * self.size / width, rows * self.size / height) for columns, rows in self.canvases()}
        enough = [scale for scale in scales.values() if scale >= 1]
        chosen = min(enough) if enough else max(scales.values())
        return min((grid for grid, scale in scales.items() if scale == chosen), key=lambda grid: grid[0] * grid[1])
