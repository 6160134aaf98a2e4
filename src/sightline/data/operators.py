"""Operators change, score, judge or multiply samples, row by row; what goes in comes out kept, quarantined or replaced, and is counted.

Each row has a generator of its own, seeded by (seed, operator's number, sample id): the result depends neither on the order of rows nor on who computes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.samples.exchange import Answer, Answerer, Request
from sightline.samples.sample import Sample

OPERATOR = Family("operator")
Verdict = Literal["kept", "quarantined"]
Row = tuple[Sample, Verdict, str | None]
AnswererOf = Callable[["Operator"], Answerer]
"""From an operator that asks to who answers it."""
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row. The very sample that came in = kept; others = it is replaced by them; `quarantined` sets the row aside as it came in, under `rule`."""

    samples: tuple[Sample, ...] = ()
    verdict: Verdict = "kept"
    rule: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Scores and hashes of the row, for `decide`."""


@runtime_checkable
class Operator(Protocol):
    """Anything with `each`; a Config of the family `operator` is one."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The outcome of one row; pure."""
        ...


@runtime_checkable
class Asks(Operator, Protocol):
    """An operator that a model must answer first."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """Requests of one row. Their sample ids are distinct over the whole pass: answers are found by them."""
        ...


@runtime_checkable
class Decides(Operator, Protocol):
    """An operator whose verdict on a row depends on all rows. Its `each` keeps the sample and gives columns."""

    def decide(self, index: pa.Table) -> list[tuple[Verdict, str | None]]:
        """Verdict and rule per row of `index`: row, id, source, licence, split, and the columns that `each` gave."""
        ...


@runtime_checkable
class Learns(Protocol):
    """What becomes an operator after a look at the whole set."""

    def learn(self, samples: Iterable[Sample]) -> Operator:
        """The operator that knows the set."""
        ...


@dataclass(kw_only=True)
class Count:
    """Rows of one operator. rows_in = kept + quarantined + replaced; rows_out = kept + what the replaced became."""

    operator: str
    rows_in: int = 0
    kept: int = 0
    quarantined: int = 0
    replaced: int = 0
    rows_out: int = 0


class Applied:
    """The rows that come out of operators, as an iterable to be read once, and `report` with one Count per operator, complete after the last row."""

    def __init__(self, operators: Sequence[Operator | Learns], samples: Iterable[Sample], seed: int, answerers: AnswererOf | None) -> None:
        self._steps = list(operators)
        self._operators: list[Operator] = []
        self._samples = list(samples) if isinstance(samples, Iterator) else samples
        self._seed = seed
        self._answerers = answerers
        self._decisions: dict[int, list[tuple[Verdict, str | None]]] = {}
        self.report: list[Count] = []

    def __iter__(self) -> Iterator[Row]:
        self._operators, self._decisions = [], {}
        for number, step in enumerate(self._steps):
            self._operators.append(step.learn(sample for sample, verdict, _ in self._rows(number) if verdict == "kept") if isinstance(step, Learns) else step)
            if isinstance(step, Decides):
                self._decisions[number] = self._decide(number, step)
        yield from self._rows(len(self._operators))
        for count in self.report:
            assert count.rows_in == count.kept + count.quarantined + count.replaced, count

    def _rows(self, depth: int) -> Iterator[Row]:
        """Rows after the first `depth` operators; starts the report afresh."""
        self.report = [Count(operator=str(getattr(step, "kind", type(step).__name__))) for step in self._steps[: depth + 1]]
        rows: Iterator[Row] = ((sample, "kept", None) for sample in self._samples)
        for number in range(depth):
            rows = self._through(number, rows)
        return rows

    def _through(self, number: int, rows: Iterator[Row]) -> Iterator[Row]:
        count, decisions = self.report[number], self._decisions.get(number)
        for row, outcome in self._outcomes(number, rows):
            if outcome is None:
                yield row
                continue
            sample, verdict, rule = row[0], outcome.verdict, outcome.rule
            if decisions is not None:
                verdict, rule = decisions[count.rows_in]
            count.rows_in += 1
            if verdict == "quarantined":
                assert rule, f"{count.operator} quarantines {sample.id} without a rule"
                count.quarantined += 1
                yield sample, verdict, rule
            elif len(outcome.samples) == 1 and outcome.samples[0] is sample:
                count.kept += 1
                count.rows_out += 1
                yield row
            else:
                assert outcome.samples, f"{count.operator} drops {sample.id} without a verdict"
                count.replaced += 1
                count.rows_out += len(outcome.samples)
                for made in outcome.samples:
                    yield made, "kept", None

    def _outcomes(self, number: int, rows: Iterator[Row]) -> Iterator[tuple[Row, Outcome | None]]:
        """Every row with the operator's outcome; None for rows that are quarantined already."""
        operator = self._operators[number]
        if not isinstance(operator, Asks):
            for row in rows:
                yield row, operator.each(row[0], self._rng(number, row[0]), ()) if row[1] == "kept" else None
            return
        for block in _blocks(rows):
            requests = {row[0].id: operator.ask(row[0], self._rng(number, row[0])) for row in block if row[1] == "kept"}
            answers = self._answers(number, [request for asked in requests.values() for request in asked])
            for row in block:
                said = [answers[request.sample.id] for request in requests.get(row[0].id, ())]
                yield row, operator.each(row[0], self._rng(number, row[0]), said) if row[1] == "kept" else None

    def _answers(self, number: int, requests: list[Request]) -> dict[str, Answer]:
        name = self.report[number].operator
        if self._answerers is None:
            problem = Problem(
                code="data/no-answerer", place=f"operator {number} ({name})", found="an operator that asks a model, and no model", allowed="`with:` and a model"
            )
            raise Refused(problem)
        answers = {answer.sample: answer for answer in self._answerers(self._operators[number]).answer(requests)}
        missing = [request.sample.id for request in requests if request.sample.id not in answers]
        if missing:
            raise Refused(
                [
                    Problem(code="data/no-answer", place=sample, found=f"no answer to what operator {name} asked", allowed="one answer per request")
                    for sample in missing
                ]
            )
        return answers

    def _decide(self, number: int, operator: Decides) -> list[tuple[Verdict, str | None]]:
        rows: list[dict[str, Any]] = []
        for (sample, _, _), outcome in self._outcomes_before(number):
            split = sample.attributes.get("split")
            row = {
                "row": len(rows),
                "id": sample.id,
                "source": sample.origin.source,
                "licence": sample.origin.licence,
                "split": None if split is None else str(split),
            }
            rows.append(row | dict(outcome.columns))
        decisions = operator.decide(pa.Table.from_pylist(rows)) if rows else []
        assert len(decisions) == len(rows), f"operator {number} decided on {len(decisions)} of {len(rows)} rows"
        return decisions

    def _outcomes_before(self, number: int) -> Iterator[tuple[Row, Outcome]]:
        rows = self._rows(number)
        for row, outcome in self._outcomes(number, rows):
            if outcome is not None:
                yield row, outcome

    def _rng(self, number: int, sample: Sample) -> np.random.Generator:
        return np.random.default_rng([self._seed, number, zlib.crc32(sample.id.encode()), len(sample.id)])


def _blocks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def apply(operators: Sequence[Operator | Learns], samples: Iterable[Sample], seed: int, answerers: AnswererOf | None = None) -> Applied:
    """Run samples through operators, one after the other. An iterator of samples is held in memory; anything that can be read again (a store, a list) is not.

    Raises Refused when an operator asks a model and there is none, or an answer is missing.
    """
    return Applied(operators, samples, seed, answerers)


@OPERATOR.add
class Take(Config):
    """Keeps part of a set: some splits, and of these the first or last rows."""

    kind: Literal["take"] = "take"
    split: tuple[str, ...] = Field(default=(), strict=False)
    """Splits to keep; empty = all."""
    first: int | None = Field(default=None, ge=1)
    """Keep this many rows from the beginning."""
    last: int | None = Field(default=None, ge=1)
    """Keep this many rows from the end (of those that `first` left)."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is: `decide` judges."""
        return Outcome(samples=(sample,))

    def decide(self, index: pa.Table) -> list[tuple[Verdict, str | None]]:
        """Quarantines other splits under `take/split`, rows beyond the number under `take/beyond`."""
        splits = index.column("split").to_pylist()
        chosen = [row for row, split in enumerate(splits) if not self.split or split in self.split]
        within = chosen[: self.first]
        within = within[-self.last :] if self.last else within
        kept, of_split = set(within), set(chosen)
        return [("kept", None) if row in kept else ("quarantined", "take/beyond" if row in of_split else "take/split") for row in range(len(splits))]
