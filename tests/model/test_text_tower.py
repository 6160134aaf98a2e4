"""The second tower: unit vectors, pooling by hand, padding that changes nothing, and starting points of both losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from sightline.errors import Refused
from sightline.model.batch import Features, SideTexts
from sightline.model.chat import CHAT_FORMATS
from sightline.model.text_tower import TEXT_ENCODER, SharedTextEncoder, TextEncoderConfig
from sightline.model.text_tower_modules import TextTower
from sightline.model.tiling import Grid

BLOCK = {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 400}


def tower(**said: Any) -> TextTower:
    torch.manual_seed(0)
    return TextEncoderConfig(config=BLOCK | {"bos_token_id": 0, "eos_token_id": 0}, width=8, **said).build(6).eval()


def features(pictures: int = 2) -> Features:
    values = torch.randn(pictures * 4, 6, generator=torch.Generator().manual_seed(1))
    return Features(values=values, grids=(Grid(columns=2, rows=2),) * pictures, crops=tuple(range(pictures)))


@torch.no_grad()
@pytest.mark.parametrize("texts", ["last", "mean"])
def test_padding_changes_no_text(texts: Any) -> None:
    module = tower(texts=texts)
    ids = torch.tensor([[3, 4, 5, 1], [9, 1, 0, 0], [7, 8, 1, 0]])
    lengths = torch.tensor([4, 2, 3])
    found = module.embed_texts(SideTexts(ids=ids, lengths=lengths, picture_of=torch.zeros(3)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    for row, length in zip(range(3), lengths.tolist()):
        alone = module.embed_texts(SideTexts(ids=ids[row : row + 1, :length], lengths=lengths[row : row + 1], picture_of=torch.zeros(1)))
        torch.testing.assert_close(found[row], alone[0], rtol=0, atol=1e-5)
        hidden = module.tower(input_ids=ids[row : row + 1, :length]).last_hidden_state[0]
        pooled = hidden[-1] if texts == "last" else hidden.mean(0)
        torch.testing.assert_close(alone[0], normalize(module.text_projection(pooled), dim=-1), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pictures", ["mean", "first", "mean-max"])
def test_pictures_are_pooled_as_asked(pictures: Any) -> None:
    module, given = tower(pictures=pictures), features()
    tokens = given.values.view(2, 4, 6)
    pooled = {"mean": tokens.mean(1), "first": tokens[:, 0], "mean-max": torch.cat([tokens.mean(1), tokens.amax(1)], 1)}[pictures]
    found = module.embed_pictures(given)
    assert found.shape == (2, 1, 8)
    torch.testing.assert_close(found[:, 0], normalize(module.picture_projection(pooled), dim=-1))


@torch.no_grad()
def test_single_tokens_have_a_projection_of_their_own() -> None:
    module = tower(tags=True)
    found = module.embed_tokens(features(3))
    assert found.shape == (3, 4, 8)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 4))
    assert not hasattr(tower(), "token_projection")


def test_scale_and_bias_start_where_their_loss_was_published() -> None:
    assert float(tower().scale.detach().exp()) == pytest.approx(1 / 0.07) and tower().bias is None
    sigmoid = tower(loss="sigmoid")
    assert sigmoid.bias is not None
    assert float(sigmoid.scale.detach()) == pytest.approx(math.log(10)) and float(sigmoid.bias.detach()) == -10


def test_pooling_of_different_grids_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="pooling needs crops of one grid"):
        tower().embed_pictures(Features(values=torch.zeros(3, 6), grids=(Grid(columns=2, rows=1), Grid(columns=1, rows=1)), crops=(0, 1)))


@torch.no_grad()
def test_a_model_embeds_pictures_tokens_and_texts() -> None:
    text = TextEncoderConfig(config=BLOCK | {"bos_token_id": 0, "eos_token_id": 0}, width=8, tags=True)
    model, processor = tiny.built(tiny.writer(text_encoder=text), tiny.byte_level(CHAT_FORMATS["turns"], Path()))
    shown = tiny.sample(pictures=[tiny.picture(1)])
    other = tiny.sample(pictures=[tiny.picture(2)])
    batch = processor.collate([[processor.encode_pair(shown, "three ships")], [processor.encode_pair(other, "no")], [processor.encode_pair(shown, "yes")]])
    output = model(batch, ask="embed")
    assert output.logp is None and output.pictures is not None and output.tokens is not None and output.texts is not None and batch.texts is not None
    assert (output.pictures.shape, output.tokens.shape, output.texts.shape) == ((2, 1, 8), (2, 4, 8), (3, 8))
    assert batch.texts.picture_of.tolist() == [0, 1, 0]  # a picture with two texts is encoded once


@torch.no_grad()
def test_the_twin_is_small_and_of_the_same_class() -> None:
    published = {"model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    twin = TextEncoderConfig(checkpoint="openai/clip-vit-large-patch14", config=published | {"hidden_act": "quick_gelu"}, width=768, texts="mean").twin()
    assert (twin.checkpoint, twin.texts, twin.width) == (None, "mean", 16)
    assert twin.config is not None and twin.config["hidden_act"] == "quick_gelu"
    module = twin.resolve(320).build(6)
    assert sum(parameter.numel() for parameter in module.parameters()) < 50_000
    texts = SideTexts(ids=torch.tensor([[3, 4, 319]]), lengths=torch.tensor([3]), picture_of=torch.zeros(1, dtype=torch.int64))
    assert module.embed_texts(texts).shape == (1, 16)


def test_a_part_may_be_the_text_encoder_too() -> None:
    shared = TEXT_ENCODER.parse({"kind": "shared", "part": "connector"})
    assert isinstance(shared, SharedTextEncoder) and shared.resolve(320) == shared.twin() == shared
    with pytest.raises(ValidationError, match="'connector' or 'language_model'"):
        TEXT_ENCODER.parse({"kind": "shared", "part": "fusion"})


def test_siglip_is_a_probe_and_the_towers_own_head() -> None:
    from transformers import SiglipConfig, SiglipModel

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    words = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    theirs = SiglipModel(SiglipConfig(text_config={**words, "projection_size": 32}, vision_config=vision)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    config = TextEncoderConfig(
        config={"model_type": "siglip_text_model", **words, "projection_size": 32},
        width=32,
        texts="head",
        pictures="probe",
        heads=4,
        inner=48,
        loss="sigmoid",
        padded=True,
    )
    ours = config.build(32).eval()
    ours.tower.load_state_dict(theirs.text_model.state_dict())
    assert ours.picture_head is not None and ours.bias is not None
    ours.picture_head.load_state_dict(theirs.vision_model.head.state_dict())
    ids = torch.randint(0, 60, (3, 16), generator=torch.Generator().manual_seed(1))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    wanted = theirs(input_ids=ids, pixel_values=pixels)
    hidden = theirs.vision_model(pixels).last_hidden_state
    seen = Features(values=hidden.flatten(0, 1), grids=(Grid(columns=4, rows=4),) * 3, crops=(0, 1, 2))
    pictures, texts = ours.embed_pictures(seen), ours.embed_texts(SideTexts(ids=ids, lengths=torch.tensor([16] * 3), picture_of=torch.arange(3)))
    torch.testing.assert_close(pictures[:, 0], wanted.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(texts, wanted.text_embeds, rtol=0, atol=1e-6)


def test_widths_that_a_head_gives_must_be_the_joint_width() -> None:
    words = {
        "model_type": "siglip_text_model",
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "projection_size": 24,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    with pytest.raises(Refused, match=r"pictures: probe gives vectors of 32 numbers, width is 16[^$]*texts: head gives vectors of 24 numbers"):
        TextEncoderConfig(config=words, width=16, texts="head", pictures="probe", heads=4).build(32)
