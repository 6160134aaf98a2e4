"""Overlapping crops whose margins are seen but not used (Molmo, https://arxiv.org/abs/2409.17146, section 2)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.tilers.aspect_grids import grids
from sightline.model.tilers.windows import made, raster, shown, whole, within
from sightline.model.tiling import Filter, Tiling, View


class MolmoTiler(Config):
    """An overview, then crops that share a margin on each side: patches near a cut are seen with what lies behind it.

    The picture keeps its shape and is centred on columns (rows) x inner + both margins px, with inner = size - both margins.
    The grid is the smallest that does not shrink the picture less its margins, else the one that shrinks it least. A side not longer than both margins counts as
    negative there, as published: such a picture becomes one crop. Frame "seen": the padded canvas of the crops.
    """

    kind: Literal["molmo"] = "molmo"
    size: int = Field(default=336, ge=1)
    """Side of a crop and of the overview in px."""
    margin: int = Field(default=56, ge=0)
    """Margin on each side of a crop in px, a whole number of patches (4 of 14)."""
    most: int = Field(default=12, ge=1)
    """Most crops, overview apart."""
    filter: Filter = "bilinear"
    """Resampling filter."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the padding, 0..255."""

    @model_validator(mode="after")
    def _has_inside(self) -> MolmoTiler:
        if 2 * self.margin >= self.size:
            raise ValueError(f"two margins of {self.margin} leave nothing of size {self.size}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """An overview, then tiles."""
        return ("overview", "tile")

    def twin(self) -> MolmoTiler:
        """Same grids at toy size: 8 patches of 8 px, of which two are margin on each side."""
        return self.model_copy(update={"size": 64, "margin": 16})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Overview, then crops in reading order."""
        columns, rows = grid = self._best(width, height)
        inner, margins = self.size - 2 * self.margin, 2 * self.margin
        main = self._padded(width, height, (columns * inner + margins, rows * inner + margins))
        overview = self._padded(width, height, (self.size, self.size))
        crops = raster(0, grid, (self.size, self.size), shown(main), (inner, inner))
        return made((width, height), grid, (main, overview), (whole(1, overview), *crops))

    def _best(self, width: int, height: int) -> tuple[int, int]:
        inner, margins = self.size - 2 * self.margin, 2 * self.margin

        def scale(grid: tuple[int, int]) -> float:
            sides = (width - margins, height - margins)
            return min(count * inner / side if side else math.inf for count, side in zip(grid, sides, strict=True))

        choices = sorted(grids(1, self.most), key=lambda grid: (grid[0] * grid[1], grid[1]))
        enough = [grid for grid in choices if scale(grid) >= 1]
        return min(enough, key=scale) if enough else max(choices, key=scale)

    def _padded(self, width: int, height: int, canvas: tuple[int, int]) -> View:
        resized = within((width, height), canvas)
        offset = ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2)
        return View(resized=resized, filter=self.filter, offset=offset, canvas=canvas, fill=self.fill)
