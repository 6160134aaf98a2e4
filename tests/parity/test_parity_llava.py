"""LLaVA with one layer and with several, LLaVA-NeXT, and Pixtral's tower in LLaVA, against transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from parity_cases import PICTURE, TEXT, TOWER, Pair, apart, compare, dialogue, greedy, paired, photo, said, sample, shown
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
)

from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch
from sightline.model.combines import AverageCombine
from sightline.model.connectors import MlpConnector
from sightline.model.encoder_kinds.rope_towers import PixtralEncoder
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.layout_kinds.merged_layout import MergedLayout
from sightline.model.layout_kinds.rows_layout import RowsLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tilers.native import MaxSideTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tiling import WholeTiler
from sightline.model.vlm import Model

KEYS = ("k_proj.bias",)
PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
"""Height and width, as published."""
SQUARE = (dialogue([photo(1, 40, 30), photo(2, 17, 44)]), dialogue([photo(3, 28, 28)], "Two ships and a long quay."))
ANY_SHAPE = (dialogue([photo(4, 60, 40), photo(5, 50, 24), photo(6, 30, 100)]), dialogue([photo(7, 24, 50), photo(8, 120, 30)], "Two ships and a long quay."))
TEXT_ALONE = sample([], said("user", "Where?"), said("assistant", "In the harbor."))
CLIP = {"model_type": "clip_vision_model", **TOWER}
PIXTRAL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 64,
    "patch_size": 8,
    "hidden_act": "silu",
}
MISTRAL = {**TEXT, "sliding_window": None}


def llava(layer: int | list[int]) -> Pair:
    config = ModelConfig(
        encoders=[EncoderConfig(config=CLIP, layer=layer if isinstance(layer, int) else tuple(layer))],
        tiler=WholeTiler(size=28),
        connector=MlpConnector(depth=2),
        language_model=LanguageModelConfig(config={"model_type": "llama", **TEXT}),
        chat="vicuna",
    )
    theirs = LlavaConfig(vision_config=CLIPVisionConfig(**TOWER), text_config=LlamaConfig(**TEXT), image_token_index=PICTURE, vision_feature_layer=layer)
    return paired(config, lambda: LlavaForConditionalGeneration(theirs), NATIVE_FORMATS["llava"].rules(config))


@pytest.fixture(scope="module")
def one_layer() -> Pair:
    return llava(-2)


def squares(pair: Pair, batch: Batch) -> dict[str, Any]:
    return shown(batch.decoder) | {"pixel_values": torch.stack(pair.pixels(batch))}


def test_one_layer(one_layer: Pair) -> None:
    batch = one_layer.batch(*SQUARE, TEXT_ALONE)
    compare(one_layer, batch, squares(one_layer, batch), KEYS).check(KEYS)


def test_several_layers() -> None:
    pair = llava([-2, -3])
    batch = pair.batch(*SQUARE)
    compare(pair, batch, squares(pair, batch), KEYS).check(KEYS)


def test_two_equal_encoders_averaged_are_one(one_layer: Pair) -> None:
    """Each gets half of the gradient: together they get the class's."""
    known = one_layer.model.config
    towers = [known.encoders[0].model_copy(update={"name": name}) for name in ("a", "b")]
    model = Model(known.model_copy(update={"encoders": towers, "combine": AverageCombine()})).eval()
    names = dict(one_layer.names)
    for path, part in one_layer.model.parts().items():
        for twin in ("encoders.a", "encoders.b") if path == "encoders.vision" else (path,):
            model.parts()[twin].load_state_dict(part.state_dict())
            names |= {f"{twin}.{name}": one_layer.names[f"{path}.{name}"] for name in part.state_dict()}
    pair = replace(one_layer, model=model, names=names)
    batch = pair.batch(*SQUARE)
    compare(pair, batch, squares(pair, batch), KEYS).check(KEYS)


@torch.no_grad()
def test_the_pictures_are_part_of_the_comparison(one_layer: Pair) -> None:
    batch = one_layer.batch(SQUARE[1])
    given = squares(one_layer, batch)
    other = given | {"pixel_values": given["pixel_values"].flip(3)}
    assert apart(one_layer.theirs(**other).logits, one_layer.theirs(**given).logits) > 1e-3


def test_decoding(one_layer: Pair) -> None:
    batch = one_layer.prompt(sample([photo(1, 40, 30)], said("user", 0, "Where?")))
    ours, theirs = greedy(one_layer, batch, squares(one_layer, batch))
    assert ours == theirs


def stacked(crops: list[Tensor], counts: list[int]) -> Tensor:
    """(P, most, 3, h, w): crops of each picture, filled with zeros."""
    shape = (len(counts), max(counts), *crops[0].shape)
    found = torch.zeros(shape)
    for picture, (own, count) in enumerate(zip(torch.stack(crops).split(counts), counts, strict=True)):
        found[picture, :count] = own
    return found


def test_next_with_pictures_of_five_shapes() -> None:
    config = ModelConfig(
        encoders=[EncoderConfig(config=CLIP, layer=-2)],
        tiler=LlavaNextTiler(size=28, pinpoints=tuple((width, height) for height, width in PINPOINTS)),
        connector=MlpConnector(depth=2),
        layout=MergedLayout(),
        language_model=LanguageModelConfig(config={"model_type": "mistral", **MISTRAL}),
        chat="mistral",
    )
    theirs = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER), text_config=MistralConfig(**MISTRAL), image_token_index=PICTURE, image_grid_pinpoints=PINPOINTS
    )
    pair = paired(config, lambda: LlavaNextForConditionalGeneration(theirs), NATIVE_FORMATS["llava_next"].rules(config))
    batch = pair.batch(*ANY_SHAPE)
    tilings = batch.pictures.tilings
    assert {tiling.grid for tiling in tilings} == {(2, 1), (1, 2), (2, 2), (3, 1), (1, 3)}
    sizes = torch.tensor([[tiling.size[1], tiling.size[0]] for tiling in tilings])
    crops = stacked(pair.pixels(batch), [len(tiling.crops) for tiling in tilings])
    given = shown(batch.decoder) | {"pixel_values": crops, "image_sizes": sizes}
    compare(pair, batch, given, KEYS).check(KEYS)


def test_pixtral() -> None:
    config = ModelConfig(
        encoders=[PixtralEncoder(config=PIXTRAL)],
        tiler=MaxSideTiler(size=64, patch=8),
        connector=MlpConnector(depth=2),
        layout=RowsLayout(row_end="[IMG_BREAK]", end="[IMG_END]", last_row="end"),
        language_model=LanguageModelConfig(config={"model_type": "mistral", **MISTRAL, "head_dim": 16}),
        chat="pixtral",
    ).resolve()
    theirs = LlavaConfig(
        vision_config=PixtralVisionConfig(**PIXTRAL),
        text_config=MistralConfig(**MISTRAL, head_dim=16),
        image_token_index=PICTURE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    pair = paired(config, lambda: LlavaForConditionalGeneration(theirs), NATIVE_FORMATS["llava"].rules(config))
    batch = pair.batch(*ANY_SHAPE)
    crops = pair.pixels(batch)
    sizes = torch.tensor([crop.shape[1:] for crop in crops])
    high, wide = sizes.amax(0).tolist()
    filled = torch.stack([torch.nn.functional.pad(crop, (0, wide - crop.shape[2], 0, high - crop.shape[1])) for crop in crops])
    assert len({tuple(size) for size in sizes.tolist()}) >= 4
    compare(pair, batch, shown(batch.decoder) | {"pixel_values": filled, "image_sizes": sizes}).check()
