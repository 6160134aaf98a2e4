"""What a run says about itself: report.html, report.json, pictures to ask about, and the lines at the end on the terminal."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem
from sightline.evaluate.prefixes import Counts
from sightline.evaluate.report import best_of, examples, worst_of, write_report
from sightline.evaluate.run_facts import Gate, PartFacts, Report, ScoreTable, SoupFacts, StageFacts
from sightline.progress import duration
from sightline.run_history import counted
from sightline.run_stages import answered_text, named_folder
from sightline.soup_search import facts_of

if TYPE_CHECKING:
    from sightline.run import Run, RunResult

_PICTURES = 12
"""Held-out pictures laid beside the run, to chat about."""
_LISTED = 20
"""Problems of one data set that the report prints."""


def write_run_report(run: Run, tables: Mapping[str, ScoreTable]) -> None:
    """Write report.html and report.json into the run's folder, drawn from events.jsonl and the scores."""
    events = run.events.read()
    answered = _answered(events)
    worst, best = [], []
    commands: list[str] = []
    for name, table in tables.items():
        config = run.recipe.evaluate[name]
        data = getattr(config.benchmark, "data", None)
        store = run.store(data) if data is not None else None
        benchmark: Any = config.benchmark.build([store[int(row)] for row in store.kept] if store else [])  # pyright: ignore[reportAttributeAccessIssue]
        requests = list(benchmark.requests())
        if name == next(iter(tables)):
            commands = _commands(run.out, _lay_out_pictures(run.out / "pictures", requests), requests)
        if any(request.sample.pictures for request in requests):
            worst += examples(worst_of(table.scores, 12), requests, store.path if store else None)
            best += examples(best_of(table.scores, 8), requests, store.path if store else None)
    report = Report(
        recipe=run.recipe.name,
        description=f"seed {run.recipe.seed}; resolved recipe in recipe.yaml, every event in events.jsonl",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        seconds=_seconds(events),
        stages=_stages(run, events),
        tables=[replace(table, note=" ".join(filter(None, (table.note, answered.get(name))))) for name, table in tables.items()],
        gates=list(_gates(run, tables)),
        soups=_soups(run),
        worst=worst,
        best=best,
        problems=[*_left_out(run), *_faults(events)],
        parameters=_parts(run, events),
        lineage=dict(run.ids),
        commands=commands,
    )
    write_report(report, run.out)


def _answered(events: list[dict[str, Any]]) -> dict[str, str]:
    """What was asked in each evaluation, and what answering it took, when it was last asked."""
    names = {one.name for one in fields(Counts)}
    return {
        event["evaluation"]: f"{answered_text(event['requests'], event['known'], Counts(**{key: event[key] for key in names}))}."
        for event in events
        if event["event"] == "answered"
    }


def _gates(run: Run, tables: Mapping[str, ScoreTable]) -> Iterator[Gate]:
    for name, table in tables.items():
        config = run.recipe.evaluate[name]
        if config.gate is not None:
            metric = table.headline[0]
            yield Gate(
                name=f"{name}: {metric}",
                value=table.scores.metrics[metric].value,
                wanted=config.gate,
                meaning=f"after stage {config.stage or run.recipe.stages[-1].name}",
            )


def _soups(run: Run) -> list[SoupFacts]:
    """The tables of the soups that are made, as they stand beside their models."""
    files = [named_folder(run, name).parent / "table.json" for name in run.recipe.soups if f"soups/{name}" in run.ids]
    return [facts_of(json.loads(file.read_text(encoding="utf-8"))) for file in files]


def _lay_out_pictures(folder: Path, requests: list[Any]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    pictures = {picture.hash: picture for request in requests for picture in request.sample.pictures}
    files = []
    for picture in list(pictures.values())[:_PICTURES]:
        if isinstance(picture.data, bytes):
            files.append(folder / Path(picture.name or f"{picture.hash[:12]}.png").name)
            files[-1].write_bytes(picture.data)
    return files


def _commands(out: Path, files: list[Path], requests: list[Any]) -> list[str]:
    """What to type next: the first question about the first picture."""
    asked = next((request.sample for request in requests if request.sample.pictures), None)
    if asked is None or not files:
        return []
    return [shlex.join(["sightline", "chat", str(out), "--image", str(files[0]), asked.text(-1) or "What is here?"])]


def _left_out(run: Run) -> list[Problem]:
    """Rows that were refused, read with a loss, or quarantined, by data set: the first of them, and how many there are."""
    found: list[Problem] = []
    for name, config in run.recipe.data.items():
        if f"data/{name}" not in run.ids:
            continue
        store = run.store(name)
        # data with a source repeats what its source could not read
        rows = [*store.refused(), *store.warnings()] if config.read else []
        found += rows[:_LISTED]
        listing = store.path / "problems.jsonl"
        if len(rows) > _LISTED:
            found.append(Problem(code="run/more", place=f"data.{name}", found=f"{len(rows) - _LISTED} more", fix=f"read {listing}", severity="warn"))
        for rule, count in Counter(rule for _, rule in store.quarantined()).items():
            found.append(Problem(code="run/quarantined", place=f"data.{name}", found=f"{count} of {len(store)} rows by {rule}", severity="warn"))
    return found


def _faults(events: list[dict[str, Any]]) -> Iterator[Problem]:
    """Steps at which an earlier attempt of a stage ended itself."""
    for event in events:
        if event["event"] == "fault":
            named = ", ".join(f"{row['source']}:{row['id']}" for row in event["rows"][:_LISTED])
            more = f" and {len(event['rows']) - _LISTED} more" if len(event["rows"]) > _LISTED else ""
            place = f"stage {event['stage']}, step {event['step']}, an earlier attempt"
            yield Problem(code=event["code"], place=place, found=f"{event['found']} on rows {named}{more}", severity="warn")


def _seconds(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each group of nodes, the last time each node was done."""
    last = {event["node"]: event["seconds"] for event in events if event["event"] == "done"}
    found: dict[str, float] = {}
    for node, seconds in last.items():
        group = node if node.startswith(("stages/", "evaluate/")) else node.split("/")[0]
        found[group] = found.get(group, 0.0) + seconds
    return found


def _latest(events: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {event["stage"]: event for event in events if event["event"] == kind}


def _stages(run: Run, events: list[dict[str, Any]]) -> list[StageFacts]:
    trained = _latest(events, "trained")
    pool = {stage.name: stage for soup in run.recipe.soups for stage in run.recipe.pool_of(soup)}
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, kept in counted(events).items():
        for event in kept:
            if event["event"] == "step":
                for term, value in event["terms"].items():
                    curves.setdefault(name, {}).setdefault(term, []).append((event["step"], value))
    return [
        StageFacts(
            name=stage.name,
            objective=stage.objective.kind,  # pyright: ignore[reportAttributeAccessIssue]
            steps=trained[stage.name]["steps"],
            seconds=trained[stage.name]["seconds"],
            losses=curves.get(stage.name, {}),
            note=f"{trained[stage.name]['rows'] / max(trained[stage.name]['seconds'], 1e-9):.0f} rows/s",
        )
        for stage in [*run.recipe.stages, *pool.values()]
        if stage.name in trained
    ]


def _parts(run: Run, events: list[dict[str, Any]]) -> list[PartFacts]:
    tables = _latest(events, "table")
    sizes: dict[str, int] = {}
    how: dict[str, dict[str, str]] = {}
    for stage in run.recipe.stages:
        for row in tables.get(stage.name, {"table": []})["table"]:
            sizes[row["part"]] = row["parameters"]
            if row["trained"]:
                how.setdefault(row["part"], {})[stage.name] = f"{row['how']}, {row['learning_rate']:g}"
    return [PartFacts(path=path, parameters=count, trained=how.get(path, {})) for path, count in sizes.items()]


def summary(result: RunResult) -> str:
    """The closing lines of a run."""
    done = sum(node.state == "done" for node in result.nodes)
    lines = [f"run {result.recipe}: {done} nodes done, {len(result.nodes) - done} skipped, {duration(result.seconds)}"]
    for name, metrics in result.scores.items():
        controls = result.controls[name]
        lines.append(f"\n{name:<20}{'model':>8}" + "".join(f"{control:>20}" for control in controls))
        for metric, value in metrics.items():
            beside = (controls[control].get(metric) for control in controls)
            lines.append(f"  {metric:<18}{value:>8.3f}" + "".join(f"{'-':>20}" if other is None else f"{other:>20.3f}" for other in beside))
    lines.append("")
    lines.append(f"report: {result.out / 'report.html'}")
    return "\n".join(lines)
