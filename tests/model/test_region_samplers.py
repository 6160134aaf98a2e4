from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from tests.model.feature_cases import assert_close, counted, pictures_of, random_features, seeded
from torch import Tensor
from torch.nn import functional

from sightline.errors import Refused
from sightline.model.batch import Features
from sightline.model.region_sampler_modules import SpatialSampler
from sightline.model.region_samplers import PlacedShape, SpatialRegions, TokenMap, points_inside, token_maps
from sightline.model.tilers.aspect_grids import CattyTiler, InternVlTiler
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tilers.margins import MolmoTiler
from sightline.model.tilers.native import QuadSplitTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.slices import LlavaUhdTiler
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tilers.windows import source_box
from sightline.model.tiling import Crop, Grid, Tiler, Tiling, WholeTiler, cut
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.sample import Box, Mask, Point, Polygon, RotatedBox, Shape, Tap

WIDTH = 12
TILERS: dict[str, Tiler] = {
    "whole-pad": WholeTiler(size=96),
    "whole-squash": WholeTiler(size=96, fit="squash"),
    "whole-crop": WholeTiler(size=96, fit="crop"),
    "llava-next": LlavaNextTiler(size=48, pinpoints=((96, 48), (48, 96), (96, 96), (48, 144), (144, 48))),
    "catty": CattyTiler(size=56, most=6),
    "internvl": InternVlTiler(size=48, most=6),
    "dual-resolution": DualResolutionTiler(size=96, detail=384),
    "dual-resolution-cells": DualResolutionTiler(size=96, detail=384, cells=2),
    "molmo": MolmoTiler(size=96, margin=16, most=6),
    "canvas": CanvasTiler(size=64),
    "uhd-legacy": LlavaUhdTiler(variant="legacy", size=64, patch=8),
    "uhd-release": LlavaUhdTiler(size=64, patch=8),
}
PLACES = st.floats(-60, 160, allow_nan=False).map(lambda number: round(number, 3))
SIZE = (97, 61)


def cells(crop: Crop, patch: int = 8) -> Grid:
    return Grid(columns=crop.window[2] // patch, rows=crop.window[3] // patch)


def maps_of(tiling: Tiling) -> list[TokenMap]:
    """Of crops whose tokens follow one another."""
    starts = np.cumsum([0, *(cells(crop).count for crop in tiling.crops)])
    return token_maps(tiling, [(int(start), cells(crop)) for start, crop in zip(starts, tiling.crops)], "here")


def drawn(shape: Shape | None, count: int = 64, reach: float = 5.5, size: tuple[int, int] = SIZE) -> NDArray[np.float64]:
    return points_inside(shape, size, count, reach, "region 0")


def box(x0: float, y0: float, x1: float, y1: float) -> Box:
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


@st.composite
def shapes(draw: Any) -> Shape:
    kind = draw(st.sampled_from(["box", "rotated", "point", "polygon", "mask"]))
    if kind == "box":
        return box(draw(PLACES), draw(PLACES), draw(PLACES), draw(PLACES))
    if kind == "rotated":
        sides = st.floats(0, 200)
        return RotatedBox(cx=draw(PLACES), cy=draw(PLACES), w=draw(sides), h=draw(sides), theta=draw(st.floats(-90, 90)))
    if kind == "point":
        return Point(x=draw(PLACES), y=draw(PLACES))
    if kind == "polygon":
        return Polygon(points=tuple(draw(st.lists(st.tuples(PLACES, PLACES), min_size=1, max_size=8))))
    seed, part = draw(st.integers(0, 99)), draw(st.sampled_from([0.001, 0.1, 1.0]))
    return encode_mask(np.random.default_rng(seed).random(SIZE[::-1]) < part)


def holds(shape: Shape, points: NDArray[np.float64], slack: float) -> bool:
    """Whether all points lie in a shape, or no further than `slack` px outside."""
    x, y = points[:, 0], points[:, 1]
    if isinstance(shape, Mask):
        return bool(decode_mask(shape)[np.minimum(y.astype(int), shape.height - 1), np.minimum(x.astype(int), shape.width - 1)].all())
    if isinstance(shape, Point):
        return bool((np.abs(points - (shape.x, shape.y)) <= 5.5 + slack).all())
    if isinstance(shape, Box):
        across, down = sorted((shape.x0, shape.x1)), sorted((shape.y0, shape.y1))
        return bool(((x >= across[0] - slack) & (x <= across[1] + slack) & (y >= down[0] - slack) & (y <= down[1] + slack)).all())
    if isinstance(shape, RotatedBox):
        angle = math.radians(shape.theta)
        along = (x - shape.cx) * math.cos(angle) + (y - shape.cy) * math.sin(angle)
        beside = (y - shape.cy) * math.cos(angle) - (x - shape.cx) * math.sin(angle)
        return bool(((np.abs(along) <= shape.w / 2 + slack) & (np.abs(beside) <= shape.h / 2 + slack)).all())
    assert isinstance(shape, Polygon)
    if doubled(shape):  # sides on one another divide inside from outside or not: either is right
        return holds(box(*np.min(shape.points, axis=0), *np.max(shape.points, axis=0)), points, slack)
    return all(even_odd(shape, px, py) or border(shape, px, py) <= slack for px, py in points.tolist())


def sides(shape: Polygon) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return list(zip(shape.points, (*shape.points[1:], shape.points[0]), strict=True))


def doubled(shape: Polygon) -> bool:
    """Whether two sides lie on one another for some length."""
    for (a, b), (c, d) in combinations(sides(shape), 2):
        along = np.subtract(b, a)
        if any(abs(along[0] * (end[1] - a[1]) - along[1] * (end[0] - a[0])) > 1e-9 for end in (c, d)) or not along.any():
            continue
        low, high = sorted(float(np.subtract(end, a) @ along) for end in (c, d))
        if min(high, float(along @ along)) > max(low, 0):
            return True
    return False


def even_odd(shape: Polygon, x: float, y: float) -> bool:
    """Crossings of a ray to the right."""
    return sum((ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay) for (ax, ay), (bx, by) in sides(shape)) % 2 == 1


def border(shape: Polygon, x: float, y: float) -> float:
    """Distance to the nearest side."""
    distances = []
    for (ax, ay), (bx, by) in sides(shape):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        t = min(1.0, max(0.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) if length else 0.0
        distances.append(math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)))
    return min(distances)


@settings(max_examples=300, deadline=None)
@given(shape=shapes())
@example(shape=Polygon(points=((0, 0), (40, 40), (0, 40), (40, 0))))
@example(shape=Polygon(points=((10, 10), (50, 10), (50, 30), (50, 60), (50, 30), (10, 30))))
@example(shape=box(-1e12, -1e12, 1e12, 1e12))
@example(shape=box(5, 5, 5 + 1e-12, 30))
@example(shape=RotatedBox(cx=0, cy=0, w=0, h=1e-241, theta=0))
@example(shape=box(5, 5, 5 + 3e-9, 5 + 1e-9))
@example(shape=RotatedBox(cx=50, cy=30, w=80, h=1e-9, theta=33))
def test_points_lie_inside_the_shape_and_the_picture(shape: Shape) -> None:
    try:
        points = drawn(shape)
    except Refused:
        assume(False)
        raise
    assert points.shape == (64, 2)
    assert (points >= 0).all() and (points <= SIZE).all()
    assert holds(shape, points, slack=1e-6)


@settings(max_examples=100, deadline=None)
@given(shape=st.one_of(shapes(), st.none()))
def test_a_region_is_refused_only_where_the_picture_shows_none_of_it(shape: Shape | None) -> None:
    """A grid of places over the picture: a shape that holds one of them has something to show."""
    assume(not (isinstance(shape, Polygon) and doubled(shape)))
    places = np.stack(np.meshgrid(np.arange(0.5, SIZE[0], 3), np.arange(0.5, SIZE[1], 3)), axis=2).reshape(-1, 2)
    if shape is None or any(holds(shape, place[None], 0) for place in places):
        assert len(drawn(shape)) == 64


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        (box(7, 9, 7, 9), (7, 9)),
        (box(7, 9, 7, 29), (7, 19)),
        (box(87, 20, 187, 20), (92, 20)),  # what the picture shows of it
        (RotatedBox(cx=40, cy=30, w=20, h=0, theta=30), (40, 30)),
        (Polygon(points=((10, 10), (20, 20), (15, 15))), (15, 15)),
        (Polygon(points=((3, 4),)), (3, 4)),
        (Polygon(points=((3, 4), (5, 4))), (4, 4)),
        (Polygon(points=((10, 30), (10, 10), (30, 10), (10, 10))), (10, 20)),  # on the line, not between its arms
    ],
)
def test_a_shape_without_area_is_its_middle(shape: Shape, middle: tuple[float, float]) -> None:
    assert np.allclose(drawn(shape), middle, atol=1e-9)


def test_a_point_is_the_square_around_it() -> None:
    points = drawn(Point(x=30, y=20), 4096)
    assert np.allclose(points.min(0), (24.5, 14.5), atol=0.02) and np.allclose(points.max(0), (35.5, 25.5), atol=0.02)
    assert (drawn(Point(x=30, y=20), reach=0) == (30, 20)).all()
    corner = drawn(Point(x=0, y=0))
    assert corner.min() >= 0 and np.allclose(corner.max(0), 5.5, atol=0.5)


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        (box(-40, -40, 48.5, 30.5), [((0, 0, 12.125, 30.5), 0.25), ((0, 0, 48.5, 7.625), 0.25)]),
        (None, [((0, 0, 48.5, 61), 0.5), ((0, 0, 97, 30.5), 0.5)]),
        (RotatedBox(cx=48, cy=30, w=40, h=20, theta=90), [((38, 10, 58, 20), 0.25), ((38, 10, 43, 50), 0.25)]),
        (Polygon(points=((0, 0), (40, 0), (40, 20), (20, 20), (20, 40), (0, 40))), [((0, 20, 20, 40), 1 / 3), ((20, 0, 40, 20), 1 / 3)]),
        (Polygon(points=((0, 0), (40, 40), (0, 40), (40, 0))), [((0, 0, 40, 20), 0.5), ((0, 0, 40, 10), 0.375)]),
        (encode_mask(np.pad(np.ones((10, 30), bool), ((5, 46), (7, 60)))), [((7, 5, 17, 15), 1 / 3), ((7, 5, 37, 6), 0.1)]),
    ],
)
def test_points_are_uniform_over_the_area(shape: Shape | None, parts: list[tuple[tuple[float, ...], float]]) -> None:
    points = drawn(shape, 20_000)
    for (x0, y0, x1, y1), expected in parts:
        share = ((points > (x0, y0)) & (points < (x1, y1))).all(1).mean()
        assert abs(share - expected) < 0.015, share


def test_points_are_made_of_the_shape_alone() -> None:
    assert (drawn(box(3, 4, 50, 60)) == drawn(Box(x0=3.0, y0=4.0, x1=50.0, y1=60.0))).all()
    assert (drawn(box(0.0, 0.0, 50, 60)) == drawn(box(-0.0, 0, 50, 60))).all()
    assert not (drawn(box(3, 4, 50, 60)) == drawn(box(3, 4, 50, 60.5))).any()
    assert np.allclose(drawn(box(3, 4, 50, 60))[0], [12.1468305, 30.7953678]), "the draw changed: answers would read other points than training did"


@pytest.mark.parametrize(
    ("shape", "code", "found"),
    [
        (box(97, 5, 120, 30), "region-outside", "Box from (97, 5) to (120, 30) on a picture of 97x61 px"),
        (box(-9, -9, -1, -1), "region-outside", "Box from (-9, -9) to (-1, -1) on a picture of 97x61 px"),
        (Point(x=50, y=80), "region-outside", "Point from (44.5, 74.5) to (55.5, 85.5)"),
        (RotatedBox(cx=-30, cy=-30, w=40, h=4, theta=-45), "region-outside", "RotatedBox from (-45.5"),
        (Polygon(points=()), "region-outside", "Polygon without points on"),
        (box(math.nan, 0, 5, 5), "region-outside", "Box from (nan, 0) to (nan, 5)"),
        (Mask(width=97, height=60, runs=(0, 97 * 60)), "region-mask", "a mask of 97x60 px with 5820 px set and runs of sum 5820, on a picture of 97x61 px"),
        (Mask(width=97, height=61, runs=(97 * 61,)), "region-mask", "with 0 px set"),
        (Mask(width=97, height=61, runs=(0, 5)), "region-mask", "runs of sum 5"),
        (Tap(index=0), "region-shape", "a tap"),
    ],
)
def test_a_shape_that_shows_nothing_is_refused(shape: Shape, code: str, found: str) -> None:
    with pytest.raises(Refused) as refused:
        drawn(shape)
    [problem] = refused.value.problems
    assert problem.code == f"model/{code}" and found in problem.found and problem.place == "region 0" and problem.allowed and problem.fix


def test_all_problems_are_said_at_once() -> None:
    tiling = WholeTiler(size=32).tile(*SIZE)
    with pytest.raises(Refused) as refused:
        SpatialRegions().check(tiling, [Grid(columns=0, rows=0, lead=9)], [box(0, 0, 5, 5), box(200, 0, 210, 5), Tap(index=1)])
    said = [(problem.code, problem.place) for problem in refused.value.problems]
    regions = [("model/region-outside", "region 1 of picture 0"), ("model/region-shape", "region 2 of picture 0")]
    assert said == [*regions, ("model/region-raster", "regions of picture 0")]
    assert refused.value.problems[2].found == "crops of 9 lead tokens and no raster"


def test_tiles_of_different_sizes_are_refused() -> None:
    tiling = QuadSplitTiler(longest=64, shortest=8).tile(129, 80)  # quarters of 64x40 and, scaled by its longer side, 65x40 px
    grids = [cells(crop, 1) for crop in tiling.crops]
    with pytest.raises(Refused, match=r"4 tile crops on 2x2 places, of a picture of 129x80 px") as refused:
        SpatialRegions().check(tiling, grids, [None])
    assert [problem.code for problem in refused.value.problems] == ["model/region-tiles"]
    SpatialRegions().check(tiling, [None] * 4 + grids[4:], [None])  # without the tiles there is the overview


def pooled(crop: NDArray[np.uint8], grid: Grid) -> NDArray[np.float64]:
    """Mean colour of each cell of a crop (3, h, w), as tokens (count, 3)."""
    bands, height, width = crop.shape
    return crop.reshape(bands, grid.rows, height // grid.rows, grid.columns, width // grid.columns).mean((2, 4), dtype=np.float64).reshape(bands, -1).T


def extent(tiling: Tiling, role: str, axis: int) -> tuple[float, float, float]:
    """Where the crops of a role begin and end in the picture, fill included, and the size of a cell, in px of the picture."""
    exact = "detail" if any(crop.role == "detail" for crop in tiling.crops) else role  # what the detail is resampled to shows the same, but `valid` is rounded
    lows, highs, cell = [], [], 0.0
    for crop in (crop for crop in tiling.crops if crop.role == exact):
        shown = source_box(tiling, crop)
        scale = (shown[axis + 2] - shown[axis]) / (crop.valid[axis + 2] - crop.valid[axis])
        lows.append(shown[axis] - crop.valid[axis] * scale)
        highs.append(shown[axis + 2] + (crop.window[axis + 2] - crop.valid[axis + 2]) * scale)
        cell = 8 * scale
    if exact != role:
        cell = 8 * (highs[0] - lows[0]) / sum(crop.window[axis + 2] for crop in tiling.crops if crop.role == role and crop.place[1 - axis] == 0)
    return min(lows), max(highs), cell


@pytest.mark.parametrize("size", [(200, 117), (113, 230), (180, 180)], ids=str)
@pytest.mark.parametrize("name", TILERS)
def test_a_map_shows_what_the_pixels_show(name: str, size: tuple[int, int]) -> None:
    """Ramps of x and y go through the tiler's own pixels to mean colours of cells; a map that reads them at a point gives the point back.

    As with align_corners=True the outer cells stand on the outer edges, half a cell away from their centres. A view of a view rounds its colours, halves up.
    """
    width, height = size
    bound = 0.9 if name.startswith("dual-resolution") else 0.45
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width), np.arange(height)[:, None]
    tiling = TILERS[name].tile(*size)
    tokens = np.concatenate([pooled(crop, cells(own)) for crop, own in zip(cut(picture, tiling), tiling.crops)])
    roles = [role for role in ("overview", "tile", "canvas", "detail") if any(crop.role == role for crop in tiling.crops)]
    maps = maps_of(tiling)
    assert len(maps) == len(roles)
    for role, one in zip(roles, maps):
        (left, right, across), (top, bottom, down) = (extent(tiling, role, axis) for axis in (0, 1))
        low = np.array([max(0, left) + 2 * across, max(0, top) + 2 * down])  # away from fill, and from where filters lack neighbours
        high = np.array([min(width, right) - 2 * across, min(height, bottom) - 2 * down])
        assert (low < high).all()
        points = low + np.random.default_rng(0).random((200, 2)) * (high - low)
        numbers, weights = one.read(points)
        read = (tokens[numbers] * weights[..., None]).sum(1)[:, :2] + 0.5  # a pixel's colour is its number, its middle half a px further
        centred = np.stack(
            [
                left + across / 2 + (points[:, 0] - left) * (right - left - across) / (right - left),
                top + down / 2 + (points[:, 1] - top) * (bottom - top - down) / (bottom - top),
            ],
            axis=1,
        )
        assert np.abs(read - centred).max() < bound, (role, np.abs(read - centred).max())


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(TILERS)), width=st.integers(20, 400), height=st.integers(20, 400), seed=st.integers(0, 9))
def test_a_linear_map_is_read_exactly(name: str, width: int, height: int, seed: int) -> None:
    tiling = TILERS[name].tile(width, height)
    points = np.random.default_rng(seed).random((40, 2)) * (width, height)
    for one in maps_of(tiling):
        assert (np.diff(one.across) > 0).all() and (np.diff(one.down) > 0).all()
        assert one.tokens.shape == (len(one.down), len(one.across)) and len(np.unique(one.tokens)) == one.tokens.size
        values = np.zeros((one.tokens.max() + 1, 2))
        values[one.tokens] = np.stack(np.meshgrid(one.across, one.down), axis=2)
        numbers, weights = one.read(points)
        assert (weights >= 0).all() and np.allclose(weights.sum(1), 1)
        inside = points.clip([one.across[0], one.down[0]], [one.across[-1], one.down[-1]])
        assert np.allclose((values[numbers] * weights[..., None]).sum(1), inside, atol=1e-9 * max(width, height))


def test_a_map_of_one_crop_is_read_as_grid_sample_reads() -> None:
    tiling = WholeTiler(size=40, fit="squash").tile(*SIZE)
    [one] = maps_of(tiling)
    values = torch.randn(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    numbers, weights = one.read((points * torch.tensor(SIZE)).numpy())
    expected = functional.grid_sample(values.T.view(1, 3, 5, 5), 2 * points[None, None] - 1, mode="bilinear", align_corners=True)[0, :, 0].T
    assert np.allclose((values.numpy()[numbers] * weights[..., None]).sum(1), expected.numpy(), atol=1e-12)


def test_overlapping_tiles_give_up_half_each() -> None:
    """POINTS' tiles of a 900x336 picture begin at 0, 282 and 564: each pair shares 54 px, of which each keeps 27."""
    tiling = CattyTiler(size=336).tile(900, 336)
    grid = Grid(columns=24, rows=24)
    [overview, tiles] = token_maps(tiling, [(576 * number, grid) for number in range(4)], "here")
    assert overview.tokens.shape == (24, 24) and overview.tokens.min() == 3 * 576
    kept = [np.unique(tiles.tokens[0][tiles.tokens[0] // 576 == number] % 576) for number in range(3)]
    assert [(own.min(), own.max()) for own in kept] == [(0, 21), (2, 21), (2, 23)]  # 27 px are 1.9 cells of 14: the middles of two of them lie in it


def test_a_single_cell_is_read_everywhere() -> None:
    tiling = WholeTiler(size=8).tile(*SIZE)
    numbers, weights = maps_of(tiling)[0].read(np.array([(0.0, 0.0), (50, 60), (97, 61)]))
    assert not numbers.any() and np.allclose(weights.sum(1), 1)


TILED = LlavaNextTiler(size=16, pinpoints=((32, 16), (16, 32)))
SEVERAL: list[PlacedShape] = [
    (1, box(5, 5, 40, 50)),
    (0, Polygon(points=((2, 3), (60, 10), (30, 50)))),
    (1, None),
    (0, Point(x=70, y=20)),
    (0, box(9, 9, 9, 9)),
    (1, encode_mask(np.pad(np.ones((20, 10), bool), ((40, 50), (20, 20))))),
]


def scene(channels: int = WIDTH) -> tuple[Features, Any]:
    """Two pictures: 97x61 px with an overview and two tiles, 50x110 px with an overview alone."""
    tilings = TILED.tile(*SIZE), WholeTiler(size=24).tile(50, 110)
    grids = [cells(crop, 4) for tiling in tilings for crop in tiling.crops]
    return random_features(grids, channels), pictures_of(*tilings)


def sampler(width: int = WIDTH, **fields: Any) -> SpatialSampler:
    small: dict[str, Any] = {"points": 32, "anchors": (8, 4), "neighbours": 3}
    return seeded(lambda: SpatialRegions(**(small | fields)).build(width))


def published(module: Any, x: Tensor, places: Tensor) -> Tensor:
    """The formula as it is written, for one region: values (P, C) and places (P, 2) of its points -> (D,)."""
    for block in module.rounds:
        weight = torch.cat([block.own.weight, block.centre.weight], dim=1)
        anchors = [0]
        while len(anchors) < block.anchors:
            anchors.append(int(torch.stack([(places - places[number]).norm(dim=1) for number in anchors]).amin(0).argmax()))
        points, found = torch.cat([x, places], dim=1), []
        for number in anchors:
            near = (places - places[number]).norm(dim=1).argsort()[: block.neighbours]
            difference = block.difference(points[near] - points[number])
            gathered = torch.cat([difference, points[number].expand(len(near), -1)], dim=1)
            normed = block.norm(functional.conv1d(gathered.T[None], weight[..., None], block.own.bias).relu()[0].T)
            found.append(normed.amax(0) if block.pool == "max" else normed.mean(0))
        x, places = torch.stack(found), places[anchors]
    return module.out(module.flatten(x.flatten()))


@pytest.mark.parametrize("fields", [{"pool": "max"}, {"pool": "mean", "inner": 8}])
def test_the_module_is_the_published_formula(fields: dict[str, Any]) -> None:
    module = sampler(**fields)
    features, pictures = scene()
    features.values.requires_grad_()
    regions = [region for region in SEVERAL if region[1] != box(9, 9, 9, 9)]  # with equal points any of them may be taken
    found = module(features, pictures, regions)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    inputs = [features.values, *module.parameters()]
    gradients = torch.autograd.grad((found * weights).sum(), inputs)

    expected, start = [], {0: 0, 1: sum(grid.count for grid in features.grids[:3])}
    values = module.reduce(features.values)
    for picture, shape in regions:
        tiling = pictures.tilings[picture]
        points = points_inside(shape, tiling.size, 32, 5.5, "here")
        read = torch.zeros(32, values.shape[1])
        grids = features.grids[:3] if picture == 0 else features.grids[3:]
        starts = np.cumsum([start[picture], *(grid.count for grid in grids)])
        for one in token_maps(tiling, [(int(number), grid) for number, grid in zip(starts, grids)], "here"):
            numbers, shares = one.read(points)
            read = read + (values[torch.from_numpy(numbers)] * torch.from_numpy(shares).float()[..., None]).sum(1)
        expected.append(published(module, read, torch.from_numpy(points / tiling.size).float()))
    assert_close(found, torch.stack(expected))
    for own, right in zip(gradients, torch.autograd.grad((torch.stack(expected) * weights).sum(), inputs), strict=True):
        assert_close(own, right)


def test_a_region_alone_is_as_in_company() -> None:
    module = sampler()
    features, pictures = scene()
    together = module(features, pictures, SEVERAL)
    assert together.shape == (len(SEVERAL), WIDTH)
    assert_close(module(features, pictures, SEVERAL[::-1]).flip(0), together)
    for region, expected in zip(SEVERAL, together):
        assert_close(module(features, pictures, [region])[0], expected)
    lonely, start = pictures_of(pictures.tilings[1]), sum(grid.count for grid in features.grids[:3])
    own = Features(values=features.values[start:], grids=features.grids[3:], crops=(0,))
    assert_close(module(own, lonely, [(0, shape) for picture, shape in SEVERAL if picture]), together[[0, 2, 5]])
    assert len(torch.unique(together.detach().round(decimals=4), dim=0)) == len(SEVERAL)


def test_lead_tokens_and_crops_without_tokens_are_passed_over() -> None:
    """The second tiling's overview stands behind a crop without tokens; class tokens before each raster change nothing."""
    module = sampler()
    features, pictures = scene()
    expected = module(features, pictures, SEVERAL)
    grids = tuple(Grid(columns=grid.columns, rows=grid.rows, lead=2) for grid in features.grids)
    values = torch.cat([torch.cat([torch.full((2, WIDTH), 99.0), own]) for own in features.split()])
    assert_close(module(Features(values=values, grids=grids, crops=features.crops), pictures, SEVERAL), expected)
    overviews = Features(values=torch.cat([features.split()[number] for number in (0, 3)]), grids=(features.grids[0], features.grids[3]), crops=(0, 3))
    found = module(overviews, pictures, SEVERAL)
    assert_close(found[[0, 2, 5]], expected[[0, 2, 5]])
    assert not torch.allclose(found[1], expected[1])


def test_gradients_reach_every_token_and_weight() -> None:
    """Of pictures without fill, whose tokens are all near some point."""
    module = seeded(lambda: SpatialRegions(pool="mean", inner=8).build(WIDTH))
    tilings = InternVlTiler(size=16, most=2).tile(*SIZE), WholeTiler(size=24, fit="squash").tile(50, 110)
    features = random_features([cells(crop, 4) for tiling in tilings for crop in tiling.crops], WIDTH)
    features.values.requires_grad_()
    found = module(features, pictures_of(*tilings), [(0, None), (1, None)])
    (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    assert not [name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum()]
    assert features.values.grad is not None and bool(features.values.grad.abs().sum(1).all())


@pytest.mark.parametrize("crops", [True, False])
def test_no_regions_are_no_vectors_but_every_weight_takes_part(crops: bool) -> None:
    module = sampler(inner=8)
    features, pictures = scene() if crops else (random_features((), WIDTH), pictures_of())
    found = module(features, pictures, [])
    assert found.shape == (0, WIDTH)
    found.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())


def test_half_precision_keeps_the_vector() -> None:
    module = sampler()
    features, pictures = scene()
    expected = module(features, pictures, SEVERAL)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(features, pictures, SEVERAL)
    assert_close(found.float(), expected, 0.05)
    module.bfloat16()
    assert_close(module(Features(values=features.values.bfloat16(), grids=features.grids, crops=features.crops), pictures, SEVERAL).float(), expected, 0.05)


@pytest.mark.parametrize(("fields", "width"), [({"inner": 1024}, 4096), ({}, 1024), ({"inner": 1024}, 5120)])
def test_parameters_are_those_of_the_formula(fields: dict[str, Any], width: int) -> None:
    config = SpatialRegions(**fields)
    c, anchors = config.inner or width, config.anchors[1]
    rounds = 2 * ((c + 2) ** 2 + (c + 2) + 2 * (c + 2) * c + 3 * c)
    count = (width * c if config.inner else 0) + rounds + anchors * c**2 + c + c * width + width
    assert counted(lambda: config.build(width)) == count
    if (c, width) == (1024, 4096):  # Ferret-7B's sampler, which reads an encoder of 1024 channels as it is
        assert count - width * c == 44_069_900


def test_twins_are_small_and_run() -> None:
    twin = SpatialRegions(inner=1024, pool="mean").twin()
    assert (twin.points, twin.anchors, twin.neighbours, twin.inner, twin.pool) == (32, (8, 4), 3, 16, "mean")
    assert SpatialRegions().twin().inner is None
    small = SpatialRegions(points=6, anchors=(2, 1), neighbours=2)
    assert small.twin() == small
    features, pictures = scene()
    for config in (twin, small):
        assert config.build(WIDTH)(features, pictures, SEVERAL).shape == (len(SEVERAL), WIDTH)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"anchors": (600, 32)}, "anchors are chosen from 512 points, then from those left: 600 and 32 are not"),
        ({"anchors": (32, 128)}, "32 and 128 are not"),
        ({"anchors": (8, 0)}, "8 and 0 are not"),
        ({"anchors": (16, 8)}, "24 neighbours are more than the 16 anchors"),
        ({"pool": "sum"}, "'max' or 'mean'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SpatialRegions(**fields)


@settings(max_examples=40, deadline=None)
@given(picks=st.lists(st.sampled_from(list(product((0, 1), range(3)))), max_size=6))
def test_any_choice_of_regions_comes_in_its_order(picks: Sequence[tuple[int, int]]) -> None:
    module = sampler()
    features, pictures = scene()
    choices = {(picture, number): (picture, shape) for picture in (0, 1) for number, shape in enumerate((box(1, 1, 30, 40), None, Point(x=20, y=20)))}
    with torch.no_grad():
        every = dict(zip(choices, module(features, pictures, list(choices.values()))))
        found = module(features, pictures, [choices[pick] for pick in picks])
    for pick, own in zip(picks, found, strict=True):
        assert_close(own, every[pick])
