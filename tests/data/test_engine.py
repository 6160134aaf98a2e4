"""Engines: results in the order of the tasks, few tasks in flight, failures that come through."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from sightline.data.engine import AHEAD, FEW, Local, Ray, engine_of
from sightline.data.workers import usable_cores
from sightline.errors import Problem, Refused


def slow_square(number: int) -> tuple[int, int]:
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * number, os.getpid()


def refuse_seven(number: int) -> int:
    if number == 7:
        raise Refused([Problem(code="data/seven", place="7", found="7"), Problem(code="data/seven", place="8", found="8")])
    return number


def test_results_come_in_the_order_of_the_tasks_from_other_processes() -> None:
    found = list(Local(workers=2).map(slow_square, iter(range(20))))
    assert [square for square, _ in found] == [number * number for number in range(20)]
    assert os.getpid() not in {process for _, process in found}


@pytest.mark.parametrize(("workers", "count"), [(1, 20), (2, FEW), (2, 0)])
def test_few_tasks_and_one_worker_stay_in_this_process(workers: int, count: int) -> None:
    found = list(Local(workers=workers).map(slow_square, range(count)))
    assert found == [(number * number, os.getpid()) for number in range(count)]


def test_tasks_are_taken_as_results_are(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = Local(workers=2).map(slow_square, tasks())
    for number, (square, _) in enumerate(results):
        assert square == number * number
        assert taken <= number + 2 + FEW + AHEAD * 2
        if number == 10:
            results.close()
    assert taken < 30


@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusal_comes_through_whole(workers: int) -> None:
    results = Local(workers=workers).map(refuse_seven, range(50))
    with pytest.raises(Refused) as refused:
        list(results)
    assert [problem.place for problem in refused.value.problems] == ["7", "8"]


def test_engines_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_of("local", 3) == Local(workers=3)
    assert engine_of("local") == Local(workers=usable_cores())
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    with pytest.raises(Refused, match=r"data/unknown-engine .*\n +found: +'spark'\n +allowed: local, ray"):
        engine_of("spark")
    with pytest.raises(Refused, match="an address of Ray with the local engine"):
        engine_of("local", address="auto")
    monkeypatch.setattr("sightline.data.engine.find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"data/no-ray (.|\n)*sightline\[scale\]"):
        engine_of("ray")


@pytest.mark.slow
def test_ray_gives_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    engine = Ray(workers=2)
    found = list(engine.map(slow_square, iter(range(12))))
    assert [square for square, _ in found] == [number * number for number in range(12)]
    assert os.getpid() not in {process for _, process in found}
    with pytest.raises(Refused) as refused:
        list(engine.map(refuse_seven, range(12)))
    assert [problem.place for problem in refused.value.problems] == ["7", "8"]
    with pytest.raises(Refused, match="data/no-cluster"):
        list(Ray(address="127.0.0.1:1").map(slow_square, range(3)))
