"""Questions asked together: prompts that begin alike go through the model once, whatever the fusion, and answers are those of questions asked alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compositions import COMPOSITIONS, make
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import picture, turn

from sightline.errors import Refused
from sightline.evaluate import prefixes
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.answers import AnswerFile, answer_all
from sightline.evaluate.choosing import Chooser
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.prefixes import LEAST, LINES, arrange
from sightline.evaluate.scoring_answers import TextScorer
from sightline.model.packed_weights import PackedWeights
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Origin, Picture, Sample, Turn

PICTURES = (picture(1, 40, 30), picture(2, 64, 30), picture(3, 30, 64))
QUESTIONS = ("How many ships?", "Where?", "A curious user asks: yes?", "none", "In the harbor?")


def asked(name: str, *turns: Turn, pictures: Sequence[Picture] = (), tokens: int = 5, **said: Any) -> Request:
    sample = Sample(id=name, pictures=tuple(pictures), turns=turns, origin=Origin(source="test", row=name))
    return Request(sample=sample, decoding=Decoding(max_tokens=tokens, **said))


def questions() -> list[Request]:
    """Several questions about two pictures, one about a third, two about a pair of which the second differs, one after an earlier answer, and text alone; lengths of prompts and answers differ."""
    found = [
        asked(f"{p}-{q}", turn("user", 0, text), pictures=[one], tokens=2 + (3 * q + p) % 5)
        for p, one in enumerate(PICTURES[:2])
        for q, text in enumerate(QUESTIONS)
    ]
    found.append(asked("third", turn("user", 0, "Where?"), pictures=PICTURES[2:]))
    found += [asked(f"pair-{p}", turn("user", 0, 1, "Where?"), pictures=[PICTURES[0], PICTURES[p]]) for p in (1, 2)]
    found.append(asked("later", turn("user", 0, "Where?"), turn("assistant", "none"), turn("user", "How many?"), pictures=PICTURES[:1]))
    return [*found, asked("text", turn("user", "How many ships in the harbor?")), asked("text-2", turn("user", "How many ships in the night?"))]


@pytest.fixture(scope="module")
def flat() -> tuple[Model, Processor]:
    return make("flat")


def by_name(answers: Sequence[Answer]) -> dict[str, Answer]:
    return {answer.sample: answer for answer in answers}


def assert_same(found: dict[str, Answer], expected: dict[str, Answer]) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert (found[name].tokens, found[name].key, found[name].text) == (one.tokens, one.key, one.text), name
        assert found[name].logps == pytest.approx(one.logps, abs=1e-4)


@pytest.mark.parametrize("name", sorted(COMPOSITIONS))
def test_together_in_small_batches_and_alone_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "LEAST", 2)  # tiny prompts share little
    model, processor = make(name)
    requests = [request for request in questions() if len(request.sample.turns) == 1 or name != "question-in-memory"]  # which has 30 tokens
    answerer = LocalAnswerer(model, processor, "w")
    together = by_name(list(answerer.answer(requests)))
    alone = by_name([answer for request in requests for answer in LocalAnswerer(model, processor, "w", shared=False).answer([request])])
    assert_same(together, alone)
    assert_same(by_name(list(LocalAnswerer(model, processor, "w", batch=3, batch_tokens=400).answer(requests))), alone)
    assert len({answer.tokens for answer in alone.values()}) > 3
    counts = answerer.counts
    joint = processor.config.fusion.prompt == "memory"
    assert counts.questions == len(requests) == counts.shared + sum(counts.alone.values())
    assert list(counts.alone) == ["prompt-in-memory" if joint else "nothing-in-common"] and (counts.shared >= 2 * len(QUESTIONS)) == (not joint), counts
    assert counts.computed_tokens < counts.prompt_tokens or joint


def test_what_prompts_share_goes_through_the_model_once(flat: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = flat
    tokens: list[int] = []
    extend = model.extend
    monkeypatch.setattr(
        model, "extend", lambda state, batch, places=None: tokens.append(int((batch.decoder.segments > 0).sum())) or extend(state, batch, places)
    )
    requests = [replace(request, decoding=Decoding(max_tokens=1)) for request in questions()]
    answerer = LocalAnswerer(model, processor, "w")
    list(answerer.answer(requests))
    assert sum(tokens) == answerer.counts.computed_tokens < 0.75 * answerer.counts.prompt_tokens


def test_sampled_answers_do_not_depend_on_company(flat: tuple[Model, Processor]) -> None:
    requests = [replace(request, decoding=Decoding(max_tokens=4, temperature=1.5, seed=number)) for number, request in enumerate(questions())]
    together = by_name(list(LocalAnswerer(*flat, "w").answer(requests)))
    assert_same(together, by_name([answer for request in requests for answer in LocalAnswerer(*flat, "w").answer([request])]))


def test_memory_in_flight_is_bounded(flat: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = flat
    columns: list[int] = []
    extend = model.extend

    def watched(state: Any, batch: Any, places: Any = None) -> Any:
        h, after = extend(state, batch, places)
        columns.append(after.valid.numel())
        return h, after

    monkeypatch.setattr(model, "extend", watched)
    bound = 300
    list(LocalAnswerer(model, processor, "w", batch_tokens=bound).answer(questions()))
    assert 100 < max(columns) <= bound


def test_prompts_are_encoded_once(flat: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, processor = flat
    encoded: list[str] = []
    encode = processor.encode
    monkeypatch.setattr(processor, "encode", lambda sample, answer=True: encoded.append(sample.id) or encode(sample, answer))
    answerer = LocalAnswerer(model, processor, "w")
    requests = questions()
    answer_all(requests, answerer, [answerer.key(request) for request in requests], AnswerFile(tmp_path / "answers.jsonl"))
    assert encoded == [request.sample.id for request in requests]


def test_another_checkpoint_under_the_same_path_never_reuses(flat: tuple[Model, Processor], tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl")
    requests = questions()[:3]
    for weights, total in (("w", 3), ("w", 3), ("other", 6)):
        answerer = LocalAnswerer(*flat, weights)
        found = answer_all(requests, answerer, [answerer.key(request) for request in requests], file)
        assert len(file) == total and {answer.weights for answer in found} == {weights}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.lists(st.integers(0, 1), min_size=1, max_size=4)), min_size=1, max_size=12))
def test_bins_hold_each_prompt_once_and_share_what_is_the_same(drawn: list[tuple[int, int, list[int]]]) -> None:
    spelled = [np.asarray([0, *(kind * 7 + place % 5 for place in range(length)), *own]) for kind, length, own in drawn]
    bins = arrange(spelled)
    assert sorted(number for one in bins for number in one.lines) == list(range(len(spelled)))
    for one in bins:
        assert len({spelled[number][: 1 + one.trunk].tobytes() for number in one.lines}) == 1 and len(one.lines) <= LINES
        assert all(len(spelled[number]) - 1 > one.trunk for number in one.lines)
        assert len(one.lines) == 1 or one.trunk >= LEAST


def test_groups_are_those_that_save_most() -> None:
    def prompt(picture_number: int, question: int) -> np.ndarray:
        return np.asarray([0, *range(40), *(-1000 * picture_number - place for place in range(1, 600)), 50 + question, 7])

    several = [prompt(p, q) for p in (1, 2) for q in range(18)]
    assert [(one.trunk, len(one.lines)) for one in arrange(several)] == [(639, 18), (639, 18)]
    assert all(len(one.lines) == 1 for one in arrange([prompt(p, 0) for p in range(1, 6)]))  # 40 tokens are not worth six hundred columns of others


def test_packed_weights_say_the_same_and_leave_no_trace(flat: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = flat
    plain = by_name(list(LocalAnswerer(*flat, "w").answer(questions())))
    monkeypatch.setattr("sightline.evaluate.answering.WORTH_PACKING", 1)
    packed = PackedWeights(model, torch.float32)
    with packed.used():
        assert bool(len(packed)) == any("forward" in module.__dict__ for module in model.modules() if type(module) is torch.nn.Linear)
    assert_same(by_name(list(LocalAnswerer(*flat, "w").answer(questions()))), plain)
    assert not any("forward" in module.__dict__ for module in model.modules() if type(module) is torch.nn.Linear)


def test_the_likeliest_option_is_chosen(flat: tuple[Model, Processor]) -> None:
    scorer = TextScorer(*flat, "w")
    options = ["none", "Three ships.", "In the harbor, yes."]
    request = asked("q", turn("user", 0, "Where?"), pictures=PICTURES[:1])
    request = replace(request, ask="choose", sample=replace(request.sample, attributes={"options": options}))
    scored = by_name(
        list(scorer.answer([asked(text, turn("user", 0, "Where?"), turn("assistant", text), pictures=PICTURES[:1]) for text in options])),
    )
    for by in ("mean", "sum"):
        [found] = Chooser(scorer, by).answer([request])
        figures = [sum(scored[text].logps) / (len(scored[text].logps) if by == "mean" else 1) for text in options]
        assert found.vector == pytest.approx(figures, abs=1e-4) and found.choice == int(np.argmax(figures)) and found.text == options[int(np.argmax(figures))]
        assert found.score == pytest.approx(max(figures), abs=1e-4) and found.sample == "q" and found.key == Chooser(scorer, by).key(request)
    answerer = ModelAnswerer(*flat, "w")
    [found] = answerer.answer([request])
    assert found.key == answerer.key(request) == Chooser(scorer).key(request) != Chooser(scorer, "sum").key(request)
    with pytest.raises(Refused, match="evaluate/no-options"):
        list(Chooser(scorer).answer([asked("q", turn("user", "Where?"))]))


_KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_answering_together import make, questions
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.answers import AnswerFile, answer_all
answerer = LocalAnswerer(*make("flat"), "w", batch=2)
inner = answerer.answer
def told(requests):
    asked = list(requests)
    print("asked", *(request.sample.id for request in asked), flush=True)
    for answer in inner(asked):
        print("given", answer.sample, flush=True)
        yield answer
answerer.answer = told
requests = questions()
answer_all(requests, answerer, [answerer.key(request) for request in requests], AnswerFile(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    here = Path(__file__).resolve().parent
    words = [sys.executable, "-c", _KILLED, str(file), str(here), str(here.parent / "model")]
    before: set[str] = set()
    for kill_after in (3, None):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[0] == "asked" and not before & set(first[1:])  # whatever was written is not asked again
        given_now = 0
        for line in process.stdout:
            given_now += line.startswith("given")
            if given_now == kill_after:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (-signal.SIGKILL if kill_after else 0)
        AnswerFile(file)  # cuts off a torn last line
        before = {json.loads(line)["sample"] for line in file.read_bytes().splitlines()}
        assert len(before) >= (kill_after or 0) - 1
    assert before == {request.sample.id for request in questions()} and len(file.read_bytes().splitlines()) == len(before)
