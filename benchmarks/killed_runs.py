"""A run killed at any moment and started again ends where an undisturbed run ends: same ids of everything, nothing half written, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from figures import Unmeasured
from hostile_pictures import Outcome

from sightline.lineage import sha256_file

TINY = (
    "threads=1",
    "data.scenes.make.scenes.count=64",
    "data.held-out.make.scenes.count=24",
    "stages.see.batch=16",
    *(f"stages.{stage}.steps=12" for stage in ("see", "read", "align", "instruct")),
)
"""The quickstart in seconds."""
_OF_THIS_TIME = {"lineage.json", "events.jsonl", "graph.json", "answers.jsonl", "requests.jsonl", "report.json", "report.html"}
"""Files that hold times, besides what has to be equal."""


def start(program: Sequence[str], recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    """The tiny run in a process group of its own; its messages go to a log beside the folder."""
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([*program, "run", str(recipe), "--out", str(out), *TINY], stdout=log, stderr=log, start_new_session=True)


def finish(program: Sequence[str], recipe: Path, out: Path) -> float:
    """Seconds of the run to its end. Unmeasured when it fails."""
    begun = time.monotonic()
    if code := start(program, recipe, out).wait():
        raise Unmeasured(f"the run into {out} ended with {code}: see {out.with_suffix('.log')}")
    return time.monotonic() - begun


def ids(out: Path) -> dict[str, str]:
    """Id of every node of a finished run."""
    return {node["name"]: node["id"] for node in json.loads((out / "graph.json").read_text(encoding="utf-8"))}


def contents(out: Path) -> dict[str, str]:
    """Hash of every file of a run that no writer is still making and that holds no time."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in _OF_THIS_TIME)
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in files if not any(part.startswith(".tmp-") for part in path.relative_to(out).parts)}


def kill(program: Sequence[str], recipe: Path, out: Path, after: float, whole_group: bool) -> int | None:
    """Start a run and end it with SIGKILL after some seconds, alone or with its workers. The number of its process group; None when it was done before."""
    process = start(program, recipe, out)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return process.pid
    return None


def orphans(group: int, patience: float = 20.0) -> bool:
    """Whether workers of a killed run are still there after some seconds: they have to end by themselves."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def check_all(program: Sequence[str], recipe: Path, scratch: Path, seed: int = 0, kills: int = 12) -> Iterator[Outcome]:
    """`kills` runs of a tiny quickstart, each killed at a random moment and run again to its end; every other one is killed without its workers."""
    calm = scratch / "undisturbed"
    seconds = finish(program, recipe, calm)
    wanted, whole = ids(calm), contents(calm)
    rng = np.random.default_rng(seed)
    for number, moment in enumerate(rng.uniform(0, seconds, kills).tolist()):
        out = scratch / f"killed-{number}"
        group = kill(program, recipe, out, moment, whole_group=number % 2 == 0)
        left = group is not None and orphans(group)
        torn = _differences(contents(out) if out.exists() else {}, whole)
        again = finish(program, recipe, out)
        faults = [
            "its workers live on" if left else "",
            f"half written: {', '.join(torn[:3])}" if torn else "",
            "other ids: " + ", ".join(name for name in wanted if ids(out).get(name) != wanted[name]) if ids(out) != wanted else "",
            "left behind: " + ", ".join(path.name for path in out.rglob(".tmp-*")) if any(out.rglob(".tmp-*")) else "",
        ]
        name = f"killed after {moment:.1f} of {seconds:.1f} s" if group is not None else f"done before {moment:.1f} s"
        yield Outcome(name=name, fault="; ".join(filter(None, faults)), seconds=again)
        shutil.rmtree(out)


def _differences(found: dict[str, str], whole: dict[str, str]) -> list[str]:
    """Files that an undisturbed run does not have, or has otherwise."""
    return sorted(name for name, digest in found.items() if whole.get(name) != digest)
