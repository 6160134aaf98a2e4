"""Idefics2 against transformers: pictures of several sizes, whole and split in four."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_cases import HALVES, PICTURE, TEXT, Pair, compare, dialogue, paired, photo, shown
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig

from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch
from sightline.model.connector_kinds.perceiver import PerceiverConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.layout_kinds.wrapped_layout import WrappedLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tilers.native import QuadSplitTiler

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
PERCEIVER = {"hidden_size": 48, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4, "resampler_head_dim": 12, "num_key_value_heads": 2}
MISTRAL = {**TEXT, "sliding_window": None, "pad_token_id": 0}
KEYS = ("encoder.layers.0.self_attn.k_proj.bias", "encoder.layers.1.self_attn.k_proj.bias")
SAMPLES = (dialogue([photo(1, 90, 60), photo(2, 30, 50)]), dialogue([photo(3, 40, 120)], "Two ships and a long quay."))


def inputs(pair: Pair, batch: Batch) -> dict[str, Any]:
    """Crops of each sample in their order, all filled up to one size, and as many for each sample."""
    crops = pair.pixels(batch, HALVES, HALVES)
    counts = [sum(len(tiling.crops) for tiling in own) for own in (batch.pictures.tilings[:2], batch.pictures.tilings[2:])]
    places = [(row, number) for row, count in enumerate(counts) for number in range(count)]
    high, wide = (max(crop.shape[side] for crop in crops) for side in (1, 2))
    pixels, there = torch.zeros(2, max(counts), 3, high, wide), torch.zeros(2, max(counts), high, wide, dtype=torch.bool)
    for place, crop in zip(places, crops, strict=True):
        pixels[(*place, slice(None), slice(crop.shape[1]), slice(crop.shape[2]))] = crop
        there[(*place, slice(crop.shape[1]), slice(crop.shape[2]))] = True
    return shown(batch.decoder) | {"pixel_values": pixels, "pixel_attention_mask": there}


@pytest.mark.parametrize("split", [False, True])
def test_whole_and_split(split: bool) -> None:
    config = ModelConfig(
        encoders=[EncoderConfig(config={"model_type": "idefics2_vision", **VISION}, final_norm=True)],
        tiler=QuadSplitTiler(longest=56, shortest=28, split=split),
        connector=PerceiverConnector(latents=4, depth=2, heads=4, key_heads=2, head_width=12, inner=TEXT["intermediate_size"]),
        layout=WrappedLayout(),
        language_model=LanguageModelConfig(config={"model_type": "mistral", **MISTRAL}),
        chat="idefics2",
    ).resolve()
    theirs = Idefics2Config(vision_config=VISION, perceiver_config=PERCEIVER, text_config=MistralConfig(**MISTRAL), image_token_id=PICTURE)
    pair = paired(config, lambda: Idefics2ForConditionalGeneration(theirs), NATIVE_FORMATS["idefics2"].rules(config))
    batch = pair.batch(*SAMPLES)
    assert len({tuple(crop.shape) for crop in pair.pixels(batch, HALVES, HALVES)}) > 2
    compare(pair, batch, inputs(pair, batch), KEYS).check(KEYS)
