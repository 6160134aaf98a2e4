"""The eight turns and mirror images of a picture, with everything that is said and known about it: pixels, regions, angles, and words of direction."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sightline.samples.direction_words import turned_text
from sightline.samples.geometry import canonical, decode_mask, encode_mask
from sightline.samples.sample import Box, Item, Mask, Point, Polygon, Region, Regions, RotatedBox, Sample, Shape, Text, Turn

Number = TypeVar("Number", bound=np.number)
TURNS = 8
"""Numbers 0..7: number % 4 quarter turns clockwise, after a mirroring left to right where number >= 4. 0 changes nothing."""


def turned_pixels(pixels: NDArray[Number], number: int) -> NDArray[Number]:
    """Pixels (height, width, bands) of any depth after turn `number`; a view where numpy can give one."""
    mirrored = pixels[:, ::-1] if number >= 4 else pixels
    return np.rot90(mirrored, -(number % 4))


def turned_size(size: tuple[int, int], number: int) -> tuple[int, int]:
    """(width, height) after turn `number`."""
    return size if number % 2 == 0 else (size[1], size[0])


def turned_point(x: float, y: float, size: tuple[int, int], number: int) -> tuple[float, float]:
    """A place in px of a picture of `size` (width, height) after turn `number`."""
    width, height = size
    x = width - x if number >= 4 else x
    for _ in range(number % 4):
        x, y, width, height = height - y, x, height, width
    return x, y


def turned_shape(shape: Shape | None, size: tuple[int, int], number: int) -> Shape | None:
    """A shape on a picture of `size` (width, height) after turn `number`."""
    move = lambda x, y: turned_point(x, y, size, number)  # noqa: E731
    if isinstance(shape, Box):
        (ax, ay), (bx, by) = move(shape.x0, shape.y0), move(shape.x1, shape.y1)
        return Box(x0=min(ax, bx), y0=min(ay, by), x1=max(ax, bx), y1=max(ay, by))
    if isinstance(shape, RotatedBox):
        theta = -shape.theta if number >= 4 else shape.theta
        return canonical(*move(shape.cx, shape.cy), shape.w, shape.h, theta + 90.0 * (number % 4))
    if isinstance(shape, Point):
        x, y = move(shape.x, shape.y)
        return Point(x=x, y=y)
    if isinstance(shape, Polygon):
        return Polygon(points=tuple(move(x, y) for x, y in shape.points))
    if isinstance(shape, Mask):
        return encode_mask(np.ascontiguousarray(np.rot90(decode_mask(shape)[:, ::-1] if number >= 4 else decode_mask(shape), -(number % 4))))
    return shape


def turned_items(items: tuple[Item, ...], sizes: tuple[tuple[int, int], ...], number: int) -> tuple[Item, ...] | None:
    """Items after turn `number` of all pictures, whose sizes are given; None when a text cannot be turned (see `turned_text`)."""
    made: list[Item] = []
    for item in items:
        if isinstance(item, Text):
            text = turned_text(item.text, number)
            if text is None:
                return None
            made.append(Text(text=text))
        elif isinstance(item, Regions):
            made.append(replace(item, regions=tuple(turned_region(region, sizes, number) for region in item.regions)))
        else:
            made.append(item)
    return tuple(made)


def turned_region(region: Region, sizes: tuple[tuple[int, int], ...], number: int) -> Region:
    """A region after turn `number`. Corners as published (attribute `quad`) are left out: they are those of the picture before."""
    attributes = {name: value for name, value in region.attributes.items() if name != "quad"} if number else region.attributes
    return replace(region, shape=turned_shape(region.shape, sizes[region.picture], number), attributes=attributes)


def turned_turns(sample: Sample, number: int) -> tuple[Turn, ...] | None:
    """Turns of a sample after turn `number`; None when one of its texts cannot be turned."""
    sizes = tuple((picture.width, picture.height) for picture in sample.pictures)
    made: list[Turn] = []
    for turn in sample.turns:
        spoken = [turned_items(items, sizes, number) for items in (turn.items, *turn.alternatives)]
        if any(items is None for items in spoken):
            return None
        first, *others = [items for items in spoken if items is not None]
        made.append(replace(turn, items=first, alternatives=tuple(others)))
    return tuple(made)
