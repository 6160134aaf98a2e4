"""Which models go into a soup: the best one, all of them, or those that improve it one after the other (Wortsman et al. 2022; POINTS, arXiv 2409.04828). Scores are asked of a callable.

A score is the unweighted mean of the headline metrics of some evaluations, each as a share of its largest value. What is selected on must share no picture and no row with what is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sightline.errors import Problem
from sightline.evaluate.asking import Scores
from sightline.evaluate.metrics import Value, full_scale, resamples
from sightline.evaluate.run_facts import GAIN_HEAD, TRIED_HEAD, SoupFacts, SoupGain, SoupLine
from sightline.samples.exchange import Request
from sightline.soup_recipe import Accept

Blend = Mapping[str, Mapping[str, float]]
"""Path of the model (empty: all that no other path names) -> ingredient -> weight."""
ALL = ""
"""The path of a whole model."""
RESAMPLES = 1000
_SEED = 20
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a model reached in one evaluation."""

    value: Value
    """Its headline metric."""
    rows: tuple[float, ...] = ()
    """Score of each request, 0..1, in their order."""
    groups: tuple[str, ...] = ()
    """Picture of each request: those of one picture stay together when they are drawn again."""
    scale: float = 1.0
    """Largest value of the metric: 1 for shares, 2000 for MME's perception."""

    @property
    def share(self) -> Value:
        """Its headline metric as a share of the largest value, so that points and percents can be averaged."""
        value = self.value
        return Value(value=value.value / self.scale, low=value.low / self.scale, high=value.high / self.scale, n=value.n)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"value": self.value._asdict(), "rows": list(self.rows), "groups": list(self.groups), "scale": self.scale}


def measured_of(record: Mapping[str, Any]) -> Measured:
    """What `Measured.record` wrote."""
    return Measured(value=Value(**record["value"]), rows=tuple(record["rows"]), groups=tuple(record["groups"]), scale=record["scale"])


def measured_in(scores: Scores, metric: str, requests: Iterable[Request]) -> Measured:
    """The scores of one evaluation with the pictures of its requests."""
    shown = {request.sample.id: ",".join(picture.hash for picture in request.sample.pictures) or request.sample.id for request in requests}
    groups = tuple(shown.get(row.request) or row.request for row in scores.per_request)
    return Measured(value=scores.metrics[metric], rows=tuple(row.score for row in scores.per_request), groups=groups, scale=full_scale(metric))


Scorer = Callable[[Blend], Sequence[Measured]]
"""Scores of the mean, one for each evaluation that is selected on."""


def score_of(measured: Sequence[Measured]) -> float:
    """Unweighted mean of headline metrics as shares of their largest values, 0..1."""
    return math.fsum(one.share.value for one in measured) / len(measured)


def interval_of(values: Sequence[Value]) -> Value:
    """Mean of independent scores; its 95 % interval from theirs, half widths added in squares."""
    count = len(values)
    mean = math.fsum(value.value for value in values) / count
    low, high = (math.sqrt(math.fsum((value.value - end) ** 2 for value, end in zip(values, ends))) / count for ends in zip(*((v.low, v.high) for v in values)))
    return Value(value=mean, low=mean - low, high=mean + high, n=sum(value.n for value in values))


def paired_gain(before: Sequence[Measured], after: Sequence[Measured]) -> tuple[float, float]:
    """95 % interval of the gain in mean score per request, from 1,000 resamples of the pictures (paired bootstrap): the same requests of both, whose difference is drawn again."""
    rng = np.random.default_rng(_SEED)
    gains = np.zeros(RESAMPLES)
    for one, other in zip(before, after, strict=True):
        assert one.groups == other.groups, "both answered the same requests"
        times = resamples(one.groups, rng, RESAMPLES)
        gains += times @ (np.array(other.rows) - np.array(one.rows)) / times.sum(axis=1) / len(before)
    low, high = np.percentile(gains, (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One ingredient that was tried."""

    ingredient: str
    path: str
    """The part that it was tried in; empty: all that is mixed."""
    score: float
    """Of the mean with it."""
    accepted: bool
    why: str
    gain: tuple[float, float] | None = None
    """Paired 95 % interval of the gain."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search chose."""

    method: str
    blend: Blend
    order: tuple[str, ...]
    """Ingredients by score, best first; equal ones by name."""
    singles: Mapping[str, float]
    score: float | None
    """Of the chosen mean; None where nothing was scored."""
    steps: tuple[Step, ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Ingredients that some part of the result has, in order."""
        within = {name for path, own in self.blend.items() for name in own if path or len(self.blend) == 1}
        return tuple(name for name in self.order if name in within)


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """What is mixed: paths, and who gives the rest."""

    parts: tuple[str, ...] = ()
    base: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths that ingredients are chosen for."""
        return self.parts or (ALL,)

    def blend(self, weights: Mapping[str, Mapping[str, float]]) -> Blend:
        """A blend by path, with the base where no path leads."""
        return {**({ALL: {self.base: 1.0}} if self.base is not None else {}), **weights}

    def equal(self, names: Sequence[str]) -> Blend:
        """The plain mean of some."""
        return self.blend({path: dict.fromkeys(names, 1.0) for path in self.paths})


def average(names: Sequence[str], bowl: Bowl, weights: Mapping[str, float]) -> Found:
    """All of them; nothing is scored."""
    blend = bowl.blend({path: {name: weights.get(name, 1.0) for name in names} for path in bowl.paths})
    return Found(method="average", blend=blend, order=tuple(names), singles={}, score=None)


def maximum(names: Sequence[str], bowl: Bowl, score: Scorer) -> Found:
    """The one with the highest score; of equal ones the first by name."""
    singles = {name: score_of(score(bowl.equal([name]))) for name in names}
    order = _order(singles)
    return Found(method="maximum", blend=bowl.equal(order[:1]), order=order, singles=singles, score=singles[order[0]])


def greedy(names: Sequence[str], bowl: Bowl, score: Scorer, accept: Accept = "better", by_part: bool = False) -> Found:
    """From the best single one on, in order of score: each ingredient that, averaged with those chosen so far, improves the score stays. At most 2n - 1 means are scored, with
    `by_part` n + (n - 1) for each part.
    """
    first = maximum(names, bowl, score)
    chosen = {path: list(first.order[:1]) for path in bowl.paths}
    best = score(first.blend)
    steps: list[Step] = []
    for group in [(path,) for path in bowl.paths] if by_part else [bowl.paths]:
        for name in first.order[1:]:
            trial = {path: [*own, name] if path in group else own for path, own in chosen.items()}
            tried = score(bowl.blend({path: dict.fromkeys(own, 1.0) for path, own in trial.items()}))
            accepted, why, gain = improves(best, tried, accept)
            steps.append(Step(ingredient=name, path=group[0] if by_part else ALL, score=score_of(tried), accepted=accepted, why=why, gain=gain))
            if accepted:
                chosen, best = trial, tried
    blend = bowl.blend({path: dict.fromkeys(own, 1.0) for path, own in chosen.items()})
    return Found(method="greedy", blend=blend, order=first.order, singles=first.singles, score=score_of(best), steps=tuple(steps))


def _order(singles: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(sorted(singles, key=lambda name: (-singles[name], name)))


def improves(best: Sequence[Measured], tried: Sequence[Measured], accept: Accept) -> tuple[bool, str, tuple[float, float] | None]:
    """Whether what was tried is taken instead of the best so far, why, and the paired 95 % interval of the gain where there are scores by request."""
    old, new = score_of(best), score_of(tried)
    gain = paired_gain(best, tried) if all(one.rows for one in best) else None
    if accept == "surely-better":
        assert gain is not None, "scores by request are needed"
        low, high = gain
        said = f"gain {low:+.4f}..{high:+.4f}"
        return low > 0, f"{said} {'lies above 0' if low > 0 else 'does not lie above 0'}", gain
    accepted = new >= old if accept == "no-worse" else new > old
    word = ("not below" if accept == "no-worse" else "above") if accepted else "below" if new < old else "no more than"
    return accepted, f"{new:.4f} is {word} {old:.4f}", gain


@dataclass(frozen=True, kw_only=True)
class AskedRows:
    """What an evaluation asks about: its rows and pictures by what they are, not by where they lie."""

    name: str
    rows: Mapping[str, str] = field(default_factory=dict)
    """Content hash of a row, and SOURCE:ID of what it was made from -> its id."""
    pictures: Mapping[str, str] = field(default_factory=dict)
    """Picture hash -> id of a row that shows it."""


def shared(selected: Sequence[AskedRows], reported: Sequence[AskedRows], place: str) -> list[Problem]:
    """What is both selected on and reported: one problem for each pair of evaluations, with how many rows and pictures, and the first of them."""
    found = []
    for one in selected:
        for other in reported:
            rows, pictures = sorted(one.rows.keys() & other.rows.keys()), sorted(one.pictures.keys() & other.pictures.keys())
            if rows or pictures:
                names = list(dict.fromkeys([*(one.rows[row] for row in rows), *(one.pictures[picture] for picture in pictures)]))
                found.append(
                    Problem(
                        code="soup/test-selection",
                        place=place,
                        found=f"{one.name} and {other.name} share {len(pictures)} pictures and {len({one.rows[row] for row in rows})} rows: {', '.join(names[:_NAMED])}",
                        allowed="nothing that is selected on among what is reported: the score would be that of the choice",
                        fix="select on a split of its own; or allow_test_selection, which every table then says",
                    )
                )
    return found


STAMP = "selected on what is reported: these scores are too high for new pictures"
"""What every table says of a choice that met the test."""


@dataclass(frozen=True, kw_only=True)
class SoupTable:
    """Singles and soups side by side."""

    name: str
    selected_on: tuple[str, ...]
    reported_on: tuple[str, ...]
    lines: tuple[SoupLine, ...]
    """Columns are evaluations, and the mean of those selected on where there are several."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Largest value of the metric of a column, where it is no share."""
    gains: tuple[SoupGain, ...] = ()
    """What the soups have over the best single model and over each other on what is reported."""
    stamp: str = ""
    found: Found | None = None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        search = None if self.found is None else self.found.record()
        tried = [] if self.found is None else _tried(self.found.steps)
        facts = SoupFacts(name=self.name, selected_on=self.selected_on, stamp=self.stamp, scales=self.scales, lines=self.lines, gains=self.gains, tried=tried)
        return {**facts.record(), "reported_on": list(self.reported_on), "tried": tried, "search": search}

    def markdown(self) -> str:
        """For people: percent, with 95 % intervals."""
        facts = facts_of(self.record())
        head, rows = facts.table()
        text = [f"## {facts.name}", "", *([f"**{facts.stamp}**", ""] if facts.stamp else []), *_table(head, rows, 2)]
        text += ["", *_table(GAIN_HEAD, facts.gain_rows(), 2)] if facts.gains else []
        text += ["", *_table(TRIED_HEAD, facts.tried, 1)] if facts.tried else []
        return "\n".join(text) + "\n"


def _tried(steps: Iterable[Step]) -> list[tuple[str, str, str, str]]:
    return [
        (f"{step.ingredient}{f' in {step.path}' if step.path else ''}", f"{100 * step.score:.2f}", "yes" if step.accepted else "no", step.why) for step in steps
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int) -> list[str]:
    """Lines of a Markdown table whose columns from `numbers` on hold numbers, until one that holds words."""
    sides = ["---" if column < numbers or name in ("stays", "why") else "---:" for column, name in enumerate(head)]
    return [f"| {' | '.join(head)} |".replace("|  |", "| |"), f"|{'|'.join(sides)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def facts_of(record: Mapping[str, Any]) -> SoupFacts:
    """The table that `SoupTable.record` wrote, as a report shows it."""
    lines = [
        SoupLine(name=line["name"], models=tuple(line["models"]), scores={key: Value(**value) for key, value in line["scores"].items()})
        for line in record["lines"]
    ]
    gains = [SoupGain(**gain) for gain in record["gains"]]
    tried = [tuple(row) for row in record["tried"]]
    head = {"name": record["name"], "selected_on": tuple(record["selected_on"]), "stamp": record["stamp"], "scales": record["scales"]}
    return SoupFacts(**head, lines=lines, gains=gains, tried=tried)


def gains_of(soups: Mapping[str, Mapping[str, Measured]]) -> tuple[SoupGain, ...]:
    """Of soups by name, the best single one first: each over those before it, in every evaluation whose answers have scores of their own. Equal models gain nothing and are left out."""
    found = []
    for number, (name, own) in enumerate(soups.items()):
        for over in list(soups)[:number]:
            for evaluation, measured in own.items():
                before = soups[over][evaluation]
                if measured.rows and measured != before:
                    low, high = paired_gain([before], [measured])
                    gain = float(np.mean(measured.rows) - np.mean(before.rows))
                    found.append(SoupGain(name=name, over=over, evaluation=evaluation, gain=gain, low=low, high=high))
    return tuple(found)


def table_lines(singles: Mapping[str, Mapping[str, Value]], soups: Mapping[str, tuple[tuple[str, ...], Mapping[str, Value]]]) -> tuple[SoupLine, ...]:
    """Each single, their mean (its interval is the mean of theirs, as if all erred together), then soups by name with their models. Scores: evaluation -> value."""
    lines = [SoupLine(name="single", models=(name,), scores=scores) for name, scores in singles.items()]
    keys = list(next(iter(singles.values()), {}))
    if keys:
        means = {
            key: Value(*(float(np.mean([one[key][at] for one in singles.values()])) for at in range(3)), n=next(iter(singles.values()))[key].n) for key in keys
        }
        best = {key: max((one[key] for one in singles.values()), key=lambda value: value.value) for key in keys}
        lines += [
            SoupLine(name=f"single, mean of {len(singles)}", models=(), scores=means),
            SoupLine(name="single, best in each column", models=(), scores=best),
        ]
    lines += [SoupLine(name=name, models=models, scores=scores) for name, (models, scores) in soups.items()]
    return tuple(lines)
