"""A study: the rows of `vary`, and the trainings of `select`, as runs that share one folder of artifacts. What two rows have in common is made once; killed and continued, nothing is made twice.

STUDY/variants/TABLE/ROW and STUDY/select/TABLE/ROW/TRIAL are folders of runs whose artifacts are links into STUDY/shared; STUDY/tables holds the tables.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sightline import recipe_source
from sightline.data.engine import Ray
from sightline.data_selection import Added, Selection, choose
from sightline.errors import Problem, Refused
from sightline.evaluate.asking import scores_of
from sightline.expansion import Variant, expand, refuse_all, selected, trial, trial_name
from sightline.lineage import Lineage, sha256_json, sweep, write_json, write_text
from sightline.progress import say
from sightline.recipe import Recipe, load
from sightline.recipe_source import Loaded
from sightline.run import Run, RunResult, execute
from sightline.run_soups import evaluation_in
from sightline.shared_artifacts import SharedArtifacts
from sightline.soup_search import STAMP, Measured, measured_in, shared
from sightline.train.processes import join, local_device
from sightline.train.world import first_alone
from sightline.variant_table import RowFacts, VariantTable, made_table

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of a study."""

    name: str
    loaded: Loaded[Recipe]
    study: Path
    folder: Path
    """Inside the folder of the study."""
    until: str | None = None
    there: str = ""
    """The working directory that relative paths start from."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a run of a study came to: small, so that it travels between machines."""

    result: RunResult
    measured: dict[str, Measured]
    """Evaluation -> headline score with those of its requests."""
    facts: RowFacts


@dataclass(kw_only=True)
class StudyResult(RunResult):
    """What a study did, for people and as JSON."""

    tables: list[VariantTable]

    def record(self) -> dict[str, Any]:
        """The result as JSON."""
        tables = {
            table.name: {**table.record(), "files": [str(self.out / "tables" / f"{table.name}.{end}") for end in ("md", "tex", "json")]}
            for table in self.tables
        }
        return {"recipe": self.recipe, "out": str(self.out), "seconds": round(self.seconds, 1), "tables": tables}

    def __str__(self) -> str:
        done = sum(node.state == "done" for node in self.nodes)
        lines = [f"study {self.recipe}: {done} nodes done, {len(self.nodes) - done} found there", ""]
        lines += [table.markdown() for table in self.tables]
        return "\n".join([*lines, f"tables: {self.out / 'tables'} (Markdown, LaTeX, JSON); runs: {self.out / 'variants'}"])


Mapped = Callable[[Sequence[Task]], list[Told]]
"""Runs tasks, in whatever order, and gives what they came to in their order."""


def run_study(recipe: str | Path, overrides: Sequence[str], out: Path, engine: str = "local", until: str | None = None) -> StudyResult:
    """Run or resume every row of a recipe with `vary` or `select`, and write its tables. Raises Refused with all that is wrong with any row before the first one is run."""
    start = time.monotonic()
    groups, world = expand(recipe, overrides), join()
    mapped = _mapped(engine)
    first_alone(world, lambda: refuse_all(groups))
    if world.rank == 0:
        for path in sweep(out):
            say(f"removed {path.name}, left by a stopped run")
        whole = load(recipe, overrides).recipe
        write_text(out / "recipe.yaml", recipe_source.dump(whole))
    world.wait()
    choosing = [variant for rows in groups.values() for variant in rows if variant.loaded.recipe.select is not None]
    stamps = {variant.folder: _stamp(variant, out) for variant in choosing}
    tables, nodes = [], []
    for group, rows in groups.items():
        facts, told = _rows(rows, out, mapped, until, stamps)
        nodes += told
        config = load(recipe, overrides).recipe.vary.get(group)
        table = made_table(group, facts, config.columns if config else (), bool(config and config.cumulative))
        tables.append(table)
        if world.rank == 0:
            for end, text in (("md", table.markdown()), ("tex", table.latex())):
                write_text(out / "tables" / f"{group}.{end}", text)
            write_json(out / "tables" / f"{group}.json", table.record())
    if world.rank == 0:
        made = {f"{variant.group}/{variant.name}": Lineage.read(out / variant.folder) for rows in groups.values() for variant in rows}
        inputs = [{"id": one.id, "kind": name} for name, one in made.items()]
        fingerprint = sha256_json([one.config for one in made.values()])
        Lineage(id=sha256_json([fingerprint, inputs]), kind="study", config=fingerprint, inputs=inputs).write(out)
    world.wait()
    name = load(recipe, overrides).recipe.name
    return StudyResult(recipe=name, out=out, nodes=nodes, seconds=time.monotonic() - start, tables=tables)


def _rows(rows: Sequence[Variant], out: Path, mapped: Mapped, until: str | None, stamps: Mapping[Path, str]) -> tuple[list[RowFacts], list[Any]]:
    """The rows of one table: the base first, since the others share most with it; then those that are known; then those that select their data."""
    found: dict[str, Told] = {}
    choices: dict[str, Selection] = {}
    nodes: list[Any] = []
    tried: dict[str, list[tuple[str, str]]] = {}
    task = partial(Task, study=out.absolute(), until=until, there=str(Path.cwd()))
    known = [variant for variant in rows if variant.loaded.recipe.select is None]
    for some in (known[:1], known[1:]):
        told = mapped([task(name=f"{one.group}/{one.name}", loaded=one.loaded, folder=one.folder) for one in some])
        found |= {one.name: result for one, result in zip(some, told, strict=True)}
    for one in (variant for variant in rows if variant.loaded.recipe.select is not None):
        choices[one.name], trained = _select(one, out, mapped, task, stamps[one.folder])
        tried[one.name] = [pair for each in trained for pair in each.facts.nodes]
        nodes += [node for each in trained for node in each.result.nodes]
        final = selected(one.loaded, choices[one.name].kept)
        [found[one.name]] = mapped([task(name=f"{one.group}/{one.name}", loaded=final, folder=one.folder)])
    nodes += [node for one in found.values() for node in one.result.nodes]
    facts = []
    for one in rows:
        own = found[one.name].facts
        every = tuple(dict.fromkeys([*tried.get(one.name, ()), *own.nodes]))
        costs = SharedArtifacts(out / "shared", one.name)
        taken = {fingerprint: cost for _, fingerprint in every if (cost := costs.cost(fingerprint)) is not None}
        select = one.loaded.recipe.select
        chosen_by = select.select_on if select is not None else ()
        facts.append(replace(own, name=one.name, changes=one.changes, nodes=every, costs=taken, selection=choices.get(one.name), selected_on=chosen_by))
    return facts, nodes


def _select(row: Variant, out: Path, mapped: Mapped, task: Callable[..., Task], stamp: str) -> tuple[Selection, list[Told]]:
    """The trainings of one selection, and what was chosen."""
    select = row.loaded.recipe.select
    assert select is not None, "only a row that selects"
    folder = _trials(row)
    trained: dict[Added, Told] = {}

    def train(wanted: Sequence[Added]) -> list[list[Measured]]:
        told = mapped(
            [task(name=f"{row.name}: {trial_name(one)}", loaded=trial(row.loaded, one), folder=folder / trial_name(one), until=None) for one in wanted]
        )
        trained.update(zip(wanted, told, strict=True))
        return [[one.measured[name] for name in select.select_on] for one in told]

    choice = choose(select.candidates, select.rule, select.accept, train, stamp)
    if join().rank == 0:
        write_json(out / folder / "selection.json", choice.record())
        write_text(out / folder / "selection.md", choice.markdown(row.name))
    say(f"\n{choice.markdown(row.name)}")
    return choice, list(trained.values())


def _trials(row: Variant) -> Path:
    """Folder of a row's trials inside that of the study."""
    return Path("select") / row.group / row.name


def _stamp(row: Variant, out: Path) -> str:
    """What every table says of a choice that met the test; refused, before anything is trained, unless the recipe allows it."""
    recipe, select = row.loaded.recipe, row.loaded.recipe.select
    assert select is not None, "only a row that selects"
    awaited = recipe.awaited()
    data = {name: getattr(one.benchmark, "data", None) for name, one in recipe.evaluate.items()}
    data = {name: one for name, one in data.items() if one is not None and not awaited[one]}  # what later stages make cannot be looked at yet
    world = join()
    own = SharedArtifacts(out.absolute() / "shared", row.name)
    folder = out / _trials(row) / "looked-at"
    first_alone(world, lambda: own.join(folder))
    state = Run(recipe, folder, world, own)
    for one in data.values():
        state.data(one)
    asked = {name: evaluation_in(state, name).asked for name in data}
    chosen = [one for name, one in asked.items() if name in select.select_on]
    overlap = shared(chosen, [one for name, one in asked.items() if name not in select.select_on], row.loaded.place("select"))
    if overlap and not select.allow_test_selection:
        raise Refused(replace(one, code="recipe/test-selection") for one in overlap)
    return STAMP if overlap else ""


def work(task: Task) -> Told:
    """One run of a study in this process."""
    say(f"\n{task.name}")
    own = SharedArtifacts(task.study / "shared", task.name)
    result, state = execute(task.loaded, task.study / task.folder, task.until, own)
    told = {name: _told(state, name) for name in result.scores}
    facts = RowFacts(
        name=task.name,
        folder=str(task.folder),
        scores={name: {**scores.metrics, **scores.habits} for name, (_, scores, _) in told.items()},
        headlines={name: metric for name, (metric, _, _) in told.items()},
        measured={name: one for name, (_, _, one) in told.items()},
        nodes=tuple((node.name, node.fingerprint) for node in state.nodes),
    )
    return Told(result=result, measured={name: one for name, (_, _, one) in told.items()}, facts=facts)


def _told(state: Run, name: str) -> tuple[str, Any, Measured]:
    """(first headline metric, scores, scores by request) of an evaluation that is done."""
    config = state.recipe.evaluate[name]
    data = getattr(config.benchmark, "data", None)
    samples = [state.store(data)[int(row)] for row in state.store(data).kept] if data is not None else []
    benchmark: Any = config.benchmark.build(samples)  # pyright: ignore[reportAttributeAccessIssue]
    scores = scores_of(json.loads((state.out / "evaluate" / name / "scores.json").read_text(encoding="utf-8"))["model"])
    return benchmark.headline[0], scores, measured_in(scores, benchmark.headline[0], benchmark.requests())


def _mapped(engine: str) -> Mapped:
    """local: one run after the other, in this process. ray: runs are tasks of a Ray cluster, each with a device of its own where there are any."""
    if engine == "local":
        return lambda tasks: [work(task) for task in tasks]
    if engine != "ray":
        raise Refused(Problem(code="run/unknown-engine", place="engine", found=repr(engine), allowed=", ".join(ENGINES), fix="--engine ray"))
    cluster = Ray(address=os.environ.get("RAY_ADDRESS"), devices=1 if local_device().type == "cuda" else 0)
    return lambda tasks: list(cluster.map(_elsewhere, tasks))


def _elsewhere(task: Task) -> Told:
    os.chdir(task.there)
    return work(task)
