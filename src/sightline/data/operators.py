"""Operators change, score, judge or multiply samples, row by row; what goes in comes out kept, quarantined or replaced, and is counted.

Each row has a generator of its own, seeded by (seed, operator's number, sample id): the result depends neither on the order of rows nor on who computes them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.lineage import sha256_json
from sightline.samples.exchange import Answer, Answerer, Request
from sightline.samples.sample import Sample

OPERATOR = Family("operator")
Verdict = Literal["kept", "quarantined"]
Row = tuple[Sample, Verdict, str | None]
AnswererOf = Callable[["Operator"], Answerer]
"""From an operator that asks to who answers it."""
_BLOCK = 256
"""Rows whose requests go to an answerer together."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row. The very sample that came in = kept; others = it is replaced by them; `quarantined` sets the row aside as it came in, under `rule`."""

    samples: tuple[Sample, ...] = ()
    verdict: Verdict = "kept"
    rule: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What was measured. Numbers stay with the row as scores, also when it is replaced; text and lists reach `decide` of the same operator only (so a hash is text, not a number)."""


@dataclass(frozen=True)
class Decision:
    """What a look at all rows says about one of them. `group` names rows that belong together (duplicates of each other); None leaves the group that the row has."""

    verdict: Verdict = "kept"
    rule: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A sample on its way through operators, and what was said about it so far."""

    sample: Sample
    verdict: Verdict = "kept"
    rule: str | None = None
    group: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What `each` measured, from an operator that decides until it has decided."""


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

    def decide(self, index: pa.Table) -> list[Decision]:
        """One decision per row of `index`: row, id, source, licence, split, the scores that the rows carry (null where a row has none), and the columns that `each` gave."""
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

    def add(self, other: Count) -> None:
        """Add the rows of another part of the same pass."""
        assert other.operator == self.operator
        for name in ("rows_in", "kept", "quarantined", "replaced", "rows_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def check(self) -> None:
        """No row is lost."""
        assert self.rows_in == self.kept + self.quarantined + self.replaced, self


def counted(step: Operator | Learns) -> Count:
    """The empty count of an operator, under its kind."""
    return Count(operator=str(getattr(step, "kind", type(step).__name__)))


def through(number: int, operator: Operator, rows: Iterable[Judged], seed: int, count: Count, answerers: AnswererOf | None = None) -> Iterator[Judged]:
    """Rows after `each` of operator `number`, as they come; quarantined ones pass. An operator that decides only measures here: `decided` counts its rows."""
    decides = isinstance(operator, Decides)
    for row, outcome in _outcomes(number, operator, rows, seed, answerers):
        if outcome is None:
            yield row
            continue
        scores = {**row.scores, **{name: float(value) for name, value in outcome.columns.items() if _is_number(value)}}
        same = len(outcome.samples) == 1 and outcome.samples[0] is row.sample
        if decides:
            assert same and outcome.verdict == "kept", f"{count.operator} decides later and may not change {row.sample.id} before"
            yield replace(row, scores=scores, columns=outcome.columns)
            continue
        count.rows_in += 1
        if outcome.verdict == "quarantined":
            assert outcome.rule, f"{count.operator} quarantines {row.sample.id} without a rule"
            count.quarantined += 1
            yield replace(row, verdict="quarantined", rule=outcome.rule, scores=scores)
            continue
        assert outcome.samples, f"{count.operator} drops {row.sample.id} without a verdict"
        count.kept += same
        count.replaced += not same
        count.rows_out += len(outcome.samples)
        for made in outcome.samples:
            yield replace(row, sample=made, scores=scores)


def decided(rows: Iterable[Judged], decisions: Sequence[Decision], count: Count) -> Iterator[Judged]:
    """Rows with the decisions on those that were kept, in order."""
    given = iter(decisions)
    for row in rows:
        if row.verdict != "kept":
            yield row
            continue
        said = next(given)
        assert said.verdict == "kept" or said.rule, f"{count.operator} quarantines {row.sample.id} without a rule"
        kept = said.verdict == "kept"
        count.rows_in += 1
        count.kept += kept
        count.quarantined += not kept
        count.rows_out += kept
        yield replace(row, verdict=said.verdict, rule=said.rule, group=said.group or row.group, columns={})


def index_part(rows: Iterable[Judged]) -> pa.Table:
    """What `decide` sees of the kept ones of some rows: one line each, without `row`."""
    kept = [row for row in rows if row.verdict == "kept"]
    columns: dict[str, list[Any]] = {
        "id": [row.sample.id for row in kept],
        "source": [row.sample.origin.source for row in kept],
        "licence": [row.sample.origin.licence for row in kept],
        "split": [None if (split := row.sample.attributes.get("split")) is None else str(split) for row in kept],
    }
    facts = [{**row.scores, **row.columns} for row in kept]
    for name in dict.fromkeys(name for fact in facts for name in fact):
        columns[name] = [fact.get(name) for fact in facts]
    return pa.table({name: pa.array(values, pa.string() if name in _TEXTS else None) for name, values in columns.items()})


_TEXTS = ("id", "source", "licence", "split")


def decisions_on(operator: Decides, parts: Sequence[pa.Table]) -> list[Decision]:
    """What an operator decides on the rows of all parts, in order."""
    index = pa.concat_tables(parts, promote_options="permissive").combine_chunks()
    if not len(index):
        return []
    decisions = operator.decide(index.add_column(0, "row", pa.array(range(len(index)), pa.int64())))
    assert len(decisions) == len(index), f"{type(operator).__name__} decided on {len(decisions)} of {len(index)} rows"
    return decisions


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _outcomes(number: int, operator: Operator, rows: Iterable[Judged], seed: int, answerers: AnswererOf | None) -> Iterator[tuple[Judged, Outcome | None]]:
    """Every row with the operator's outcome; None for rows that are quarantined already."""
    if not isinstance(operator, Asks):
        for row in rows:
            yield row, operator.each(row.sample, seeded(seed, number, row.sample), ()) if row.verdict == "kept" else None
        return
    for block in blocks(rows):
        asked = [operator.ask(row.sample, seeded(seed, number, row.sample)) if row.verdict == "kept" else [] for row in block]
        answers = _answers(number, operator, [request for requests in asked for request in requests], answerers)
        for row, requests in zip(block, asked, strict=True):
            said = [answers[request.sample.id] for request in requests]
            yield row, operator.each(row.sample, seeded(seed, number, row.sample), said) if row.verdict == "kept" else None


def _answers(number: int, operator: Operator, requests: list[Request], answerers: AnswererOf | None) -> dict[str, Answer]:
    name = counted(operator).operator
    if answerers is None:
        place = f"operator {number} ({name})"
        raise Refused(Problem(code="data/no-answerer", place=place, found="an operator that asks a model, and no model", allowed="`with:` and a model"))
    answers = {answer.sample: answer for answer in answerers(operator).answer(requests)}
    missing = [request.sample.id for request in requests if request.sample.id not in answers]
    if missing:
        found = f"no answer to what operator {name} asked"
        raise Refused([Problem(code="data/no-answer", place=sample, found=found, allowed="one answer per request") for sample in missing])
    return answers


def seeded(seed: int, number: int, sample: Sample) -> np.random.Generator:
    """The generator of one row in operator `number`."""
    return np.random.default_rng([seed, number, zlib.crc32(sample.id.encode()), len(sample.id)])


def blocks(rows: Iterable[Judged]) -> Iterator[list[Judged]]:
    """Rows in blocks of those that are asked about together."""
    rest = iter(rows)
    while block := list(islice(rest, _BLOCK)):
        yield block


class Applied:
    """The rows that come out of operators, as an iterable of (sample, verdict, rule), and `report` with one Count per operator, complete after the last row."""

    def __init__(self, operators: Sequence[Operator | Learns], samples: Iterable[Sample | Judged], seed: int, answerers: AnswererOf | None) -> None:
        self._steps = list(operators)
        self._samples = list(samples) if isinstance(samples, Iterator) else samples
        self._seed = seed
        self._answerers = answerers
        self.report: list[Count] = []

    def __iter__(self) -> Iterator[Row]:
        return ((row.sample, row.verdict, row.rule) for row in self.judged())

    def judged(self) -> Iterator[Judged]:
        """The same rows with their groups and scores."""
        self.report = [counted(step) for step in self._steps]
        rows: Iterable[Judged] = (row if isinstance(row, Judged) else Judged(sample=row) for row in self._samples)
        for number, step in enumerate(self._steps):
            operator, count = step, self.report[number]
            if isinstance(operator, Learns):
                rows = list(rows)
                operator = operator.learn(row.sample for row in rows if row.verdict == "kept")
            rows = through(number, operator, rows, self._seed, count, self._answerers)
            if isinstance(operator, Decides):
                rows = list(rows)
                rows = decided(rows, decisions_on(operator, [index_part(rows)]), count)
        yield from rows
        for count in self.report:
            count.check()


def apply(operators: Sequence[Operator | Learns], samples: Iterable[Sample | Judged], seed: int, answerers: AnswererOf | None = None) -> Applied:
    """Run samples through operators in this process, one after the other. Rows are held in memory where an operator must see all of them; `steps` is for large sets.

    Raises Refused when an operator asks a model and there is none, or an answer is missing.
    """
    return Applied(operators, samples, seed, answerers)


@OPERATOR.add
class Take(Config):
    """Keeps part of a set: some splits, of these some folds, and of these the first or last rows."""

    kind: Literal["take"] = "take"
    split: tuple[str, ...] = Field(default=(), strict=False)
    """Splits to keep; empty = all."""
    folds: int | None = Field(default=None, ge=2)
    """Deal the rows into so many folds of about one size by the content of their first picture (without one: of their texts), so that a picture is in the same fold of every set."""
    fold: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), strict=False)
    """Folds to keep, from 0; needs `folds`."""
    first: int | None = Field(default=None, ge=1)
    """Keep this many rows from the beginning."""
    last: int | None = Field(default=None, ge=1)
    """Keep this many rows from the end (of those that `first` left)."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, with its fold as a column: `decide` judges."""
        if self.folds is None:
            return Outcome(samples=(sample,))
        content = sample.pictures[0].hash if sample.pictures else sha256_json([sample.text(number) for number in range(len(sample.turns))])
        return Outcome(samples=(sample,), columns={"fold": int(sha256_json(content), 16) % self.folds})

    def decide(self, index: pa.Table) -> list[Decision]:
        """Quarantines other splits under `take/split`, other folds under `take/fold`, rows beyond the number under `take/beyond`."""
        splits = index.column("split").to_pylist()
        folds = index.column("fold").to_pylist() if self.folds is not None else [None] * len(splits)
        rules = [
            "take/split" if self.split and split not in self.split else "take/fold" if self.fold and fold not in self.fold else ""
            for split, fold in zip(splits, folds)
        ]
        within = [row for row, rule in enumerate(rules) if not rule][: self.first]
        kept = set(within[-self.last :] if self.last else within)
        return [Decision() if row in kept else Decision("quarantined", rule or "take/beyond") for row, rule in enumerate(rules)]

    @model_validator(mode="after")
    def _folds_fit(self) -> Take:
        if bool(self.fold) != (self.folds is not None) or any(number >= (self.folds or 0) for number in self.fold):
            raise ValueError(f"`folds` and `fold` belong together, and folds are numbered from 0: found folds {self.folds}, fold {list(self.fold)}")
        return self
