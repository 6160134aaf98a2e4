"""Tiles of large pictures: windows as published, regions clipped exactly, fragments marked, nothing lost between tiles."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sightline.data.operators import apply
from sightline.data.readers.dota import Dota
from sightline.data.tiling_annotations import FRAGMENT, Nearby, Tile, Window, parts_of
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.pictures import describe, pixels
from sightline.samples.sample import Box, Geo, Mask, Origin, Picture, Point, Polygon, Region, RotatedBox, Sample, Show, Text, Turn

RNG = np.random.default_rng(0)


def picture(width: int, height: int) -> Picture:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(stream, "PNG")
    return describe(stream.getvalue(), "P1.png", "here")


def sample(width: int, height: int, *regions: Region) -> Sample:
    return Sample(id="P1", pictures=(picture(width, height),), annotations=regions, origin=Origin(source="made"))


def test_windows_step_by_window_minus_gap_and_the_last_is_shifted_back() -> None:
    windows = Tile(window=100, gap=20).windows(250, 90)
    assert [(one.left, one.top, one.width, one.height) for one in windows] == [(0, 0, 100, 90), (80, 0, 100, 90), (150, 0, 100, 90)]
    assert [one.left for one in Tile(window=100, gap=20).windows(260, 90)] == [0, 80, 160]


def test_a_gap_as_large_as_the_window_is_refused() -> None:
    with pytest.raises(ValidationError, match="would not move on"):
        Tile(window=64, gap=64)


def test_tiles_have_the_pixels_the_attributes_and_the_names_of_their_window() -> None:
    whole = sample(150, 80, Region(label="ship", shape=Box(x0=60, y0=10, x1=90, y1=30)))
    outcome = Tile(window=80, gap=10).each(whole, RNG, ())
    assert [made.id for made in outcome.samples] == ["P1__1__0___0", "P1__1__70___0"]
    second = outcome.samples[1]
    assert (second.attributes["left"], second.attributes["up"], second.attributes["rate"]) == (70, 0, 1.0)
    assert second.pictures[0].name == "P1__1__70___0.png"
    assert np.array_equal(pixels(second.pictures[0]), pixels(whole.pictures[0])[0:80, 70:150])
    assert second.annotations[0].shape == Box(x0=0, y0=10, x1=20, y1=30)
    assert second.annotations[0].attributes["difficult"] == FRAGMENT  # two thirds of it are here
    assert second.origin.parents == ("P1",)


def test_more_than_seven_tenths_of_an_object_is_the_object() -> None:
    window = Window(left=0, top=0, width=100, height=100, rate=1.0)
    (whole,) = parts_of(Region(label="a", attributes={"difficult": 0}, shape=Box(x0=28.9, y0=0, x1=128.9, y1=9)), window, 0.7)
    (cut,) = parts_of(Region(label="a", attributes={"difficult": 0}, shape=Box(x0=30.1, y0=0, x1=130.1, y1=9)), window, 0.7)
    assert (whole.attributes["difficult"], cut.attributes["difficult"]) == (0, FRAGMENT)


def test_every_shape_is_cut_in_its_own_form() -> None:
    window = Window(left=50, top=0, width=50, height=50, rate=1.0)
    turned = RotatedBox(cx=75, cy=25, w=20, h=10, theta=30)
    assert parts_of(Region(shape=turned), window, 0.7)[0].shape == RotatedBox(cx=25, cy=25, w=20, h=10, theta=30)
    assert parts_of(Region(shape=Point(x=60, y=10)), window, 0.7)[0].shape == Point(x=10, y=10)
    assert parts_of(Region(shape=Point(x=49, y=10)), window, 0.7) == []
    assert parts_of(Region(label="airport"), window, 0.7) == []
    clipped = parts_of(Region(shape=Polygon(points=((40, 10), (70, 10), (70, 20), (40, 20)))), window, 0.5)[0].shape
    assert isinstance(clipped, Polygon) and {(round(x), round(y)) for x, y in clipped.points} == {(0, 10), (20, 10), (20, 20), (0, 20)}


def test_a_cut_line_of_text_loses_its_text() -> None:
    window = Window(left=50, top=0, width=50, height=50, rate=1.0)
    (part,) = parts_of(Region(attributes={"text": "TOTAL 9.00"}, shape=Box(x0=20, y0=5, x1=70, y1=10)), window, 0.7)
    assert part.attributes == {"difficult": FRAGMENT}


def test_a_c_shaped_outline_falls_into_fragments() -> None:
    window = Window(left=10, top=0, width=50, height=50, rate=1.0)
    shape = Polygon(points=((0, 0), (40, 0), (40, 10), (5, 10), (5, 30), (40, 30), (40, 40), (0, 40)))
    parts = parts_of(Region(label="harbor", shape=shape), window, 0.1)
    assert len(parts) == 2 and all(part.attributes["difficult"] == FRAGMENT for part in parts)


def test_scaling_scales_regions_masks_and_the_georeference() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    whole = sample(60, 40, Region(label="a", shape=encode_mask(mask)), Region(label="b", shape=Box(x0=30, y0=10, x1=50, y1=20)))
    located = Sample(
        id="g",
        pictures=(Picture(**{**vars(whole.pictures[0]), "geo": Geo(crs="EPSG:4326", affine=(2, 0, 100, 0, -2, 50))}),),
        annotations=whole.annotations,
        origin=whole.origin,
    )
    outcome = Tile(window=64, gap=8, rate=2.0).each(located, RNG, ())
    one = next(made for made in outcome.samples if made.attributes["left"] == 56 and made.attributes["up"] == 0)
    assert one.annotations[1].shape == Box(x0=4, y0=20, x1=44, y1=40)
    shape = one.annotations[0].shape
    assert isinstance(shape, Mask) and np.array_equal(np.argwhere(decode_mask(shape))[[0, -1]], [[20, 4], [39, 43]])
    geo = one.pictures[0].geo
    assert geo is not None and geo.affine == (1, 0, 156, 0, -1, 50)


def test_rows_that_cannot_be_cut_are_set_aside_with_their_rule() -> None:
    asked = Sample(
        id="q",
        pictures=(picture(200, 80),),
        turns=(Turn(role="user", items=(Show(), Text(text="?"))), Turn(role="assistant", items=(Text(text="a"),))),
        origin=Origin(source="s"),
    )
    assert Tile(window=80, gap=10).each(asked, RNG, ()).rule == "tile/has-turns"
    assert Tile(window=80, gap=10).each(Sample(id="t", origin=Origin(source="s")), RNG, ()).rule == "tile/no-picture"
    assert Tile(window=80, gap=10).each(sample(200, 80), RNG, ()).rule == "tile/nothing-in-it"
    small = sample(50, 50)
    assert Tile(window=80, gap=10).each(small, RNG, ()).samples[0] is small


def test_a_crowded_window_is_cut_again_until_its_labels_can_be_listed() -> None:
    regions = [Region(label="ship", shape=Box(x0=x, y0=y, x1=x + 6, y1=y + 6)) for x in range(2, 200, 20) for y in range(2, 200, 20)]
    config = Tile(window=200, gap=16, crowded=30, smallest=40)
    windows = [part for window in config.windows(200, 200) for part in config.apart(window, Nearby(regions))]
    inside = [[part for region in regions for part in parts_of(region, window, 0.7) if "difficult" not in part.attributes] for window in windows]
    assert 4 <= len(windows) < 16  # quarters with few objects stay whole
    assert max(map(len, inside)) <= 30
    assert {round(part.shape.x0 + window.left) for window, parts in zip(windows, inside) for part in parts} == set(range(2, 200, 20))
    assert config.apart(config.windows(200, 200)[0], Nearby(regions[:30])) == config.windows(200, 200)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 60), st.integers(0, 19), st.integers(60, 200), st.integers(60, 200), st.integers(0, 2**31))
def test_every_object_no_larger_than_the_gap_is_whole_in_some_tile(window: int, gap: int, width: int, height: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = max(gap, 1) * rng.random()
    x, y = rng.random(2) * (width - side, height - side)
    region = Region(label="a", shape=Box(x0=x, y0=y, x1=x + side, y1=y + side))
    windows = Tile(window=window, gap=gap).windows(width, height)
    parts = [part for one in windows for part in parts_of(region, one, 0.7)]
    assert max(one.left + one.width for one in windows) == width and max(one.top + one.height for one in windows) == height
    if side:
        assert gap == 0 or any("difficult" not in part.attributes for part in parts)


def test_dota_tiles_keep_every_box(shared_data: Path) -> None:
    folder, reader = shared_data / "dota", Dota()
    read = [made for made in reader.read(folder) if isinstance(made, Sample)]
    applied = apply([Tile(window=600, gap=100)], read, 0)
    tiles = [made for made, verdict, _ in applied if verdict == "kept"]
    assert [tile.attributes["left"] for tile in tiles if "P0003" in tile.id] == [0, 500, 547] * 2
    whole = [region for tile in tiles for region in tile.annotations if region.attributes["difficult"] != FRAGMENT]
    assert {region.label for region in whole} == {"ship", "harbor", "large-vehicle", "small-vehicle"}
    assert all(isinstance(region.shape, RotatedBox) for region in whole)
    assert len(whole) >= 655 - 10  # windows overlap by more than a box: only what lies on the edge of a picture may be a fragment everywhere
