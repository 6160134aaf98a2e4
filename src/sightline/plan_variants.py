"""`sightline plan` of a recipe with `vary` or `select`: rows, what they share, and hours and disk of everything once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import Problem
from sightline.expansion import expand, selected, static_keys, trials_of
from sightline.plan import absent
from sightline.plan_soups import SoupPlan, plan_soups
from sightline.plan_stages import Known, StagePlan, plan_stage, record
from sightline.plan_time import Hardware, hardware, hours, size
from sightline.recipe import Recipe, load
from sightline.recipe_source import Loaded


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """One row, or one trial of a row that selects its data."""

    table: str
    name: str
    nodes: int
    """Data passes, tokenizers, stages, soups and evaluations."""
    shared: int
    """Of them, those that another row has too."""
    hours: float
    """Of its stages and soups."""
    own_hours: float
    """Of them, for what no other row has."""
    trial: bool = False


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study will take."""

    recipe: str
    machine: Hardware
    rows: list[RowPlan]
    nodes: int
    """Different nodes of all rows together."""
    hours: float
    disk: float
    """Bytes."""
    stages: list[StagePlan]
    """Each different stage once, in the order in which they are met."""
    findings: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {
            "recipe": self.recipe,
            "hardware": asdict(self.machine),
            "rows": [asdict(row) for row in self.rows],
            "nodes": self.nodes,
            "hours": self.hours,
            "hours_without_sharing": sum(row.hours for row in self.rows),
            "disk": self.disk,
            "stages": [record(stage) for stage in self.stages],
            "findings": [finding.record() for finding in self.findings],
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        trials = sum(row.trial for row in self.rows)
        lines = [f"plan of study {self.recipe} on {self.machine.said} ({self.seconds:.1f} s): {len(self.rows) - trials} rows, {trials} trials of data sets"]
        width = max(len(f"{row.table}/{row.name}") for row in self.rows) + 2
        lines.append(f"  {'row':<{width}}{'nodes':>7}{'shared':>8}{'hours':>12}{'of its own':>12}")
        for row in self.rows:
            named = f"{row.table}/{row.name}"
            lines.append(f"  {named:<{width}}{row.nodes:>7}{row.shared:>8}{hours(row.hours):>12}{hours(row.own_hours):>12}")
        alone = sum(row.hours for row in self.rows)
        lines.append(f"{self.nodes} different nodes of {sum(row.nodes for row in self.rows)}")
        lines.append(f"in all {hours(self.hours)} of training and soups, {hours(alone)} without sharing; {size(self.disk)} of disk")
        lines += [f"\n{finding}" for finding in self.findings]
        return "\n".join(lines)


def plan_study(recipe: str | Path, overrides: Sequence[str], machine: str, sharding: str | None, run: Path | None) -> StudyPlan:
    """The plan of every row. A selection is planned with its first round of trials, and as if all candidates were kept. `run`: folder of the study, where rows of data are measured."""
    start = time.monotonic()
    named, planned = hardware(machine), _recipes(recipe, overrides)
    keys = [static_keys(loaded.recipe) for _, _, loaded, _ in planned]
    uses = Counter(key for own in keys for key in set(own.values()))
    spent: dict[str, float] = {}
    disk: dict[str, float] = {}
    stages: list[StagePlan] = []
    findings: dict[tuple[str, str], Problem] = {}
    steps: Known = {}
    for (table, name, loaded, _), own in zip(planned, keys, strict=True):
        folder = run / "variants" / table / name if run is not None else None
        for problem in absent(loaded):
            findings.setdefault((problem.code, problem.found), problem)
        spread = [(sharding or stage.sharding) if named.devices > 1 else "none" for stage in loaded.recipe.stages]
        found, soups = _new(loaded.recipe, own, spent, named, spread, folder, steps)
        for key, stage in found.items():
            spent[key], disk[key] = stage.time.hours, sum(stage.time.disk.values())
            stages.append(stage)
            for finding in stage.findings:
                findings.setdefault((finding.code, finding.place), finding)
        for key, soup in soups.items():
            spent[key], disk[key] = soup.hours, sum(soup.disk.values())
    rows = [
        RowPlan(
            table=table,
            name=name,
            nodes=len(own),
            shared=sum(uses[key] > 1 for key in own.values()),
            hours=sum(spent.get(key, 0.0) for key in own.values()),
            own_hours=sum(spent.get(key, 0.0) for key in own.values() if uses[key] == 1),
            trial=is_trial,
        )
        for (table, name, _, is_trial), own in zip(planned, keys, strict=True)
    ]
    return StudyPlan(
        recipe=load(recipe, overrides).recipe.name,
        machine=named,
        rows=rows,
        nodes=len(uses),
        hours=sum(spent.values()),
        disk=sum(disk.values()),
        stages=stages,
        findings=list(findings.values()),
        seconds=time.monotonic() - start,
    )


def _recipes(recipe: str | Path, overrides: Sequence[str]) -> list[tuple[str, str, Loaded[Recipe], bool]]:
    """(table, row, recipe, whether it is a trial) of everything that is run."""
    found = []
    for group, rows in expand(recipe, overrides).items():
        for variant in rows:
            select = variant.loaded.recipe.select
            if select is None:
                found.append((group, variant.name, variant.loaded, False))
                continue
            found += [(group, f"{variant.name}: {name}", loaded, True) for name, loaded in trials_of(variant.loaded).items()]
            found.append((group, variant.name, selected(variant.loaded, tuple(select.candidates)), False))
    return found


def _new(
    recipe: Recipe, keys: dict[str, str], known: dict[str, float], machine: Hardware, spread: Sequence[str], folder: Path | None, steps: Known
) -> tuple[dict[str, StagePlan], dict[str, SoupPlan]]:
    """Plans of a row's stages and soups that no row before it has."""
    found = {
        keys[f"stages/{stage.name}"]: plan_stage(recipe, number, machine, spread[number], folder, steps)
        for number, stage in enumerate(recipe.stages)
        if keys[f"stages/{stage.name}"] not in known
    }
    soups = {}
    if any(keys[f"soups/{name}"] not in known for name in recipe.soups):
        for soup in plan_soups(recipe, machine, spread[-1], folder, steps):
            soups[keys[f"soups/{soup.name}"]] = soup
            found |= {keys[f"stages/{stage.name}"]: stage for stage in soup.pool if keys[f"stages/{stage.name}"] not in known}
    return found, soups
