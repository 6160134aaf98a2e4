"""Ten thousand random regions a codec, of any size and aspect, in pictures of any size: what is lost is bounded by the step of the grid.

The bounds follow from a codec's step q (px of the frame) alone. Corners and points: q each way. Centre and sides: a centre is off by q/2 each way, a side by q/2, an angle by half a degree;
GeoChat rounds a side before a place, so that its centre may be off by q. A side within the last step of a grid that ends at 999 is off by two. What lies beyond the grid is clamped there, and the guard `round_trip_iou` tells it.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from sightline.samples.codec_table import CODEC, PRESETS
from sightline.samples.codecs import Codec, regions_in, rotated, round_trip_iou, text_of
from sightline.samples.frames import Frame, frame_of
from sightline.samples.geometry import canonical, corners
from sightline.samples.sample import Box, Point, Region, Regions, RotatedBox, Shape

MANY, TOGETHER = 10_000, 50
SAID: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in sorted(CODEC.table()) if kind not in ("xyhwt", "seg")} | {
    name: dict(said) for name, said in PRESETS.items()
}
SEEN = ((336, 336), (224, 448), (1000, 28))


def frame(codec: Codec, width: int, height: int, number: int) -> Frame:
    """Of the codec's name; `seen` is squashed to several shapes and padded."""
    side = SEEN[number % len(SEEN)]
    offset = (8.0, 2.0) if number % 2 else (0.0, 0.0)
    seen = Frame(width=side[0] + 2 * offset[0], height=side[1] + 2 * offset[1], scale=(side[0] / width, side[1] / height), offset=offset)
    return frame_of(codec.frame, width, height, seen)


def shape(rng: np.random.Generator, kind: type[Shape], width: int, height: int) -> Shape:
    """Inside the picture, from a hundredth of it to all of it, aspects to 50; a rotated box with the circle around it, so that no side of it leaves a grid however it is named."""
    if kind is Point:
        return Point(x=rng.uniform(0, width), y=rng.uniform(0, height))
    if kind is Box:
        (x0, x1), (y0, y1) = (sorted(rng.uniform(0, side, 2).tolist()) for side in (width, height))
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    longest = min(width, height) * float(np.exp(rng.uniform(np.log(0.01), np.log(0.7))))
    cx, cy = (rng.uniform(longest / 2, side - longest / 2) for side in (width, height))
    return canonical(cx, cy, longest, longest / float(np.exp(rng.uniform(0, np.log(50)))), rng.uniform(-90, 90))


def bounded(codec: Codec, one: Any, other: Any, where: Frame, name: str) -> bool:
    """Whether what came back is what went in, within the bounds."""
    q = (codec.quantum * where.width / where.scale[0] * 1.0001, codec.quantum * where.height / where.scale[1] * 1.0001)
    if isinstance(one, Point):
        return abs(one.x - other.x) <= q[0] and abs(one.y - other.y) <= q[1]
    if isinstance(one, Box) and RotatedBox not in codec.holds:
        pairs = [(one.x0, other.x0), (one.x1, other.x1), (one.y0, other.y0), (one.y1, other.y1)]
        ends = [
            side
            for size, offset, scale in zip((where.width, where.height), where.offset, where.scale)
            for side in [(size * (1 - codec.quantum) - offset) / scale]
        ]
        # a grid that ends one step before the far edge has no room for a side within that step
        room = [2 if a > end and math.isclose(b, end - step, rel_tol=1e-3) else 1 for (a, b), end, step in zip(pairs[::2], ends, q, strict=True)]
        return all(abs(a - b) <= room[place // 2] * q[place // 2] for place, (a, b) in enumerate(pairs))
    a, b = rotated(one), rotated(other)
    assert a is not None and b is not None
    whole = 1.0 if name == "geochat" else 0.5
    if abs(a.cx - b.cx) > whole * q[0] or abs(a.cy - b.cy) > whole * q[1]:
        return False
    # sides are of x and of y in a frame whose axes have other steps, and may change their names: a corner moves by half a step of each and by half a degree of the diagonal
    reach = math.radians(0.5) * math.hypot(a.w, a.h) / 2 + (whole * math.hypot(*q)) + max(q) * math.sqrt(2)
    apart = np.linalg.norm(corners(a)[:, None] - corners(b)[None], axis=2)
    return bool((apart.min(0) <= reach).all() and (apart.min(1) <= reach).all())


def round_trips(name: str, many: int, seed: int) -> list[str]:
    """Regions that came back wrong, of `many`; 50 are written at a time, in a picture of their own."""
    codec = cast(Codec, CODEC.parse(SAID[name]))
    rng = np.random.default_rng(seed)
    lost: list[str] = []
    for number in range(many // TOGETHER):
        width, height = (round(float(np.exp(rng.uniform(np.log(32), np.log(10_000))))) for _ in range(2))
        where = frame(codec, width, height, number)
        reach = min(width, height) if RotatedBox in codec.holds else None
        drawn = [shape(rng, codec.holds[rng.integers(len(codec.holds))], reach or width, reach or height) for _ in range(TOGETHER)]
        items, problems = codec.parse(text_of(codec.render(Regions(regions=tuple(Region(shape=one) for one in drawn)), where)), where)
        back = [region.shape for region in regions_in(items)]
        if problems or len(back) != len(drawn):
            lost.append(f"{len(drawn)} written, {len(back)} read, {problems[:1]}")
            continue
        if name == "molmo":  # stands in the order of its numbers
            drawn, back = ([*sorted(row, key=lambda one: (round_half_up(one.x / where.width), one.y))] for row in (drawn, back))
        lost += [f"{one} -> {other} in {where}" for one, other in zip(drawn, back, strict=True) if not bounded(codec, one, other, where, name)]
    return lost


def round_half_up(share: float) -> float:
    return math.floor(share * 1000 + 0.5)


@pytest.mark.parametrize("name", SAID)
def test_a_thousand_regions_come_back_within_the_step(name: str) -> None:
    assert round_trips(name, 1000, 1) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_ten_thousand_regions_come_back_within_the_step(name: str) -> None:
    assert round_trips(name, MANY, 2) == []


@pytest.mark.parametrize(
    ("fields", "shape", "size", "text"),
    [
        ({}, RotatedBox(cx=62.5625, cy=62.5, w=25.0625, h=12.5, theta=0.5), (125, 125), "{501,500,100,201,1}"),
        ({}, RotatedBox(cx=50, cy=50, w=20, h=10, theta=-0.5), (100, 100), "{500,500,100,200,0}"),
        ({}, RotatedBox(cx=-20, cy=130, w=20, h=10, theta=0), (100, 100), "{0,1000,100,200,0}"),
        ({}, RotatedBox(cx=50, cy=50, w=141, h=0.01, theta=45), (100, 100), "{500,500,1,1000,45}"),
        ({}, RotatedBox(cx=50, cy=50, w=20, h=10, theta=89.5), (100, 100), "{500,500,100,200,-90}"),
    ],
)
def test_numbers_are_rounded_half_up_and_clamped(fields: dict[str, Any], shape: RotatedBox, size: tuple[int, int], text: str) -> None:
    codec = cast(Codec, CODEC.parse({"kind": "xyhwt", **fields}))
    assert text_of(codec.render(Regions(regions=(Region(shape=shape),)), frame_of("square", *size))) == text


def test_what_clamping_leaves_is_told() -> None:
    """Sheet 2.9: the longest diagonal of a square picture needs 1414 of 1000, and keeps 1000 / 1414 of itself, below the 0.8 from which synthesis and readers use a box."""
    codec = cast(Codec, CODEC.parse({"kind": "xyhwt"}))
    kept = round_trip_iou(codec, Regions(regions=(Region(shape=RotatedBox(cx=500, cy=500, w=1414, h=100, theta=45)),)), frame_of("square", 1000, 1000))
    assert kept == pytest.approx([1000 / 1414], abs=0.002) and kept[0] < 0.8
