"""Turns and mirror images of pictures, regions and words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.samples.dihedral import TURNS, turned_pixels, turned_point, turned_region, turned_shape, turned_size
from sightline.samples.direction_words import turned_direction, turned_text
from sightline.samples.geometry import canonical, corners, decode_mask, encode_mask, rotated_iou
from sightline.samples.sample import Box, Mask, Point, Polygon, Region, RotatedBox, Tap

SIZE = (7, 4)
SPOTS = [(x, y) for x in range(7) for y in range(4)]
UNDO = {0: 0, 1: 3, 2: 2, 3: 1, 4: 4, 5: 5, 6: 6, 7: 7}


@pytest.mark.parametrize("turn", range(TURNS))
def test_points_follow_pixels(turn: int) -> None:
    for x, y in SPOTS[::3]:
        pixels = np.zeros((4, 7, 3), np.uint8)
        pixels[y, x] = 255
        after = turned_pixels(pixels, turn)
        assert (after.shape[1], after.shape[0]) == turned_size(SIZE, turn)
        cx, cy = turned_point(x + 0.5, y + 0.5, SIZE, turn)
        assert after[int(cy), int(cx)].all()


@pytest.mark.parametrize("turn", range(TURNS))
def test_masks_follow_pixels(turn: int) -> None:
    pixels = np.random.default_rng(0).random((4, 7)) < 0.4
    turned = turned_shape(encode_mask(pixels), SIZE, turn)
    assert isinstance(turned, Mask)
    assert (decode_mask(turned) == (turned_pixels(pixels[..., None].repeat(3, 2).astype(np.uint8), turn)[..., 0] > 0)).all()


@given(st.floats(5, 95), st.floats(5, 45), st.floats(1, 30), st.floats(1, 30), st.floats(-90, 89.9), st.integers(0, TURNS - 1))
def test_rotated_boxes_follow_their_corners(cx: float, cy: float, w: float, h: float, theta: float, turn: int) -> None:
    box = canonical(cx, cy, w, h, theta)
    turned = turned_shape(box, (100, 50), turn)
    assert isinstance(turned, RotatedBox)
    moved = sorted(turned_point(float(x), float(y), (100, 50), turn) for x, y in corners(box))
    assert np.allclose(sorted(map(tuple, corners(turned).tolist())), moved, atol=1e-6) or rotated_iou(turned, turned) > 0.999
    again = turned_shape(turned, turned_size((100, 50), turn), UNDO[turn])
    assert isinstance(again, RotatedBox) and rotated_iou(box, again) > 1 - 1e-6


@pytest.mark.parametrize("turn", range(TURNS))
def test_every_shape_comes_back(turn: int) -> None:
    shapes = [Box(x0=1, y0=0, x1=5, y1=2), Point(x=2.5, y=1), Polygon(points=((0, 0), (3, 0), (3, 2)))]
    for shape in shapes:
        turned = turned_shape(shape, SIZE, turn)
        assert turned_shape(turned, turned_size(SIZE, turn), UNDO[turn]) == shape
        assert (turned == shape) == (turn == 0)
    assert turned_shape(None, SIZE, turn) is None and turned_shape(Tap(index=1), SIZE, turn) == Tap(index=1)


def test_published_corners_do_not_outlive_a_turn() -> None:
    region = Region(label="ship", attributes={"quad": [0] * 8, "difficult": 1}, shape=Point(x=1, y=1))
    assert turned_region(region, (SIZE,), 1).attributes == {"difficult": 1}
    assert turned_region(region, (SIZE,), 0) == region


def test_directions() -> None:
    assert [turned_direction("up", turn) for turn in range(TURNS)] == ["up", "right", "down", "left"] * 2
    assert [turned_direction("left", turn) for turn in range(TURNS)] == ["left", "up", "right", "down", "right", "down", "left", "up"]


@pytest.mark.parametrize(
    ("text", "quarter", "mirror"),
    [
        ("Two ships in the upper left corner.", "Two ships in the upper right corner.", "Two ships in the upper right corner."),
        ("a road above the lake", "a road to the right of the lake", "a road above the lake"),
        ("The left half is water; on the right, roads.", "The top half is water; on the bottom, roads.", "The right half is water; on the left, roads."),
        ("Northeastern part", "Southeastern part", "Northwestern part"),
        ("north-east of the pond", "south-east of the pond", "north-west of the pond"),
        ("the tank to the left of it", "the tank above it", "the tank to the right of it"),
        ("the topmost and the leftmost ship", "the rightmost and the topmost ship", "the topmost and the rightmost ship"),
        ("左上角有一座桥,东北方是湖。", "右上角有一座桥,东南方是湖。", "右上角有一座桥,西北方是湖。"),
        ("马路上有三辆车,地下没有", "马路上有三辆车,地下没有", "马路上有三辆车,地下没有"),
        ("The right answer: three trees are left on top of the hill.", "The right answer: three trees are left on top of the hill.", "The right answer: three trees are left on top of the hill."),
        ("Right next to it stands a shed.", "Right next to it stands a shed.", "Right next to it stands a shed."),
    ],
)  # fmt: skip
def test_words(text: str, quarter: str, mirror: str) -> None:
    assert (turned_text(text, 1), turned_text(text, 4)) == (quarter, mirror)


@pytest.mark.parametrize("text", ["turn left here", "a car at 3 o'clock", "a horizontal road", "it faces right", "顺时针转", "seen from the bottom up"])
def test_doubtful_words_stop_a_turn(text: str) -> None:
    assert turned_text(text, 1) is None and turned_text(text, 0) == text


WORDS = st.sampled_from(
    [
        "the upper left corner",
        "a ship",
        "to the right of",
        "above",
        "below",
        "northern",
        "左上角",
        "右侧",
        "the bottom half",
        "easternmost",
        "the southwest",
        ".",
    ]
)


@given(st.lists(WORDS, min_size=1, max_size=8), st.integers(1, TURNS - 1))
def test_a_turn_and_its_inverse_give_the_text_back(words: list[str], turn: int) -> None:
    text = " , ".join(words)
    turned = turned_text(text, turn)
    assert turned is not None and turned_text(turned, UNDO[turn]) == text
