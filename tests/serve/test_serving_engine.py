"""The engine: answers are those of questions asked alone, whoever is written beside them; clients take turns; what is too much is declined; what fails takes nobody with it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from compositions import COMPOSITIONS, make
from tiny_models import TEXTS, built, picture, turn, writer

from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Origin, Picture, Sample, Turn
from sightline.serve.jobs import Added, Began, Declined, Ended, Event, Failed, Job
from sightline.serve.serving_engine import Engine, EngineLimits

PICTURES = (picture(1, 40, 30), picture(2, 64, 30), picture(3, 30, 64))
QUESTIONS = ("How many ships?", "Where?", "A curious user asks: yes?", "none", "In the harbor?")
PATIENCE = 120.0


def asked(name: str, *turns: Turn, pictures: Sequence[Picture] = (), tokens: int = 5, **said: Any) -> Request:
    sample = Sample(id=name, pictures=tuple(pictures), turns=turns, origin=Origin(source="test", row=name))
    return Request(sample=sample, decoding=Decoding(max_tokens=tokens, **said))


def questions() -> list[Request]:
    found = [
        asked(f"{p}-{q}", turn("user", 0, text), pictures=[one], tokens=2 + (3 * q + p) % 5)
        for p, one in enumerate(PICTURES[:2])
        for q, text in enumerate(QUESTIONS)
    ]
    found.append(asked("third", turn("user", 0, "Where?"), pictures=PICTURES[2:], tokens=9))
    found.append(asked("pair", turn("user", 0, 1, "Where?"), pictures=PICTURES[:2]))
    return [*found, asked("text", turn("user", "How many ships in the harbor?"), tokens=8), asked("drawn", turn("user", "Where?"), temperature=1.3, seed=4)]


@pytest.fixture(scope="module")
def flat() -> tuple[Model, Processor]:
    return make("flat")


class Listener:
    """Collects the events of a job."""

    def __init__(self) -> None:
        self.events: queue.Queue[Event] = queue.Queue()

    def all(self, choices: int = 1) -> list[Event]:
        """Events up to the end of the job."""
        found: list[Event] = []
        while sum(isinstance(event, Ended) for event in found) < choices and not any(isinstance(event, Failed) for event in found):
            found.append(self.events.get(timeout=PATIENCE))
        return found


def job(processor: Processor, request: Request, **said: Any) -> tuple[Job, Listener]:
    listener = Listener()
    fields: dict[str, Any] = {"decodings": (request.decoding,)} | said
    return Job(encoded=processor.encode(request.sample, answer=False), listen=listener.events.put, **fields), listener


@contextmanager
def working(model: Model, processor: Processor, **said: Any) -> Iterator[Engine]:
    engine = Engine(model, processor, EngineLimits(**{"max_num_seqs": 5, "max_num_batched_tokens": 7, "max_model_len": 400} | said))
    engine.start()
    try:
        yield engine
    finally:
        engine.drain(PATIENCE)


def alone(model: Model, processor: Processor, requests: Sequence[Request]) -> dict[str, Answer]:
    return {request.sample.id: next(LocalAnswerer(model, processor, "w", shared=False).answer([request])) for request in requests}


@pytest.mark.parametrize("name", sorted(COMPOSITIONS))
def test_answers_are_those_of_questions_asked_alone(name: str) -> None:
    model, processor = make(name)
    requests = questions()
    expected = alone(model, processor, requests)
    with working(model, processor) as engine:
        for _ in range(2):  # the second time prompts are known
            jobs = [(request, *job(processor, request)) for request in requests]
            for _, one, _ in jobs:
                engine.submit(one)
            for request, _, listener in jobs:
                events = listener.all()
                [ended] = [event for event in events if isinstance(event, Ended)]
                answer = expected[request.sample.id]
                assert (ended.tokens, ended.text, ended.finish) == (answer.tokens, answer.text, answer.finish), request.sample.id
                assert ended.logps == pytest.approx(answer.logps, abs=1e-4)
                assert "".join(event.text for event in events if isinstance(event, Added)) == answer.text
    assert not engine.broken and engine.running == engine.waiting == 0


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_there(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    first = asked("a", turn("user", 0, "How many ships in the harbor?"), pictures=PICTURES[:1])
    other = asked("b", turn("user", 0, "How many ships in the harbor?"), pictures=PICTURES[1:2])
    with working(model, processor) as engine:
        cached = []
        for request in (first, first, other):
            one, listener = job(processor, request)
            engine.submit(one)
            cached += [event.cached for event in listener.all() if isinstance(event, Began)]
    length = processor.encode(first.sample, answer=False).length
    assert cached[0] == 0 and cached[1] == length - 1
    assert cached[2] < length - 10, "another picture is another prompt"


def test_several_answers_to_one_prompt_differ_and_are_those_of_their_seeds(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    request = asked("n", turn("user", 0, "Where?"), pictures=PICTURES[:1])
    decodings = tuple(Decoding(max_tokens=6, temperature=2.0, seed=seed) for seed in range(4))
    expected = [alone(model, processor, [replace(request, decoding=one)])["n"].tokens for one in decodings]
    with working(model, processor) as engine:
        one, listener = job(processor, request, decodings=decodings, likeliest=3)
        engine.submit(one)
        events = listener.all(4)
    ended = {event.choice: event.tokens for event in events if isinstance(event, Ended)}
    assert [ended[choice] for choice in range(4)] == expected and len(set(expected)) > 1
    added = [event for event in events if isinstance(event, Added)]
    assert all(len(event.likeliest) == 3 and event.likeliest[0][1] >= event.logp - 1e-6 for event in added)


def test_a_stop_text_ends_an_answer_and_is_never_shown(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    request = asked("s", turn("user", 0, "Where?"), pictures=PICTURES[:1], tokens=12)
    whole = alone(model, processor, [request])["s"].text
    assert len(whole) > 6
    stop = whole[3:6]
    with working(model, processor) as engine:
        one, listener = job(processor, replace(request, decoding=replace(request.decoding, stop=(stop,))))
        engine.submit(one)
        events = listener.all()
    shown = "".join(event.text for event in events if isinstance(event, Added))
    assert shown == whole[: whole.index(stop)] and events[-1].finish == "stop"  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_too_much_is_declined(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    engine = Engine(model, processor, EngineLimits(max_model_len=60, max_num_queued_reqs=3, max_queued_per_client=2))  # not started: all wait
    request = asked("q", turn("user", "Where?"))

    def status(client: str, **said: Any) -> tuple[int, float | None]:
        with pytest.raises(Declined) as raised:
            engine.submit(job(processor, replace(request, decoding=Decoding(**{"max_tokens": 5} | said)), client=client)[0])
        return raised.value.status, raised.value.retry_after

    assert status("a", max_tokens=60) == (400, None)
    for _ in range(2):
        engine.submit(job(processor, request, client="a")[0])
    assert status("a")[0] == 429 and status("a")[1] is not None
    engine.submit(job(processor, request, client="b")[0])
    assert status("c")[0] == 503 and status("c")[1] is not None


def test_clients_take_turns(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    engine = Engine(model, processor, EngineLimits(max_num_seqs=1))
    order: list[str] = []
    request = asked("q", turn("user", "Where?"), tokens=2)
    done = threading.Semaphore(0)
    for number, client in enumerate(("many", "many", "many", "one")):

        def listen(event: Event, name: str = f"{client}-{number}") -> None:
            if isinstance(event, Ended):
                order.append(name)
                done.release()

        engine.submit(Job(encoded=processor.encode(request.sample, answer=False), decodings=(request.decoding,), listen=listen, client=client))
    engine.start()
    for _ in range(4):
        assert done.acquire(timeout=PATIENCE)
    engine.drain(PATIENCE)
    assert order == ["many-0", "one-3", "many-1", "many-2"]


def test_a_job_given_up_or_late_leaves_the_others_alone(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    stays = asked("stays", turn("user", 0, "Where?"), pictures=PICTURES[:1], tokens=40)
    expected = alone(model, processor, [stays])["stays"]
    with working(model, processor) as engine:
        gone, gone_listener = job(processor, asked("gone", turn("user", "none"), tokens=300))
        late, late_listener = job(processor, asked("late", turn("user", "yes?"), tokens=300), deadline=time.monotonic() + 0.05)
        kept, kept_listener = job(processor, stays)
        for one in (gone, late, kept):
            engine.submit(one)
        while not isinstance(gone_listener.events.get(timeout=PATIENCE), Added):
            pass
        engine.cancel(gone)
        [ended] = [event for event in kept_listener.all() if isinstance(event, Ended)]
        failed = late_listener.all()[-1]
    assert isinstance(failed, Failed) and failed.declined.status == 504
    assert ended.tokens == expected.tokens
    told = list(gone_listener.events.queue)
    assert not any(isinstance(event, Ended | Failed) for event in told)


def test_a_failure_takes_those_at_hand_and_the_engine_goes_on(flat: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = flat
    request = asked("q", turn("user", "Where?"), tokens=4)
    with working(model, processor) as engine:
        extend, calls = model.extend, iter(range(100))

        def fails(*given: Any) -> Any:
            if next(calls) == 1:
                raise RuntimeError("no memory")
            return extend(*given)

        monkeypatch.setattr(model, "extend", fails)
        first, first_listener = job(processor, request)
        engine.submit(first)
        failed = first_listener.all()[-1]
        assert isinstance(failed, Failed) and failed.declined.status == 500
        again, again_listener = job(processor, request)
        engine.submit(again)
        assert isinstance(again_listener.all()[-1], Ended)


def test_draining_finishes_what_was_taken_and_takes_nothing_more(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    engine = Engine(model, processor, EngineLimits(max_num_seqs=2))
    listeners = []
    for number in range(5):
        one, listener = job(processor, asked(str(number), turn("user", "Where?"), tokens=6))
        engine.submit(one)
        listeners.append(listener)
    engine.start()
    assert engine.drain(PATIENCE)
    assert all(isinstance(listener.all()[-1], Ended) for listener in listeners)
    with pytest.raises(Declined) as raised:
        engine.submit(job(processor, asked("x", turn("user", "Where?")))[0])
    assert raised.value.status == 503


def test_what_is_not_finished_in_time_is_told_so(flat: tuple[Model, Processor]) -> None:
    model, processor = flat
    engine = Engine(model, processor, EngineLimits(max_num_seqs=1, max_model_len=400))
    one, listener = job(processor, asked("long", turn("user", "Where?"), tokens=360))
    engine.submit(one)
    engine.start()
    assert not engine.drain(0.01)
    failed = listener.all()[-1]
    assert isinstance(failed, Failed) and failed.declined.status == 503


@pytest.mark.parametrize("room", [9, 60])
def test_a_grammar_holds_answers_as_in_an_evaluation(room: int) -> None:
    config = writer(chat="turns", codec={"kind": "xyhwt"})
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(tokenizer.size, control=tokenizer.control), tokenizer)
    found = asked("r", turn("user", 0, "Where?"), pictures=PICTURES[:1])
    requests = [
        replace(found, sample=replace(found.sample, id=str(seed)), decoding=Decoding(max_tokens=room, grammar="regions", temperature=heat, seed=seed))
        for seed, heat in enumerate((0.0, 1.5, 1.5))
    ]
    try:
        expected = alone(model, processor, requests)
    except Refused as refused:
        assert refused.problems[0].code == "model/no-room"
        return
    with working(model, processor) as engine:
        jobs = [(request, *job(processor, request)) for request in requests]
        for _, one, _ in jobs:
            engine.submit(one)
        for request, _, listener in jobs:
            events = listener.all()
            [ended] = [event for event in events if isinstance(event, Ended)]
            answer = expected[request.sample.id]
            assert (ended.tokens, ended.text, ended.finish) == (answer.tokens, answer.text, answer.finish)
            assert answer.text.startswith("".join(event.text for event in events if isinstance(event, Added)))
