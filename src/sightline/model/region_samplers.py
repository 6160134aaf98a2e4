"""Region samplers: one vector for what a region shows. Here is all of their geometry: points inside shapes, and the tokens that a point is read from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model.tilers.windows import window_edges
from sightline.model.tiling import Crop, Grid, Tiling
from sightline.samples.geometry import Points, corners, mask_area
from sightline.samples.sample import Box, Mask, Point, Polygon, RotatedBox, Shape, Tap

if TYPE_CHECKING:
    from sightline.model.region_sampler_modules import SpatialSampler

REGIONS = Family("regions")

PlacedShape = tuple[int, Shape | None]
"""Number of a picture in the batch, and a shape in px of that picture; None = all of it."""
Whole = NDArray[np.int64]
Real = NDArray[np.float64]
_ROLES = ("overview", "tile", "canvas", "detail")
_DIGITS = 9
"""Decimals of a px that outlines are rounded to: what is thinner has no area."""


class RegionSampler(Protocol):
    """What every kind of region sampler offers.

    Its module: forward(features, pictures, regions) -> (R, D) in the order of the regions, from tokens of width D; `blocks` in depth order.
    The vector of a region comes out the same whatever other regions and pictures are in the batch.
    """

    def check(self, tiling: Tiling, grids: Sequence[Grid | None], shapes: Sequence[Shape | None]) -> None:
        """Refused with everything about these shapes on one picture that cannot be read; `grids` of its crops' tokens, None where a crop has none."""
        ...

    def twin(self) -> RegionSampler:
        """Same structure at toy size."""
        ...

    def build(self, width: int) -> SpatialSampler:
        """The module for width D."""
        ...


@dataclass(frozen=True, kw_only=True)
class Located:
    """R regions as P points each. What is read at a point is a weighted sum of tokens; their numbers stand one after another, `starts` says where a point's begin."""

    places: Real  # (R, P, 2): x, y as parts of the picture's sides, 0..1
    tokens: Whole  # (T,) rows of the features' values
    weights: Real  # (T,)
    starts: Whole  # (R * P,)


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """The crops of one role as one map: tokens[i, j] stands at (across[j], down[i]), px of the picture, rising."""

    across: Real
    down: Real
    tokens: Whole  # (rows, columns)

    def read(self, points: Points) -> tuple[Whole, Real]:
        """Bilinear, as grid_sample reads inside its grid and at its border: the tokens (n, 4) around each of the points (n, 2), and their weights (n, 4)."""
        left, right, x = _between(self.across, points[:, 0])
        upper, lower, y = _between(self.down, points[:, 1])
        tokens = [self.tokens[upper, left], self.tokens[upper, right], self.tokens[lower, left], self.tokens[lower, right]]
        weights = [(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x]
        return np.stack(tokens, axis=1), np.stack(weights, axis=1)


@REGIONS.add
class SpatialRegions(Config):
    """Points inside the region, gathered twice around anchors (Ferret, https://arxiv.org/abs/2310.07704, section 3.2; Ferret-v2, https://arxiv.org/abs/2404.07973).

    The crops of each role make one map of the picture. A point reads each map bilinearly and adds what it reads, such as tiles and overview: so read, an overview
    needs no upsampling to the size of the tiles first.
    Two rounds follow: farthest points become anchors; each anchor a and its nearest points n (token and x, y) give the mean or maximum over n of
    LayerNorm(ReLU(Linear[Linear(n - a), a])). The last anchors together go through two linear layers.

    Parameters, with C = `inner` or D and a = anchors of the second round: (D C if `inner`) + 2 ((C + 2)^2 + (C + 2) + 2 (C + 2) C + 3 C) + a C^2 + C + C D + D.
    """

    kind: Literal["spatial"] = "spatial"
    points: int = Field(default=512, ge=1)
    """Points in each region: uniform over its area inside the picture, drawn from a seed that is made of the shape, the same in training and in answering."""
    anchors: tuple[int, int] = (128, 32)
    """Points left after each round."""
    neighbours: int = Field(default=24, ge=1)
    """Points around each anchor, itself among them."""
    inner: int | None = Field(default=None, ge=1)
    """C: tokens of width D are first brought to it by a linear layer without bias. None: D (published: 1024, an encoder's width, which makes 48M parameters
    at D = 4096, where None makes 654M)."""
    pool: Literal["max", "mean"] = "max"
    """Over the neighbours of an anchor (published models: max)."""
    reach: float = Field(default=5.5, ge=0)
    """A Point stands for the square that goes this many px of the picture to each side (published: 11 px wide); 0: all points lie on it."""

    @model_validator(mode="after")
    def _enough_points(self) -> SpatialRegions:
        first, last = self.anchors
        if not 1 <= last <= first <= self.points:
            raise ValueError(f"anchors are chosen from {self.points} points, then from those left: {first} and {last} are not")
        if self.neighbours > first:
            raise ValueError(f"{self.neighbours} neighbours are more than the {first} anchors of the first round, among which the second looks for them")
        return self

    def twin(self) -> SpatialRegions:
        """Same structure at toy size."""
        first, last = self.anchors
        small = {"points": min(self.points, 32), "anchors": (min(first, 8), min(last, 4)), "neighbours": min(self.neighbours, 3)}
        return self.model_copy(update=small | ({"inner": min(self.inner, 16)} if self.inner else {}))

    def build(self, width: int) -> SpatialSampler:
        """The module for width D."""
        from sightline.model.region_sampler_modules import SpatialSampler

        return SpatialSampler(self, width)

    def check(self, tiling: Tiling, grids: Sequence[Grid | None], shapes: Sequence[Shape | None]) -> None:
        """Refused: see `locate`."""
        own = {number: grid for number, grid in enumerate(grids) if grid is not None}
        self.locate([tiling], own, [(0, shape) for shape in shapes])

    def locate(self, tilings: Sequence[Tiling], grids: Mapping[int, Grid], regions: Sequence[PlacedShape]) -> Located:
        """Where each region is read. `grids` by number of the crop in the batch, in the order of the tokens.

        Refused with all of: model/region-outside, model/region-mask, model/region-shape, and for a picture model/region-raster, model/region-tiles.
        """
        problems: list[Problem] = []
        drawn: list[Points] = []
        for number, (picture, shape) in enumerate(regions):
            try:
                drawn.append(points_inside(shape, tilings[picture].size, self.points, self.reach, f"region {number} of picture {picture}"))
            except Refused as refused:
                problems += refused.problems
        maps: dict[int, list[TokenMap]] = {}
        first_crops = list(accumulate((len(tiling.crops) for tiling in tilings), initial=0))
        starts = dict(zip(grids, accumulate((grid.count for grid in grids.values()), initial=0)))
        for picture in sorted({picture for picture, _ in regions}):
            crops = [(starts[crop], grids[crop]) if crop in grids else None for crop in range(first_crops[picture], first_crops[picture + 1])]
            try:
                maps[picture] = token_maps(tilings[picture], crops, f"regions of picture {picture}")
            except Refused as refused:
                problems += refused.problems
        if problems:
            raise Refused(problems)
        reads = [[one.read(points) for one in maps[picture]] for (picture, _), points in zip(regions, drawn)]
        counts = np.array([sum(tokens.shape[1] for tokens, _ in read) for read in reads], np.int64).repeat(self.points)
        sizes = np.array([tilings[picture].size for picture, _ in regions], np.float64)
        return Located(
            places=np.reshape(drawn, (-1, self.points, 2)) / sizes.reshape(-1, 1, 2),
            tokens=np.concatenate([np.zeros(0, np.int64), *(np.hstack([tokens for tokens, _ in read]).ravel() for read in reads)]),
            weights=np.concatenate([np.zeros(0), *(np.hstack([weights for _, weights in read]).ravel() for read in reads)]),
            starts=counts.cumsum() - counts,
        )


def points_inside(shape: Shape | None, size: tuple[int, int], count: int, reach: float, place: str) -> Points:
    """Points (count, 2) inside the part of a shape that lies in a picture of `size` (w, h), uniform over its area; of a line or point its middle, `count` times.

    Published samplers draw whole pixels, and repeat them where a region has too few; here pixels are areas. An outline that crosses itself is even-odd.
    Refused, at `place`, with model/region-outside where nothing of the shape lies in the picture, model/region-mask for masks of no use, model/region-shape for a Tap.
    """
    if isinstance(shape, Tap):
        allowed = "box, rotated_box, point, polygon, mask, or the whole picture"
        raise _refused("region-shape", place, "a tap: a place in an answer, not in a picture", allowed, "give the region a shape")
    shape = shape or Box(x0=0, y0=0, x1=size[0], y1=size[1])
    numbers = np.hstack([np.ravel(getattr(shape, field.name)) for field in fields(shape)]).astype(np.float64) + 0.0  # -0 is 0: equal shapes, equal seeds
    chances = np.random.default_rng(zlib.crc32(numbers.tobytes())).random((count, 3))
    if isinstance(shape, Mask):
        return _in_mask(shape, size, chances, place)
    outline = _outline(shape, reach).round(_DIGITS)
    part = _inside(outline, size)
    if part is None:
        name = type(shape).__name__
        said = f"{name} from {_said(outline.min(0))} to {_said(outline.max(0))}" if len(outline) else f"{name} without points"
        fix = "drop the region, or correct its shape: px of the picture as stored, after EXIF rotation"
        raise _refused("region-outside", place, f"{said} on a picture of {size[0]}x{size[1]} px", "a shape of which some part lies in the picture", fix)
    return np.clip(_in_triangles(part, chances), 0, size)


def _outline(shape: Box | RotatedBox | Point | Polygon, reach: float) -> Points:
    """The corners of a shape, (k, 2)."""
    if isinstance(shape, RotatedBox):
        return corners(shape)
    if isinstance(shape, Point):
        shape = Box(x0=shape.x - reach, y0=shape.y - reach, x1=shape.x + reach, y1=shape.y + reach)
    points = ((shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)) if isinstance(shape, Box) else shape.points
    return np.array(points, np.float64).reshape(-1, 2)


def _inside(outline: Points, size: tuple[int, int]) -> Real | None:
    """The part of an outline inside a picture as triangles (t, 3, 2), a line as its point nearest its middle, three times; None where there is no such part."""
    import shapely  # here because it is slow to import, and few recipes have regions

    if not len(outline) or not np.isfinite(outline).all():
        return None
    shape = shapely.make_valid(shapely.Polygon(outline if len(outline) > 2 else outline.repeat(3, axis=0)))
    part = shape.intersection(shapely.box(0, 0, *size))
    if part.is_empty or part.area == 0 < shape.area:
        return None
    triangles = shapely.get_coordinates(shapely.constrained_delaunay_triangles(part)).reshape(-1, 4, 2)[:, :3]
    if len(triangles):
        return triangles
    middle = shapely.Point(np.reshape(part.bounds, (2, 2)).mean(0))
    return np.tile(shapely.get_coordinates(shapely.shortest_line(part, middle))[0], (1, 3, 1))


def _in_triangles(triangles: Real, chances: Real) -> Points:
    """A triangle by its area, then a place in it: the half of a parallelogram's places beyond the diagonal is folded back."""
    origin, sides = triangles[:, 0], triangles[:, 1:] - triangles[:, :1]
    areas = np.cumsum(np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]))
    chosen = np.minimum(np.searchsorted(areas, chances[:, 0] * areas[-1], side="right"), len(areas) - 1)
    shares = np.where(chances[:, 1:].sum(1, keepdims=True) > 1, 1 - chances[:, 1:], chances[:, 1:])
    return origin[chosen] + (shares[:, :, None] * sides[chosen]).sum(1)


def _in_mask(mask: Mask, size: tuple[int, int], chances: Real, place: str) -> Points:
    """A pixel that is set, then a place inside it."""
    area = mask_area(mask)
    if (mask.width, mask.height) != size or sum(mask.runs) != mask.width * mask.height or min(mask.runs, default=0) < 0 or not area:
        found = f"a mask of {mask.width}x{mask.height} px with {area} px set and runs of sum {sum(mask.runs)}, on a picture of {size[0]}x{size[1]} px"
        raise _refused("region-mask", place, found, "a mask of the picture's size, at least 1 px of it set", "drop the region, or make its mask anew")
    starts = np.cumsum([0, *mask.runs])[1::2]
    filled = np.cumsum([0, *mask.runs[1::2]])
    pixel = np.minimum((chances[:, 0] * area).astype(np.int64), area - 1)
    run = np.searchsorted(filled, pixel, side="right") - 1
    column, row = np.divmod(starts[run] + pixel - filled[run], mask.height)
    return np.stack([column, row], axis=1) + chances[:, 1:]


def token_maps(tiling: Tiling, crops: Sequence[tuple[int, Grid] | None], place: str) -> list[TokenMap]:
    """A map for each role of which crops have tokens on a raster; `crops`: the number of a crop's first token and its grid, None where it has no tokens.

    Refused, at `place`: model/region-raster where no crop has tokens on a raster, model/region-tiles where the crops of a role do not form rows and columns.
    """
    maps: list[TokenMap] = []
    for role in _ROLES:
        own = [(crop, *tokens) for crop, tokens in zip(tiling.crops, crops, strict=True) if crop.role == role and tokens and tokens[1].columns * tokens[1].rows]
        if own:
            maps.append(_merged(tiling, own, place))
    if not maps:
        said = ", ".join(sorted({f"{tokens[1].lead} lead tokens" for tokens in crops if tokens})) or "no tokens"
        raise _refused("region-raster", place, f"crops of {said} and no raster", "columns and rows of tokens", "choose a connector that keeps the raster")
    return maps


def _merged(tiling: Tiling, crops: Sequence[tuple[Crop, int, Grid]], where: str) -> TokenMap:
    """Crops at their places in the picture; where neighbours overlap, each gives up its half of what both show."""
    at = {crop.place: (crop, start, grid) for crop, start, grid in crops}
    columns, rows = (max(place[axis] for place in at) + 1 for axis in (0, 1))
    spans = [
        [
            sorted({(*window_edges(tiling, crop, axis), (grid.columns, grid.rows)[axis]) for place, (crop, _, grid) in at.items() if place[axis] == number})
            for number in range(count)
        ]
        for axis, count in ((0, columns), (1, rows))
    ]
    if not len(at) == len(crops) == columns * rows or any(len(span) != 1 for axis in spans for span in axis):
        found = f"{len(crops)} {crops[0][0].role} crops on {columns}x{rows} places, of a picture of {tiling.size[0]}x{tiling.size[1]} px"
        raise _refused("region-tiles", where, found, "crops that form rows and columns of equal tokens", "choose a tiler with tiles of one size")
    (across, column, i), (down, row, j) = (_axis([span for [span] in axis]) for axis in spans)
    starts = np.array([[at[x, y][1] + at[x, y][2].lead for x in range(columns)] for y in range(rows)], np.int64)
    widths = np.array([count for [(_, _, count)] in spans[0]], np.int64)
    return TokenMap(across=across, down=down, tokens=starts[np.ix_(row, column)] + j[:, None] * widths[column] + i)


def _axis(spans: Sequence[tuple[float, float, int]]) -> tuple[Real, Whole, Whole]:
    """One axis of a merged map, from each crop's (low, high) edge and number of cells: places of the cells, their crops, and their numbers in these.

    As in grid_sample with align_corners=True the outer cells stand on the outer edges, and the cells between them are spread in proportion.
    """
    centres, crops, cells = [], [], []
    for number, (low, high, count) in enumerate(spans):
        start = (spans[number - 1][1] + low) / 2 if number else -np.inf
        end = (high + spans[number + 1][0]) / 2 if number + 1 < len(spans) else np.inf
        middle = low + (np.arange(count) + 0.5) * ((high - low) / count)
        kept = np.flatnonzero((middle >= start) & (middle < end))
        centres.append(middle[kept])
        crops.append(np.full(len(kept), number))
        cells.append(kept)
    places = np.concatenate(centres)
    if len(places) > 1:
        places = spans[0][0] + (places - places[0]) * ((spans[-1][1] - spans[0][0]) / (places[-1] - places[0]))
    return places, np.concatenate(crops), np.concatenate(cells)


def _between(places: Real, at: Real) -> tuple[Whole, Whole, Real]:
    """The cells before and after each coordinate, and how far it is on the way; beyond the ends it stands on them."""
    index = np.interp(at, places, np.arange(len(places)))
    low = np.minimum(index.astype(np.int64), max(0, len(places) - 2))
    return low, np.minimum(low + 1, len(places) - 1), index - low


def _said(point: Real) -> str:
    return f"({point[0]:g}, {point[1]:g})"


def _refused(code: str, place: str, found: str, allowed: str, fix: str) -> Refused:
    return Refused(Problem(code=f"model/{code}", place=place, found=found, allowed=allowed, fix=fix))
