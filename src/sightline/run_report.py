"""What a run says about itself: report.html, report.json, pictures to ask about, and the lines at the end on the terminal."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.evaluate.report import best_of, examples, worst_of, write_report
from sightline.evaluate.run_facts import PartFacts, Report, ScoreTable, StageFacts
from sightline.progress import duration

if TYPE_CHECKING:
    from sightline.run import Run, RunResult

_PICTURES = 12
"""Held-out pictures laid beside the run, to chat about."""


def write_run_report(run: Run, tables: Mapping[str, ScoreTable], seconds: float) -> None:
    """Write report.html and report.json into the run's folder, drawn from events.jsonl and the scores."""
    events = run.events.read()
    worst, best = [], []
    for name, table in tables.items():
        config = run.recipe.evaluate[name]
        store = run.store(config.benchmark.data)  # pyright: ignore[reportAttributeAccessIssue]
        benchmark: Any = config.benchmark.build([store[int(row)] for row in store.kept])  # pyright: ignore[reportAttributeAccessIssue]
        requests = list(benchmark.requests())
        if name == next(iter(tables)):
            _lay_out_pictures(run.out / "pictures", requests)
        if any(request.sample.pictures for request in requests):
            worst += examples(worst_of(table.scores, 12), requests, store.path)
            best += examples(best_of(table.scores, 8), requests, store.path)
    report = Report(
        recipe=run.recipe.name,
        description=f"seed {run.recipe.seed}; resolved recipe in recipe.yaml, every event in events.jsonl",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        seconds=_seconds(events),
        stages=_stages(run, events),
        tables=list(tables.values()),
        worst=worst,
        best=best,
        parameters=_parts(run, events),
        lineage=dict(run.ids),
    )
    write_report(report, run.out)


def _lay_out_pictures(folder: Path, requests: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    pictures = {picture.hash: picture for request in requests for picture in request.sample.pictures}
    for picture in list(pictures.values())[:_PICTURES]:
        if isinstance(picture.data, bytes):
            (folder / Path(picture.name or f"{picture.hash[:12]}.png").name).write_bytes(picture.data)


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
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for event in events:
        if event["event"] == "table":
            curves[event["stage"]] = {}
        elif event["event"] == "step":
            own = curves.setdefault(event["stage"], {})
            for term, value in event["terms"].items():
                own.setdefault(term, []).append((event["step"], value))
    return [
        StageFacts(
            name=stage.name,
            objective=stage.objective.kind,  # pyright: ignore[reportAttributeAccessIssue]
            steps=trained[stage.name]["steps"],
            seconds=trained[stage.name]["seconds"],
            losses=curves.get(stage.name, {}),
            note=f"{trained[stage.name]['rows'] / max(trained[stage.name]['seconds'], 1e-9):.0f} rows/s",
        )
        for stage in run.recipe.stages
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
        lines.append(f"  {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in metrics.items()))
    lines.append(f"report: {result.out / 'report.html'}")
    return "\n".join(lines)
