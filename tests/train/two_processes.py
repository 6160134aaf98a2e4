"""What test_processes.py compares: stages trained by one process and by two. `torchrun two_processes.py FOLDER` writes what two processes found to FOLDER/two.json."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from conftest import World, make_world
from sightline.train.checkpoints import Checkpoints
from sightline.train.processes import join, leave
from sightline.train.sharding import become, whole_tensors
from sightline.train.stage import prepare
from sightline.train.world import ALONE
from sightline.train.world import World as Processes

RATE = {"learning_rate": 1e-2}
MIXED = {"questions": 1.0, "notes": 1.0}
"""Rows with pictures and rows without."""
PAIRS = {"data": {"captions": 1.0}, "train": {"text_encoder": RATE}}
PICTURE_TEXT = {"kind": "picture-text", "match": 0, "tell": 0, "momentum": 0.9, "queue": 6, "alpha": 0.4}
STAGES: Mapping[str, dict[str, Any]] = {
    "shards": {"steps": 20, "micro_batch": 1, "data": MIXED},
    "whole": {"steps": 20, "micro_batch": 1, "data": MIXED, "sharding": "none"},
    "again": {"micro_batch": 1, "data": MIXED, "recompute": True},
    "budget": {"tokens": 60, "data": MIXED},
    "frozen-writer": {"micro_batch": 1, "data": MIXED, "train": {"connector": RATE}},
    "notes-alone": {"data": {"notes": 1.0}, "train": {"connector": RATE, "language_model": {**RATE, "last": 1}}},
    "adapters": {"data": MIXED, "train": {"connector": RATE, "language_model": {**RATE, "lora": {"rank": 4}}}},
    "bfloat16": {"data": MIXED, "precision": "bfloat16"},
    "average": {"data": MIXED, "average": 0.9},
    "softmax": {**PAIRS, "objective": "contrastive"},
    "sigmoid": {**PAIRS, "objective": {"kind": "contrastive", "loss": "sigmoid"}},
    "tags": {**PAIRS, "objective": {"kind": "contrastive", "tags": {"most_frequent": 4}}},
    "masks": {"objective": "mask", "micro_batch": 1, "data": {"masks": 1.0, "notes": 1.0}, "train": {"language_model": RATE, "heads.mask": RATE}},
}
STOPPED = {"steps": 8, "data": MIXED, "average": 0.9, "checkpoints": {"steps": 3, "keep": 1}}
"""Is stopped behind step 5, so that its checkpoint is the one behind step 3."""


class Stopped(BaseException):
    """A stage ended from outside."""


def trained(world: World, said: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """Losses and norms of each step, and a mark of what the stage made of its tensors."""
    world = world.drawing if said.get("objective") == "mask" and world.drawing is not None else world
    model, stage = world.model(), world.stage(**{"steps": 4, "every": 1, **said})
    prepared, _, events = world.train(model, stage, world=processes)
    return {**_steps(events), "weights": _mark(model, prepared)}


def _steps(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    steps = [event for event in events if event["event"] == "step"]
    return {"loss": [event["loss"] for event in steps], "norm": [event["norm"] for event in steps]}


def _mark(model: Any, prepared: Any) -> list[float]:
    """Norm of each tensor as it stands in a model of one process; without the biases of CLIP's keys, whose true gradient is zero: Adam makes steps of its rounding."""
    tensors = whole_tensors(model, prepared)
    again = tensors if tensors else dict(prepared.trained)
    return [float(again[name].detach().double().norm()) for name in sorted(prepared.trained) if not name.endswith("self_attn.k_proj.bias")]


def stop(world: World, folder: Path, processes: Processes) -> None:
    """Train until step 5 and leave a checkpoint behind step 3."""
    stage, steps = world.stage(**{"every": 1, **STOPPED}), []

    def record(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            steps.append(event)
            if event["step"] == 5:
                raise Stopped

    checkpoints = Checkpoints(folder, "this", stage, record, lambda text: None)
    try:
        world.train(world.model(), stage, world=processes, record=record, checkpoints=checkpoints)
    except Stopped:
        return
    raise AssertionError("was not stopped")


def go_on(world: World, folder: Path, processes: Processes) -> dict[str, Any]:
    """The steps behind the checkpoint, and what came of them."""
    model, stage, events = world.model(), world.stage(**{"every": 1, **STOPPED}), []
    prepared, _, _ = world.train(
        model, stage, world=processes, record=events.append, checkpoints=Checkpoints(folder, "this", stage, events.append, lambda text: None)
    )
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    return {**_steps(events), "resumed": resumed, "weights": _mark(model, prepared)}


def main(folder: Path) -> None:
    """All of it, by the processes of this launch."""
    processes = join()
    world = make_world(folder / f"stores-{processes.rank}")
    found = {name: trained(world, said, processes) for name, said in STAGES.items()}
    stop(world, folder / "by-two", processes)
    found["one-to-two"] = go_on(world, folder / "by-one", processes)
    if processes.rank == 0:
        shutil.copytree(folder / "by-two", folder / "by-two-again")
    processes.wait()
    found["two-to-two"] = go_on(world, folder / "by-two-again", processes)
    # put together from shards, on rank 0, as a stage saves it
    stage, model = world.stage(**{"steps": 4, **STAGES["adapters"]}), world.model()
    prepared, _, _ = world.train(model, stage, world=processes)
    tensors, plain = whole_tensors(model, prepared), world.model()
    again = prepare(plain, stage)
    become(plain, tensors)
    found["put-together"] = {"weights": _mark(plain, again)}
    if processes.rank == 0:
        (folder / "two.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


def alone(world: World, said: dict[str, Any]) -> dict[str, Any]:
    """The same by one process."""
    return trained(world, said, ALONE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
