"""Two processes train to the same numbers as one, go on from what one saved and the reverse, and never wait for each other in vain."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import STAGES, alone, go_on, stop

from sightline.errors import Refused
from sightline.train.processes import local_device
from sightline.train.world import ALONE

BOUND = 1e-5
"""Relative, of float32 losses after up to 20 steps, and of the first gradient."""


@pytest.fixture(scope="module")
def two(world, tmp_path_factory) -> dict[str, Any]:
    """What two processes found; `folder`: where they and one process left checkpoints."""
    folder = tmp_path_factory.mktemp("processes")
    stop(world, folder / "by-one", ALONE)
    shutil.copytree(folder / "by-one", folder / "by-one-again")
    launch(folder)
    return {**json.loads((folder / "two.json").read_text()), "folder": folder}


def launch(folder: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script), str(folder)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "SIGHTLINE_DEVICE": "cpu"}, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]


def near(one: list[float], other: list[float], bound: float = BOUND) -> bool:
    return len(one) == len(other) and torch.allclose(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64), rtol=bound, atol=0)


@pytest.mark.parametrize("name", STAGES)
def test_two_processes_find_what_one_finds(world, two, name: str) -> None:
    found, expected = two[name], alone(world, STAGES[name])
    rounding = 0.03 if name == "bfloat16" else BOUND
    assert near(found["loss"], expected["loss"], rounding), (found["loss"], expected["loss"])
    assert near(found["norm"][:1], expected["norm"][:1], rounding), "of the first gradient"
    assert near(found["weights"], expected["weights"], 100 * rounding), "Adam turns the rounding of a gradient near zero into a step"


@pytest.mark.parametrize("by", ["one-to-two", "two-to-two"])
def test_two_go_on_from_a_checkpoint(world, two, by: str, tmp_path) -> None:
    whole = go_on(world, tmp_path / "none", ALONE)  # nothing to go on from: the undisturbed stage
    assert two[by]["resumed"] == [3]
    assert near(two[by]["loss"], whole["loss"][3:])
    assert near(two[by]["weights"], whole["weights"], 100 * BOUND)


def test_one_goes_on_from_what_two_saved(world, two, tmp_path) -> None:
    shutil.copytree(two["folder"] / "by-two", tmp_path / "by-two")
    found, whole = go_on(world, tmp_path / "by-two", ALONE), go_on(world, tmp_path / "none", ALONE)
    assert found["resumed"] == [3]
    assert near(found["loss"], whole["loss"][3:])
    assert near(found["weights"], whole["weights"], 100 * BOUND)


def test_each_process_writes_the_rows_that_it_holds(two) -> None:
    stop_at = two["folder"] / "by-two" / "step-000003"
    assert sorted(path.name for path in stop_at.parent.iterdir()) == ["step-000003"], "nothing is left of what the second process wrote"
    sizes = {path.name: path.stat().st_size for path in stop_at.glob("optimizer*")}
    assert set(sizes) == {"optimizer.safetensors", "optimizer.rank-1.safetensors"}
    alone = (two["folder"] / "by-one-again" / "step-000003" / "optimizer.safetensors").stat().st_size
    assert all(size < 0.7 * alone for size in sizes.values()), (sizes, alone)


def test_a_model_is_put_together_from_shards(world, two) -> None:
    assert near(two["put-together"]["weights"], two["adapters"]["weights"])


def test_more_processes_than_devices_are_refused(monkeypatch) -> None:
    monkeypatch.delenv("SIGHTLINE_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(Refused, match="train/too-many-processes"):
        local_device()
