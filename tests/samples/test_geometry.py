"""Golden values of rotated boxes and masks, and what must hold for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPoint, Polygon

from sightline.samples.geometry import (
    canonical,
    convex_hull,
    corners,
    decode_mask,
    encode_labels,
    encode_mask,
    mask_area,
    min_area_rect,
    pixel_corners,
    rotated_iou,
)
from sightline.samples.sample import Mask, RotatedBox

coordinate = st.floats(-500, 500, allow_nan=False, width=32)
side = st.floats(0.5, 300, width=32)
boxes = st.builds(canonical, coordinate, coordinate, side, side, st.floats(-720, 720, width=32))


def box(cx: float, cy: float, w: float, h: float, theta: float) -> RotatedBox:
    return RotatedBox(cx=cx, cy=cy, w=w, h=h, theta=theta)


def values(rotated: RotatedBox) -> tuple[float, ...]:
    return (rotated.cx, rotated.cy, rotated.w, rotated.h, rotated.theta)


def test_angles_are_clockwise_on_screen() -> None:
    assert corners(box(10, 10, 4, 2, 90)) == pytest.approx(np.array([(11, 8), (11, 12), (9, 12), (9, 8)]))


@pytest.mark.parametrize(
    ("given_box", "expected"),
    [
        ((2, 4, 0), (4, 2, -90)),
        ((4, 2, 90), (4, 2, -90)),
        ((4, 2, 270), (4, 2, -90)),
        ((4, 2, -91), (4, 2, 89)),
        ((3, 3, 60), (3, 3, -30)),
        ((3, 3, 45), (3, 3, -45)),
        ((4, 2, -90.00000000000001), (4, 2, -90)),
    ],
)
def test_canonical_form(given_box: tuple[float, float, float], expected: tuple[float, float, float]) -> None:
    made = canonical(0, 0, *given_box)
    assert (made.w, made.h, made.theta) == pytest.approx(expected, abs=1e-9)
    assert -90 <= made.theta < 90


@given(boxes)
@settings(deadline=None)
def test_canonical_form_is_the_same_rectangle(made: RotatedBox) -> None:
    assert made.w >= made.h and -90 <= made.theta < 90
    assert values(canonical(*values(made))) == pytest.approx(values(made), abs=1e-9)
    swapped = canonical(made.cx, made.cy, made.h, made.w, made.theta + 90)
    assert Polygon(corners(swapped)).symmetric_difference(Polygon(corners(made))).area == pytest.approx(0, abs=1e-6 * made.w * made.h + 1e-9)


def test_quadrangle_of_a_real_ship() -> None:
    made = min_area_rect(np.array([(807, 331), (800, 324), (817, 309), (823, 316)], np.float64))
    assert values(made) == pytest.approx((811.77, 320.20, 22.67, 9.88, -41.42), abs=0.005)


def test_boxes_of_pixels_reach_their_outer_corners() -> None:
    block = np.zeros((12, 16), bool)
    block[2:4, 3:9] = True
    assert values(min_area_rect(pixel_corners(block))) == pytest.approx((6, 3, 6, 2, 0))
    stair = np.zeros((12, 16), bool)
    for k in range(5):
        stair[5 + k, 9 + k] = stair[5 + k, 10 + k] = True
    assert values(min_area_rect(pixel_corners(stair))) == pytest.approx((12, 7.5, 7.7782, 2.1213, 45), abs=1e-4)


def test_points_on_a_line_become_a_box_of_one_pixel_width() -> None:
    assert values(min_area_rect(np.array([(1, 5), (4, 5), (2, 5)], np.float64))) == pytest.approx((2.5, 5, 4, 1, 0))
    assert values(min_area_rect(np.array([(1, 5)], np.float64))) == pytest.approx((1, 5, 1, 1, 0))


@given(st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=3, max_size=12, unique=True))
@settings(deadline=None)
def test_least_rectangle_against_shapely(points: list[tuple[int, int]]) -> None:
    cloud = MultiPoint(points)
    if cloud.convex_hull.area == 0:
        return
    made = min_area_rect(np.array(points, np.float64))
    # Shapely's own rectangle is minimal by side length of its hull edges too, so areas can be compared.
    assert made.w * made.h == pytest.approx(cloud.minimum_rotated_rectangle.area, rel=1e-6)
    assert Polygon(corners(made)).buffer(1e-6).covers(cloud)
    hull = convex_hull(np.array(points, np.float64))
    assert Polygon(hull).equals(cloud.convex_hull)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, 45), 0.707107),
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, 90), 0.333333),
        ((0, 0, 4, 2, 30), (0, 0, 2, 4, 120), 1.0),
        ((0, 0, 4, 2, 30), (0, 0, 4, 2, -30), 0.405827),
        ((0, 0, 4, 2, 0), (1, 0, 4, 2, 0), 0.6),
        ((0, 0, 10, 1, 0), (0, 0, 10, 1, 5), 0.642697),
        ((100, 60, 80, 20, 30), (104, 62, 76, 24, 37), 0.711824),
        ((0, 0, 80, 20, 30), (0, 0, 80, 20, -30), 0.1687),
        ((0, 0, 2, 2, 0), (9, 9, 2, 2, 0), 0.0),
    ],
)
def test_overlap_golden_values(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert rotated_iou(box(*a), box(*b)) == pytest.approx(expected, abs=5e-5)


@given(boxes, boxes)
@settings(deadline=None)
def test_overlap_against_shapely(a: RotatedBox, b: RotatedBox) -> None:
    first, second = Polygon(corners(a)), Polygon(corners(b))
    assert rotated_iou(a, b) == pytest.approx(first.intersection(second).area / first.union(second).area, abs=1e-6)


def test_mask_golden_value() -> None:
    pixels = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]], bool)
    mask = encode_mask(pixels)
    assert mask == Mask(width=4, height=3, runs=(3, 2, 1, 3, 3))
    assert mask_area(mask) == 5
    assert np.array_equal(decode_mask(mask), pixels)


def test_mask_of_nothing_and_of_everything() -> None:
    assert encode_mask(np.zeros((2, 3), bool)) == Mask(width=3, height=2, runs=(6,))
    assert encode_mask(np.ones((2, 3), bool)) == Mask(width=3, height=2, runs=(0, 6))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(deadline=None)
def test_masks_of_all_values_partition_the_picture(width: int, height: int, seed: int, classes: int) -> None:
    ids = np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint8)
    masks = encode_labels(ids)
    assert list(masks) == sorted(set(ids.ravel().tolist()))
    for value, mask in masks.items():
        assert np.array_equal(decode_mask(mask), ids == value)
        assert encode_mask(ids == value) == mask


def test_runs_that_do_not_fill_the_mask_are_no_mask() -> None:
    with pytest.raises(ValueError, match="runs of sum 5 for a mask of 3x2 px"):
        decode_mask(Mask(width=3, height=2, runs=(2, 3)))


def test_a_diagonal_keeps_its_length() -> None:
    made = min_area_rect(corners(box(0, 0, 10, 1, 33)))
    assert math.hypot(made.w, made.h) == pytest.approx(math.hypot(10, 1))
