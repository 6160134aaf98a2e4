"""Large pictures with their regions cut into overlapping tiles, by the rules of DOTA's devkit (ImgSplit_multi_process.py) with exact clipping.

Windows of `window` px start every `window - gap` px; the last one of a row or column is shifted back so that it ends with the picture. A region of which more than `kept` of
its area lies in a window keeps its attributes; a smaller remainder stays as a fragment with `difficult` 2, so that nobody counts it or asks for its box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator
from shapely import box, make_valid
from shapely.geometry import Polygon as Outline

from sightline.data.operators import Outcome
from sightline.kinds import Config
from sightline.lineage import sha256_bytes
from sightline.samples.bands import depth_of, resized
from sightline.samples.exchange import Answer
from sightline.samples.geo import moved
from sightline.samples.geometry import Points, corners, decode_mask, encode_mask, mask_area, min_area_rect
from sightline.samples.pictures import encoded, ending, pixels
from sightline.samples.sample import Box, Geo, Mask, Picture, Point, Polygon, Region, RotatedBox, Sample, Shape

FRAGMENT = 2
"""Value of `difficult` for what a window's edge has cut off; 1 is an annotator's own judgement."""
_LEAST_PIECE = 1.0
"""Pieces of an outline below this area in px are the touch of an edge, not a remainder."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A tile: px of the picture after it was scaled by `rate`."""

    left: int
    top: int
    width: int
    height: int
    rate: float


class Tile(Config):
    """One sample per window of a large picture, with the regions that lie in it; a picture that fits into a window stays as it is."""

    kind: Literal["tile"] = "tile"
    window: int = Field(default=1024, ge=16)
    """Side of a tile, px."""
    gap: int = Field(default=200, ge=0)
    """Overlap of neighbouring tiles, px: at least as large as most objects, so that each is whole in one of them."""
    rate: float = Field(default=1.0, gt=0, le=8)
    """The picture is scaled by this before it is cut."""
    kept: float = Field(default=0.7, gt=0, le=1)
    """Share of its area above which a cut object still counts as that object."""
    crowded: int | None = Field(default=None, ge=1)
    """A window in which one label has more objects than this is cut again into four, down to `smallest`: an answer can list only so many boxes."""
    smallest: int = Field(default=128, ge=16)
    """Side below which a crowded window is not cut again, px."""
    empty: bool = False
    """Keep tiles without any region: there is nothing to ask about them, but they are true negatives."""

    @model_validator(mode="after")
    def _gap_is_smaller(self) -> Self:
        if self.gap >= self.window:
            raise ValueError(f"gap {self.gap}: below the window of {self.window}, or the tiles would not move on")
        return self

    def windows(self, width: int, height: int) -> list[Window]:
        """Windows of a picture of width x height px, row by row."""
        wide, high = round(width * self.rate), round(height * self.rate)
        starts = [(left, top) for top in _starts(high, self.window, self.gap) for left in _starts(wide, self.window, self.gap)]
        return [Window(left=left, top=top, width=min(self.window, wide), height=min(self.window, high), rate=self.rate) for left, top in starts]

    def apart(self, window: Window, regions: Nearby) -> list[Window]:
        """The window itself, or where a label is crowded in it the windows that it is cut into, by quarters that overlap by `gap` or a quarter of the side."""
        side = max(window.width, window.height)
        half = max(self.smallest, (side + min(self.gap, side // 4) + 1) // 2)
        if self.crowded is None or half >= side or _most(regions, window, self.kept) <= self.crowded:
            return [window]
        width, height = min(half, window.width), min(half, window.height)
        lefts = dict.fromkeys((window.left, window.left + window.width - width))
        tops = dict.fromkeys((window.top, window.top + window.height - height))
        quarters = [replace(window, left=left, top=top, width=width, height=height) for top in tops for left in lefts]
        return [part for quarter in quarters for part in self.apart(quarter, regions)]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The tiles; rows with turns are quarantined, since an answer about the whole need not hold for a part."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="tile/no-picture")
        sizes = {(picture.width, picture.height) for picture in sample.pictures}
        if len(sizes) > 1:
            return Outcome(verdict="quarantined", rule="tile/sizes-differ")
        near = Nearby(sample.annotations)
        windows = [part for window in self.windows(*sizes.pop()) for part in self.apart(window, near)]
        if len(windows) == 1 and self.rate == 1:
            return Outcome(samples=(sample,))
        if sample.turns:
            return Outcome(verdict="quarantined", rule="tile/has-turns")
        scaled = [_scaled(picture, self.rate) for picture in sample.pictures]
        tiles = [_tile(sample, near, scaled, window, self.kept) for window in dict.fromkeys(windows)]
        made = tuple(tile for tile in tiles if tile.annotations or self.empty)
        return Outcome(samples=made) if made else Outcome(verdict="quarantined", rule="tile/nothing-in-it")


class Nearby:
    """Regions of a picture, found by window without a look at each outline."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._bounds = np.array([_bounds(region.shape) for region in regions], np.float64).reshape(-1, 4)

    def at(self, window: Window) -> list[Region]:
        """Regions whose upright bounds meet a window."""
        x0, y0, x1, y1 = (self._bounds * window.rate).T
        met = (x0 <= window.left + window.width) & (x1 >= window.left) & (y0 <= window.top + window.height) & (y1 >= window.top)
        return [self._regions[place] for place in np.flatnonzero(met).tolist()]


def _bounds(shape: Shape | None) -> tuple[float, float, float, float]:
    """Upright bounds, px; everywhere for masks and whole pictures."""
    if isinstance(shape, Point):
        return shape.x, shape.y, shape.x, shape.y
    if not isinstance(shape, Box | RotatedBox | Polygon):
        return -np.inf, -np.inf, np.inf, np.inf
    outline = _outline(shape)
    (x0, y0), (x1, y1) = outline.min(0).tolist(), outline.max(0).tolist()
    return x0, y0, x1, y1


def _most(regions: Nearby, window: Window, kept: float) -> int:
    """Objects of the commonest label in a window, fragments and areas apart."""
    parts = ((region, part) for region in regions.at(window) if not isinstance(region.shape, Mask) for part in parts_of(region, window, kept))
    number = Counter(region.label for region, part in parts if part.attributes.get("difficult") != FRAGMENT)
    return max(number.values(), default=0)


def _starts(length: int, window: int, gap: int) -> list[int]:
    """First pixels of the windows along one side."""
    last = max(length - window, 0)
    return [*range(0, last, window - gap), last]


def _scaled(picture: Picture, rate: float) -> np.ndarray:
    array = pixels(picture)
    size = (round(picture.width * rate), round(picture.height * rate))
    return array if rate == 1 else resized(array, size, Image.Resampling.BICUBIC if rate > 1 else Image.Resampling.LANCZOS)


def _tile(sample: Sample, regions: Nearby, scaled: Sequence[np.ndarray], window: Window, kept: float) -> Sample:
    name = f"{window.rate:g}__{window.left}___{window.top}"
    pictures = tuple(_cut(picture, array, window, name) for picture, array in zip(sample.pictures, scaled, strict=True))
    annotations = tuple(part for region in regions.at(window) for part in parts_of(region, window, kept))
    attributes = {**sample.attributes, "left": window.left, "up": window.top, "rate": window.rate}
    origin = replace(sample.origin, parents=(sample.id,))
    return replace(sample, id=f"{sample.id}__{name}", pictures=pictures, annotations=annotations, attributes=attributes, origin=origin)


def _cut(picture: Picture, array: np.ndarray, window: Window, name: str) -> Picture:
    part = array[window.top : window.top + window.height, window.left : window.left + window.width]
    stem, dot, _ = picture.name.rpartition(".")
    return tile_picture(part, picture.bands, picture.geo and tile_geo(picture.geo, window), f"{stem if dot else picture.name}__{name}")


def tile_picture(part: np.ndarray, bands: tuple[str, ...], geo: Geo | None, name: str) -> Picture:
    """The picture of a tile's pixels (height, width, bands), stored without loss, under `name` and the ending of its format."""
    data = encoded(part, bands, geo)
    return Picture(
        hash=sha256_bytes(data), width=part.shape[1], height=part.shape[0], bands=bands, depth=depth_of(part), data=data, geo=geo, name=name + ending(data)
    )


def tile_geo(geo: Geo, window: Window) -> Geo:
    """The georeference of a tile: its pixel p is pixel (p + offset) / rate of the whole."""
    return moved(geo, window.left / window.rate, window.top / window.rate, 1 / window.rate, 1 / window.rate)


def parts_of(region: Region, window: Window, kept: float) -> list[Region]:
    """What of a region lies in a window, in px of the tile; nothing, one region, or the pieces of a cut outline.

    A label of the whole picture is not known to hold for a part of it and is left out. Attributes in px of the whole picture (`quad`) do not go along, nor does the
    text of a cut line.
    """
    if region.shape is None:
        return []
    shapes, share = _clipped(region, window)
    attributes: dict[str, Any] = {key: value for key, value in region.attributes.items() if key != "quad"}
    if share <= kept or len(shapes) > 1:
        attributes = {key: value for key, value in attributes.items() if key != "text"} | {"difficult": FRAGMENT}
    return [replace(region, shape=shape, attributes=attributes) for shape in shapes]


def _clipped(region: Region, window: Window) -> tuple[list[Shape], float]:
    """Shapes in the window and the share of the region's area that they hold; an area without single objects is never a fragment."""
    shape = region.shape
    if isinstance(shape, Mask):
        part = _mask_part(shape, window)
        whole = mask_area(shape) * window.rate**2
        share = mask_area(part) / whole if "instance" in region.attributes and whole else 1.0
        return [part] if mask_area(part) else [], min(share, 1.0)
    if isinstance(shape, Point):
        x, y = shape.x * window.rate - window.left, shape.y * window.rate - window.top
        return [Point(x=x, y=y)] if 0 <= x < window.width and 0 <= y < window.height else [], 1.0
    assert isinstance(shape, Box | RotatedBox | Polygon), f"a tile of a {type(shape).__name__}"
    outline = _outline(shape) * window.rate - (window.left, window.top)
    if (outline >= 0).all() and (outline <= (window.width, window.height)).all():
        return [_like(shape, outline, window, 1.0)], 1.0
    whole = make_valid(Outline(outline))
    common = whole.intersection(box(0, 0, window.width, window.height))
    pieces = [piece for piece in getattr(common, "geoms", [common]) if isinstance(piece, Outline) and piece.area >= min(_LEAST_PIECE, whole.area / 2)]
    share = sum(piece.area for piece in pieces) / whole.area if whole.area else 0.0
    return [_like(shape, np.array(piece.exterior.coords)[:-1], window, share) for piece in pieces], share


def _outline(shape: Box | RotatedBox | Polygon) -> Points:
    if isinstance(shape, Box):
        return np.array([(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)])
    return corners(shape) if isinstance(shape, RotatedBox) else np.array(shape.points, np.float64)


def _like(shape: Box | RotatedBox | Polygon, outline: Points, window: Window, share: float) -> Shape:
    """A clipped outline in the form that the region had; what was not cut is only moved, so that nothing is lost in arithmetic."""
    if isinstance(shape, Box):
        (x0, y0), (x1, y1) = outline.min(0).tolist(), outline.max(0).tolist()
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    if isinstance(shape, RotatedBox):
        if share < 1 - 1e-9:
            return min_area_rect(outline)
        rate = window.rate
        return RotatedBox(cx=shape.cx * rate - window.left, cy=shape.cy * rate - window.top, w=shape.w * rate, h=shape.h * rate, theta=shape.theta)
    return Polygon(points=tuple((float(x), float(y)) for x, y in outline))


def _mask_part(mask: Mask, window: Window) -> Mask:
    """The window's pixels of a mask; scaled by taking the pixel under each centre."""
    whole = decode_mask(mask)
    rows = ((window.top + np.arange(window.height) + 0.5) / window.rate).astype(int).clip(0, mask.height - 1)
    columns = ((window.left + np.arange(window.width) + 0.5) / window.rate).astype(int).clip(0, mask.width - 1)
    return encode_mask(whole[np.ix_(rows, columns)])
