"""Regions end to end: a tiny model learns boxes by heart from pictures alone, is saved, loaded, and answers with the regions it was taught."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.evaluate.answering import LocalAnswerer, load_answerer
from sightline.evaluate.answers import answer_of, answer_record
from sightline.evaluate.golden import write_golden
from sightline.lineage import sha256_bytes
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.codecs import FORMAT_ERROR, regions_in, rotated
from sightline.samples.exchange import Decoding, Request
from sightline.samples.geometry import canonical, rotated_iou
from sightline.samples.sample import Box, Origin, Picture, Region, Regions, RotatedBox, Sample, Show, Text, Turn

WIDTH, HEIGHT, ROWS = 60, 40, 8
PARTS = {
    "encoders": [
        {
            "config": {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 32,
                "patch_size": 8,
            },
            "layer": -1,
        }
    ],
    "tiler": {"kind": "whole", "size": 32},
    "connector": {"kind": "mlp"},
    "language_model": {
        "config": {
            "model_type": "llama",
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "initializer_range": 0.09,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        "attention": "eager",
    },
}


def drawn(number: int) -> Picture:
    array = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return Picture(hash=sha256_bytes(stream.getvalue()), width=WIDTH, height=HEIGHT, data=stream.getvalue())


def taught(number: int, upright: bool) -> Sample:
    """One or two boxes inside a picture; the question is the same for all."""
    rng = np.random.default_rng(100 + number)
    boxes: list[Box | RotatedBox] = []
    for cx, cy in rng.uniform((14, 12), (46, 28), (1 + number % 2, 2)).tolist():
        box = canonical(cx, cy, rng.uniform(8, 16), rng.uniform(6, 12), rng.uniform(-90, 90))
        boxes.append(Box(x0=cx - 6, y0=cy - 4, x1=cx + 6, y1=cy + 4) if upright else box)
    said = Regions(regions=tuple(Region(shape=box, label="ship") for box in boxes), label="ship")
    turns = (Turn(role="user", items=(Show(), Text(text="Where?"))), Turn(role="assistant", items=(Text(text="At "), said, Text(text="."))))
    return Sample(id=str(number), pictures=(drawn(number),), turns=turns, origin=Origin(source="made"))


def request(sample: Sample, tokens: int = 80) -> Request:
    return Request(sample=Sample(id=sample.id, pictures=sample.pictures, turns=sample.turns[:1], origin=sample.origin), decoding=Decoding(max_tokens=tokens))


@pytest.mark.parametrize("codec", ["xyhwt-pad", "qwen2-vl"])
def test_a_model_learns_regions_by_heart(codec: str, tmp_path: Path) -> None:
    rows = [taught(number, upright=codec == "qwen2-vl") for number in range(ROWS)]
    config = ModelConfig.model_validate({**PARTS, "codec": codec})
    tokenizer = train_tokenizer(["At ship. Where?"], 300, config.chat_format(), config.controls())
    torch.manual_seed(0)
    config = config.resolve(tokenizer.size, control=tokenizer.control)
    model, processor = Model(config), Processor(config, tokenizer)
    batch = processor.collate([[processor.encode(row)] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(100):
        output = model(batch)
        loss = -(output.logp * batch.weights).sum() / batch.weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    directory.save(tmp_path, model, processor)
    write_golden(tmp_path, model, processor, [(request(row).sample, next(LocalAnswerer(model, processor, "w").answer([request(row)]))) for row in rows[:1]])
    answers = {answer.sample: answer for answer in load_answerer(tmp_path).answer(map(request, rows))}
    right = 0
    for row in rows:
        found, wanted = regions_in(answers[row.id].items), regions_in(row.turns[1].items)
        pairs = [(rotated(one.shape), rotated(other.shape)) for one, other in zip(found, wanted)]
        right += len(found) == len(wanted) and all(a is not None and b is not None and rotated_iou(a, b) > 0.8 for a, b in pairs)
        assert not answers[row.id].problems and {region.label for region in found} == {"ship"} and {region.picture for region in found} == {0}
    assert right == ROWS
    assert answer_of(answer_record(answers["1"])) == answers["1"]
    other = LocalAnswerer(model, Processor(ModelConfig.model_validate({**dict(config), "codec": "xyhwt-axis"}), tokenizer), answers["1"].weights)
    assert other.key(request(rows[1])) != answers["1"].key, "an answer that was read otherwise is another answer"
    [short] = load_answerer(tmp_path).answer([request(rows[0], tokens=len(answers["0"].tokens) - 4)])
    assert short.finish == "length" and [problem.code for problem in short.problems] == [FORMAT_ERROR] and "cut off" in short.problems[0].found
