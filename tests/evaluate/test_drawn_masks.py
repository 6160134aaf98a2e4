"""Answers with masks: the same asked alone, together, by the serving engine and teacher-forced; in px of the picture; figures inside boxes; and what the words must not do."""

from __future__ import annotations

import queue
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.model.test_mask_head import made
from tiny_models import picture

from sightline.data.segment_questions import Segment
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.benchmark_kinds.masks import Masks
from sightline.evaluate.drawn_masks import with_masks
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.codecs import FORMAT_ERROR, regions_in
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.geometry import encode_mask, mask_area
from sightline.samples.sample import Mask, Origin, Region, Regions, RotatedBox, Sample, Show, Text, Turn
from sightline.serve.jobs import Ended, Failed, Job
from sightline.serve.serving_engine import Engine, EngineLimits

QUESTIONS = ("Where?", "How many ships?", "A curious user asks", "In the harbor?")


@pytest.fixture(scope="module")
def tiny() -> tuple[Model, Processor]:
    return made("maps")


def fond_of_masks(model: Model, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third token or so is that of a mask."""
    plain, more = model.language_model.logits, torch.zeros(400)
    more[processor.tap_id] = 6.5
    monkeypatch.setattr(model.language_model, "logits", lambda rows: plain(rows) + more)


def requests() -> list[Request]:
    """Questions about pictures of several sizes."""
    found = []
    for number, text in enumerate(QUESTIONS * 2):
        shown = picture(number // 3, 40 + 7 * (number // 3), 30)
        turns = (Turn(role="user", items=(Show(picture=0), Text(text=text))),)
        sample = Sample(id=f"q{number}", pictures=(shown,), turns=turns, origin=Origin(source="test", row=str(number)))
        found.append(Request(sample=sample, decoding=Decoding(max_tokens=6 + number % 3, temperature=1.0, seed=number)))
    return found


def shapes(answer: Answer) -> list[Any]:
    return [region.shape for region in regions_in(answer.items)]


def test_together_alone_and_teacher_forced_draw_the_same(tiny: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = tiny
    fond_of_masks(model, processor, monkeypatch)
    asked = requests()
    together = {answer.sample: answer for answer in LocalAnswerer(model, processor, "w").answer(asked)}
    assert processor.masks is not None
    several = 0
    for request in asked:
        [alone] = LocalAnswerer(model, processor, "w", shared=False).answer([request])
        answer, shown = together[request.sample.id], request.sample.pictures[0]
        assert (alone.tokens, alone.items) == (answer.tokens, answer.items)
        assert all(isinstance(shape, Mask) and (shape.width, shape.height) == (shown.width, shown.height) for shape in shapes(answer))
        encoded = processor.encode(request.sample, answer=False)
        ids, count = np.concatenate([encoded.ids, np.asarray(answer.tokens, np.int64)]), encoded.length
        forced = replace(encoded, ids=ids, positions=np.arange(len(ids)), branches=np.zeros(len(ids), np.int32))
        with torch.no_grad():
            states = model.hidden(processor.collate([[forced]]))[0]
        taps = [states[count + place - 1] for place, token in enumerate(answer.tokens) if token == processor.tap_id]
        assert len(taps) == len(shapes(answer))
        several += len(taps) > 1
        for shape, again in zip(shapes(answer), processor.masks.drawn(model, torch.stack(taps), shown) if taps else ()):
            assert abs(mask_area(shape) - mask_area(again)) <= 2
    assert several > 2 and len({str(answer.items) for answer in together.values()}) > 4


def test_the_engine_draws_what_the_answerer_draws(tiny: tuple[Model, Processor]) -> None:
    model, processor = tiny
    engine, told = Engine(model, processor, EngineLimits(packed=False)), queue.Queue[Any]()
    engine.start()
    try:
        for request in requests()[:3]:
            greedy = replace(request, decoding=Decoding(max_tokens=10, grammar="regions"))
            [expected] = LocalAnswerer(model, processor, "w").answer([greedy])
            encoded = processor.encode(greedy.sample, answer=False)
            engine.submit(Job(encoded=encoded, decodings=(greedy.decoding,), listen=told.put, sample=greedy.sample))
            event = told.get(timeout=30)
            while not isinstance(event, Ended | Failed):
                event = told.get(timeout=30)
            assert isinstance(event, Ended) and event.text == expected.text
            assert event.items == expected.items and shapes(expected)
    finally:
        engine.drain(10)


def test_a_token_spelled_in_letters_is_no_mask(tiny: tuple[Model, Processor]) -> None:
    model, processor = tiny
    sample = requests()[0].sample
    tokens = processor.tokenizer.encode("ship <seg>")
    items, problems = processor.items(processor.decode(tokens), sample)
    assert [region.shape for region in regions_in(items)]
    kept, said = with_masks(model, processor, items, problems, tokens, [], sample)
    assert kept == (Text(text="ship <seg>"),) and [problem.code for problem in said] == [FORMAT_ERROR]


def _row() -> Sample:
    """A ship that fills a triangle of its box, and a question about what is not there."""
    pixels = np.tril(np.ones((20, 20), bool))
    mask = encode_mask(np.pad(pixels, ((5, 5), (10, 10))))
    shown = picture(1, 40, 30)
    turns = (
        Turn(role="user", items=(Show(picture=0), Text(text="segment the ship"))),
        Turn(role="assistant", items=(Regions(regions=(Region(label="ship", shape=mask),), label="ship"),)),
        Turn(role="user", items=(Show(picture=0), Text(text="segment the crane"))),
        Turn(role="assistant", items=(Text(text="there is none"),)),
    )
    attributes = {"turns": "independent", "kind": "segment,segment-none", "asked": ["ship", "crane"]}
    return Sample(id="s", pictures=(shown,), turns=turns, annotations=(Region(label="ship", shape=mask),), attributes=attributes, origin=Origin(source="test"))


def test_questions_of_a_set_are_scored_inside_boxes_beside_filling_them() -> None:
    benchmark = Masks(data="x", questions="own", boxes=True).build([_row()])
    asked = list(benchmark.requests())
    assert [request.sample.text(0) for request in asked] == ["segment the ship", "segment the crane"]
    truth = _row().annotations[0]

    def scored(ship: tuple[Region, ...], crane: tuple[Region, ...]) -> dict[str, float]:
        said = [Answer(key=r.sample.id, sample=r.sample.id, weights="w", text="x", items=(Regions(regions=own),)) for r, own in zip(asked, (ship, crane))]
        return {name: value.value for name, value in benchmark.score(said).metrics.items()}

    right = scored((truth,), ())
    assert right["miou in box"] == 1 and right["rejected"] == 1 and right["giou"] == 1
    box = Region(shape=RotatedBox(cx=20, cy=15, w=20, h=20, theta=0))
    filled = scored((box,), (box,))
    assert filled["fill-box"] == right["fill-box"] and 0.4 < right["fill-box"] < 0.95
    assert filled["rejected"] == 0 and filled["iou crane"] == 0
    assert right["miou above fill-box"] == pytest.approx(1 - right["fill-box"])


def test_the_operator_and_the_benchmark_agree() -> None:
    source = replace(_row(), turns=(), attributes={})
    other = replace(source, id="t", annotations=(Region(label="crane", shape=source.annotations[0].shape),))
    learnt = Segment(per_picture=3, absent=0.5).learn([source, other])
    [made_of] = learnt.each(source, np.random.default_rng(3), ()).samples
    rows = Masks(data="x", questions="own").build([made_of]).region_rows()
    assert {row.told("label") for row in rows} == {"ship", "crane"} and [bool(row.regions) for row in rows] == [row.told("label") == "ship" for row in rows]
