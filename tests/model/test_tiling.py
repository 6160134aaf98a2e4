"""Tilings: for any size of picture the crops are windows of their canvases, show what they say they show, and cut makes exactly what was promised."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sightline.model.tilers.windows import source_box, window_edges
from sightline.model.tiling import TILER, Crop, Grid, Tiling, View, WholeTiler, cut
from sightline.samples.frames import Frame

SIDES = st.integers(1, 3000) | st.integers(3000, 20_000)
TILERS = st.builds(WholeTiler, size=st.sampled_from([1, 7, 32, 224, 336]), fit=st.sampled_from(["pad", "squash", "crop"]))


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def certain(tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Px of the crop that show picture alone, and those that show fill alone: all of them, but for those at the edges of a picture that was padded first.

    There the bicubic filter reads both: it reaches 2 px to each side, of the canvas that it reads or of the one that it makes, whichever are larger.
    """
    (x0, y0, x1, y1), (_, _, width, height) = tiling.crops[0].valid, tiling.crops[0].window
    inside = np.zeros((height, width), bool)
    inside[y0:y1, x0:x1] = True
    if len(tiling.views) == 1:
        return inside, ~inside
    padded = tiling.views[0]
    scale = padded.canvas[0] / width
    middle, reach = (np.arange(width) + 0.5) * scale, 2 * max(1, scale)
    starts, ends = padded.offset, [start + size for start, size in zip(padded.offset, padded.resized, strict=True)]
    pure = [((middle - reach >= a) | (a == 0)) & ((middle + reach <= b) | (b == padded.canvas[0])) for a, b in zip(starts, ends)]
    bare = [(middle + reach <= a) | (middle - reach >= b) for a, b in zip(starts, ends)]
    return pure[1][:, None] & pure[0], bare[1][:, None] | bare[0]


@given(TILERS, SIDES, SIDES)
def test_windows_lie_in_their_canvas_and_show_the_picture_where_they_say(tiler: WholeTiler, width: int, height: int) -> None:
    tiling = tiler.tile(width, height)
    assert tiling.size == (width, height) and tiling.grid == (1, 1) and [crop.role for crop in tiling.crops] == list(tiler.roles)
    for crop in tiling.crops:
        view = tiling.views[crop.view]
        x, y, w, h = crop.window
        x0, y0, x1, y1 = crop.valid
        assert 0 <= x < x + w <= view.canvas[0] and 0 <= y < y + h <= view.canvas[1] and (w, h) == (tiler.size, tiler.size)
        assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h
        assert min(view.resized) >= 1


@given(TILERS, SIDES, SIDES)
def test_seen_maps_the_corners_of_the_picture_onto_what_is_valid(tiler: WholeTiler, width: int, height: int) -> None:
    tiling = tiler.tile(width, height)
    x0, y0, x1, y1 = tiling.crops[0].valid
    corners = (*tiling.seen.to(0, 0), *tiling.seen.to(width, height))
    if tiler.fit == "crop":  # corners fall outside: what is valid is the whole crop
        assert (x0, y0, x1, y1) == (0, 0, tiler.size, tiler.size)
        assert corners[0] <= 0 and corners[1] <= 0 and corners[2] >= tiler.size - 1e-9 and corners[3] >= tiler.size - 1e-9
    elif len(tiling.views) == 1:
        assert corners == pytest.approx((x0, y0, x1, y1))
    else:  # px at the edges show picture and fill: they are valid
        assert all(0 <= exact - edge + 1e-6 < 1 + 2e-6 for exact, edge in zip(corners[:2], (x0, y0), strict=True))
        assert all(0 <= edge - exact + 1e-6 < 1 + 2e-6 for exact, edge in zip(corners[2:], (x1, y1), strict=True))
    assert tiling.seen.back(*tiling.seen.to(width / 3, height / 7)) == pytest.approx((width / 3, height / 7))


@given(TILERS, SIDES, SIDES)
def test_a_crop_is_found_in_the_picture_through_all_its_views(tiler: WholeTiler, width: int, height: int) -> None:
    tiling = tiler.tile(width, height)
    [crop] = tiling.crops
    (left, right), (top, bottom) = (window_edges(tiling, crop, axis) for axis in (0, 1))
    corners = (*tiling.seen.back(0, 0), *tiling.seen.back(tiler.size, tiler.size))
    assert (left, top, right, bottom) == pytest.approx(corners, abs=1e-6)
    shown = corners if tiler.fit == "crop" else (0, 0, width, height)  # fill apart
    assert source_box(tiling, crop) == pytest.approx(shown, abs=1e-6)


@given(SIDES, SIDES, st.sampled_from([32, 336]))
def test_padding_and_cropping_keep_the_shape_of_things(width: int, height: int, size: int) -> None:
    shortest, longest = min(width, height), max(width, height)
    padded = WholeTiler(size=size, fit="pad").tile(width, height)
    across, down = padded.seen.scale
    assert max(width * across, height * down) == pytest.approx(size)
    if shortest == longest or longest > max(4096, 2 * shortest):
        assert len(padded.views) == 1 and padded.views[0].canvas == (size, size)
        assert padded.views[0].resized == pytest.approx((max(1, width * size / longest), max(1, height * size / longest)), abs=0.51)
    else:
        assert across == down and [view.canvas for view in padded.views] == [(longest, longest), (size, size)]
        assert padded.views[0].resized == (width, height)
    resized = WholeTiler(size=size, fit="crop").tile(width, height).views[0].resized
    assert min(resized) == size
    assert all(0 <= side * size / shortest - whole < 1 for side, whole in zip((width, height), resized, strict=True))


@given(TILERS, st.integers(1, 90), st.integers(1, 90))
def test_cut_gives_what_was_promised(tiler: WholeTiler, width: int, height: int) -> None:
    tiling = tiler.tile(width, height)
    crops = cut(noise(width, height), tiling)
    assert [(crop.shape, crop.dtype) for crop in crops] == [((3, c.window[3], c.window[2]), np.uint8) for c in tiling.crops]
    _, fill = certain(tiling)
    assert (crops[0][:, fill] == np.array(tiler.fill)[:, None]).all()


@given(TILERS, st.integers(1, 90), st.integers(1, 90), st.integers(0, 255))
def test_one_colour_stays_one_colour(tiler: WholeTiler, width: int, height: int, grey: int) -> None:
    tiling = tiler.tile(width, height)
    inside, _ = certain(tiling)
    assert (cut(np.full((height, width, 3), grey, np.uint8), tiling)[0][:, inside] == grey).all()


def test_most_of_a_padded_picture_is_picture_or_fill_alone() -> None:
    tiling = WholeTiler(size=224).tile(90, 60)
    inside, fill = certain(tiling)
    assert (inside.mean(), fill.mean()) == pytest.approx((2 / 3, 1 / 3), abs=0.05) and not (inside & fill).any()
    x0, y0, x1, y1 = tiling.crops[0].valid
    assert inside[y0:y1, x0:x1].sum() == inside.sum() and (x0, y0, x1, y1) == (0, 37, 224, 187)


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_nothing_changes_where_nothing_must(fit: Any) -> None:
    picture = noise(48, 48)
    [crop] = cut(picture, WholeTiler(size=48, fit=fit).tile(48, 48))
    assert np.array_equal(crop, picture.transpose(2, 0, 1)) and crop.flags.c_contiguous


def test_padding_by_hand() -> None:
    picture = noise(4, 2)
    tiling = WholeTiler(size=4, fit="pad", fill=(1, 2, 3)).tile(4, 2)
    [crop] = cut(picture, tiling)
    assert tiling.crops[0].valid == (0, 1, 4, 3)
    assert np.array_equal(crop[:, 1:3], picture.transpose(2, 0, 1))
    assert crop[:, [0, 3]].tolist() == [[[c] * 4, [c] * 4] for c in (1, 2, 3)]


@pytest.mark.parametrize(("width", "height"), [(8, 25), (90, 31), (24, 100), (2, 100), (300, 2)])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos"])
def test_a_centre_crop_is_the_middle_of_the_whole_resized_picture(width: int, height: int, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiling = WholeTiler(size=24, fit="crop", filter=kind).tile(width, height)
    [view] = tiling.views
    picture = noise(width, height)
    filters = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
    whole = np.asarray(Image.fromarray(picture).resize(view.resized, Image.Resampling(filters[kind])))
    x, y = view.offset
    expected = whole[-y : 24 - y, -x : 24 - x].transpose(2, 0, 1)
    assert np.array_equal(cut(picture, tiling)[0], expected)
    # very long views are not made: the same window, up to rounding between the filter's two passes
    monkeypatch.setattr("sightline.model.tiling._MOST", 0)
    difference = np.abs(cut(picture, tiling)[0].astype(int) - expected)
    assert difference.mean() < 2  # of noise: a window one pixel off would differ by tens


@pytest.mark.parametrize(("width", "height"), [(1, 3000), (3000, 1), (1, 8000), (20_000, 1), (1, 200_000)])
@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_extreme_pictures_cost_little(width: int, height: int, fit: Any) -> None:
    """No more than their crop; where they are padded first no more than the largest square for that."""
    picture, tiling = noise(width, height), WholeTiler(size=336, fit=fit).tile(width, height)
    tracemalloc.start()
    [crop] = cut(picture, tiling)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert crop.shape == (3, 336, 336)
    assert peak < (32e6 if len(tiling.views) > 1 else 2e6)  # 3000^2 px are 27 MB


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_square_has_twice_the_px_of_its_picture_or_few(width: int, height: int) -> None:
    for view in WholeTiler(size=336).tile(width, height).views:
        assert view.canvas[0] * view.canvas[1] <= max(4096**2, 2 * width * height)


def test_views_of_views_and_windows_by_hand() -> None:
    picture = noise(8, 6)
    views = (View(source=(2.0, 1.0, 6.0, 5.0), resized=(4, 4), canvas=(4, 4)), View(resized=(4, 4), offset=(-1, 2), canvas=(3, 6), fill=(9, 9, 9), of=0))
    crops = (Crop(view=0, window=(1, 0, 2, 3), role="tile", valid=(0, 0, 2, 3)), Crop(view=1, window=(0, 0, 3, 6), role="canvas", valid=(0, 2, 3, 6)))
    tiling = Tiling(size=(8, 6), grid=(1, 1), views=views, crops=crops, seen=Frame(width=8, height=6))
    tile, canvas = cut(picture, tiling)
    assert np.array_equal(tile, picture[1:4, 3:5].transpose(2, 0, 1))
    assert (canvas[:, :2] == 9).all() and np.array_equal(canvas[:, 2:], picture[1:5, 3:6].transpose(2, 0, 1))


def test_a_tiling_of_another_picture_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="picture is 3x2, tiling is for"):
        cut(noise(3, 2), WholeTiler(size=4).tile(2, 3))


def test_sizes_and_kinds_are_checked() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        WholeTiler(size=0)
    with pytest.raises(ValidationError, match=r"a kind of tiler: .*whole"):
        TILER.parse({"kind": "hole", "size": 3})
    assert TILER.parse({"kind": "whole", "size": 336}) == WholeTiler(size=336)
    assert WholeTiler(size=336, fit="crop").twin() == WholeTiler(size=32, fit="crop")
    assert Grid(columns=3, rows=2, lead=1).count == 7
