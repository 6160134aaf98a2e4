"""Operators: every row is kept, quarantined or replaced, and the result does not depend on order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sightline.data.operators import OPERATOR, Count, Decision, Judged, Outcome, Take, apply
from sightline.errors import Refused
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Picture, Sample, Text, Turn


def rows(count: int, splits: Sequence[str] = ("train",)) -> list[Sample]:
    return [Sample(id=f"r{number}", attributes={"split": splits[number % len(splits)]}, origin=Origin(source="test")) for number in range(count)]


class Split:
    """Drops every third row, keeps every third, makes two of the others."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        number = int(sample.id[1:]) % 3
        if number == 0:
            return Outcome(verdict="quarantined", rule="split/third")
        return Outcome(samples=(sample,) if number == 1 else (replace(sample, id=f"{sample.id}0"), replace(sample, id=f"{sample.id}1")))


class Mark:
    """Writes a random number and what a model said into the attributes."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        attributes = {**sample.attributes, "chance": rng.random(), "said": [answer.text for answer in answers]}
        return Outcome(samples=(replace(sample, attributes=attributes),))


class AskTwice(Mark):
    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        return [Request(sample=replace(sample, id=f"{sample.id}#{number}")) for number in range(2)]


class Backwards:
    """An answerer that answers from the last request to the first, and some not at all."""

    def __init__(self, silent: str = "") -> None:
        self.silent = silent

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in reversed(list(requests)):
            if request.sample.id != self.silent:
                yield Answer(key="k", sample=request.sample.id, weights="w", text=f"about {request.sample.id}")

    def measure(self, sample: Sample) -> int:
        return 1


@given(st.integers(0, 40))
def test_rows_are_conserved(count: int) -> None:
    applied = apply([Split(), Split()], rows(count), seed=0)
    out = list(applied)
    for counted in applied.report:
        assert counted.rows_in == counted.kept + counted.quarantined + counted.replaced
    first, second = applied.report
    assert first == Count(
        operator="Split", rows_in=count, kept=(count + 1) // 3, quarantined=(count + 2) // 3, replaced=count // 3, rows_out=(count + 1) // 3 + 2 * (count // 3)
    )
    assert second.rows_in == first.rows_out
    assert len(out) == second.rows_out + first.quarantined + second.quarantined
    assert all((rule == "split/third") == (verdict == "quarantined") for _, verdict, rule in out)


def test_a_quarantined_row_is_left_alone() -> None:
    out = list(apply([Split(), Mark()], rows(3), seed=0))
    assert [(verdict, "chance" in sample.attributes) for sample, verdict, _ in out] == [("quarantined", False), ("kept", True), ("kept", True), ("kept", True)]


def test_randomness_depends_on_seed_operator_and_row_only() -> None:
    def chances(samples: list[Sample], operators: int, seed: int) -> dict[str, Any]:
        return {sample.id: sample.attributes["chance"] for sample, _, _ in apply([Mark()] * operators, samples, seed)}

    ordered = chances(rows(20), 1, 0)
    assert ordered == chances(rows(20)[::-1], 1, 0)
    assert len(set(ordered.values())) == 20
    assert not set(ordered.values()) & set(chances(rows(20), 1, 1).values())
    assert not set(ordered.values()) & set(chances(rows(20), 2, 0).values())


def test_a_pass_can_be_read_twice() -> None:
    applied = apply([Take(first=2), Mark()], rows(4), seed=0)
    assert list(applied) == list(applied)
    assert [counted.rows_in for counted in applied.report] == [4, 2]


def test_answers_reach_the_row_that_asked() -> None:
    out = list(apply([Split(), AskTwice()], rows(600), seed=0, answerers=lambda operator: Backwards()))
    assert all(sample.attributes["said"] == [f"about {sample.id}#0", f"about {sample.id}#1"] for sample, verdict, _ in out if verdict == "kept")
    assert [sample.id for sample, _, _ in out if sample.id in {"r597", "r598", "r599", "r5990"}] == ["r597", "r598", "r5990"]


def test_an_unanswered_request_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="data/no-answer at r3#1") as refused:
        list(apply([AskTwice()], rows(5), seed=0, answerers=lambda operator: Backwards(silent="r3#1")))
    assert len(refused.value.problems) == 1
    with pytest.raises(Refused, match=r"operator 0 \(AskTwice\)"):
        list(apply([AskTwice()], rows(5), seed=0))


@pytest.mark.parametrize(
    ("take", "kept"),
    [
        (Take(), range(10)),
        (Take(first=3), [0, 1, 2]),
        (Take(last=2), [8, 9]),
        (Take(split=("val",)), [1, 3, 5, 7, 9]),
        (Take(split=("val", "train"), first=5, last=1), [4]),
        (Take(split=("val",), first=2), [1, 3]),
        (Take(first=99), range(10)),
        (Take(split=("test",)), []),
    ],
)
@pytest.mark.parametrize("wrap", [list, iter])
def test_take(take: Take, kept: Sequence[int], wrap: Any) -> None:
    out = list(apply([take], wrap(rows(10, ("train", "val"))), seed=0))
    assert [int(sample.id[1:]) for sample, verdict, _ in out if verdict == "kept"] == list(kept)
    assert [sample.id for sample, _, _ in out] == [f"r{number}" for number in range(10)]
    rules = {rule for sample, verdict, rule in out if verdict != "kept" and take.split and sample.attributes["split"] not in take.split}
    assert rules <= {"take/split"}
    assert {rule for sample, verdict, rule in out if verdict != "kept" and not (take.split and sample.attributes["split"] not in take.split)} <= {"take/beyond"}


def test_folds_part_a_set_by_its_pictures() -> None:
    samples = [
        replace(sample, pictures=(Picture(hash=f"hash{number // 2}", width=1, height=1, data=b""),), attributes={"split": ("train", "val")[number % 2]})
        for number, sample in enumerate(rows(400))
    ]
    folds = [{sample.id for sample, verdict, _ in apply([Take(folds=4, fold=(fold,))], samples, seed=0) if verdict == "kept"} for fold in range(4)]
    assert sum(map(len, folds)) == len(set[str]().union(*folds)) == 400 and all(70 < len(fold) < 130 for fold in folds)
    assert all((f"r{number}" in fold) == (f"r{number + 1}" in fold) for fold in folds for number in range(0, 400, 2))  # two rows of a picture stay together
    later = list(apply([Take(split=("val",), folds=4, fold=(1, 2), first=5)], samples[::-1], seed=9))
    assert {sample.id for sample, verdict, _ in later if verdict == "kept"} <= folds[1] | folds[2]
    assert {rule for _, verdict, rule in later if verdict != "kept"} == {"take/split", "take/fold", "take/beyond"}
    said = [replace(row, turns=(Turn(role="user", items=(Text(text=row.id),)),)) for row in rows(100)]
    first, again = ([row.id for row, verdict, _ in apply([Take(folds=2, fold=(0,))], some, seed=0) if verdict == "kept"] for some in (said, said[::-1]))
    assert first == again[::-1] and 30 < len(first) < 70
    for wrong in ({"folds": 3}, {"fold": [0]}, {"folds": 3, "fold": [3]}):
        with pytest.raises(ValidationError, match="belong together"):
            OPERATOR.parse({"kind": "take", **wrong})


def test_take_counts_what_reaches_it() -> None:
    out = list(apply([Split(), Take(first=2)], rows(9), seed=0))
    assert [(sample.id, rule) for sample, verdict, rule in out if verdict == "kept" or rule == "take/beyond"][:3] == [
        ("r1", None),
        ("r20", None),
        ("r21", "take/beyond"),
    ]


def test_decisions_see_the_columns_of_each() -> None:
    class Best(Mark):
        def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
            return Outcome(samples=(sample,), columns={"score": int(sample.id[1:]) * 7 % 5})

        def decide(self, index: pa.Table) -> list[Decision]:
            scores = index.column("score").to_pylist()
            return [Decision() if score == max(scores) else Decision("quarantined", "best/not", "rest") for score in scores]

    assert [sample.id for sample, verdict, _ in apply([Best()], rows(10), seed=0) if verdict == "kept"] == ["r2", "r7"]


def test_an_operator_learns_from_what_reaches_it() -> None:
    class Total:
        def learn(self, samples: Iterable[Sample]) -> Mark:
            self.seen = [sample.id for sample in samples]
            return Mark()

    total = Total()
    list(apply([Take(last=2), total], rows(5), seed=0))
    assert total.seen == ["r3", "r4"]


def test_take_is_a_kind_of_operator() -> None:
    assert OPERATOR.parse({"kind": "take", "split": ["train"], "first": 5}) == Take(split=("train",), first=5)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        OPERATOR.parse({"kind": "take", "first": 0})


class Scored(Mark):
    """Gives numbers, a text and a list; decides by what was carried."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        number = int(sample.id[1:])
        columns = {"length": number, "share": np.float32(0.5), "hash": "ff", "vector": [1.0, 2.0], "flag": True} | ({"rare": 1.0} if number == 3 else {})
        return Outcome(samples=(sample,), columns=columns)


def test_numbers_are_carried_as_scores_and_seen_by_later_decisions() -> None:
    seen: list[pa.Table] = []

    class Look(Take):
        def decide(self, index: pa.Table) -> list[Decision]:
            seen.append(index)
            return [Decision("quarantined", "look/short", "g") if length < 2 else Decision() for length in index["length"].to_pylist()]

    given = [Judged(sample=sample, scores={"old": 7.0}, group="first") for sample in rows(4)]
    out = list(apply([Scored(), Look()], given, seed=0).judged())
    assert seen[0].column_names == ["row", "id", "source", "licence", "split", "old", "length", "share", "rare"]
    assert seen[0]["rare"].to_pylist() == [None, None, None, 1.0]
    assert [row.scores for row in out][2:] == [{"old": 7.0, "length": 2.0, "share": 0.5}, {"old": 7.0, "length": 3.0, "share": 0.5, "rare": 1.0}]
    assert [(row.verdict, row.rule, row.group) for row in out] == [("quarantined", "look/short", "g")] * 2 + [("kept", None, "first")] * 2


def test_text_and_lists_reach_the_decision_of_the_same_operator_only() -> None:
    seen: list[list[str]] = []

    class Look(Scored):
        def decide(self, index: pa.Table) -> list[Decision]:
            seen.append(index.column_names)
            return [Decision()] * len(index)

    assert all(row.columns == {} for row in apply([Look(), Take(), Look()], rows(2), seed=0).judged())
    assert seen[0] == seen[1] == ["row", "id", "source", "licence", "split", "length", "share", "hash", "vector", "flag"]
