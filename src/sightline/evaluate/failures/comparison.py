"""Two sets of answers to the same questions, side by side: what became better, what worse, and which answers turned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import LEAST, WORST, Failure, mean_of, resampled_by
from sightline.evaluate.metrics import Value

Verdict = Literal["better", "worse", "no clear difference"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Scores of one kind of question by both."""

    evaluation: str
    kind: str
    first: Value
    other: Value
    difference: Value
    """first - other, paired: over resamples of the pictures that both answered."""

    @property
    def verdict(self) -> Verdict:
        """Whether the whole interval of the difference lies on one side of 0; of a few questions nothing is clear."""
        if self.difference.n < LEAST:
            return "no clear difference"
        return "better" if self.difference.low > 0 else "worse" if self.difference.high < 0 else "no clear difference"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One run against another."""

    names: tuple[str, str]
    rows: tuple[Compared, ...]
    gained: tuple[tuple[Case, Case], ...]
    """Answers (first, other) of which the first is better, the largest differences first."""
    lost: tuple[tuple[Case, Case], ...]
    turned: tuple[int, int]
    """How many answers became better, how many worse."""
    failures: Mapping[str, tuple[Failure, Failure]]
    """By code."""
    unpaired: tuple[int, int]
    """Questions that only the first, only the other was asked."""

    def record(self) -> dict[str, Any]:
        """The comparison as JSON."""
        said = lambda pairs: [  # noqa: E731
            {"evaluation": a.evaluation, "request": a.name, "question": a.question, "right": list(a.right), "first": a.answer.text, "other": b.answer.text}
            for a, b in pairs
        ]
        states = {code: {"first": [a.state, *a.rate], "other": [b.state, *b.rate]} for code, (a, b) in self.failures.items()}
        rows = [
            {
                "evaluation": row.evaluation,
                "kind": row.kind,
                "verdict": row.verdict,
                "first": row.first._asdict(),
                "other": row.other._asdict(),
                "difference": row.difference._asdict(),
            }
            for row in self.rows
        ]
        return {
            "first": self.names[0],
            "other": self.names[1],
            "rows": rows,
            "turned": {"better": self.turned[0], "worse": self.turned[1]},
            "unpaired": {"first": self.unpaired[0], "other": self.unpaired[1]},
            "failures": states,
            "gained": said(self.gained),
            "lost": said(self.lost),
        }


def compare(names: tuple[str, str], evidence: tuple[Evidence, Evidence], failures: tuple[Sequence[Failure], Sequence[Failure]]) -> Comparison:
    """The first against the other, over questions of one name, one wording and one picture. Raises Refused when they have no scored question in common."""
    first, other = ({(case.evaluation, case.name): case for case in one.cases} for one in evidence)
    pairs = [(first[key], other[key]) for key in first if key in other and _same(first[key], other[key])]
    scored = [(a, b, a.score - b.score) for a, b in pairs if a.score is not None and b.score is not None]
    if not scored:
        raise Refused(
            Problem(
                code="evaluate/nothing-in-common",
                place=names[1],
                found=f"{len(first)} and {len(other)} questions, none of them the same",
                allowed="runs that were asked the same questions",
                fix="name a run of the same evaluations",
            )
        )
    groups: dict[tuple[str, str], list[tuple[Case, Case, float]]] = {}
    for one in scored:
        for kind in ("all", one[0].kind):
            groups.setdefault((one[0].evaluation, kind), []).append(one)
    by_code = {failure.code: failure for failure in failures[1]}
    turned = sorted((one for one in scored if one[2]), key=lambda one: (-abs(one[2]), one[0].name))
    gained, lost = [one[:2] for one in turned if one[2] > 0], [one[:2] for one in turned if one[2] < 0]
    return Comparison(
        names=names,
        rows=tuple(_row(*key, members) for key, members in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "all", item[0][1]))),
        gained=_spread(gained),
        lost=_spread(lost),
        turned=(len(gained), len(lost)),
        failures={failure.code: (failure, by_code[failure.code]) for failure in failures[0] if failure.code in by_code},
        unpaired=(len(first) - len(pairs), len(other) - len(pairs)),
    )


def _same(a: Case, b: Case) -> bool:
    return a.question == b.question and [picture.hash for picture in a.asked.pictures] == [picture.hash for picture in b.asked.pictures]


def _row(evaluation: str, kind: str, members: Sequence[tuple[Case, Case, float]]) -> Compared:
    groups = [a.picture for a, *_ in members]
    gain = np.array([each for *_, each in members])
    return Compared(
        evaluation=evaluation,
        kind=kind,
        first=mean_of([a.score or 0.0 for a, _, _ in members], groups),
        other=mean_of([b.score or 0.0 for _, b, _ in members], groups),
        difference=resampled_by(groups, lambda times: times @ gain / np.maximum(times.sum(axis=1), 1)),
    )


def _spread(pairs: Sequence[tuple[Case, Case]]) -> tuple[tuple[Case, Case], ...]:
    """The first few, kinds in turn."""
    seen: dict[str, int] = {}
    placed = []
    for number, pair in enumerate(pairs):
        turn = seen.get(pair[0].kind, 0)
        seen[pair[0].kind] = turn + 1
        placed.append((turn, number, pair))
    return tuple(pair for *_, pair in sorted(placed, key=lambda each: each[:2])[:WORST])
