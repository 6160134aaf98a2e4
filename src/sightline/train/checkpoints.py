"""Checkpoints of a running stage: written beside the training, whole or absent, checked when they are read; the newest good one wins.

CHECKPOINTS/step-000120/  weights, optimizer, objective, average (.safetensors) and checkpoint.json: how far the stage is, digests of frozen parts, versions, and size and digest of each file

Several processes write side by side: rank k > 0 its rows of sharded tensors, as FILE.rank-k.safetensors into a folder of its own, which rank 0 takes into the checkpoint. Where the
rows of a tensor begin is written in its file, so that any number of processes reads them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sightline.lineage import artifact, sha256_file, sha256_json, software, write_json
from sightline.train.saved_tensors import SavedTensors, starts_of
from sightline.train.stage import StageConfig
from sightline.train.train_state import Piece, TrainState
from sightline.train.world import ALONE, World

_FORMAT = 2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PATIENCE = 1800
"""Seconds that rank 0 waits for what another rank writes."""


class _Unusable(Exception):
    """Why a checkpoint is not used; `damaged`: it is not what was written."""

    def __init__(self, why: str, damaged: bool = True) -> None:
        super().__init__(why)
        self.damaged = damaged


class Checkpoints:
    """The checkpoints of one stage. Enter it around the loop: inside, SIGTERM and SIGINT save and then end the run; at the end, what is being written is finished.

    `fingerprint` identifies recipe, data, seed and what the stage started from: a checkpoint of another one is not used.
    """

    def __init__(self, folder: Path, fingerprint: str, stage: StageConfig, record: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> None:
        self.folder, self.fingerprint, self.stage, self.plan, self.record, self.say = folder, fingerprint, stage.name, stage.checkpoints, record, say
        self._kept: list[Path] = []
        self._bad: list[Path] = []
        self._writer: threading.Thread | None = None
        self._failure: tuple[int, str] | None = None
        self._written: list[int] = []
        self._frozen: dict[str, str] | None = None
        self._saved_at = time.monotonic()
        self._asked = 0
        self._handlers: dict[int, Any] = {}

    # reading

    def resume(self, state: TrainState, world: World = ALONE) -> None:
        """Bring `state` to the newest checkpoint that is whole and of this very stage; says which are not, and why. Without one, `state` stays as it is.

        Rank 0 looks and tells the others, who read the same one.
        """
        chosen = world.told(self._choose(state) if world.rank == 0 else None)
        if chosen is None:
            return
        path = self.folder / chosen
        head = read_head(path)
        state.restore(head["facts"], SavedTensors(path, head["files"]))
        self._tell("resumed", f"goes on after step {state.step} ({path.name})", step=state.step, checkpoint=path.name)

    def _choose(self, state: TrainState) -> str | None:
        """Name of the newest checkpoint that can be used."""
        for leftover in self.folder.glob("step-*.rank-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        found = sorted(self.folder.glob("step-*"), reverse=True)
        for place, path in enumerate(found):
            try:
                self._check(path, state)
            except _Unusable as error:
                self._bad += [path] if error.damaged else []
                self._tell("checkpoint-not-used", f"checkpoint {path.name} is not used: {error}", checkpoint=path.name, why=str(error))
                continue
            self._kept = [other for other in reversed(found[place:]) if other not in self._bad]
            return path.name
        if found:
            self._tell("resumed", "no checkpoint can be used: starts from the first step", step=0, checkpoint=None)
        return None

    def _check(self, path: Path, state: TrainState) -> None:
        """Raises _Unusable with what speaks against a checkpoint."""
        head = read_head(path)
        if head["fingerprint"] != self.fingerprint:
            raise _Unusable("it belongs to another recipe, other data or another start of this stage", damaged=False)
        then, now = head["facts"]["cursor"], state.cursor(head["facts"]["step"])
        if then != now:
            raise _Unusable(f"its rows came in another order: {then} then, {now} now", damaged=False)
        check_files(path, head)
        self._frozen = self._frozen or state.frozen()
        other = [part for part in {**self._frozen, **head["frozen"]} if self._frozen.get(part) != head["frozen"].get(part)]
        if other:
            raise _Unusable(f"frozen tensors are others now: {', '.join(other)}", damaged=False)
        changed = {name: (then, now) for name, now in software().items() if (then := head["software"].get(name)) != now}
        if changed:
            said = ", ".join(f"{name} {then} -> {now}" for name, (then, now) in changed.items())
            self._tell("versions-changed", f"{path.name} was written by other versions ({said}): the last bits may differ", checkpoint=path.name, versions=said)

    # writing

    def after(self, state: TrainState, world: World = ALONE) -> None:
        """Called after each optimizer step: saves when it is time, and ends the run (KeyboardInterrupt, or SystemExit 143) when a signal asked for it.

        Ranks decide together: a signal or a clock that only one of them saw counts for all.
        """
        self._report()
        votes = world.sum(torch.tensor([float(self._due(state.step)), float(self._asked != 0)], dtype=torch.float64))
        due, stop = (vote > 0 for vote in votes.tolist())
        if due or stop:
            self._save(state, world)
        if stop:
            self._finish()
            world.wait()
            name = signal.Signals(self._asked or signal.SIGTERM).name
            self._tell("stopped", f"stopped by {name} after step {state.step}: the same command goes on from here", step=state.step, signal=name)
            raise KeyboardInterrupt if self._asked == signal.SIGINT else SystemExit(128 + signal.SIGTERM)

    def _due(self, step: int) -> bool:
        by_steps = self.plan.steps is not None and step % self.plan.steps == 0
        return by_steps or (self.plan.seconds is not None and time.monotonic() - self._saved_at >= self.plan.seconds)

    def _save(self, state: TrainState, world: World) -> None:
        """Copy the state now, write it in a thread; one at a time."""
        self._finish()
        self._saved_at = time.monotonic()
        facts, tensors = state.facts(), state.tensors(world.rank)
        work = (self._write, (state, facts, tensors, world.size)) if world.rank == 0 else (self._write_share, (facts["step"], tensors, world.rank))
        self._writer = threading.Thread(target=work[0], args=work[1], daemon=True)
        self._writer.start()

    def _write_share(self, step: int, tensors: Mapping[str, Mapping[str, Piece]], rank: int) -> None:
        """What rank 0 takes into its checkpoint, or, where that fails, why."""
        path = self._share(step, rank)
        try:
            with artifact(path) as temporary:
                _write_tensors(temporary, tensors, f".rank-{rank}")
        except (OSError, SafetensorError) as error:
            with suppress(OSError):  # rank 0 gives up by itself where not even this can be written
                write_json(path.with_name(f"{path.name}.failed"), str(error))

    def _write(self, state: TrainState, facts: dict[str, Any], tensors: Mapping[str, Mapping[str, Piece]], size: int) -> None:
        path = self.folder / f"step-{facts['step']:06d}"
        shares = [self._share(facts["step"], rank) for rank in range(1, size)]
        try:
            self._frozen = self._frozen or state.frozen()
            with artifact(path) as temporary:
                _write_tensors(temporary, tensors)
                for share in shares:
                    _take(share, temporary)
                write_head(temporary, {"fingerprint": self.fingerprint, "facts": facts, "frozen": self._frozen, "software": software()})
        except (OSError, SafetensorError) as error:  # a full disk costs a checkpoint, not the stage
            self._failure = (facts["step"], str(error))
            return
        self._written.append(facts["step"])
        self._kept = [*(other for other in self._kept if other != path), path]
        for old in [*self._kept[: -self.plan.keep], *(bad for bad in self._bad if bad != path)]:
            shutil.rmtree(old, ignore_errors=True)
        self._kept, self._bad = self._kept[-self.plan.keep :], []

    def _share(self, step: int, rank: int) -> Path:
        return self.folder / f"step-{step:06d}.rank-{rank}"

    def _finish(self) -> None:
        """Wait for what is being written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self._report()

    def _report(self) -> None:
        """Record, in the thread of the training, what the writing one came to."""
        while self._written:
            self.record({"event": "checkpoint-written", "stage": self.stage, "step": self._written.pop(0)})
        if self._failure is not None:
            step, why = self._failure
            self._failure = None
            last = self._kept[-1].name if self._kept else "none"
            self._tell("checkpoint-failed", f"step {step} could not be saved ({why}); the last good checkpoint is {last}", step=step, why=why)

    # signals

    def __enter__(self) -> Checkpoints:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, *raised: object) -> None:
        self._restore_handlers()
        self._finish()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal until the step is done; the next one ends the run at once."""
        self._asked = number
        self._restore_handlers()
        # the ordinary stream may be in the middle of a line of its own
        os.write(2, f"\nstage {self.stage}: {signal.Signals(number).name}: this step is finished and saved first; once more ends the run at once\n".encode())

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _tell(self, event: str, text: str, **more: Any) -> None:
        self.say(f"stage {self.stage}: {text}")
        self.record({"event": event, "stage": self.stage, **more})


def _write_tensors(folder: Path, tensors: Mapping[str, Mapping[str, Piece]], ending: str = "") -> None:
    for file, own in tensors.items():
        save_file({name: piece.values for name, piece in own.items()}, folder / f"{file}{ending}.safetensors", metadata=starts_of(own))


def _take(share: Path, folder: Path) -> None:
    """Move the files that another rank wrote into a folder, as soon as they are there."""
    failed, began = share.with_name(f"{share.name}.failed"), time.monotonic()
    while not share.is_dir():
        if failed.is_file():
            why = json.loads(failed.read_text(encoding="utf-8"))
            failed.unlink()
            raise OSError(f"{share.name}: {why}")
        if time.monotonic() - began > _PATIENCE:
            raise OSError(f"{share.name} did not come within {_PATIENCE // 60} minutes; do all processes see this folder?")
        time.sleep(0.02)
    for path in share.iterdir():
        path.rename(folder / path.name)
    share.rmdir()


def write_head(folder: Path, said: Mapping[str, Any]) -> None:
    """Write checkpoint.json over the files of a folder: what is said, size and digest of each file, and a digest of all that."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(folder.glob("*.safetensors"))}
    head = {"format": _FORMAT, **said, "files": files}
    write_json(folder / "checkpoint.json", {"head": head, "sha256": sha256_json(head)})


def read_head(folder: Path) -> dict[str, Any]:
    """What checkpoint.json says, checked against its own digest. Raises _Unusable."""
    try:
        told = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        head, digest = told["head"], told["sha256"]
    except FileNotFoundError:
        raise _Unusable("checkpoint.json is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"checkpoint.json cannot be read ({type(error).__name__}: {error})") from None
    if sha256_json(head) != digest:
        raise _Unusable("checkpoint.json is not what was written: its digest differs")
    if head["format"] != _FORMAT:
        raise _Unusable(f"it has format {head['format']}; this version reads {_FORMAT}", damaged=False)
    return head


def check_files(folder: Path, head: Mapping[str, Any]) -> None:
    """Raises _Unusable with the first file that is missing, short or changed."""
    for name, said in head["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != said["bytes"]:
                raise _Unusable(f"{name} has {size} bytes, {said['bytes']} were written")
            if sha256_file(path) != said["sha256"]:
                raise _Unusable(f"{name} is not what was written: its digest differs")
        except OSError as error:
            raise _Unusable(f"{name} cannot be read ({error})") from None
