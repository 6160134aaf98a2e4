"""One stage of a plan: its rows, its worst batch, memory by part, steps, arithmetic, hours and disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json
from sightline.model import directory
from sightline.model.vlm import Model
from sightline.plan_memory import StepMemory, measure_steps
from sightline.plan_rows import BlankPictures, DataRows, RowLength, histogram, processor_of, rows_of, vocabulary, worst_batch, worst_rows
from sightline.plan_time import CPU, Hardware, StageTime, disk_of, size, stage_flops, visits_of
from sightline.recipe import Recipe
from sightline.train.stage import StageConfig, TableRow, prepare
from sightline.train.switches import throw

MANY = 8
"""Rows of a micro-batch that are measured; of more, these many are taken evenly, and half as many, and what they take is extended."""
FITS = 0.92
"""Share of a device's memory that a step may take: the rest is the runtime's, and what allocators lose."""

CACHE_SEEN = 1e11
"""Bytes of cached features that nobody has to think about."""
CACHE_LARGE = 1e12
"""Bytes of cached features that are told even where they save work: few machines have so much fast disk to spare."""
_UNFELT = {"name", "model", "data", "mix", "init", "batch", "steps", "epochs", "every", "probe", "checkpoints"}
"""Keys of a stage that no single step feels: rows and what accumulates are told apart from them."""


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Memory of the worst step on one device."""

    rows: int
    """Rows of a micro-batch on one device."""
    tokens: int
    """Its longest row."""
    patches: int
    """Tokens that encoders compute for it."""
    sharding: str
    """none, or fsdp: weights, gradients and moments of the language model are spread over the devices."""
    device: dict[str, int]
    """Bytes by kind, as the recipe stands."""
    recomputed: int
    """Bytes in all with activation checkpointing of every block."""
    parts: dict[str, dict[str, int]]
    """Part -> weights, gradients, optimizer, and activations at the worst moment, not sharded."""
    fits: bool
    fits_recomputed: bool
    largest: int
    """Most rows of a micro-batch that fit as the recipe stands; 0 = none."""
    largest_recomputed: int
    """The same with activation checkpointing."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What a stage will take."""

    name: str
    model: str
    objective: str
    table: list[TableRow]
    data: list[dict[str, Any]]
    """Per data set: rows of an epoch, how they are known, mean tokens, answers and encoder tokens of a row."""
    histogram: list[tuple[int, int, float]]
    """(from, to, share of the rows) of tokens in a row."""
    memory: StageMemory | None
    time: StageTime
    findings: list[Problem] = field(default_factory=list)


Steps = list[StepMemory] | str
"""Memory of steps, or why it is not known."""
Known = dict[str, Steps]
"""What the steps of other stages take, by everything that it depends on: steps that are alike are measured once."""


def plan_stage(recipe: Recipe, number: int, machine: Hardware, sharding: str, run: Path | None, known_steps: Known) -> StagePlan:
    """The plan of a stage. `known_steps` grows by what is measured here."""
    stage = recipe.stages[number]
    name = recipe.model_of(stage)
    resolved = directory.without_checkpoints(recipe.config_of(stage).resolve(*vocabulary(recipe, name)))
    processor, known = processor_of(recipe, stage, resolved, run)
    data = rows_of(recipe, stage, processor, known, run)
    with torch.device("meta"):
        model = Model(resolved)
        prepared = prepare(model, stage)
    first = all(recipe.model_of(other) != name for other in recipe.stages[:number])
    time = _time(model, stage, data, machine, first)
    memory, findings = _memory(model, stage, data, machine, sharding, processor, known_steps)
    findings += [*_idle_cache(stage, data, time), *_guessed(data)]
    return StagePlan(
        name=stage.name,
        model=name,
        objective=stage.objective.kind,  # pyright: ignore[reportAttributeAccessIssue]
        table=prepared.table,
        data=[_said(one) for one in data],
        histogram=histogram(data),
        memory=memory,
        time=time,
        findings=findings,
    )


def _guessed(data: list[DataRows]) -> list[Problem]:
    return [
        Problem(
            code="plan/guessed-rows",
            place=f"data.{one.name}",
            found="not at hand, and nothing is declared: one batch a step of rows of 100 tokens is assumed",
            allowed="data in the run's folder, or what is expected of it",
            fix=f"data.{one.name}.expect={{rows: N, text: TOKENS, answers: TOKENS, size: [WIDTH, HEIGHT]}}",
            severity="warn",
        )
        for one in data
        if one.how == "assumed"
    ]


def _idle_cache(stage: StageConfig, data: list[DataRows], time: StageTime) -> list[Problem]:
    """A feature cache that takes much disk and saves nothing, or more disk than a machine is likely to spare."""
    taken, different = time.disk["features"], sum(one.pictures for one in data)
    epoch = sum(one.rows for one in data)
    looks = sum(time.rows * one.rows / max(1, epoch) * one.mean("pictures") for one in data) / max(1, different)
    if taken < CACHE_SEEN or (taken < CACHE_LARGE and looks >= 1.5):
        return []
    return [
        Problem(
            code="plan/cache-cannot-pay",
            place=f"stages.{stage.name}.cache_features",
            found=f"{size(taken)} of cached features of {different:,} pictures, each looked at {looks:.1f} times",
            allowed=f"a cache below {size(CACHE_LARGE)} whose pictures come back, or none",
            fix=f"stages.{stage.name}.cache_features=false",
            severity="warn",
        )
    ]


def _said(one: DataRows) -> dict[str, Any]:
    means = {key: round(one.mean(key), 1) for key in ("tokens", "answers", "patches")}
    return {"name": one.name, "rows": one.rows, "how": one.how, **means, "sampled": len(one.lengths) if one.how == "measured" else 0}


def cached(stage: StageConfig, model: Model) -> bool:
    """Whether the stage reads features of frozen encoders from the cache."""
    trained = any(path == "encoders" or path.startswith("encoders.") for path in stage.train)
    asked = "write" in stage.objective.build().needs  # pyright: ignore[reportAttributeAccessIssue]
    return stage.cache_features and stage.augment == "none" and bool(model.encoders) and model.connector is not None and asked and not trained


def _time(model: Model, stage: StageConfig, data: list[DataRows], machine: Hardware, first: bool) -> StageTime:
    steps, rows = visits_of(data, stage)
    own = cached(stage, model)
    by_part = stage_flops(model, data, rows, own, recompute=stage.recompute)
    total = sum(by_part.values())
    epoch = sum(one.rows for one in data)
    tokens = sum(rows * one.rows / max(1, epoch) * one.mean("tokens") for one in data)
    hours = total / (machine.devices * machine.flops * machine.utilisation) / 3600
    return StageTime(steps=steps, rows=rows, tokens=tokens, flops=total, by_part=by_part, hours=hours, disk=disk_of(model, data, first, own, stage.precision))


def _memory(
    model: Model, stage: StageConfig, data: list[DataRows], machine: Hardware, sharding: str, processor: BlankPictures, known: Known
) -> tuple[StageMemory | None, list[Problem]]:
    """Measured on the longest rows of an epoch; without a number where the model's code cannot run without numbers."""
    objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    own = math.ceil(stage.batch / machine.devices)
    rows = min(stage.micro_batch or own, own)
    lengths = [length for one in data for length in one.lengths]
    rows = worst_rows(lengths, rows, stage.tokens if objective.splits else None)
    longest = sorted(lengths, key=lambda one: (one.tokens, one.patches), reverse=True)
    longest = (longest * math.ceil(rows / max(1, len(longest))))[:rows]
    sizes = [rows, rows // 2 or 2] if rows <= MANY else [MANY, MANY // 2]
    chosen = [[longest[place * rows // size] for place in range(size)] for size in sizes]
    found = _steps(model, stage, chosen, rows < own, machine.name == CPU, processor, known)
    if isinstance(found, str):
        return None, [
            Problem(
                code="plan/memory-unknown",
                place=f"stages.{stage.name}",
                found=f"its forward cannot run without numbers ({found})",
                allowed="parts whose arithmetic does not depend on the values of tensors",
                fix="measure one step on the machine itself: steps=1",
                severity="warn",
            )
        ]
    sharding = (
        sharding if "write" in objective.needs and not set(objective.needs) - {"write", "mask"} else "none"
    )  # what runs an unknown number of times is whole on each device
    devices = machine.devices if sharding == "fsdp" else 1
    whole, half = found
    if rows > MANY:
        whole, sizes[0] = whole.extended(half, (rows - MANY) / (MANY - MANY // 2)), rows
    # a stage that recomputes is measured as it runs
    device, again = whole.on(devices), whole.on(devices, recompute=not stage.recompute)["total"]
    room = FITS * machine.memory
    memory = StageMemory(
        rows=rows,
        tokens=max((one.tokens for one in longest), default=0),
        patches=sum(one.patches for one in longest),
        sharding=sharding,
        device=device,
        recomputed=again,
        parts=_parts(whole),
        fits=device["total"] <= room,
        fits_recomputed=again <= room,
        largest=_largest(device["total"], half.on(devices)["total"], sizes, room),
        largest_recomputed=_largest(again, half.on(devices, recompute=not stage.recompute)["total"], sizes, room),
    )
    return memory, []


def _steps(model: Model, stage: StageConfig, chosen: list[list[RowLength]], accumulates: bool, cpu: bool, processor: BlankPictures, known: Known) -> Steps:
    """Memory of a step on each of these micro-batches, measured unless an equal one was."""
    felt = stage.model_dump(mode="json", exclude=_UNFELT)
    felt["train"] = {path: {key: value for key, value in one.items() if key != "learning_rate"} for path, one in felt["train"].items()}
    rows = [[asdict(one) for one in some] for some in chosen]
    key = sha256_json([model.config.model_dump(mode="json"), felt, rows, accumulates, cpu])
    if key not in known:
        objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
        throw(model, stage.model_copy(update={"compile": False}))
        try:
            batches = [worst_batch(own, len(own), processor, objective, stage.pack)[0] for own in chosen]
            known[key] = measure_steps(model, objective, batches, stage, accumulates=accumulates, cpu=cpu)
        except Refused:
            raise
        except Exception as error:  # whatever a published class does with numbers that are not there
            known[key] = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}"
    return known[key]


def _largest(whole: int, half: int, sizes: list[int], room: float) -> int:
    """Most rows that fit: bytes grow by the same with every row."""
    slope = max(1.0, (whole - half) / (sizes[0] - sizes[1]))
    return max(0, int(sizes[0] + (room - whole) / slope))


def _parts(memory: StepMemory) -> dict[str, dict[str, int]]:
    paths = dict.fromkeys([*memory.weights, *memory.step])
    return {
        path: {
            "weights": memory.weights.get(path, 0),
            "gradients": memory.gradients.get(path, 0),
            "optimizer": memory.optimizer.get(path, 0),
            "activations": memory.step.get(path, 0),
        }
        for path in paths
        if path != "gradients"
    }


def record(stage: StagePlan) -> dict[str, Any]:
    """A stage as JSON."""
    return {**asdict(stage), "findings": [finding.record() for finding in stage.findings]}
