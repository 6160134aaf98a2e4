"""Counts of several replicas behind one address."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sightline.serve import gathered_meters
from sightline.serve.gathered_meters import Board, Telling, merged
from sightline.serve.meters import Meters


def counted(prompts: int, waiting: int, seconds: float) -> Meters:
    meters = Meters()
    meters.prompt(prompts, 0)
    meters.waiting.set(waiting)
    meters.finished("stop", seconds)
    return meters


def samples(text: bytes, name: str) -> dict[str, float]:
    """Values of a metric by replica."""
    families = list(text_string_to_metric_families(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "each family stands once"
    return {sample.labels.get("replica", ""): sample.value for family in families for sample in family.samples if sample.name == name}


def test_every_sample_says_whose_it_is_and_each_family_stands_once() -> None:
    text = merged({"a": counted(3, 1, 0.2).text(), "b": counted(40, 5, 20.0).text()})
    assert samples(text, "sightline_prompt_tokens_total") == {"a": 3, "b": 40}
    assert samples(text, "sightline_num_requests_waiting") == {"a": 1, "b": 5}
    assert samples(text, "sightline_e2e_request_latency_seconds_sum") == {"a": 0.2, "b": 20.0}
    assert samples(text, "sightline_replicas") == {"": 2}
    assert text.count(b"# TYPE sightline_num_requests_waiting gauge") == 1


def test_labels_of_a_sample_stay() -> None:
    families = text_string_to_metric_families(merged({"a": counted(1, 0, 0.1).text()}).decode())
    labels = [sample.labels for family in families for sample in family.samples if sample.name == "sightline_request_success_total"]
    assert labels == [{"finished_reason": "stop", "replica": "a"}]


def test_a_replica_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(gathered_meters.time, "monotonic", lambda: now[0])
    board = Board()
    board.exchange("a", b"", 2)
    now[0] += gathered_meters.LASTING - 1
    assert sorted(board.exchange("b", b"", 3).texts) == ["a", "b"] and board.busy() == 5
    now[0] += 2
    assert sorted(board.exchange("b", b"", 3).texts) == ["b"] and board.busy() == 3


def test_a_replica_tells_its_counts_and_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered_meters, "EVERY", 0.01)
    board, ended = Board(), []
    board.exchange("b", counted(7, 0, 0.1).text(), 0)
    telling = Telling("a", counted(5, 0, 0.1), board.exchange, lambda: 4, lambda: ended.append(threading.get_ident()))
    wait(lambda: samples(telling.text(), "sightline_prompt_tokens_total") == {"a": 5, "b": 7})
    assert board.busy() == 4 and not ended
    telling.meters.prompt(1, 0)
    assert samples(telling.text(), "sightline_prompt_tokens_total")["a"] == 6, "its own counts are those of now"
    board.end()
    wait(lambda: bool(ended))
    time.sleep(0.05)
    assert len(ended) == 1


def wait(until: object) -> None:
    ends = time.monotonic() + 10
    while not until():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.01)
