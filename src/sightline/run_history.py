"""What the events of a run come to: which node is at work, how far each stage is, and of its curves the points that count. Nothing but events is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

from sightline.run_events import Event

State = Literal["running", "done", "failed", "stopped", "cut off"]
"""cut off: a later run found it begun and not ended."""
Curves = dict[str, list[tuple[int, float]]]
_RECENT = 20
"""Recorded steps over which the rate is taken."""
_QUIET = 120.0
"""Seconds without an event that are ordinary, whatever came before."""
_LATE = 3.0
"""So many of the longest recent gaps between two steps are ordinary too."""


@dataclass(kw_only=True)
class NodeState:
    """One node of the graph."""

    name: str
    state: State
    seconds: float | None = None
    problems: list[Event] = field(default_factory=list)


@dataclass(kw_only=True)
class StageHistory:
    """One stage of training, as far as it is. Curves are lists of (step, value) by name."""

    name: str
    state: State
    step: int | None
    """Optimizer steps done, up to the last one that was recorded."""
    steps: int | None
    """Optimizer steps of the whole stage, where the run says."""
    rate: float | None
    """Steps per second over the last recorded ones."""
    seconds_left: float | None
    latest: Event
    """The last step event that counts, or an empty one."""
    curves: dict[str, Curves]
    """Quantity -> name -> points."""
    probes: list[Event]
    checkpoints: list[Event]
    """Checkpoints that were written, failed or were not used, and where the stage went on or was stopped."""
    faults: list[Event]
    """Steps at which the last attempt ended itself."""
    earlier_faults: list[Event]
    """Those of attempts before it."""


@dataclass(kw_only=True)
class History:
    """A whole run, going on or ended."""

    recipe: str
    state: State
    seen: datetime
    """When this was found."""
    last: datetime | None
    """Time of the last event."""
    silent: float | None
    """Seconds since then."""
    stale: bool
    """It should be at work, and has said nothing for longer than is ordinary."""
    node: str | None
    """The node at work, or where it ended."""
    nodes: list[NodeState]
    planned: list[str]
    """Names of the recipe's stages, where the run says."""
    stages: list[StageHistory]
    speaking: str | None
    """The stage that said something last."""
    scores: dict[str, dict[str, float]]
    """Evaluation -> metric -> value."""
    writers: list[Event]
    """What writers to other tools had to say: one that was turned off, and what it missed."""

    @property
    def stage(self) -> StageHistory | None:
        """The stage that said something last."""
        return next((stage for stage in self.stages if stage.name == self.speaking), None)

    def record(self) -> dict[str, Any]:
        """Everything as JSON; numbers that are none (NaN, infinite) as null."""
        return _sayable({**asdict(self), "seen": self.seen.isoformat(), "last": self.last and self.last.isoformat()})


def counted(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Stage -> its step and probe events that count, in order: a stage that starts drops what an earlier attempt had drawn, one that is resumed keeps the steps before its checkpoint."""
    kept: dict[str, list[Event]] = {}
    before: dict[str, list[Event]] = {}
    for event in events:
        name = event.get("stage")
        if event["event"] == "table":
            before[event["stage"]] = kept.get(event["stage"], [])
            kept[event["stage"]] = []
        elif event["event"] == "resumed":
            kept[event["stage"]] = [one for one in before.get(event["stage"], []) if one["step"] < event["step"]]
        elif event["event"] in ("step", "probe") and name is not None:
            kept.setdefault(name, []).append(event)
    return kept


def history(events: Sequence[Event], now: datetime | None = None) -> History:
    """The facts of a run. `now`: the time against which silence is measured, by default the clock's."""
    now = now or datetime.now(UTC)
    nodes, state, node = _nodes(events)
    last = next((time for event in reversed(events) if (time := time_of(event)) is not None), None)
    silent = (now - last).total_seconds() if last is not None else None
    runs = [event for event in events if event["event"] == "run"]
    names = list(dict.fromkeys(event["stage"] for event in events if "stage" in event))
    kept = counted(events)
    stages = [_stage([event for event in events if event.get("stage") == name], name, kept.get(name, []), nodes) for name in names]
    return History(
        recipe=runs[-1].get("recipe", "") if runs else "",
        state=state,
        seen=now,
        last=last,
        silent=silent,
        stale=state == "running" and silent is not None and silent > _ordinary(events),
        node=node,
        nodes=list(nodes.values()),
        planned=list(runs[-1].get("stages", ())) if runs else [],
        stages=stages,
        speaking=next((event["stage"] for event in reversed(events) if "stage" in event), None),
        scores={event["evaluation"]: event["metrics"] for event in events if event["event"] == "scores"},
        writers=[event for event in events if event["event"].startswith("writer-")],
    )


def time_of(event: Event) -> datetime | None:
    """When an event was written, where it says so."""
    said = event.get("time")
    return datetime.fromisoformat(said) if isinstance(said, str) else None


def _nodes(events: Sequence[Event]) -> tuple[dict[str, NodeState], State, str | None]:
    """The nodes in the order in which they were first begun, the state of the whole run, and the node at work or where it ended."""
    nodes: dict[str, NodeState] = {}
    state: State = "running"
    at_work: str | None = None
    for event in events:
        kind, name = event["event"], event.get("node")
        if kind == "run":
            state, at_work = "running", None
            for node in nodes.values():
                if node.state == "running":
                    node.state = "cut off"
        elif kind == "ended":
            state = event["state"]
        elif kind in ("start", "done", "failed", "stopped") and name is not None:
            node = nodes.setdefault(name, NodeState(name=name, state="running"))
            node.state = "running" if kind == "start" else kind
            at_work = None if kind == "done" else name
            node.seconds, node.problems = event.get("seconds"), event.get("problems", [])
            if kind in ("failed", "stopped"):
                state = kind
    return nodes, state, at_work


def _ordinary(events: Sequence[Event]) -> float:
    """Seconds of silence that are ordinary for this run."""
    begun = max((place for place, event in enumerate(events) if event["event"] == "run"), default=0)  # time before it, nobody was at work
    recent = [time for event in events[begun:][-_RECENT:] if (time := time_of(event)) is not None]
    gaps = [(late - early).total_seconds() for early, late in pairwise(recent)]
    return max(_QUIET, _LATE * max(gaps, default=0.0))


def _stage(own: Sequence[Event], name: str, kept: Sequence[Event], nodes: Mapping[str, NodeState]) -> StageHistory:
    steps = [event for event in kept if event["event"] == "step"]
    probes = {event["step"]: event for event in kept if event["event"] == "probe"}  # a step that is done again tells it again
    begun = max((place for place, event in enumerate(own) if event["event"] == "table"), default=0)
    planned = next((event.get("steps") for event in reversed(own) if event["event"] in ("training", "trained")), None)
    step = steps[-1]["step"] + 1 if steps else None
    rate = _rate(own[begun:])
    node = nodes.get(f"stages/{name}")
    if node is not None and node.state == "done" and planned is not None:
        step = planned  # the last steps need not have been recorded
    running = node is not None and node.state == "running"
    left = (planned - step) / rate if running and planned is not None and step is not None and rate else None
    return StageHistory(
        name=name,
        state=node.state if node is not None else "running",
        step=step,
        steps=planned,
        rate=rate,
        seconds_left=left,
        latest=steps[-1] if steps else {},
        curves=_curves(steps, list(probes.values())),
        probes=list(probes.values()),
        checkpoints=[event for event in own if event["event"].startswith("checkpoint") or event["event"] in ("resumed", "stopped", "versions-changed")],
        faults=[event for event in own[begun:] if event["event"] == "fault"],
        earlier_faults=[event for event in own[:begun] if event["event"] == "fault"],
    )


def _rate(own: Sequence[Event]) -> float | None:
    """Steps per second over the last recorded steps of an attempt."""
    recent = [(event["step"], time) for event in own if event["event"] == "step" and (time := time_of(event)) is not None][-_RECENT:]
    if len(recent) < 2:
        return None
    seconds = (recent[-1][1] - recent[0][1]).total_seconds()
    return (recent[-1][0] - recent[0][0]) / seconds if seconds > 0 else None


def _curves(steps: Sequence[Event], probes: Sequence[Event]) -> dict[str, Curves]:
    """Every quantity that was recorded; those of which there is nothing are left out."""
    found = {
        "loss": _curve(
            steps, lambda event: event.get("terms", {}) if len(event.get("terms", {})) == 1 else {"all": event.get("loss"), **event.get("terms", {})}
        ),
        "loss by source": _curve(steps, lambda event: _means(event.get("by_source"))),
        "loss by kind": _curve(steps, lambda event: _means(event.get("by_kind"))),
        "learning rate": _curve(steps, lambda event: event.get("rates") or {"share of the peak": event.get("rate")}),
        "gradient norm": _curve(steps, lambda event: {"all": event.get("norm"), **(event.get("norms") or {})}),
        "tokens per second": _curve(steps, lambda event: {"tokens": event.get("tokens_per_second"), "answer tokens": event.get("answers_per_second")}),
        "samples per second": _curve(steps, lambda event: {"samples": event.get("samples_per_second")}),
        "mfu": _curve(steps, lambda event: {"mfu": event.get("mfu")}),
        "memory, GiB": _curve(steps, lambda event: {event.get("memory_kind") or "memory": event.get("memory_gib")}),
        "repetition": _curve(probes, lambda event: {"repetition": event.get("repetition")}),
    }
    return {quantity: curves for quantity, curves in found.items() if curves}


def _means(said: Any) -> dict[str, Any]:
    """The means of `{name: [mean, count]}`, without those of nothing."""
    return {name: mean for name, (mean, count) in (said or {}).items() if count}


def _curve(events: Sequence[Event], values: Callable[[Event], Mapping[str, Any]]) -> Curves:
    found: Curves = {}
    for event in events:
        for name, value in values(event).items():
            if (number := number_of(value)) is not None:
                found.setdefault(name, []).append((event["step"], number))
    return found


def number_of(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _sayable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sayable(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
