"""Tiles of one size on the grid whose aspect ratio is nearest to the picture's, chosen from all grids of a few tiles."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.tilers.windows import made, raster, shown, whole
from sightline.model.tiling import Filter, Tiling, View


def grids(least: int, most: int) -> list[tuple[int, int]]:
    """All (columns, rows) of `least` to `most` tiles, fewer tiles first, then fewer columns."""
    return [(columns, count // columns) for count in range(least, most + 1) for columns in range(1, count + 1) if count % columns == 0]


class InternVlTiler(Config):
    """The picture is squeezed onto a grid of tiles; a thumbnail follows where there are several (InternVL-1.5, https://arxiv.org/abs/2404.16821, section 3.3; NVLM).

    Frame "seen": all tiles together, to which both sides are forced.
    """

    kind: Literal["internvl"] = "internvl"
    size: int = Field(default=448, ge=1)
    """Side of a tile in px."""
    least: int = Field(default=1, ge=1)
    """Fewest tiles."""
    most: int = Field(default=12, ge=1)
    """Most tiles, thumbnail apart (NVLM: 6)."""
    thumbnail: bool = True
    """Whether the whole picture follows as one more crop."""
    filter: Filter = "bicubic"
    """Resampling filter."""

    @model_validator(mode="after")
    def _in_order(self) -> InternVlTiler:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is more than most {self.most}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """Tiles, then perhaps an overview."""
        return ("tile", "overview") if self.thumbnail else ("tile",)

    def twin(self) -> InternVlTiler:
        """Same grids at toy size."""
        return self.model_copy(update={"size": min(self.size, 32)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Tiles of the best grid, then the thumbnail; one tile alone is the thumbnail."""
        grid = self._best(width, height)
        side = self.size
        main = View(resized=(grid[0] * side, grid[1] * side), filter=self.filter, canvas=(grid[0] * side, grid[1] * side))
        tiles = raster(0, grid, (side, side), shown(main))
        if not self.thumbnail:
            return made((width, height), grid, (main,), tiles)
        if len(tiles) == 1:  # the tile is the whole picture: it is its own thumbnail
            return made((width, height), grid, (main,), (whole(0, main),))
        overview = View(resized=(side, side), filter=self.filter, canvas=(side, side))
        return made((width, height), grid, (main, overview), (*tiles, whole(1, overview)))

    def _best(self, width: int, height: int) -> tuple[int, int]:
        """The nearest ratio; on a tie the later grid where the picture has more than half its px."""
        best, nearest = (1, 1), float("inf")
        for columns, rows in grids(self.least, self.most):
            distance = abs(width / height - columns / rows)
            if distance < nearest or (distance == nearest and width * height > 0.5 * self.size**2 * columns * rows):
                best, nearest = (columns, rows), distance
        return best


class CattyTiler(Config):
    """Tiles keep the picture's shape and overlap along its longer side; a squeezed thumbnail stands last (POINTS, https://arxiv.org/abs/2409.04828, section 3.1).

    The shorter side fills its tiles, the longer one is covered by equal strides, of which up to columns - 2 (rows - 2) px at the far edge are lost.
    Pictures longer than `most`:1 are squeezed to that. Frame "seen": the resized picture.
    """

    kind: Literal["catty"] = "catty"
    size: int = Field(default=336, ge=1)
    """Side of a tile in px."""
    most: int = Field(default=8, ge=1)
    """Most tiles, thumbnail apart."""
    filter: Filter = "bilinear"
    """Resampling filter."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Tiles, then an overview."""
        return ("tile", "overview")

    def twin(self) -> CattyTiler:
        """Same grids at toy size."""
        return self.model_copy(update={"size": min(self.size, 32)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Overlapping tiles, then the thumbnail."""
        side = self.size
        w, h = min(width, self.most * height), min(height, self.most * width)
        columns, rows = grid = self._best(w, h)
        resized = (int(w / h * (rows * side)), rows * side) if w >= h else (columns * side, int(h / w * (columns * side)))
        stride = ((resized[0] - side) // max(1, columns - 1), (resized[1] - side) // max(1, rows - 1))
        main = View(resized=resized, filter=self.filter, canvas=resized)
        thumbnail = View(resized=(side, side), filter=self.filter, canvas=(side, side), of=0)
        return made((width, height), grid, (main, thumbnail), (*raster(0, grid, (side, side), shown(main), stride), whole(1, thumbnail)))

    def _best(self, width: int, height: int) -> tuple[int, int]:
        """The nearest ratio on the picture's side of square, then the number of tiles nearest to the picture's area; `min` keeps the first of equals."""
        ratio, area = width / height, (width / self.size) * (height / self.size)

        def fits(grid: tuple[int, int]) -> bool:
            return width == height or (grid[0] / grid[1] >= ratio if width > height else grid[0] / grid[1] <= ratio)

        choices = [grid for grid in grids(1, self.most) if fits(grid)]
        return min(choices, key=lambda grid: (abs(grid[0] / grid[1] - ratio), abs(grid[0] * grid[1] - area)))
