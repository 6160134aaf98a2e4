"""Passes side by side: the same answers as one after another, errors and interrupts where they belong."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_answering_together import assert_same, by_name, make, questions
from torch import nn

from sightline.evaluate import generation, prefixes
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.side_by_side import passes_at_once, side_by_side
from sightline.model.language import LanguageModelConfig

MODEL = nn.Linear(2, 2)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_in_order_under_the_settings_of_the_caller() -> None:
    both = threading.Barrier(2, timeout=60)  # which one thread alone does not pass

    def work(item: int) -> tuple[int, bool, torch.dtype, int]:
        both.wait()
        return item, torch.is_grad_enabled(), MODEL(torch.ones(1, 2)).dtype, torch.get_num_threads()

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert side_by_side(MODEL, work, range(6)) == [(item, False, torch.bfloat16, 1) for item in range(6)]
    assert side_by_side(MODEL, work, range(2)) == [(item, True, torch.float32, 1) for item in range(2)]
    assert torch.get_num_threads() == 2
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2], "threads begun later have all"


def test_one_item_or_one_thread_stays_with_the_caller() -> None:
    here = threading.get_ident()
    assert side_by_side(MODEL, lambda _: (threading.get_ident(), torch.get_num_threads()), [0]) == [(here, 2)]
    torch.set_num_threads(1)
    assert side_by_side(MODEL, lambda _: threading.get_ident(), [0, 1, 2]) == [here] * 3
    assert side_by_side(MODEL, lambda item: item, []) == []


def test_an_error_ends_it_and_is_raised_here() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        if item == 2:
            raise ValueError("the third")
        return item

    with pytest.raises(ValueError, match="the third"):
        side_by_side(MODEL, work, range(100))
    assert len(begun) < 50 and torch.get_num_threads() == 2


def test_an_interrupt_begins_no_further_pass() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 30:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ran before in this process
    try:
        with pytest.raises(KeyboardInterrupt):
            side_by_side(MODEL, work, range(200))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) < 100 and torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pass")]


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_angles_that_a_pass_changes_are_not_shared(kind: str) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    rotary = {"rope_type": kind, "rope_theta": 10000.0} | ({"factor": 2.0} if kind == "dynamic" else {})
    model = LanguageModelConfig(config={"model_type": "llama", "vocab_size": 50, **sizes, "rope_parameters": rotary}).build()
    assert passes_at_once(model) == (2 if kind == "default" else 1)


@pytest.mark.parametrize("name", ["flat", "question-in-memory", "hybrid", "prompt-in-memory"])
def test_answers_are_those_of_one_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "LEAST", 2)
    monkeypatch.setattr(generation, "CPU_READ", 60)
    monkeypatch.setattr("sightline.evaluate.answering.WORTH_PACKING", 1)
    model, processor = make(name)
    requests = [request for request in questions() if len(request.sample.turns) == 1 or name != "question-in-memory"]
    threads: set[int] = set()
    extend = model.extend

    def watched(*said: Any) -> Any:
        threads.add(threading.get_ident())
        return extend(*said)

    monkeypatch.setattr(model, "extend", watched)
    found = list(LocalAnswerer(model, processor, "w").answer(requests))
    assert threads - {threading.get_ident()}, "others than this one, though one of them may have been quick enough for all"
    threads.clear()
    torch.set_num_threads(1)
    alone = list(LocalAnswerer(model, processor, "w").answer(requests))
    assert threads == {threading.get_ident()}
    assert [one.sample for one in found] == [one.sample for one in alone]
    assert_same(by_name(found), by_name(alone))


def test_an_error_in_a_pass_reaches_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = make("flat")
    monkeypatch.setattr(generation, "CPU_READ", 60)
    answerer = LocalAnswerer(model, processor, "w")
    extend = model.extend

    def spoiled(*said: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no memory left")
        return extend(*said)

    monkeypatch.setattr(model, "extend", spoiled)
    with pytest.raises(RuntimeError, match="no memory left"):
        list(answerer.answer(questions()))
    monkeypatch.setattr(model, "extend", extend)
    assert len(list(answerer.answer(questions()))) == len(questions()), "and the next call answers"
    assert torch.get_num_threads() == 2
