"""Learnt visual prompts: where they stand, what they change, what they leave alone; see also the laws of test_compositions.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from compositions import CLIP, COMPOSITIONS, LLAMA, composition
from pydantic import ValidationError
from test_vlm import SAMPLES, logps

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model

PLAIN: dict[str, Any] = {"encoders": [CLIP], "tiler": {"kind": "whole", "size": 32}, "connector": {"kind": "mlp"}, "language_model": LLAMA}


def said(prompts: dict[str, Any] | None, **other: Any) -> ModelConfig:
    return ModelConfig.model_validate_json(json.dumps({**PLAIN, "prompts": prompts, **other}))


def made(prompts: dict[str, Any] | None, **other: Any) -> tuple[Model, Processor]:
    config = said(prompts, **other)
    tokenizer = train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    return tiny.built(config.resolve(400, control=tokenizer.control), tokenizer)


def test_after_each_picture_and_before_its_text() -> None:
    _, bare = made(None)
    model, processor = made({"count": 3})
    for sample in SAMPLES:
        plain, prompted = bare.encode(sample), processor.encode(sample)
        pictures = len(sample.pictures)
        assert prompted.length == plain.length + 3 * pictures
        assert prompted.entries.tolist() == [e for p in range(pictures) for e in (*range(16 * p, 16 * p + 16), -1, -2, -3)]
        runs = prompted.slots.reshape(pictures, 19) if pictures else prompted.slots
        assert not pictures or (runs[:, 1:] - runs[:, :-1] == 1).all(), "they follow the picture's entries at once"
    table = model.see(processor.collate([[processor.encode(SAMPLES[0])]]))
    assert table is not None and torch.equal(table[-3:], model.prompts.vectors)
    assert processor.measure(20, 12).decoder == bare.measure(20, 12).decoder + 3


@pytest.mark.parametrize(("deep", "blocks"), [(False, 1), (True, 2)])
def test_an_encoder_sees_them_and_hands_none_out(deep: bool, blocks: int) -> None:
    bare, _ = made(None)
    model, processor = made({"place": "encoder", "count": 4, "deep": deep})
    for name, tensor in bare.state_dict().items():
        model.state_dict()[name].copy_(tensor)
    rows = [[processor.encode(sample)] for sample in SAMPLES]
    batch = processor.collate(rows)
    prompts = model.prompts.vectors["vision"]
    assert prompts.shape == (blocks, 4, 32), "layer -2 of 3 blocks is read"
    seen, plain = model.encode(batch)["vision"], bare.encode(batch)["vision"]
    assert seen.grids == plain.grids and seen.values.shape == plain.values.shape
    assert (seen.values - plain.values).abs().max() > 1e-3
    (model(batch).logp.sum()).backward()
    assert prompts.grad is not None and all(gradient.abs().max() > 0 for gradient in prompts.grad)


def test_by_hand_through_the_blocks_of_the_tower() -> None:
    model, processor = made({"place": "encoder", "count": 2, "deep": True})
    batch = processor.collate([[processor.encode(SAMPLES[0])]])
    encoder, [crop] = model.encoders["vision"], batch.pictures.pixels or ()
    x, _ = encoder._run.embed((crop[None].float() - encoder.mean) / encoder.std)
    for number, block in enumerate(encoder.blocks):
        x = block(torch.cat([model.prompts.vectors["vision"][number][None], x], 1), attention_mask=None)[:, 2:]
    assert torch.allclose(model.encode(batch)["vision"].values, x[0, 1:], atol=1e-5)


def test_gradients_reach_them_through_a_frozen_encoder() -> None:
    model, processor = made({"place": "encoder", "count": 2})
    model.requires_grad_(False)
    model.prompts.requires_grad_(True)
    model(processor.collate([[processor.encode(SAMPLES[0])]])).logp.sum().backward()
    assert model.prompts.vectors["vision"].grad is not None and model.prompts.vectors["vision"].grad.any()
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("prompts."))


@pytest.mark.parametrize("name", ["prompted-encoder", "prompted-text"])
def test_a_part_that_is_saved_with_the_model(name: str, tmp_path: Path) -> None:
    config = composition(name)
    tokenizer = train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    model, processor = tiny.built(config.resolve(400, control=tokenizer.control), tokenizer)
    assert "prompts" in model.parts()
    directory.save(tmp_path, model, processor)
    assert (tmp_path / "prompts-00001-of-00001.safetensors").is_file()
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["parts"]["prompts"] == json.loads(config.prompts.model_dump_json())  # pyright: ignore[reportOptionalMemberAccess]
    again, reader, _ = directory.load(tmp_path)
    rows = [processor.encode(sample) for sample in SAMPLES]
    assert torch.allclose(logps(again, reader, [rows]), logps(model, processor, [rows]), atol=1e-5)


@pytest.mark.parametrize(
    ("prompts", "other", "message"),
    [
        ({"deep": True}, {}, "set place: encoder"),
        ({"count": 2}, {"language_model": None, "connector": None}, "add encoders, and for `place: text` a language model"),
        ({"count": 2}, {"fusion": {"kind": "gated-cross-attention", "layers": [1]}}, "this fusion leaves pictures out of it"),
    ],
)
def test_refused_where_they_have_no_place(prompts: dict[str, Any], other: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        said(prompts, **other)


def test_encoders_without_places_for_them_are_refused() -> None:
    with pytest.raises(Refused, match="model/no-prompts"):
        Model(ModelConfig.model_validate_json(json.dumps({"language_model": LLAMA, **COMPOSITIONS["grid"], "prompts": {"place": "encoder"}})).resolve(400))
