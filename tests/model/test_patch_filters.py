"""Bands: a tower with inflated filters starts as the tower of red, green and blue, and what does not fit is refused with numbers."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_towers as towers
import torch

from sightline.errors import Refused
from sightline.model.encoder_modules import TransformersEncoder
from sightline.model.encoders import EncoderConfig, Read

MEAN, STD = {"red": 0.4, "green": 0.5, "blue": 0.6, "nir": 0.3}, {"red": 0.2, "green": 0.25, "blue": 0.3, "nir": 0.1}


def with_bands(name: str, *bands: str, **changes: Any) -> TransformersEncoder:
    said = {"bands": bands, "mean": tuple(MEAN[band] for band in bands), "std": tuple(STD[band] for band in bands)}
    return towers.encoder(name, **(said | changes))


@pytest.mark.parametrize("name", towers.CONFIGS)
@pytest.mark.parametrize("bands", [("red", "green", "blue", "nir"), ("nir", "blue", "red", "green"), ("blue", "green", "red")])
def test_an_inflated_tower_starts_equal_to_the_tower_of_colours(name: str, bands: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    plain = EncoderConfig(config=towers.CONFIGS[name], mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)).build().eval()
    torch.manual_seed(0)
    statistics = {"mean": tuple(MEAN[band] for band in bands), "std": tuple(STD[band] for band in bands)}
    inflated = EncoderConfig(config=towers.CONFIGS[name], bands=bands, **statistics).build().eval()
    [crop] = towers.crops((16, 16), bands=4)
    colours = ("red", "green", "blue")
    shown = crop[[(*colours, "nir").index(band) for band in bands]]
    found, wanted = inflated(towers.pictures(shown), Read()).values, plain(towers.pictures(crop[:3]), Read()).values
    assert towers.apart(found, wanted) <= 1e-5
    first = inflated._run.first
    assert first.in_channels == first.weight.shape[1] == len(bands)
    found.square().sum().backward()
    assert first.weight.grad is not None and all(first.weight.grad[:, number].any() for number in range(len(bands)))


def test_bands_without_a_colour_are_drawn_anew() -> None:
    module = EncoderConfig(config=towers.CONFIGS["clip"], bands=("vv", "vh"), mean=(0.1, 0.2), std=(0.3, 0.3)).build()
    weight = module.tower.embeddings.patch_embedding.weight
    assert weight.shape[1] == 2 and weight.std() > 0
    assert module(towers.pictures(*towers.crops((16, 16), bands=2)), Read()).values.shape == (4, 16)


def test_a_checkpoint_of_as_many_bands_is_taken_as_it_is() -> None:
    config = towers.CONFIGS["siglip"] | {"num_channels": 4}
    module = with_bands("siglip", "nir", "red", "green", "blue", config=config)
    assert module.tower.embeddings.patch_embedding.weight.shape[1] == 4
    with pytest.raises(Refused, match=r"model/bands at encoders\.vision\.bands\n  found:   2 bands: red, nir\n  allowed: the 4 bands that the checkpoint"):
        with_bands("siglip", "red", "nir", config=config)


def test_published_statistics_follow_the_order_of_the_bands() -> None:
    known = EncoderConfig(config=towers.CONFIGS["clip"]).resolve()
    turned = EncoderConfig(config=towers.CONFIGS["clip"], bands=("blue", "red")).resolve()
    assert known.mean is not None and known.std is not None
    assert (turned.mean, turned.std) == ((known.mean[2], known.mean[0]), (known.std[2], known.std[0]))


def test_bands_without_statistics_are_refused_all_at_once() -> None:
    with pytest.raises(Refused) as refused:
        EncoderConfig(config=towers.CONFIGS["clip"], bands=("red", "green", "blue", "nir", "nir"), mean=(0.5, 0.5, 0.5)).resolve()
    codes = [problem.code for problem in refused.value.problems]
    assert codes == ["model/bands", "model/band-statistics", "model/band-statistics"]
    text = str(refused.value)
    assert "encoders.vision.mean\n  found:   3 numbers for 5 bands\n  allowed: one number in 0..1 for each of red, green, blue, nir, nir" in text
    assert "encoders.vision.std\n  found:   none for nir, nir" in text


def test_pictures_of_another_number_of_bands_are_refused() -> None:
    module = with_bands("clip", "red", "green", "blue", "nir")
    with pytest.raises(
        Refused, match=r"model/bands at encoders\.vision\n  found:   crops of 3 bands\n  allowed: 4: red, green, blue, nir\n  fix:     set encoders"
    ):
        module(towers.pictures(*towers.crops((16, 16))), Read())
