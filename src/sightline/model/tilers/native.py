"""The picture in its own shape and about its own size: no grid of equal tiles."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.model.tilers.windows import made, whole
from sightline.model.tiling import Crop, Filter, Tiling, View

LONGEST = 200
"""Ratio of the sides from which on smart-resize takes no picture."""


def _alone(width: int, height: int, resized: tuple[int, int], kind: Filter) -> Tiling:
    """One view, one crop. Frame "seen": the resized picture."""
    view = View(resized=resized, filter=kind, canvas=resized)
    return made((width, height), (1, 1), (view,), (whole(0, view),))


class SmartResizeTiler(Config):
    """Both sides go to the nearest multiple of `factor`, with the area kept within bounds (Qwen2-VL, https://arxiv.org/abs/2409.12191). Frame "seen": the resized picture.

    Pictures with sides beyond 200:1 are refused, as published.
    """

    kind: Literal["smart-resize"] = "smart-resize"
    factor: int = Field(default=28, ge=1)
    """Both sides are multiples of this, px: patch 14 times merge 2."""
    min_pixels: int = Field(default=3136, ge=1)
    """Smaller pictures grow to this area, px."""
    max_pixels: int = Field(default=1_003_520, ge=1)
    """Larger pictures shrink to this area, px: 1280 tokens. The published checkpoints state 12845056, 16384 tokens."""
    filter: Filter = "bicubic"
    """Resampling filter."""

    @model_validator(mode="after")
    def _bounds_hold_a_cell(self) -> SmartResizeTiler:
        if not self.factor**2 <= self.min_pixels <= self.max_pixels:
            raise ValueError(f"needs factor^2 <= min_pixels <= max_pixels, found {self.factor**2}, {self.min_pixels}, {self.max_pixels}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """One overview."""
        return ("overview",)

    def twin(self) -> SmartResizeTiler:
        """4 to 16 cells of 16 px: patch 8 times merge 2."""
        return self.model_copy(update={"factor": 16, "max_pixels": 16 * 16**2, "min_pixels": 4 * 16**2})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """One crop. Raises Refused for sides beyond 200:1."""
        if max(width, height) > LONGEST * min(width, height):
            raise Refused(
                Problem(
                    code="model/picture-shape",
                    place="tiler",
                    found=f"a picture of {width}x{height} px",
                    allowed=f"sides of at most {LONGEST}:1",
                    fix="cut the picture into shorter pieces, or choose another tiler",
                )
            )
        return _alone(width, height, self._fitted(width, height), self.filter)

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """Nearest multiples, halves to even; by the area's root up or down where the bounds ask for it."""
        step = self.factor
        w, h = round(width / step) * step, round(height / step) * step
        if w * h > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            return max(step, math.floor(width / shrink / step) * step), max(step, math.floor(height / shrink / step) * step)
        if w * h < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            return math.ceil(width * grow / step) * step, math.ceil(height * grow / step) * step
        return w, h


class MaxSideTiler(Config):
    """Pictures shrink until the longer side fits, never grow, and both sides go up to whole patches (Pixtral, https://arxiv.org/abs/2410.07073). Frame "seen": the resized picture."""

    kind: Literal["max-side"] = "max-side"
    size: int = Field(default=1024, ge=1)
    """Longest side in px, before it goes up to whole patches."""
    patch: int = Field(default=16, ge=1)
    """Both sides are multiples of this, px."""
    filter: Filter = "bicubic"
    """Resampling filter."""

    @property
    def roles(self) -> tuple[str, ...]:
        """One overview."""
        return ("overview",)

    def twin(self) -> MaxSideTiler:
        """At most six patches of 8 px a side."""
        return self.model_copy(update={"size": 48, "patch": 8})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """One crop."""
        ratio = max(1.0, max(width, height) / self.size)
        w, h = (-(-max(1, math.floor(side / ratio)) // self.patch) * self.patch for side in (width, height))
        return _alone(width, height, (w, h), self.filter)


class QuadSplitTiler(Config):
    """Four quarters, then the whole picture, each within bounds for its sides (Idefics2, https://arxiv.org/abs/2405.02246). Frame "seen": the resized whole picture.

    The shape is kept where the longer side is too long, and lost where a side is raised to `shortest`.
    """

    kind: Literal["quad-split"] = "quad-split"
    longest: int = Field(default=980, ge=1)
    """Longest side of a crop in px."""
    shortest: int = Field(default=378, ge=1)
    """Shortest side of a crop in px."""
    split: bool = True
    """Whether the four quarters stand before the whole picture."""
    filter: Filter = "bilinear"
    """Resampling filter."""

    @model_validator(mode="after")
    def _in_order(self) -> QuadSplitTiler:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is more than longest {self.longest}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """Perhaps tiles, then an overview."""
        return ("tile", "overview") if self.split else ("overview",)

    def twin(self) -> QuadSplitTiler:
        """Same structure at toy size."""
        return self.model_copy(update={"longest": min(self.longest, 48), "shortest": min(self.shortest, 24)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Quarters in reading order, then the whole. Raises Refused where a side of one px cannot be halved."""
        size = self._fitted(width, height)
        if not self.split:
            return _alone(width, height, size, self.filter)
        if min(width, height) < 2:
            raise Refused(
                Problem(
                    code="model/picture-shape",
                    place="tiler",
                    found=f"a picture of {width}x{height} px",
                    allowed="sides of at least 2 px: each is halved",
                    fix="drop the picture, or set tiler.split: false",
                )
            )
        views, crops = [View(resized=size, filter=self.filter, canvas=size)], list[Crop]()
        across, down = (0, width // 2, width), (0, height // 2, height)
        for row in range(2):
            for column in range(2):
                x0, y0, x1, y1 = across[column], down[row], across[column + 1], down[row + 1]
                fitted = self._fitted(x1 - x0, y1 - y0)
                views.append(View(source=(float(x0), float(y0), float(x1), float(y1)), resized=fitted, filter=self.filter, canvas=fitted))
                crops.append(Crop(view=len(views) - 1, window=(0, 0, *fitted), role="tile", place=(column, row), valid=(0, 0, *fitted)))
        return made((width, height), (2, 2), views, (*crops, whole(0, views[0])))

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """Down to `longest` in shape, then each side up to `shortest`."""
        ratio = width / height
        if width >= height and width > self.longest:
            width, height = self.longest, int(self.longest / ratio)
        elif height > width and height > self.longest:
            width, height = int(self.longest * ratio), self.longest
        return max(width, self.shortest), max(height, self.shortest)
