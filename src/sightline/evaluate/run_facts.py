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
