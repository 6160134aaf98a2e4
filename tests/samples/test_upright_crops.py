"""Upright crops of turned boxes, and their way back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.samples.geometry import canonical, corners, encode_mask
from sightline.samples.sample import Box, Point, Polygon, RotatedBox
from sightline.samples.upright_crops import TurnedBox, Window, box_around, pasted, sampled, windows_around, windows_within

numbers = st.floats(-300, 300, allow_nan=False)
windows = st.builds(Window, cx=numbers, cy=numbers, theta=st.floats(-180, 180), scale=st.floats(0.05, 8), width=st.integers(1, 64), height=st.integers(1, 64))


@given(windows, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
def test_the_two_ways_are_inverse(window: Window, points: list[tuple[float, float]]) -> None:
    places = np.array(points)
    assert np.allclose(window.to_crop(window.to_source(places)), places, atol=1e-7 / window.scale)
    assert np.allclose(window.to_source(window.to_crop(places)), places, atol=1e-9 * (1 + window.scale) * 1e3)


@given(st.builds(canonical, numbers, numbers, st.floats(1, 200), st.floats(1, 200), st.floats(-90, 90)))
def test_a_rotated_box_stands_upright_in_its_window(box: RotatedBox) -> None:
    found = box_around(box)
    assert found is not None
    [window] = windows_around(found, 96, 1.5, 0.0, math.inf)
    inside = window.to_crop(corners(box))
    w, h = box.w / window.scale / 2, box.h / window.scale / 2
    assert np.allclose(inside - 48, [(-w, -h), (w, -h), (w, h), (-w, h)], atol=1e-6)
    assert max(w, h) == pytest.approx(96 / 1.5 / 2)


@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(-6, 30), st.integers(-6, 30))
def test_a_crop_of_whole_pixels_is_a_cut_and_pastes_back(seed: int, quarters: int, left: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    window = Window(cx=left + 8.0, cy=top + 8.0, theta=90.0 * quarters, scale=1.0, width=16, height=16)
    crop, inside = sampled(picture, window, fill=(7, 8, 9))
    padded = np.full((24 + 60, 31 + 60, 3), (7, 8, 9), np.uint8)
    padded[30:54, 30:61] = picture
    expected = padded[30 + top : 46 + top, 30 + left : 46 + left]
    assert np.array_equal(np.rot90(crop, -quarters), expected)  # turned back: the crop of a picture turned clockwise shows it turned the other way
    mask = rng.integers(0, 2, (16, 16)).astype(np.float32)
    rows, columns, values, where = pasted(mask, window, 31, 24)
    back = np.zeros((24, 31), np.float32)
    back[rows, columns][where] = values[where]
    again, _ = sampled(back[..., None], window)
    assert np.array_equal(again[..., 0], np.where(inside > 0, mask, 0))


@settings(max_examples=60)
@given(st.floats(0.2, 4), st.floats(-180, 180), st.floats(0, 2 * math.pi))
def test_a_straight_edge_comes_back_within_a_pixel(scale: float, theta: float, direction: float) -> None:
    y, x = np.indices((80, 90)) + 0.5
    normal = np.array([math.cos(direction), math.sin(direction)])
    distance = (x - 45) * normal[0] + (y - 40) * normal[1]
    window = Window(cx=45.0, cy=40.0, theta=theta, scale=scale, width=24, height=20)
    crop, _ = sampled((distance > 0)[..., None], window)
    rows, columns, values, inside = pasted(crop[..., 0], window, 90, 80)
    wrong = inside & ((values > 0.5) != (distance > 0)[rows, columns])
    assert np.abs(distance[rows, columns][wrong]).max(initial=0) <= max(1.0, scale)
    assert inside.sum() >= 0.8 * min(24 * 20 * scale**2, 80 * 90) - 40


def test_a_coarse_crop_is_of_means() -> None:
    picture = np.zeros((40, 40, 1), np.uint8)
    picture[::2] = 200  # stripes that a sampling without means would turn into all or nothing
    crop, inside = sampled(picture, Window(cx=20.0, cy=20.0, theta=0.0, scale=4.0, width=10, height=10))
    assert np.allclose(crop, 100) and np.allclose(inside, 1)


def test_outside_takes_no_part_in_a_mean() -> None:
    picture = np.full((10, 10, 1), 80, np.uint8)
    crop, inside = sampled(picture, Window(cx=9.9, cy=5.0, theta=0.0, scale=1.3, width=7, height=4), fill=3)
    assert set(np.unique(crop.round(3)).tolist()) == {3.0, 80.0}
    assert inside[:, 0].min() == 1 and inside[:, -1].max() == 0 and ((inside > 0) & (inside < 1)).any()


def test_a_long_box_has_several_windows_that_cover_it() -> None:
    box = TurnedBox(cx=100.0, cy=80.0, w=400.0, h=60.0, theta=30.0)
    found = windows_around(box, 64, 1.4, 0.25, 2.0)
    assert len(found) > 4 and {window.scale for window in found} == {2.0}
    u, v = np.meshgrid(np.linspace(-200, 200, 41), np.linspace(-30, 30, 7))
    frame = Window(cx=100.0, cy=80.0, theta=30.0, scale=1.0, width=0, height=0)
    points = frame.to_source(np.stack([u.ravel(), v.ravel()], 1))
    inside = [((crop := one.to_crop(points)) >= 0).all(1) & (crop <= 64).all(1) for one in found]
    assert np.any(inside, axis=0).all()
    shown = windows_within(found, 120, 100)
    assert 0 < len(shown) < len(found)
    assert [windows_around(box, 64, 1.4, 0.25, 99.0)[0].scale] == [400 * 1.4 / 64] and windows_around(TurnedBox(cx=0, cy=0, w=2, h=1), 64, 1.4, 0.25, 2)[
        0
    ].scale == 0.25


def test_which_shapes_prompt() -> None:
    assert box_around(Box(x0=2, y0=3, x1=6, y1=11)) == TurnedBox(cx=4, cy=7, w=4, h=8, theta=0)
    assert box_around(Polygon(points=((0, 0), (4, 0), (4, 2), (0, 2)))) == TurnedBox(cx=2, cy=1, w=4, h=2, theta=0)
    turned = encode_mask(np.eye(5, dtype=bool))
    assert (found := box_around(turned)) is not None and (found.theta, found.w) == pytest.approx((45, 5 * 2**0.5))
    bad = [
        encode_mask(np.zeros((3, 3), bool)),
        None,
        Point(x=1, y=2),
        Box(x0=2, y0=2, x1=2, y1=5),
        Box(x0=0, y0=0, x1=math.inf, y1=1),
        Polygon(points=((0, 0), (1, 1))),
    ]
    assert [box_around(shape) for shape in bad] == [None] * len(bad)
