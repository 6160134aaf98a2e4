"""Masks to objects: golden rectangles of the specification, and what counts as an object."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.components import components_of
from sightline.samples.geometry import corners, decode_mask


def test_a_block_is_boxed_by_the_corners_of_its_pixels() -> None:
    pixels = np.zeros((12, 16), bool)
    pixels[2:4, 3:9] = True
    (only,) = components_of(np.kron(pixels, np.ones((2, 2), bool)).astype(bool)).found
    assert (only.box.cx, only.box.cy, only.box.w, only.box.h, only.box.theta) == (12.0, 6.0, 12.0, 4.0, 0.0)
    assert only.area == 48 and not only.on_border


def test_a_diagonal_stair_is_one_component_at_45_degrees() -> None:
    pixels = np.zeros((40, 60), bool)
    for k in range(12):
        pixels[5 + k, 9 + k : 11 + k] = True
    (only,) = components_of(pixels).found
    assert only.box.theta == pytest.approx(45.0)
    assert only.box.h == pytest.approx(3 / np.sqrt(2))


def test_specks_are_dropped_and_counted() -> None:
    pixels = np.zeros((500, 500), bool)
    pixels[10:13, 10:15] = True  # 15 px
    pixels[100:105, 100:105] = True  # 25 px = 1e-4 of the picture
    found = components_of(pixels)
    assert [one.area for one in found.found] == [25]
    assert found.dropped == 1


def test_pieces_two_pixels_apart_touch_and_three_do_not() -> None:
    for gap, touching in ((1, True), (2, True), (3, False)):
        pixels = np.zeros((40, 40), bool)
        pixels[10:20, 5:15] = True
        pixels[10:20, 15 + gap : 25 + gap] = True
        found = components_of(pixels)
        assert (len(found.found), found.touching) == (2, touching), gap


def test_closing_joins_pieces_over_a_crack_and_does_not_reach_the_border() -> None:
    pixels = np.zeros((40, 40), bool)
    pixels[0:10, 5:15] = True
    pixels[0:10, 16:26] = True
    assert len(components_of(pixels).found) == 2
    (joined,) = components_of(pixels, closing=True).found
    assert joined.on_border and joined.area == 210


def test_an_empty_mask_has_no_components() -> None:
    assert components_of(np.zeros((8, 8), bool)).found == ()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_components_partition_the_mask_and_lie_in_their_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.random((7, 9)) < 0.4, np.ones((5, 5), bool)).astype(bool)
    found = components_of(pixels)
    total = np.zeros_like(pixels, dtype=int)
    for one in found.found:
        mask = decode_mask(one.mask(45, 35))
        total += mask
        assert mask.sum() == one.area
        assert one.box.w * one.box.h >= one.area - 1e-6
        xs = corners(one.box)[:, 0]
        columns = np.flatnonzero(mask.any(0))
        assert xs.min() <= columns[0] + 1e-6 and xs.max() >= columns[-1] + 1 - 1e-6
    assert np.array_equal(total, pixels.astype(int))  # blocks of 25 px: none is a speck
