"""Our composition against transformers' own LLaVA, on the same random weights: CLIP at layer -2 without its class token, two linear layers, Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn

from sightline.model.chat import CHAT_FORMATS
from sightline.model.processor import Processor
from sightline.model.vlm import Model

PLACEHOLDER = 399


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Processor, Any]:
    """Our model, its processor, and a LlavaForConditionalGeneration that holds the same tensors."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = tiny.writer("llama", "eager", chat="vicuna")
    model, processor = tiny.built(config, tiny.byte_level(CHAT_FORMATS["vicuna"], Path()))
    assert config.language_model is not None
    theirs = LlavaForConditionalGeneration._from_config(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**{key: value for key, value in tiny.CLIP.items() if key != "model_type"}),
            text_config=LlamaConfig(**{key: value for key, value in config.language_model.block().items() if key != "model_type"}),
            image_token_index=PLACEHOLDER,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            projector_hidden_act="gelu",
        ),
        attn_implementation="eager",
    ).eval()
    assert model.language_model is not None and model.connector is not None
    towers: list[tuple[nn.Module, nn.Module]] = [
        (theirs.model.vision_tower, model.encoders["vision"].tower),
        (theirs.model.language_model, model.language_model.model.model),
        (theirs.lm_head, model.language_model.model.lm_head),
        (theirs.model.multi_modal_projector.linear_1, model.connector.layers[0]),
        (theirs.model.multi_modal_projector.linear_2, model.connector.layers[2]),
    ]
    for target, source in towers:
        target.load_state_dict(source.state_dict())
    with torch.no_grad():  # what the initialisation leaves at zero would hide a bias that is not applied
        for linear in (theirs.model.multi_modal_projector.linear_1, theirs.model.multi_modal_projector.linear_2):
            assert linear.bias.abs().max() > 0
    return model, processor, theirs


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_logits_are_those_of_transformers_llava(pair: tuple[Model, Processor, Any]) -> None:
    model, processor, theirs = pair
    sample = tiny.sample(tiny.turn("user", 0, "\nHow many ships?"), tiny.turn("assistant", "Three ships."), pictures=[tiny.picture(4, 33, 20)])
    batch = processor.collate([[processor.encode(sample)]])
    assert batch.decoder is not None and batch.pictures.pixels is not None and model.language_model is not None and model.fusion is not None
    ids = batch.decoder.ids.clone()
    ids.view(-1)[batch.decoder.slots] = PLACEHOLDER
    encoder = model.encoders["vision"]
    pixels = (torch.stack(batch.pictures.pixels).float() - encoder.mean) / encoder.std
    expected = theirs(input_ids=ids, pixel_values=pixels).logits[0]
    ours = model.language_model.logits(model.hidden(batch)[0])
    assert relative(ours, expected) <= 1e-5
    # with another picture theirs differ by far more than that: the picture is part of the comparison
    assert relative(theirs(input_ids=ids, pixel_values=pixels.flip(3)).logits[0], expected) > 1e-3


@torch.no_grad()
def test_pixels_are_those_of_the_clip_processor(pair: tuple[Model, Processor, Any]) -> None:
    model, _, _ = pair
    encoder = model.encoders["vision"]
    assert encoder.mean.flatten().tolist() == pytest.approx([255 * value for value in (0.48145466, 0.4578275, 0.40821073)])
    assert encoder.std.flatten().tolist() == pytest.approx([255 * value for value in (0.26862954, 0.26130258, 0.27577711)])


@torch.no_grad()
def test_decoding_is_that_of_transformers_generate(pair: tuple[Model, Processor, Any]) -> None:
    from sightline.evaluate.answering import generate
    from sightline.samples.exchange import Decoding

    model, processor, theirs = pair
    batch = processor.collate([[processor.encode(tiny.sample(tiny.turn("user", 0, "Where?"), pictures=[tiny.picture(5)]), answer=False)]])
    assert batch.decoder is not None and batch.pictures.pixels is not None
    ids = batch.decoder.ids.clone()
    ids.view(-1)[batch.decoder.slots] = PLACEHOLDER
    encoder = model.encoders["vision"]
    pixels = (torch.stack(batch.pictures.pixels).float() - encoder.mean) / encoder.std
    [(tokens, _)] = generate(model, batch, [Decoding(max_tokens=10)], lambda ids: False)
    expected = theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=10, do_sample=False)[0]
    assert tokens == expected.tolist()[-10:]
