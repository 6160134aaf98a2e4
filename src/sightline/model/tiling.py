"""From a picture's size to crops, without pixels; and the one function that makes the pixels of every tiler.

view = a resampled copy of the picture; crop = a window of a view, what an encoder sees; tiling = all views and crops of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import Field

from sightline.kinds import Config, Family
from sightline.samples.bands import COLOURS, FULL, resized
from sightline.samples.frames import Frame

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_SQUARE = 4096
"""A picture is padded at full size where the square's side is at most this (50 MB), or at most twice the picture's shorter side: of twice its px at most."""
_MOST = 64
"""Views up to this many times their canvas are resampled whole. Under `fit: crop` the long side of a narrow picture may be millions of px."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A resampled copy: `source` box of the picture (None = all), resized to `resized`, pasted at `offset` on a `canvas` of colour `fill`."""

    source: tuple[float, float, float, float] | None = None
    resized: tuple[int, int]
    filter: Filter = "bicubic"
    offset: tuple[int, int] = (0, 0)
    canvas: tuple[int, int]
    fill: tuple[int, ...] = (0, 0, 0)
    of: int | None = None


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A window (x, y, w, h) in px of a view's canvas; `valid` (x0, y0, x1, y1) inside the window shows picture and not fill.

    Where a canvas was resampled after it was padded, each px at an edge of the picture shows both: `valid` holds every px that shows any of the picture.
    """

    view: int
    window: tuple[int, int, int, int]
    role: Literal["tile", "overview", "detail", "canvas"]
    place: tuple[int, int] = (0, 0)
    valid: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """All views and crops of one picture of `size` (w, h); `grid` (columns, rows) of tiles; `seen` maps source px to the px that the codec's frame "seen" means."""

    size: tuple[int, int]
    grid: tuple[int, int]
    views: tuple[View, ...]
    crops: tuple[Crop, ...]
    seen: Frame


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Tokens of one crop: `lead` class or query tokens, then columns * rows in raster order."""

    columns: int
    rows: int
    lead: int = 0

    @property
    def count(self) -> int:
        """Number of tokens."""
        return self.lead + self.columns * self.rows


class Tiler(Protocol):
    """What every kind of tiler offers: pure arithmetic on sizes."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that its crops may have."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Its fields, as pydantic gives them."""
        ...

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """The tiling of one picture; `among` = pictures of the sample, for shared budgets."""
        ...

    def twin(self) -> Tiler:
        """Same structure at toy size."""
        ...


TILER = Family("tiler")


@TILER.add
class WholeTiler(Config):
    """The whole picture as one crop of size x size (CLIP's centre crop, LLaVA-1.5's padded square, or squashed)."""

    kind: Literal["whole"] = "whole"
    size: int = Field(ge=1)
    """Side of the square crop in px."""
    fit: Literal["pad", "squash", "crop"] = "pad"
    """pad: padded to a square with fill, then resized (the other way round beyond both 4096 px and 2:1, where the square would take too much memory);
    squash: both sides are forced; crop: shortest side fits, the middle is kept."""
    filter: Filter = "bicubic"
    """Resampling filter."""
    fill: tuple[int, int, int] = (122, 116, 104)
    """Colour of the padding, 0..255 (CLIP's mean colour)."""

    @property
    def roles(self) -> tuple[str, ...]:
        """One overview."""
        return ("overview",)

    def twin(self) -> WholeTiler:
        """Same structure at toy size."""
        return self.model_copy(update={"size": min(self.size, 32)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """One crop, of one view; of a view of another where the picture is padded at full size."""
        side, shortest, longest = self.size, min(width, height), max(width, height)
        if self.fit == "pad" and shortest < longest <= max(_SQUARE, 2 * shortest):
            return self._squared(width, height)
        if self.fit == "squash":
            resized = (side, side)
        elif self.fit == "crop":
            resized = (side * width // shortest, side * height // shortest)
        else:
            resized = (max(1, math.floor(width * side / longest + 0.5)), max(1, math.floor(height * side / longest + 0.5)))
        offset = (int((side - resized[0]) / 2), int((side - resized[1]) / 2))  # odd margins towards zero, as published
        valid = (max(0, offset[0]), max(0, offset[1]), min(side, offset[0] + resized[0]), min(side, offset[1] + resized[1]))
        view = View(resized=resized, filter=self.filter, offset=offset, canvas=(side, side), fill=self.fill)
        crop = Crop(view=0, window=(0, 0, side, side), role="overview", valid=valid)
        seen = Frame(width=side, height=side, scale=(resized[0] / width, resized[1] / height), offset=(float(offset[0]), float(offset[1])))
        return Tiling(size=(width, height), grid=(1, 1), views=(view,), crops=(crop,), seen=seen)

    def _squared(self, width: int, height: int) -> Tiling:
        """The picture in the middle of a square of its longest side; then that square resized."""
        side, square = self.size, max(width, height)
        left, top = (square - width) // 2, (square - height) // 2
        padded = View(resized=(width, height), filter=self.filter, offset=(left, top), canvas=(square, square), fill=self.fill)
        view = View(resized=(side, side), filter=self.filter, canvas=(side, side), fill=self.fill, of=0)
        valid = (left * side // square, top * side // square, -(-(left + width) * side // square), -(-(top + height) * side // square))
        crop = Crop(view=1, window=(0, 0, side, side), role="overview", valid=valid)
        scale = side / square
        seen = Frame(width=side, height=side, scale=(scale, scale), offset=(left * scale, top * scale))
        return Tiling(size=(width, height), grid=(1, 1), views=(padded, view), crops=(crop,), seen=seen)


def cut(picture: np.ndarray, tiling: Tiling, bands: Sequence[str] = COLOURS, means: Sequence[float] = ()) -> list[np.ndarray]:
    """Crops of a picture (height, width, bands) as arrays (bands, h, w) of the same depth, in the tiling's order.

    Padding has the colour of the view in red, green and blue of 8 bits; in other bands, and in all of another depth, what an encoder takes as the middle: `means` per band, 0..1.
    """
    height, width, number = picture.shape
    assert number == len(bands), f"pixels of {number} bands for {', '.join(bands)}"
    assert (width, height) == tiling.size, f"picture is {width}x{height}, tiling is for {tiling.size}"
    canvases: list[np.ndarray] = []
    for view in tiling.views:
        fill = _fill(view, picture.dtype, bands, means)
        canvases.append(_draw(canvases[view.of] if view.of is not None else picture, view, fill))
    return [np.ascontiguousarray(canvases[crop.view][_rows(crop), _columns(crop)].transpose(2, 0, 1)) for crop in tiling.crops]


def _fill(view: View, depth: np.dtype, bands: Sequence[str], means: Sequence[float]) -> np.ndarray:
    """Padding per band, in stored units."""
    if tuple(bands) == COLOURS and depth == np.uint8:
        return np.asarray(view.fill, np.uint8)
    middle = np.asarray(means or [0.0] * len(bands)) * FULL[depth.name]
    if depth == np.uint8:
        middle = [view.fill[COLOURS.index(band)] if band in COLOURS else value for band, value in zip(bands, middle.tolist(), strict=True)]
    return np.asarray(middle if depth == np.float32 else np.rint(middle), depth)


def _rows(crop: Crop) -> slice:
    return slice(crop.window[1], crop.window[1] + crop.window[3])


def _columns(crop: Crop) -> slice:
    return slice(crop.window[0], crop.window[0] + crop.window[2])


def _draw(picture: np.ndarray, view: View, fill: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    (x, y), (w, h) = view.offset, view.resized
    x0, y0, x1, y1 = max(0, x), max(0, y), min(view.canvas[0], x + w), min(view.canvas[1], y + h)
    if view.source is None and view.resized == (width, height):
        drawn = picture[y0 - y : y1 - y, x0 - x : x1 - x]
    elif w * h <= _MOST * view.canvas[0] * view.canvas[1]:
        drawn = resized(picture, view.resized, _FILTERS[view.filter], view.source)[y0 - y : y1 - y, x0 - x : x1 - x]
    else:
        # the box of what the canvas shows; filters read past it into the picture, so this is the same window up to rounding between the two passes
        left, top, right, bottom = view.source or (0, 0, width, height)
        across, down = (right - left) / w, (bottom - top) / h
        box = (left + (x0 - x) * across, top + (y0 - y) * down, min(right, left + (x1 - x) * across), min(bottom, top + (y1 - y) * down))
        drawn = resized(picture, (x1 - x0, y1 - y0), _FILTERS[view.filter], box)
    if drawn.shape[:2] == view.canvas[::-1]:
        return drawn
    canvas = np.empty((view.canvas[1], view.canvas[0], picture.shape[2]), picture.dtype)
    canvas[:] = np.tile(fill, (view.canvas[0], 1))  # whole rows are copied ten times as fast as single px
    canvas[y0:y1, x0:x1] = drawn
    return canvas
