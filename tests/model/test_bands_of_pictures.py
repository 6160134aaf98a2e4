"""Bands from a picture to an encoder: chosen by name, cut in their depth, normalised in stored units; a missing band is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_towers as towers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Pictures
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.packing import oriented
from sightline.model.processor import Processor
from sightline.model.tiling import WholeTiler, cut
from sightline.samples.geo_tiff import encode_tiff
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample
from sightline.samples.store import Store

FOUR = ("red", "green", "blue", "nir")
MEAN, STD = (0.4, 0.5, 0.6, 0.3), (0.2, 0.25, 0.3, 0.1)


def encoder(name: str = "vision", bands: tuple[str, ...] = FOUR, **changes: Any) -> EncoderConfig:
    places = [FOUR.index(band) for band in bands]
    said = {"mean": tuple(MEAN[place] for place in places), "std": tuple(STD[place] for place in places)}
    return EncoderConfig(name=name, config=towers.CONFIGS["clip"], bands=bands, **(said | changes)).resolve()


def model(*encoders: EncoderConfig) -> ModelConfig:
    return ModelConfig(encoders=list(encoders), tiler=WholeTiler(size=16))


def processor(*encoders: EncoderConfig) -> Processor:
    made = Processor.__new__(Processor)
    made.config, made._cut, made._cut_bytes, made._measures = model(*encoders), {}, 0, {}
    return made


def picture(depth: str = "uint8", bands: tuple[str, ...] = FOUR, size: tuple[int, int] = (16, 16)) -> Picture:
    values = np.random.default_rng(0).random((*size[::-1], len(bands)))
    array = (values * {"uint8": 255, "uint16": 65535, "float32": 1}[depth]).astype(depth)
    return describe(encode_tiff(array, bands), "a.tif", "here")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(("pad", "squash", "crop")), st.sampled_from(("nearest", "bilinear", "bicubic", "lanczos")))
def test_colours_are_cut_alike_with_and_without_further_bands(width: int, height: int, fit: Any, filter: Any) -> None:
    tiling = WholeTiler(size=24, fit=fit, filter=filter).tile(width, height)
    array = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    [alone] = cut(np.ascontiguousarray(array[..., :3]), tiling)
    [together] = cut(array, tiling, FOUR, MEAN)
    assert together.shape == (4, 24, 24) and np.array_equal(together[:3], alone)


def test_padding_of_other_bands_is_the_middle_of_an_encoder() -> None:
    tiling = WholeTiler(size=8, fill=(1, 2, 3), filter="nearest").tile(4, 2)
    [eight] = cut(np.full((2, 4, 4), 9, np.uint8), tiling, FOUR, MEAN)
    assert eight[:, 0, 0].tolist() == [1, 2, 3, round(0.3 * 255)]
    [deep] = cut(np.full((2, 4, 4), 9, np.uint16), tiling, FOUR, MEAN)
    assert deep.dtype == np.uint16 and deep[:, 0, 0].tolist() == [round(mean * 65535) for mean in MEAN]
    [real] = cut(np.full((2, 4, 4), 9, np.float32), tiling, FOUR, MEAN)
    assert np.allclose(real[:, 0, 0], MEAN)


def test_crops_hold_all_bands_that_encoders_take_and_each_reads_its_own() -> None:
    one, other = encoder("near", ("nir", "red")), encoder("colours", ("red", "green", "blue"))
    made = processor(one, other)
    assert made.config.bands == ("nir", "red", "green", "blue") and made.config.band_means == (0.3, 0.4, 0.5, 0.6)
    shown = picture()
    [crop] = made._crops(shown, made.config.tiler.tile(16, 16), None)  # type: ignore[union-attr]
    batch = Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(crop,), bands=made.config.bands)
    array = torch.from_numpy(np.array(cut(np.moveaxis(crop.numpy(), 0, -1), made.config.tiler.tile(16, 16), made.config.bands)[0]))  # type: ignore[union-attr]
    assert torch.equal(batch.crop(0, ("nir", "red")), array[:2]) and torch.equal(batch.crop(0, ("red", "green", "blue")), array[1:])
    frames = Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(torch.cat([crop, crop + 1]),), bands=made.config.bands)
    assert torch.equal(frames.crop(0, ("red",)), torch.stack([crop[1], crop[1] + 1]))


@pytest.mark.parametrize("depth", ["uint16", "float32"])
def test_deep_pictures_are_normalised_in_stored_units(depth: str) -> None:
    torch.manual_seed(0)
    module = encoder().build().eval()
    values = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(1))
    eight = (values * 255).round().to(torch.uint8)
    deep = torch.from_numpy(eight.numpy().astype(np.uint16) * 257) if depth == "uint16" else eight.float() / 255
    wanted, found = (module(towers.pictures(crop), Read()).values for crop in (eight, deep))
    assert towers.apart(found, wanted) <= 1e-5
    mixed = module(towers.pictures(eight, deep), Read()).values
    assert towers.apart(mixed[: len(wanted)], wanted) <= 1e-5 and towers.apart(mixed[len(wanted) :], wanted) <= 1e-5


@pytest.mark.parametrize("orientation", range(8))
def test_crops_of_sixteen_bits_can_be_turned(orientation: int) -> None:
    crop = torch.from_numpy(np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6))
    assert torch.equal(oriented(crop, orientation).int(), oriented(crop.int(), orientation))


def test_a_missing_band_is_refused_with_the_file_and_its_bands() -> None:
    made = processor(encoder())
    sample = Sample(id="1", pictures=(picture(bands=("red", "green", "blue"), depth="uint16"),), origin=Origin(source="set", row="row 7"))
    with pytest.raises(Refused) as refused:
        made.encode_pair(sample, "a field")
    text = str(refused.value)
    assert "samples/missing-band at set:row 7, picture a.tif\n  found:   no nir among its bands red, green, blue" in text
    assert "allowed: pictures with the bands that encoders.vision takes: red, green, blue, nir" in text
    made.encode_pair(Sample(id="1", pictures=(picture(bands=(*FOUR, "swir")),), origin=Origin(source="set")), "more bands than wanted are no problem")


def test_bands_depth_and_place_survive_a_store(tmp_path: Path) -> None:
    shown = picture("uint16")
    with Store.writer(tmp_path / "store") as writer:
        writer.add(Sample(id="1", pictures=(shown,), origin=Origin(source="set")))
    [back] = Store.open(tmp_path / "store")
    assert back.pictures == (shown,)
    assert Store.open(tmp_path / "store").index["pictures"][0][0]["bands"].as_py() == list(FOUR)
