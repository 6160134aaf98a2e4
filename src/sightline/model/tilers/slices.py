"""Slices of variable shape, each with about the area that the encoder was trained on (LLaVA-UHD, https://arxiv.org/abs/2403.11703, section 3.1)."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.tilers.windows import frame, made, raster, shown, whole
from sightline.model.tiling import Crop, Filter, Tiling, View

Variant = Literal["release", "paper", "legacy"]


def score(width: int, height: int, columns: int, rows: int) -> float:
    """How square the slices of a grid are: 0 at best, negative otherwise (equation 2 for a square encoder)."""
    return -abs(math.log(width * rows / (height * columns)))


class LlavaUhdTiler(Config):
    """Slices of the grid whose shape suits best, in reading order, then an overview of the same area budget.

    Three published rules differ. With N = pictures of size x size that have the picture's area, at most `most`:
    release: grids of N-1, N, N+1 slices, but neither 1 nor more than `most`, and no slices where N is 1; slices are scaled to the area size x size.
    paper: grids of N-1, N, N+1 slices, which may exceed `most` by one; slices are scaled to the most patches that fit the encoder's patch count.
    legacy: the same, without N-1 for N up to 2; slices are cut out at whole px before they are scaled.
    Sides are multiples of `patch`, at least one; very long pictures lose their shape by that.
    Frame "seen": the picture as its slices show it together (release, paper); the overview (legacy, and release without slices).
    """

    kind: Literal["llava-uhd"] = "llava-uhd"
    variant: Variant = "release"
    """Which of the published rules."""
    size: int = Field(default=336, ge=1)
    """Side in px of the pictures that the encoder was trained on."""
    patch: int = Field(default=14, ge=1)
    """Side of the encoder's patches in px."""
    most: int | None = Field(default=None, ge=1)
    """Largest N; default is the published one: 7 for release, 6 for paper and legacy."""
    filter: Filter = "bicubic"
    """Resampling filter."""

    @model_validator(mode="after")
    def _in_patches(self) -> LlavaUhdTiler:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """Tiles, then an overview."""
        return ("tile", "overview")

    def twin(self) -> LlavaUhdTiler:
        """Same grids from smaller pictures: four patches of 8 px a side."""
        return self.model_copy(update={"size": 32, "patch": 8})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Slices and overview."""
        grids = self.candidates(width, height)
        columns, rows = grid = max(grids, key=lambda grid: self._worth(width, height, *grid)) if grids else (1, 1)
        fit = self._by_area if self.variant == "release" else self._by_patches
        size = self._small(width, height) if self.variant == "release" and width * height <= self.size**2 else fit(width, height)
        overview = View(resized=size, filter=self.filter, canvas=size)
        if not grids:
            return made((width, height), grid, (overview,), (whole(0, overview),))
        if self.variant == "legacy":
            return self._cut_first((width, height), grid, overview)
        w, h = fit(width // columns, height // rows) if self.variant == "release" else fit(width * rows, height * columns)
        main = View(resized=(columns * w, rows * h), filter=self.filter, canvas=(columns * w, rows * h))
        return made((width, height), grid, (main, overview), (*raster(0, grid, (w, h), shown(main)), whole(1, overview)))

    def _worth(self, width: int, height: int, columns: int, rows: int) -> float:
        if self.variant != "release":
            return score(width, height, columns, rows)
        # equal to the score but for rounding, which in the released code makes 3x2 and not 2x3 slices of a square
        return -abs(math.log(width / height) - math.log(columns / rows))

    def candidates(self, width: int, height: int) -> list[tuple[int, int]]:
        """Grids (columns, rows) in the order in which equal scores are decided; none: no slices."""
        release = self.variant == "release"
        most = self.most or (7 if release else 6)
        ideal = min(-(-width * height // self.size**2), most)
        if release and ideal <= 1:
            return []
        counts = [count for count in (ideal - 1, ideal, ideal + 1) if count >= 1]
        if release:
            counts = [count for count in counts if 1 < count <= most]
        elif self.variant == "legacy" and ideal <= 2:
            counts = [ideal, ideal + 1]
        return [(columns, count // columns) for count in counts for columns in range(1, count + 1) if count % columns == 0]

    def _cut_first(self, size: tuple[int, int], grid: tuple[int, int], overview: View) -> Tiling:
        (width, height), (columns, rows) = size, grid
        target = self._by_patches(width // columns, height // rows)
        views, crops = [overview], list[Crop]()
        for row in range(rows):
            for column in range(columns):
                edges = (column * width // columns, row * height // rows, (column + 1) * width // columns, (row + 1) * height // rows)
                x0, y0, x1, y1 = map(float, edges)
                views.append(View(source=(x0, y0, x1, y1), resized=target, filter=self.filter, canvas=target))
                crops.append(Crop(view=len(views) - 1, window=(0, 0, *target), role="tile", place=(column, row), valid=(0, 0, *target)))
        return Tiling(size=size, grid=grid, views=tuple(views), crops=(*crops, whole(0, overview)), seen=frame(overview, size))

    def _by_patches(self, width: int, height: int) -> tuple[int, int]:
        """The most patches of this shape within the encoder's count: floor(sqrt(count * w / h)) by floor(sqrt(count * h / w)), in whole numbers."""
        count = (self.size // self.patch) ** 2
        columns, rows = max(1, math.isqrt(count * width // height)), max(1, math.isqrt(count * height // width))
        return min(columns, count) * self.patch, min(rows, count) * self.patch

    def _by_area(self, width: int, height: int) -> tuple[int, int]:
        """About size x size px of this shape: h = int(size / sqrt(w / h)), w = int(h * w / h), down to whole patches."""
        ratio = width / height
        h = int(self.size / math.sqrt(ratio))
        return self._small(int(h * ratio), h)

    def _small(self, width: int, height: int) -> tuple[int, int]:
        return max(1, width // self.patch) * self.patch, max(1, height // self.patch) * self.patch
