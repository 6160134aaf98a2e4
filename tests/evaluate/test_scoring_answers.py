"""Scored text: the log-probabilities of training's own forward, the same alone, in a batch, packed and with a shared prompt, in float32, and never stopped by one bad text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compositions import COMPOSITIONS, composition
from tiny_models import TEXTS as TOLD
from tiny_models import built, byte_level, picture, turn, writer

from sightline.evaluate.answers import AnswerFile, Remembering
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.scoring_answers import TextScorer
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Picture, Sample, Turn

PICTURES = (picture(1, 40, 30), picture(2, 64, 30))
TEXTS = ("Three ships.", "In the harbor, yes.", "none", "A curious user asks how many ships.")


def asked(name: str, *turns: Turn, pictures: Sequence[Picture] = ()) -> Request:
    return Request(sample=Sample(id=name, pictures=tuple(pictures), turns=turns, origin=Origin(source="test", row=name)), ask="score")


def captions() -> list[Request]:
    """Every text about each of two pictures, two questions, and text alone; lengths differ."""
    found = [
        asked(f"{p}-{t}", turn("user", 0, "Where?" if t % 2 else "How many ships?"), turn("assistant", text), pictures=[one])
        for p, one in enumerate(PICTURES)
        for t, text in enumerate(TEXTS)
    ]
    return [*found, asked("alone", turn("user", "Where?"), turn("assistant", "yes"))]


def make(name: str = "flat") -> tuple[Model, Processor]:
    config = composition(name)
    tokenizer = train_tokenizer(TOLD, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(400, control=tokenizer.control), tokenizer)
    with torch.no_grad():  # open gates: what is read across them must change something
        for path, tensor in model.named_parameters():
            if "_gate" in path and tensor.numel() == 1:
                tensor.fill_(0.5)
    return model, processor


@pytest.fixture(scope="module")
def made() -> tuple[Model, Processor]:
    return make()


def by_name(answers: Sequence[Answer]) -> dict[str, Answer]:
    return {answer.sample: answer for answer in answers}


def apart(one: dict[str, Answer], other: dict[str, Answer]) -> float:
    """Largest difference between log-probabilities of the same tokens."""
    assert one.keys() == other.keys() and all(one[name].tokens == other[name].tokens for name in one)
    return max(abs(a - b) for name in one for a, b in zip(one[name].logps, other[name].logps, strict=True))


@pytest.mark.parametrize("name", sorted(COMPOSITIONS))
def test_company_and_sharing_change_nothing(name: str) -> None:
    model, processor = make(name)
    requests = captions()
    shared = by_name(list(TextScorer(model, processor, "w").answer(requests)))
    unshared = by_name(list(TextScorer(model, processor, "w", shared=False).answer(requests)))
    single = by_name([answer for request in requests for answer in TextScorer(model, processor, "w", tokens=1).answer([request])])
    assert [answer.problems for answer in single.values() if answer.score is None] == []
    assert apart(shared, single) < 1e-5 and apart(unshared, single) < 1e-5
    assert len({round(answer.score or 0, 4) for answer in single.values()}) > len(TEXTS)  # some towers of random weights say little: texts differ at least


def test_numbers_are_those_of_one_plain_forward(made: tuple[Model, Processor]) -> None:
    model, processor = made
    found = by_name(list(TextScorer(model, processor, "w").answer(captions())))
    assert model.language_model is not None
    for request in captions():
        encoded = processor.encode(request.sample)
        with torch.no_grad():
            h = model.hidden(processor.collate([[encoded]]))[0]
            logps = model.language_model.logits(h).log_softmax(-1)
        expected = [float(logps[place, token]) for place, token in zip(encoded.answers, encoded.targets)]
        answer = found[request.sample.id]
        assert answer.logps == pytest.approx(expected, abs=1e-5) and answer.score == pytest.approx(sum(expected), abs=1e-4)
        assert answer.tokens[-1] == processor.tokenizer.end_id and processor.decode(answer.tokens) == answer.text == request.sample.text(1)


def test_packed_is_padded(made: tuple[Model, Processor]) -> None:
    model, processor = made
    encoded = [processor.encode(request.sample) for request in captions()]
    with torch.no_grad():
        padded = model(processor.collate([[one] for one in encoded])).logp
        packed = model(processor.collate([encoded[:4], encoded[4:]])).logp
    assert torch.allclose(padded, packed, atol=1e-5)


def test_a_prompt_is_computed_once(made: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = made
    places: list[int] = []
    pictures: list[int] = []
    hidden, encoder = model.hidden, model.encoders["vision"]
    monkeypatch.setattr(model, "hidden", lambda batch, at=None: places.append(int((batch.decoder.segments > 0).sum())) or hidden(batch, at))
    seen = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda shown, read: pictures.append(len(shown.tilings)) or seen(shown, read))
    list(TextScorer(model, processor, "w").answer(captions()))
    together, looked = sum(places), sum(pictures)
    places.clear()
    list(TextScorer(model, processor, "w", shared=False).answer(captions()))
    assert looked == len(PICTURES) and together < 0.7 * sum(places)


def test_only_the_last_turn_is_scored(made: tuple[Model, Processor]) -> None:
    model, processor = made
    told = asked(
        "d", turn("user", 0, "Where?"), turn("assistant", "In the harbor."), turn("user", "How many?"), turn("assistant", "none"), pictures=PICTURES[:1]
    )
    [answer] = TextScorer(model, processor, "w").answer([told])
    assert answer.text == "none" and processor.decode(answer.tokens) == "none"
    other = replace(told, sample=replace(told.sample, turns=(told.sample.turns[0], turn("assistant", "yes"), *told.sample.turns[2:])))
    [changed] = TextScorer(model, processor, "w").answer([other])
    assert changed.tokens == answer.tokens and changed.score != pytest.approx(answer.score, abs=1e-4)


def test_log_softmax_is_float32_in_bfloat16(made: tuple[Model, Processor]) -> None:
    model, processor = made
    fine = by_name(list(TextScorer(model, processor, "w").answer(captions())))
    coarse = by_name(list(TextScorer(model, processor, "w", precision="bfloat16").answer(captions())))
    values = np.array([logp for answer in coarse.values() for logp in answer.logps], np.float32)
    rounded = torch.from_numpy(values).bfloat16().float().numpy()
    assert 1e-5 < apart(fine, coarse) < 0.3 and (values != rounded).mean() > 0.9


def test_a_text_that_is_too_long_is_listed_and_stops_nobody() -> None:
    config = writer(max_tokens=40)
    tokenizer = byte_level(config.chat_format(), Path())
    model, processor = built(config.resolve(tokenizer.size), tokenizer)
    long = asked("long", turn("user", 0, "Where?"), turn("assistant", "quay " * 60), pictures=PICTURES[:1])
    broken = asked("broken", turn("user", 0, "Where?"), turn("assistant", "yes"), pictures=[replace(PICTURES[0], hash="x", data=b"no picture")])
    found = by_name(list(TextScorer(model, processor, "w").answer([*captions(), long, broken])))
    assert {name for name, answer in found.items() if answer.score is None} == {"long", "broken"}
    assert found["long"].finish == "refused" and [problem.code for problem in found["long"].problems] == ["model/too-long"]
    assert [problem.code for problem in found["broken"].problems] == ["samples/not-a-picture"]
    assert all(math.isfinite(answer.score or 0.0) for answer in found.values())


def test_no_room_on_the_device_makes_smaller_batches(made: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = made
    expected = by_name(list(TextScorer(model, processor, "w").answer(captions())))
    hidden = model.hidden

    def narrow(batch: Any, places: torch.Tensor | None = None) -> torch.Tensor:
        if len(batch.decoder.ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return hidden(batch, places)

    monkeypatch.setattr(model, "hidden", narrow)
    assert apart(by_name(list(TextScorer(model, processor, "w").answer(captions()))), expected) < 1e-5

    def full(batch: Any, places: torch.Tensor | None = None) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(model, "hidden", full)
    assert {answer.problems[0].code for answer in TextScorer(model, processor, "w").answer(captions())} == {"evaluate/no-room"}


def test_a_killed_pass_goes_on(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    file = tmp_path / "answers.jsonl"
    first = Remembering(ModelAnswerer(model, processor, "w"), AnswerFile(file))
    half = list(first.answer(captions()[:5]))
    with file.open("ab") as stream:
        stream.write(b'{"key": "torn')
    asked_again: list[str] = []

    class Counting(ModelAnswerer):
        def answer(self, requests: Any) -> Any:
            known = list(requests)
            asked_again.extend(request.sample.id for request in known)
            return super().answer(known)

    again = list(Remembering(Counting(model, processor, "w"), AnswerFile(file)).answer(captions()))
    assert asked_again == [request.sample.id for request in captions()[5:]]
    assert again[:5] == half and len(again) == len(captions())


def test_the_key_names_what_a_score_depends_on(made: tuple[Model, Processor]) -> None:
    model, processor = made
    scorer = TextScorer(model, processor, "w")
    one, other = captions()[0], captions()[4]
    same = replace(one, sample=replace(one.sample, id="other", attributes={"split": "val"}))
    keys = [scorer.key(one), TextScorer(model, processor, "v").key(one), TextScorer(model, processor, "w", precision="bfloat16").key(one), scorer.key(other)]
    assert len(set(keys)) == 4 and scorer.key(same) == scorer.key(one)
    assert ModelAnswerer(model, processor, "w").key(one) == scorer.key(one)
