"""Bands: what is taken by name, resampled without a trace of its neighbours, and shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.errors import Refused
from sightline.samples.bands import band_name, composite, resized, taken
from sightline.samples.sample import Picture

FOUR = ("red", "green", "blue", "nir")


def picture(*bands: str, depth: str = "uint8") -> Picture:
    return Picture(hash="0" * 64, width=4, height=3, bands=bands, depth=depth, data=b"", name="a.tif")  # type: ignore[arg-type]


def test_bands_are_taken_by_name_in_the_wanted_order() -> None:
    array = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    assert taken(array, picture(*FOUR), FOUR, "here", "it") is array
    assert np.array_equal(taken(array, picture(*FOUR), ("nir", "red"), "here", "it"), array[..., [3, 0]])


def test_a_missing_band_is_refused_and_not_filled() -> None:
    array = np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(Refused) as refused:
        taken(array, picture("red", "green", "blue"), FOUR, "set:row 1", "encoders.vision")
    text = str(refused.value)
    assert "samples/missing-band at set:row 1, picture a.tif\n  found:   no nir among its bands red, green, blue" in text
    assert "the bands that encoders.vision takes: red, green, blue, nir" in text
    with pytest.raises(Refused, match=r"state `bands:` of its reader, the name of each band of a.tif in order"):
        taken(np.zeros((3, 4, 4), np.uint8), picture("red", "green", "blue", "band_4"), FOUR, "here", "it")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from(list(Image.Resampling)))
def test_colours_are_resampled_alike_with_and_without_further_bands(width: int, height: int, wide: int, high: int, filter: Image.Resampling) -> None:
    array = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    alone = np.ascontiguousarray(array[..., :3])
    wanted = np.asarray(Image.fromarray(alone).resize((wide, high), filter))
    assert np.array_equal(resized(alone, (wide, high), filter), wanted)
    assert np.array_equal(resized(array, (wide, high), filter)[..., :3], wanted)


def test_deep_bands_are_resampled_in_their_depth() -> None:
    array = np.array([[[0], [65535]], [[65535], [0]]], np.uint16)
    larger = resized(array, (8, 8), Image.Resampling.BICUBIC)
    assert larger.dtype == np.uint16 and larger.min() == 0 and larger.max() == 65535  # beyond both ends before it is held to them
    assert resized(array, (1, 1), Image.Resampling.BOX)[0, 0, 0] in (32767, 32768)
    floats = np.linspace(-3, 9, 16, dtype=np.float32).reshape(4, 4, 1)
    assert np.array_equal(resized(floats, (4, 4), Image.Resampling.BILINEAR), floats)
    assert np.allclose(resized(floats, (1, 1), Image.Resampling.BOX), 3.0)


def test_a_composite_shows_colours_and_stretches_deep_bands() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    colours = np.ascontiguousarray(array[..., :3])
    assert composite(colours, FOUR[:3]) is colours
    assert np.array_equal(composite(array, ("nir", "blue", "green", "red")), array[..., [3, 2, 1]])
    assert np.array_equal(composite(array, ("a", "b", "c", "d")), colours)
    assert np.array_equal(composite(array[..., :1], ("nir",)), np.repeat(array[..., :1], 3, axis=2))
    deep = (array.astype(np.uint16) * 3 + 500).astype(np.uint16)
    assert composite(deep, FOUR).min() == 0 and composite(deep, FOUR).max() == 255
    assert (composite(np.full((5, 6, 3), 700, np.uint16), FOUR[:3]) == 0).all()


def test_names_of_bands_have_one_spelling() -> None:
    assert [band_name(text) for text in ("NIR", "Near  Infrared", "near_infrared", " Red", "B08")] == ["nir", "nir", "nir", "red", "b08"]
