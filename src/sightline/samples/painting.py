"""Shapes as pixels of their picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.samples.geometry import corners, decode_mask
from sightline.samples.sample import Box, Mask, Polygon, Region, RotatedBox


def painted(regions: Sequence[Region], width: int, height: int) -> NDArray[np.bool_]:
    """(height, width): pixels whose centre lies in one of the shapes; boxes are filled, points and the whole picture paint nothing. A mask of another size paints nothing either."""
    found = np.zeros((height, width), bool)
    for region in regions:
        if isinstance(region.shape, Mask):
            if (region.shape.width, region.shape.height) == (width, height):
                found |= decode_mask(region.shape)
        elif (outline := _outline(region)) is not None:
            _fill(found, outline)
    return found


def _fill(found: NDArray[np.bool_], outline: Sequence[tuple[float, float]]) -> None:
    """Set the pixels (height, width) whose centre lies in an outline; one that crosses itself holds what is inside any part of it."""
    from shapely import Polygon as Outline  # here because it is slow to import, and most regions are masks or boxes
    from shapely import contains_xy, make_valid, prepare

    shape = make_valid(Outline(outline))
    prepare(shape)
    left, top, right, bottom = shape.bounds
    rows, columns = slice(max(int(top), 0), max(math.ceil(bottom), 0)), slice(max(int(left), 0), max(math.ceil(right), 0))
    window = found[rows, columns]
    y, x = np.indices(window.shape)
    window |= contains_xy(shape, x + columns.start + 0.5, y + rows.start + 0.5)


def _outline(region: Region) -> list[tuple[float, float]] | None:
    shape = region.shape
    if isinstance(shape, Box):
        return [(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)]
    if isinstance(shape, RotatedBox):
        return [(float(x), float(y)) for x, y in corners(shape)]
    return list(shape.points) if isinstance(shape, Polygon) and len(shape.points) > 2 else None
