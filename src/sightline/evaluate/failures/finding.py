"""The form in which every failure is told: how often, within which interval, from where on it counts, and the answers that show it best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.metrics import Value, resamples, share
from sightline.kinds import Family
from sightline.samples.sample import RotatedBox

FAILURE = Family("failure")
"""Failures by kind; see failure_table.py."""
WORST = 8
"""Answers that are shown of each failure."""
LEAST = 10
"""Answers, or texts, below which resamples of them say nothing: all of them may be alike by chance."""
_SEED = 20
"""Intervals of the same answers are the same in every run."""
_ABSENT = Value(value=0.0, low=0.0, high=1.0, n=0)

State = Literal["found", "clear", "unclear", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One answer that shows a failure."""

    case: Case
    badness: float
    """Larger is worse."""
    note: str = ""
    marked: tuple[RotatedBox, ...] = ()
    """Boxes that the note is about, in px of the first picture; none where it is about the whole answer."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure, measured."""

    code: str
    """`failure/kebab-case`, stable: scripts may match on it."""
    title: str
    meaning: str
    """What is counted, in a sentence."""
    fix: str = ""
    """Where to look first."""
    count: int = 0
    """Answers that show it."""
    rate: Value = _ABSENT
    limit: float = 0.0
    """It is found where the whole interval of `rate` lies above this."""
    figures: Mapping[str, Value] = field(default_factory=dict)
    """What else was measured on the way."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit of each figure that is no share, by its name: `degrees`, `times`; empty for a number without one."""
    worst: tuple[Shown, ...] = ()
    note: str = ""
    """What must be known to read the figures; where nothing could be measured, why."""

    @property
    def state(self) -> State:
        """found: the interval lies above the limit; clear: below it; unclear: around it."""
        if not self.rate.n:
            return "not measured"
        return "found" if self.rate.low > self.limit else "clear" if self.rate.high <= self.limit else "unclear"

    def record(self) -> dict[str, Any]:
        """The failure as JSON; answers by the names of their questions."""
        shown = [
            {
                "evaluation": one.case.evaluation,
                "request": one.case.name,
                "kind": one.case.kind,
                "question": one.case.question,
                "answer": one.case.answer.text,
                "right": list(one.case.right),
                "note": one.note,
            }
            for one in self.worst
        ]
        return {
            "code": self.code,
            "state": self.state,
            "count": self.count,
            "rate": self.rate._asdict(),
            "limit": self.limit,
            "title": self.title,
            "meaning": self.meaning,
            "fix": self.fix,
            "note": self.note,
            "figures": {name: value._asdict() for name, value in self.figures.items()},
            "units": dict(self.units),
            "worst": shown,
        }


class Examiner(Protocol):
    """What every kind of failure offers."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """Each failure that the kind knows, measured or with the reason why not."""
        ...


def shares(marked: Iterable[tuple[Case, bool]]) -> Value:
    """Share of marked cases with Wilson's interval."""
    flags = [bad for _, bad in marked]
    return share(sum(flags), len(flags))


def mean_of(values: Sequence[float], groups: Sequence[str]) -> Value:
    """Mean with the middle 95 % of 200 resamples of the groups (pictures); nothing counted gives n = 0."""
    return resampled_by(groups, lambda times: times @ np.array(values, float) / np.maximum(times.sum(axis=1), 1))


def resampled_by(groups: Sequence[str], statistic: Callable[[np.ndarray], np.ndarray]) -> Value:
    """A statistic of (R, items) counts, once for all items and over 200 resamples of the groups; items of one group stay together (Efron 1979)."""
    if not groups:
        return _ABSENT
    value = float(statistic(np.ones((1, len(groups))))[0])
    again = statistic(resamples(groups, np.random.default_rng(_SEED)).astype(float))
    low, high = np.percentile(again, (2.5, 97.5))
    return Value(value=value, low=min(value, float(low)), high=max(value, float(high)), n=len(groups))


def share_by(groups: Sequence[str], part: Sequence[float], whole: Sequence[float]) -> Value:
    """Sum of `part` over sum of `whole`, where things of one group (picture) go together: the wider of the interval of 200 resamples of the groups and of Wilson's, which keeps few things
    that are all alike from being certain. `n` is the sum of `whole`; nothing to count gives n = 0.
    """
    n = round(sum(whole))
    if not n:
        return _ABSENT
    above, below = np.array(part, float), np.array(whole, float)
    again, alone = resampled_by(groups, lambda times: times @ above / np.maximum(times @ below, 1)), share(sum(part), n)
    return Value(value=alone.value, low=min(again.low, alone.low), high=min(1.0, max(again.high, alone.high)), n=n)


def worst(shown: Iterable[Shown], count: int = WORST) -> tuple[Shown, ...]:
    """The worst first, kinds in turn so that no kind fills the page, and each picture once as long as there are others."""
    ordered = sorted(shown, key=lambda one: (-one.badness, one.case.evaluation, one.case.name))
    kinds: Counter[str] = Counter()
    pictures: Counter[str] = Counter()
    placed: list[tuple[int, int, int, Shown]] = []
    for number, one in enumerate(ordered):
        placed.append((pictures[one.case.picture], kinds[one.case.kind], number, one))
        kinds[one.case.kind] += 1
        pictures[one.case.picture] += 1
    return tuple(one for *_, one in sorted(placed, key=lambda each: each[:3])[:count])
