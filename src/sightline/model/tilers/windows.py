"""What tilers share: crops as windows of a view, the frame of a view, and the way back from a crop to the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from sightline.model.tiling import Crop, Tiling, View
from sightline.samples.frames import Frame

Role = Literal["tile", "overview", "detail", "canvas"]
Rectangle = tuple[int, int, int, int]
"""x0, y0, x1, y1."""


def shown(view: View) -> Rectangle:
    """Where a view's canvas shows picture and not fill, in px of the canvas."""
    (x, y), (w, h) = view.offset, view.resized
    return max(0, x), max(0, y), min(view.canvas[0], x + w), min(view.canvas[1], y + h)


def window(view: int, x: int, y: int, size: tuple[int, int], role: Role, picture: Rectangle, place: tuple[int, int] = (0, 0)) -> Crop:
    """A crop of `size` (w, h) at (x, y) of a canvas that shows picture in the rectangle `picture`; `valid` is empty where the window shows fill alone."""
    w, h = size
    x0, x1 = (min(max(edge - x, 0), w) for edge in (picture[0], picture[2]))
    y0, y1 = (min(max(edge - y, 0), h) for edge in (picture[1], picture[3]))
    return Crop(view=view, window=(x, y, w, h), role=role, place=place, valid=(x0, y0, x1, y1))


def raster(
    view: int, grid: tuple[int, int], size: tuple[int, int], picture: Rectangle, stride: tuple[int, int] | None = None, role: Role = "tile"
) -> list[Crop]:
    """Windows of one `size` in reading order; `grid` (columns, rows), `place` (column, row). Without a stride they touch."""
    across, down = stride or size
    return [window(view, column * across, row * down, size, role, picture, (column, row)) for row in range(grid[1]) for column in range(grid[0])]


def whole(view: int, canvas: View, role: Role = "overview") -> Crop:
    """A whole canvas as one crop."""
    return window(view, 0, 0, canvas.canvas, role, shown(canvas))


def frame(view: View, size: tuple[int, int]) -> Frame:
    """From px of a picture of `size` (w, h) to px of a view's canvas; the view shows the whole picture."""
    scale = (view.resized[0] / size[0], view.resized[1] / size[1])
    return Frame(width=view.canvas[0], height=view.canvas[1], scale=scale, offset=(float(view.offset[0]), float(view.offset[1])))


def made(size: tuple[int, int], grid: tuple[int, int], views: Sequence[View], crops: Sequence[Crop]) -> Tiling:
    """The tiling whose main view is the first: its canvas is what "seen" means."""
    return Tiling(size=size, grid=grid, views=tuple(views), crops=tuple(crops), seen=frame(views[0], size))


def within(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest whole size of the same shape as `size` inside `room` (w, h), fractions cut off, at least 1 px a side; small pictures grow.

    In the published order of rounding: a side may come out 1 px below the exact value.
    """
    (width, height), (w, h) = size, room
    across, down = w / width, h / height
    if across < down:
        return w, min(max(1, math.floor(height * across)), h)
    return min(max(1, math.floor(width * down)), w), h


def source_box(tiling: Tiling, crop: Crop) -> tuple[float, float, float, float]:
    """What a crop shows of the picture: its `valid` rectangle (x0, y0, x1, y1) in px of the picture, empty where it shows fill alone."""
    x, y = crop.window[:2]
    corners = [(x + crop.valid[0], y + crop.valid[1]), (x + crop.valid[2], y + crop.valid[3])]
    index: int | None = crop.view
    while index is not None:
        view = tiling.views[index]
        below = tiling.size if view.of is None else tiling.views[view.of].canvas
        left, top, right, bottom = view.source or (0.0, 0.0, *below)
        across, down = (right - left) / view.resized[0], (bottom - top) / view.resized[1]
        corners = [(left + (px - view.offset[0]) * across, top + (py - view.offset[1]) * down) for px, py in corners]
        index = view.of
    (x0, x1), (y0, y1) = ([min(max(edge, 0.0), float(side)) for edge in edges] for edges, side in zip(zip(*corners, strict=True), tiling.size, strict=True))
    return x0, y0, x1, y1


def scaled(picture: Rectangle, factor: float) -> Rectangle:
    """A rectangle after its canvas was resized: every px that shows any of it."""
    x0, y0, x1, y1 = picture
    return math.floor(x0 * factor), math.floor(y0 * factor), math.ceil(x1 * factor), math.ceil(y1 * factor)


def window_edges(tiling: Tiling, crop: Crop, axis: int) -> tuple[float, float]:
    """Where a crop's window begins and ends in px of the picture along an axis (0 = x), beyond its border where the window shows fill."""
    low, high = float(crop.window[axis]), float(crop.window[axis] + crop.window[axis + 2])
    number: int | None = crop.view
    while number is not None:
        view = tiling.views[number]
        below = tiling.size if view.of is None else tiling.views[view.of].canvas
        start, end = (view.source[axis], view.source[axis + 2]) if view.source else (0.0, float(below[axis]))
        low, high = (start + (edge - view.offset[axis]) * (end - start) / view.resized[axis] for edge in (low, high))
        number = view.of
    return low, high
