"""Regions drawn over a picture, for pages and reports."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from sightline.samples.geometry import corners, decode_mask
from sightline.samples.sample import Box, Mask, Point, Polygon, Region, RotatedBox

_PALETTE = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (255, 217, 47), (166, 86, 40), (247, 129, 191))
_SMALLEST = 384


def colour(label: str | None) -> tuple[int, int, int]:
    """The colour of a label: the same everywhere."""
    return _PALETTE[zlib.crc32((label or "").encode()) % len(_PALETTE)]


def colours_of(labels: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Colours of labels that stand side by side: each its own one where that is free, so that up to eight differ."""
    found: dict[str, tuple[int, int, int]] = {}
    for label in labels:
        first = _PALETTE.index(colour(label))
        turned = (*_PALETTE[first:], *_PALETTE[:first])
        found[label] = next((one for one in turned if one not in found.values()), turned[0])
    return found


def draw_regions(picture: np.ndarray, regions: Iterable[Region]) -> np.ndarray:
    """A copy of a picture (height, width, 3) uint8 with outlines and tinted masks; small pictures are enlarged by a whole factor so that lines can be seen."""
    factor = max(1, -(-_SMALLEST // max(picture.shape[:2])))
    found = list(regions)
    tinted = picture.astype(np.float32)
    for region in found:
        if isinstance(region.shape, Mask) and (region.shape.height, region.shape.width) == picture.shape[:2]:
            tinted[decode_mask(region.shape)] = 0.7 * tinted[decode_mask(region.shape)] + 0.3 * np.array(colour(region.label))
    drawn = Image.fromarray(tinted.astype(np.uint8).repeat(factor, 0).repeat(factor, 1))
    pen = ImageDraw.Draw(drawn)
    for region in found:
        outline = _outline(region)
        if len(outline) == 1:
            x, y = (value * factor for value in outline[0])
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour(region.label), width=2)
        elif outline:
            pen.polygon([(x * factor, y * factor) for x, y in outline], outline=colour(region.label), width=2)
            if region.label:
                pen.text((outline[0][0] * factor + 2, outline[0][1] * factor + 2), region.label, fill=colour(region.label))
    return np.asarray(drawn)


def _outline(region: Region) -> list[tuple[float, float]]:
    shape = region.shape
    if isinstance(shape, Box):
        return [(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)]
    if isinstance(shape, RotatedBox):
        return [(float(x), float(y)) for x, y in corners(shape)]
    if isinstance(shape, Polygon):
        return list(shape.points)
    return [(shape.x, shape.y)] if isinstance(shape, Point) else []
