"""A whole run by torchrun on two processes: the losses of one process, one report, and on after SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.twin import write_twin

pytestmark = pytest.mark.slow
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sightline"]
ALONE = [sys.executable, "-m", "sightline"]


def start(command: list[str], out: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SIGHTLINE_DEVICE": "cpu"}
    toy = write_twin("quickstart", [], out.parent / "toy")
    return subprocess.Popen([*command, "run", str(toy), "--out", str(out), *overrides], env=environment, stderr=subprocess.PIPE, text=True)


def finished(command: list[str], out: Path, *overrides: str) -> None:
    process = start(command, out, *overrides)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said[-4000:]


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines())
    return [event for event in lines if event["event"] == kind]


def losses(out: Path) -> dict[tuple[str, int], float]:
    return {(event["stage"], event["step"]): event["loss"] for event in events(out, "step")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(ALONE, out)
    return out


def test_two_processes_make_the_run_of_one(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finished(LAUNCH, out)
    assert [event["processes"] for event in events(out, "run")] == [2]
    found, expected = losses(out), losses(alone)
    assert found.keys() == expected.keys()
    # the encoder's batch norms see the rows of their own process; the stage that trains without it is that of one process
    text = [key for key in expected if key[0] == "read"]
    assert len(text) > 1
    assert all(abs(found[key] - expected[key]) < 1e-5 * expected[key] for key in text), (found, expected)
    graph, other = (json.loads((each / "graph.json").read_text(encoding="utf-8")) for each in (out, alone))
    assert [node["name"] for node in graph] == [node["name"] for node in other]
    assert (out / "report.html").is_file()
    finished(LAUNCH, out)
    assert events(out, "run")[-1]["processes"] == 2
    assert {node["state"] for node in json.loads((out / "graph.json").read_text(encoding="utf-8"))} == {"skipped"}


def test_a_launch_that_is_stopped_goes_on(tmp_path: Path) -> None:
    out, longer = tmp_path / "run", "stages.read.steps=2000"
    process = start(LAUNCH, out, longer)
    deadline = time.monotonic() + 600
    while not (out / "events.jsonl").is_file() or not any(event["stage"] == "read" and event["step"] >= 20 for event in events(out, "step")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1][-4000:]
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode != 0
    [stopped] = [event for event in events(out, "stopped") if "step" in event]
    finished(ALONE, out, longer)
    assert [event["step"] for event in events(out, "resumed")] == [stopped["step"]]
    assert torch.tensor([*losses(out).values()]).isfinite().all()
