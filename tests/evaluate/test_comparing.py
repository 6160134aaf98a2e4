"""The answerer that compares says what the model's own forward says, in any batch, and refuses what the model cannot do."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.errors import Refused
from sightline.evaluate.answers import AnswerFile, Remembering
from sightline.evaluate.comparing import ModelAnswerer
from sightline.lineage import sha256_bytes
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Given
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SAID = {
    "encoders": [
        {
            "config": {"model_type": "blip_vision_model", "image_size": 32, "patch_size": 8, "initializer_range": 0.3, **SIZES},
            "tokens": "all",
            "final_norm": True,
        }
    ],
    "tiler": {"kind": "whole", "size": 32},
    "fusion": {"kind": "cross-attention"},
    "language_model": {
        "kind": "med",
        "joint": 16,
        "config": {
            "model_type": "blip_text_model",
            "vocab_size": 400,
            "encoder_hidden_size": 32,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            **SIZES,
        },
    },
    "text_encoder": "language_model",
}


@pytest.fixture(scope="module")
def answerer() -> ModelAnswerer:
    """A tiny mixture that compares, matches and writes."""
    config = ModelConfig.model_validate_json(json.dumps(SAID))
    tokenizer = train_tokenizer(["a ship and a road", "two ships, no road"] * 3, 330, config.chat_format(), config.controls())
    torch.manual_seed(0)
    resolved = config.resolve(400, control=tokenizer.control)
    return ModelAnswerer(Model(resolved), Processor(resolved, tokenizer), "w")


def pair(number: int, text: str, ask: Any) -> Request:
    """A question about picture `number` and a text."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 40, 3), np.uint8)).save(stream, "PNG")
    picture = Picture(hash=sha256_bytes(stream.getvalue()), width=40, height=24, data=stream.getvalue())
    turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=(Text(text=text),)))
    return Request(sample=Sample(id=f"{ask}-{number}-{text}", pictures=(picture,), turns=turns, origin=Origin(source="t")), ask=ask)


def asked() -> list[Request]:
    """Two pictures, two texts, both questions."""
    return [pair(number, text, ask) for ask in ("match", "embed") for number in (1, 2) for text in ("a ship", "two ships, no road")]


def test_scores_are_those_of_the_model(answerer: ModelAnswerer) -> None:
    requests = asked()
    found = {answer.sample: answer.score for answer in answerer.answer(requests)}
    for request in requests:
        [alone] = answerer.answer([request])
        assert alone.score == pytest.approx(found[request.sample.id], abs=1e-5)
    processor, model = answerer.processor, answerer.model
    one = requests[1]
    batch = processor.collate([[processor.encode_pair(one.sample, one.sample.text(1))]])
    assert batch.texts is not None
    with torch.no_grad():
        seen = model(batch, ask="embed")
        logits = model(batch, ask="match", given=Given(features=seen.features, texts=batch.texts, pairs=torch.tensor([[0, 0]]))).match
    assert found[one.sample.id] == pytest.approx(float(logits.softmax(1)[0, 1]), abs=1e-5)
    assert found[requests[5].sample.id] == pytest.approx(float((seen.pictures[0, 0] * seen.texts[0]).sum()), abs=1e-5)
    assert len(set(found.values())) == len(requests)


def test_answers_are_kept_and_not_asked_again(answerer: ModelAnswerer, tmp_path: Path) -> None:
    requests = asked()
    first = list(Remembering(answerer, AnswerFile(tmp_path / "a.jsonl")).answer(requests))
    size = (tmp_path / "a.jsonl").stat().st_size
    again = list(Remembering(answerer, AnswerFile(tmp_path / "a.jsonl")).answer(requests))
    assert [answer.score for answer in again] == [answer.score for answer in first]
    assert (tmp_path / "a.jsonl").stat().st_size == size
    assert len({answerer.key(request) for request in requests}) == len(requests)


def test_what_a_model_cannot_do_is_refused(answerer: ModelAnswerer) -> None:
    with pytest.raises(Refused, match=r"asked to draw[^$]*write, embed, match, tell"):
        list(answerer.answer([pair(1, "a ship", "draw")]))


def test_a_picture_alone_has_a_vector(answerer: ModelAnswerer) -> None:
    looks = [replace(request, sample=replace(request.sample, turns=request.sample.turns[:1])) for request in (pair(1, "", "embed"), pair(2, "", "embed"))]
    first, second = answerer.answer(looks)
    assert first.score is None and first.vector is not None and second.vector is not None
    assert np.linalg.norm(first.vector) == pytest.approx(1.0, abs=1e-5) and first.vector != second.vector
    [told] = answerer.answer([pair(1, "a ship", "embed")])
    batch = answerer.processor.collate([[answerer.processor.encode_pair(pair(1, "a ship", "embed").sample, "a ship")]])
    with torch.no_grad():
        text = answerer.model(batch, ask="embed").texts[0].numpy()
    assert np.dot(first.vector, text) == pytest.approx(told.score, abs=1e-5)
