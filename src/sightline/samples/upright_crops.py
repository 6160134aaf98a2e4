"""Upright crops of turned boxes: one affine sampling of a picture into a window whose sides are those of the box, and its inverse, which pastes values back.

Coordinates are continuous, with the outer corner of the top-left pixel at 0: the centre of the pixel in column 3 lies at 3.5, of pictures and of crops alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.samples.geometry import Points, decode_mask, mask_area, min_area_rect, pixel_corners
from sightline.samples.sample import Box, Mask, Polygon, RotatedBox, Shape

_OVERLAP = 0.25
"""Share of a window that neighbouring windows of one box have in common."""


@dataclass(frozen=True, kw_only=True)
class TurnedBox:
    """A rectangle of `w` x `h` px around (cx, cy), turned by `theta` degrees clockwise on screen. Unlike RotatedBox it keeps the angle that it is given: an upright box is turned by 0."""

    cx: float
    cy: float
    w: float
    h: float
    theta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """A crop of `width` x `height` px around (cx, cy) px of its picture, turned by `theta` degrees; one px of the crop is `scale` px of the picture."""

    cx: float
    cy: float
    theta: float
    scale: float
    width: int
    height: int

    def to_source(self, points: Points) -> Points:
        """Places of the crop (n, 2) in px of the picture."""
        return (points - (self.width / 2, self.height / 2)) * self.scale @ _turn(self.theta) + (self.cx, self.cy)

    def to_crop(self, points: Points) -> Points:
        """Places of the picture (n, 2) in px of the crop; the inverse of `to_source`."""
        return (points - (self.cx, self.cy)) @ _turn(self.theta).T / self.scale + (self.width / 2, self.height / 2)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the crop in px of the picture."""
        frame = self.to_source(np.array([(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)], np.float64))
        return float(frame[:, 0].min()), float(frame[:, 1].min()), float(frame[:, 0].max()), float(frame[:, 1].max())


def _turn(theta: float) -> NDArray[np.float64]:
    """(2, 2): rows of points times this are the points turned clockwise on screen. Quarter turns are exact."""
    quarters, rest = divmod(theta, 90.0)
    if rest == 0:
        c, s = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarters) % 4]
    else:
        c, s = math.cos(math.radians(theta)), math.sin(math.radians(theta))
    return np.array([(c, s), (-s, c)])


def box_around(shape: Shape | None) -> TurnedBox | None:
    """The box that a shape prompts with: an upright box as it is, a rotated one with its angle, the rectangle of least area around a polygon or a mask. None: it has no area."""
    if isinstance(shape, Box):
        found = TurnedBox(cx=(shape.x0 + shape.x1) / 2, cy=(shape.y0 + shape.y1) / 2, w=shape.x1 - shape.x0, h=shape.y1 - shape.y0)
    elif isinstance(shape, RotatedBox):
        found = TurnedBox(cx=shape.cx, cy=shape.cy, w=shape.w, h=shape.h, theta=shape.theta)
    elif isinstance(shape, Polygon) and len(shape.points) > 2:
        return box_around(min_area_rect(np.array(shape.points, np.float64)))
    elif isinstance(shape, Mask) and mask_area(shape):
        return box_around(min_area_rect(pixel_corners(decode_mask(shape))))
    else:
        return None
    numbers = (found.cx, found.cy, found.w, found.h, found.theta)
    return found if all(map(math.isfinite, numbers)) and found.w > 0 and found.h > 0 else None


def windows_around(box: TurnedBox, size: int, context: float, finest: float, coarsest: float) -> list[Window]:
    """Square windows of `size` px that show a box, its sides upright, with a margin of (context - 1) / 2 of its longer side on every side.

    One window, where its scale is at most `coarsest`; else a grid of windows of that scale, each of which has a quarter in common with its neighbours. The scale is at least `finest`.
    """
    longest = max(box.w, box.h)
    scale = max(finest, longest * context / size)
    if scale <= coarsest:
        return [Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=scale, width=size, height=size)]
    span, margin = size * coarsest, longest * (context - 1)
    offsets = [_spread(side + margin, span) for side in (box.w, box.h)]
    turn = _turn(box.theta)
    centres = [np.array([x, y]) @ turn + (box.cx, box.cy) for y in offsets[1] for x in offsets[0]]
    return [Window(cx=float(x), cy=float(y), theta=box.theta, scale=coarsest, width=size, height=size) for x, y in centres]


def _spread(length: float, span: float) -> list[float]:
    """Centres of spans that cover a length around 0, evenly."""
    count = 1 + math.ceil(max(0.0, length - span) / (span * (1 - _OVERLAP)))
    reach = max(0.0, length - span) / 2
    return np.linspace(-reach, reach, count).tolist() if count > 1 else [0.0]


def windows_within(windows: Sequence[Window], width: int, height: int) -> list[Window]:
    """Those that show some of a picture of width x height px."""
    return [one for one in windows if one.bounds()[0] < width and one.bounds()[2] > 0 and one.bounds()[1] < height and one.bounds()[3] > 0]


def sampled(
    pixels: NDArray[np.generic], window: Window, fill: Sequence[float] | NDArray[np.float32] | float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The crop (height, width, bands) of a picture (H, W, bands), and how much of each of its pixels lies on the picture, (height, width) 0..1.

    Bilinear between centres of pixels; where the crop is coarser than the picture, of means of whole pixels. What lies outside takes no part in a mean, and is `fill` where there is nothing else.
    """
    values, inside = _drawn(pixels, window.to_source, window.scale, (window.width, window.height), window.bounds())
    return np.where(inside[..., None] > 0, values, np.asarray(fill, np.float32)), inside


def pasted(values: NDArray[np.generic], window: Window, width: int, height: int) -> tuple[slice, slice, NDArray[np.float32], NDArray[np.bool_]]:
    """Values of a crop (h, w) where they belong in a picture of width x height px: rows, columns, the values there, and which of these pixels have their centre in the crop.

    The inverse of `sampled`: the same places by the inverse affine, bilinear, and of means where the picture is coarser than the crop.
    """
    left, top, right, bottom = window.bounds()
    rows = slice(max(0, math.floor(top)), min(height, math.ceil(bottom)))
    columns = slice(max(0, math.floor(left)), min(width, math.ceil(right)))
    size = (max(0, columns.stop - columns.start), max(0, rows.stop - rows.start))
    rows, columns = slice(rows.start, rows.start + size[1]), slice(columns.start, columns.start + size[0])
    corner = np.array([columns.start, rows.start], np.float64)
    found, _ = _drawn(values[..., None], lambda points: window.to_crop(points + corner), 1 / window.scale, size, (0, 0, window.width, window.height))
    places = window.to_crop(_centres(size) + corner).reshape(size[1], size[0], 2)
    inside = np.all((places >= 0) & (places < (window.width, window.height)), axis=-1)
    return rows, columns, found[..., 0], np.asarray(inside, bool)


def _centres(size: tuple[int, int]) -> Points:
    """Centres of the pixels of a raster of (width, height), row by row, (n, 2)."""
    y, x = np.indices((size[1], size[0]))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64) + 0.5


def _drawn(
    pixels: NDArray[np.generic], place: Callable[[Points], Points], scale: float, size: tuple[int, int], bounds: tuple[float, float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values (height, width, bands) at `place(centres of a raster of `size`)` of pixels, and their weight (height, width): the share that is no outside."""
    height, width = pixels.shape[:2]
    step = max(1, math.floor(scale + 1e-9))
    # only what the raster reaches, on a grid of blocks of `step` px that begins at the picture's corner, with a border of outside
    left, top = (math.floor(bounds[k] / step) * step - step for k in (0, 1))
    right, bottom = (math.ceil(bounds[k] / step) * step + step for k in (2, 3))
    left, top, right, bottom = max(left, -step), max(top, -step), min(right, width + 2 * step), min(bottom, height + 2 * step)
    columns, rows = max(1, -(-(right - left) // step)), max(1, -(-(bottom - top) // step))
    block = np.zeros((rows * step, columns * step, pixels.shape[2] + 1), np.float32)
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, left + columns * step), min(height, top + rows * step)
    if x1 > x0 and y1 > y0:
        block[y0 - top : y1 - top, x0 - left : x1 - left, :-1] = pixels[y0:y1, x0:x1]
        block[y0 - top : y1 - top, x0 - left : x1 - left, -1] = 1
    if step > 1:
        block = block.reshape(rows, step, columns, step, -1).mean((1, 3), dtype=np.float32)
    places = (place(_centres(size)) - (left, top)) / step - 0.5
    found = _bilinear(block, places).reshape(size[1], size[0], block.shape[2])
    weight = found[..., -1]
    return (found[..., :-1] / np.maximum(weight, 1e-6)[..., None]).astype(np.float32), weight


def _bilinear(block: NDArray[np.float32], places: Points) -> NDArray[np.float32]:
    """Values (n, bands) of a raster at places in its own px, where 0 is the centre of the first pixel; nothing lies outside of it."""
    rows, columns = block.shape[:2]
    padded = np.pad(block, ((1, 1), (1, 1), (0, 0)))
    low = np.floor(places)
    near = (places - low).astype(np.float32)
    x, y = np.clip(low[:, 0] + 1, 0, columns).astype(np.int64), np.clip(low[:, 1] + 1, 0, rows).astype(np.int64)
    outside = (places <= -1).any(1) | (places[:, 0] >= columns) | (places[:, 1] >= rows)
    one = np.float32(1)
    fx, fy = near[:, :1], near[:, 1:]
    flat, stride = padded.reshape(-1, padded.shape[2]), columns + 2
    at = y * stride + x
    found = (flat[at] * (one - fx) + flat[at + 1] * fx) * (one - fy) + (flat[at + stride] * (one - fx) + flat[at + stride + 1] * fx) * fy
    found[outside] = 0
    return found.astype(np.float32, copy=False)
