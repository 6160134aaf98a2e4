"""A run of four stages killed again and again, at random moments and inside the writing of checkpoints, ends with the weights of an undisturbed one, bit for bit.

`python benchmarks/resume_torture.py [--kills 30] [--inside 10] [--seed 0]`; its last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import killed_runs
import numpy as np
from figures import ROOT, Unmeasured
from hostile_pictures import Outcome

STEPS = 16
STAGES = ("see", "read", "align", "instruct")
RECIPE = ROOT / "recipes" / "quickstart.yaml"
TINY = (
    "threads=1",
    "data.scenes.make.scenes.count=16",
    "model.tiler.size=48",
    "evaluate={}",
    *(f"stages.{stage}.{said}" for stage in STAGES for said in ("batch=4", f"steps={STEPS}")),
)
"""The quickstart in seconds."""
SAVED = tuple(f"stages.{stage}.checkpoints.steps=1" for stage in STAGES)
"""Saved after every step, which the undisturbed run is not: saving changes neither a number nor an id."""


_LOADED = ["sightline.run_stages", "sightline.run_report", "torch._dynamo", "pyarrow.dataset", "pandas"]
_LOADED += [f"transformers.models.{kind}.modeling_{kind}" for kind in ("qwen2", "resnet", "clip")]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """When a run dies: after so many steps of all stages together, `delay` seconds later or, with `point`, inside the next checkpoint that is written."""

    step: int
    delay: float = 0.0
    point: str | None = None
    number: int = signal.SIGKILL
    """The signal; SIGTERM lets the run save and end with 143."""

    @property
    def code(self) -> int:
        """How the process ends."""
        return 128 + self.number if self.number == signal.SIGTERM else -self.number

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name} after step {self.step}, " + (
            f"in the writing of a checkpoint: {self.point}" if self.point else f"{1000 * self.delay:.0f} ms later"
        )


def die() -> None:
    """No handler, no `finally`, nothing flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _before_first_file(module: Any) -> None:
    module.save_file = lambda *_, **__: die()


def _within_file(module: Any) -> None:
    whole = module.save_file

    def half(tensors: dict[str, Any], path: Path, **more: Any) -> None:
        whole(tensors, path, **more)
        os.truncate(path, path.stat().st_size // 2)
        die()

    module.save_file = half


def _between_files(module: Any) -> None:
    whole = module.save_file
    module.save_file = lambda *said, **more: (whole(*said, **more), die())


def _before_head(module: Any) -> None:
    module.write_head = lambda *_: die()


def _within_head(module: Any) -> None:
    def half(path: Path, value: dict[str, Any]) -> None:
        path.write_text(json.dumps(value)[:100])
        die()

    module.write_json = half


def _before_sync(module: Any) -> None:
    from sightline import lineage

    lineage._sync = lambda *_: die()


def _around_rename(after: bool) -> None:
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if path.name.startswith(".tmp-step-") and not after:
            die()
        found = rename(path, target)
        if path.name.startswith(".tmp-step-"):
            die()
        return found

    Path.rename = dying  # pyright: ignore[reportAttributeAccessIssue]


def _while_removing(module: Any) -> None:
    def half(path: Path, **_: Any) -> None:
        next(path.glob("*.safetensors")).unlink()
        die()

    module.shutil = type("_", (), {"rmtree": staticmethod(half)})


POINTS: dict[str, Callable[[Any], None]] = {
    "before its first file": _before_first_file,
    "within a file": _within_file,
    "between two files": _between_files,
    "before checkpoint.json": _before_head,
    "within checkpoint.json": _within_head,
    "before it is synced": _before_sync,
    "before it is renamed": lambda module: _around_rename(after=False),
    "right after it is renamed": lambda module: _around_rename(after=True),
    "while an older one is removed": _while_removing,
    "as the stage goes on beside it": lambda module: threading.Timer(0.002, die).start(),
}
"""Where a writer can die -> how it is made to."""


def live(out: str, fate: Fate | None, saved: bool) -> None:
    """The run, in a process of its own that meets its fate; what it says goes into a log beside the folder."""
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from sightline.run import run
    from sightline.train import checkpoints

    if fate is not None:
        _arm(checkpoints, fate)
    run(RECIPE, Path(out), [*TINY, *(SAVED if saved else ())], until=STAGES[-1])


def _arm(checkpoints: Any, fate: Fate) -> None:
    after = checkpoints.Checkpoints.after

    def counted(self: Any, state: Any, *more: Any) -> None:
        if STAGES.index(self.stage) * STEPS + state.step == fate.step:
            if fate.point is None:
                threading.Timer(fate.delay, os.kill, (os.getpid(), fate.number)).start()
            else:
                self._finish()  # the point is in the next writing, not in one that is under way
                POINTS[fate.point](checkpoints)
        after(self, state, *more)

    checkpoints.Checkpoints.after = counted


def _processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)  # imports are paid once
    return context


def _outlive(context: Any, out: Path, fate: Fate | None = None, saved: bool = True) -> int | None:
    process = context.Process(target=live, args=(str(out), fate, saved))
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
        raise Unmeasured(f"a run into {out} does not end: see {out}.log")
    return process.exitcode


def fates(kills: int, inside: int, seed: int) -> list[Fate]:
    """So many deaths, spread evenly over the steps of all stages; `inside` of them within the writing of a checkpoint, at each point in turn. At last one SIGTERM."""
    rng = np.random.default_rng(seed)
    written = set(rng.permutation(kills)[:inside].tolist())
    points = iter([*POINTS] * (inside // len(POINTS) + 1))
    steps = np.linspace(3, len(STAGES) * STEPS - 4, kills + 1).round().astype(int).tolist()
    found = [Fate(step=step, point=next(points)) if number in written else Fate(step=step, delay=rng.uniform(0, 0.08)) for number, step in enumerate(steps)]
    return [*found[:-1], Fate(step=steps[-1], number=signal.SIGTERM)]


def check_all(scratch: Path, kills: int = 30, inside: int = 10, seed: int = 0) -> Iterator[Outcome]:
    """One outcome a kill: whether the run died as told; then one for what the survivor made, against an undisturbed run."""
    context = _processes()
    calm, out = scratch / "undisturbed", scratch / "killed"
    if code := _outlive(context, calm, saved=False):
        raise Unmeasured(f"the undisturbed run ended with {code}: see {calm}.log")
    # data and tokenizer are taken over: how they outlive a kill is the line `kill`
    shutil.copytree(calm, out, ignore=lambda folder, names: [name for name in names if Path(folder) == calm and name in ("stages", "evaluate", "features")])
    (out / "events.jsonl").unlink()
    for fate in fates(kills, inside, seed):
        begun = time.monotonic()
        code = _outlive(context, out, fate)
        yield Outcome(name=str(fate), fault="" if code == fate.code else f"the run ended with {code} before: see {out}.log", seconds=time.monotonic() - begun)
    begun = time.monotonic()
    code = _outlive(context, out)
    yield Outcome(name="the survivor", fault="; ".join(_faults(calm, out, code)), seconds=time.monotonic() - begun)


def _faults(calm: Path, out: Path, code: int | None) -> Iterator[str]:
    if code:
        yield f"it ended with {code}: see {out}.log"
        return
    wanted, found = killed_runs.ids(calm), killed_runs.ids(out)
    if wanted != found:
        yield "other ids: " + ", ".join(name for name in wanted if found.get(name) != wanted[name])
    weights = {name: digest for name, digest in killed_runs.contents(calm).items() if name.endswith(".safetensors")}
    assert len({name.split("/")[1] for name in weights}) == len(STAGES), "every stage has weights"
    own = killed_runs.contents(out)
    if other := [name for name, digest in weights.items() if own.get(name) != digest]:
        yield "other weights: " + ", ".join(other)
    left = [path.relative_to(out).as_posix() for pattern in (".tmp-*", "checkpoints") for path in out.rglob(pattern)]
    if left:
        yield "left behind: " + ", ".join(left)
    if not resumed(out):
        yield "no stage ever went on from a checkpoint"


def resumed(out: Path) -> list[tuple[str, int]]:
    """(stage, steps done) of each time that a stage went on from a checkpoint."""
    lines = [line for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines() if '"resumed"' in line]
    events = [json.loads(line) for line in lines]
    return [(event["stage"], event["step"]) for event in events if event["event"] == "resumed" and event["step"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, resume, compare; 1 when anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="deaths of the run (default: 30)")
    parser.add_argument("--inside", type=int, default=10, metavar="N", help="of these, inside the writing of a checkpoint (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of moments and places (default: 0)")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="sightline-torture-") as scratch:
        outcomes = []
        for outcome in check_all(Path(scratch), arguments.kills, arguments.inside, arguments.seed):
            print(f"{'FAIL' if outcome.fault else 'ok  '} {outcome.seconds:5.1f} s  {outcome.name}  {outcome.fault}", flush=True)
            outcomes.append(outcome)
        went_on = len(resumed(Path(scratch) / "killed"))
    good = sum(not outcome.fault for outcome in outcomes)
    said = {"ratio": good / len(outcomes), "ours": good, "peer": len(outcomes), "unit": "kills outlived and the undisturbed run's weights", "resumed": went_on}
    print(json.dumps({"benchmark": "resume-torture", "kills": arguments.kills, "inside": arguments.inside, "seed": arguments.seed, **said}))
    return int(good < len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
