"""The facts of a run that its report shows: typed, complete, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sightline.errors import Problem
from sightline.evaluate.asking import Judged, Scores
from sightline.evaluate.metrics import Value
from sightline.lineage import sha256_bytes

Curve = Sequence[tuple[float, float]]
Standing = Literal["above", "unclear", "not above", "alone"]


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage of training."""

    name: str
    objective: str
    steps: int
    seconds: float
    losses: Mapping[str, Curve]
    """(step, loss) points by term."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PartFacts:
    """One part of the model."""

    path: str
    parameters: int
    trained: Mapping[str, str] = field(default_factory=dict)
    """How, by stage: `full, 2e-3`. A stage that is not here left the part frozen."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of the model beside its best control."""

    name: str
    value: Value
    controls: Mapping[str, Value]
    standing: Standing
    best: str = ""
    """Name of the control with the highest value."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Scores of one benchmark with those of its controls: other pictures, none, the commonest answer, a probe."""

    name: str
    scores: Scores
    controls: Mapping[str, Scores] = field(default_factory=dict)
    headline: tuple[str, ...] = ("all",)
    """Metrics that stand first on the page."""
    note: str = ""

    def columns(self) -> dict[str, Scores]:
        """The model's scores, then those of each control, by name."""
        return {"model": self.scores, **self.controls}

    def rows(self) -> list[Row]:
        """Each metric, and where it stands: above = its interval lies above that of every control; not above = some control is at least as high."""
        found: list[Row] = []
        for name, value in self.scores.metrics.items():
            controls = {control: scores.metrics[name] for control, scores in self.controls.items() if name in scores.metrics}
            best = max(controls, key=lambda control: controls[control].value, default="")
            highest = max((control.high for control in controls.values()), default=0.0)
            standing: Standing = "above" if value.low > highest else "unclear" if controls and value.value > controls[best].value else "not above"
            found.append(Row(name=name, value=value, controls=controls, standing=standing if controls else "alone", best=best))
        return found


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A score that had to be reached on the way, such as the answers from text notes before pictures are met."""

    name: str
    value: float
    """0..1."""
    wanted: float
    meaning: str = ""

    @property
    def passed(self) -> bool:
        """Whether the wanted value was reached."""
        return self.value >= self.wanted


@dataclass(frozen=True, kw_only=True)
class SoupLine:
    """One line of a soup's table: a single model, a mean of lines, or a soup."""

    name: str
    models: tuple[str, ...]
    scores: Mapping[str, Value]
    """By column: an evaluation, or the mean of those selected on."""


@dataclass(frozen=True, kw_only=True)
class SoupGain:
    """What one line of a soup's table has over another, in one evaluation that was not selected on."""

    name: str
    over: str
    evaluation: str
    gain: float
    """Mean difference of the scores per answer, -1..1."""
    low: float
    high: float
    """Ends of its paired 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class SoupFacts:
    """Single models and soups side by side, and how the soup was found."""

    name: str
    selected_on: tuple[str, ...] = ()
    stamp: str = ""
    """What is wrong with the choice; empty: nothing."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Largest value of the metric by column, where it is no share: it is told in points."""
    lines: Sequence[SoupLine] = ()
    gains: Sequence[SoupGain] = ()
    tried: Sequence[tuple[str, str, str, str]] = ()
    """(ingredient, score, whether it stays, why) of each that was tried."""

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows: percent or points, with 95 % intervals; what is selected on is said."""
        columns = list(dict.fromkeys(key for line in self.lines for key in line.scores))
        head = ["", "models", *(f"{key}{' (selected on)' if key in self.selected_on else ''}" for key in columns)]
        rows = [[line.name, ", ".join(line.models), *(self._cell(key, line.scores.get(key)) for key in columns)] for line in self.lines]
        return head, rows

    def _cell(self, column: str, value: Value | None) -> str:
        unit = 1 if column in self.scales else 100
        return "-" if value is None else f"{unit * value.value:.1f} ({unit * value.low:.1f}..{unit * value.high:.1f})"

    def gain_rows(self) -> list[list[str]]:
        """Rows of the table of gains, in percent of a full score per answer."""
        return [[f"{one.name} over {one.over}", one.evaluation, f"{100 * one.gain:+.1f} ({100 * one.low:+.1f}..{100 * one.high:+.1f})"] for one in self.gains]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        lines = [
            {"name": line.name, "models": list(line.models), "scores": {key: value._asdict() for key, value in line.scores.items()}} for line in self.lines
        ]
        gains = [vars(one).copy() for one in self.gains]
        return {"name": self.name, "selected_on": list(self.selected_on), "stamp": self.stamp, "scales": dict(self.scales), "lines": lines, "gains": gains}


GAIN_HEAD = ("gain per answer", "evaluation", "paired 95 %")
TRIED_HEAD = ("tried", "score", "stays", "why")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One answer, to be looked at."""

    picture: bytes | None
    """PNG, JPEG, GIF or WebP bytes."""
    prompt: str
    judged: Judged


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is known about a run."""

    recipe: str
    description: str = ""
    created: str = ""
    machine: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By node of the run, in order."""
    stages: Sequence[StageFacts] = ()
    tables: Sequence[ScoreTable] = ()
    gates: Sequence[Gate] = ()
    soups: Sequence[SoupFacts] = ()
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    problems: Sequence[Problem] = ()
    parameters: Sequence[PartFacts] = ()
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Ids of what went in and came out, by name."""
    commands: Sequence[str] = ()
    """What to type next."""

    def record(self) -> dict[str, Any]:
        """The content of `report.json`: every number of the page; pictures by their hash."""
        return {
            "recipe": self.recipe,
            "description": self.description,
            "created": self.created,
            "machine": self.machine,
            "seconds": dict(self.seconds),
            "benchmarks": {each.name: _table_record(each) for each in self.tables},
            "gates": [{"name": gate.name, "value": gate.value, "wanted": gate.wanted, "passed": gate.passed} for gate in self.gates],
            "soups": {soup.name: soup.record() for soup in self.soups},
            "stages": [{**vars(stage), "losses": {term: [list(point) for point in curve] for term, curve in stage.losses.items()}} for stage in self.stages],
            "parameters": [{**vars(part), "trained": dict(part.trained)} for part in self.parameters],
            "worst": [_example_record(example) for example in self.worst],
            "best": [_example_record(example) for example in self.best],
            "problems": [problem.record() for problem in self.problems],
            "lineage": dict(self.lineage),
            "commands": list(self.commands),
        }


def _table_record(each: ScoreTable) -> dict[str, Any]:
    rows = {
        row.name: {
            **row.value._asdict(),
            "standing": row.standing,
            "best_control": row.best,
            "controls": {name: value._asdict() for name, value in row.controls.items()},
        }
        for row in each.rows()
    }
    return {"metrics": rows, "habits": {name: value._asdict() for name, value in each.scores.habits.items()}}


def _example_record(example: Example) -> dict[str, Any]:
    return {**example.judged.record(), "prompt": example.prompt, "picture": None if example.picture is None else sha256_bytes(example.picture)}
