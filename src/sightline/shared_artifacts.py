"""Artifacts that several runs have in common, found by fingerprint: what one run has made, the others link to.

DIR/artifacts/FINGERPRINT/made is the artifact, beside it cost.json with what it took; a run's own folder for it is a link. An artifact is moved there after it is whole, so that a kill
at any moment leaves it in the one place or in the other.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from sightline.lineage import Lineage, write_json
from sightline.run_events import Event
from sightline.run_history import counted

_FOLDERS = ("features", "answers")
"""What runs keep by content, one file or folder for each: all of them use one."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a node took."""

    node: str
    by: str
    """The run that made it."""
    seconds: float = 0.0
    """Of a stage: in its training loop, all attempts together. Of others: the attempt that finished."""
    steps: int = 0
    rows: int = 0
    tokens: float = 0.0
    """Decoder positions of a stage's batches."""


class SharedArtifacts:
    """The folder that several runs share, and the run that looks into it."""

    def __init__(self, folder: Path, by: str) -> None:
        self.folder, self.by = folder, by

    def join(self, run: Path) -> None:
        """Link what a run keeps by content: cached features, and answers that operators asked for."""
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            run.mkdir(parents=True, exist_ok=True)
            if not (run / name).exists():
                _link(run / name, self.folder / name)

    @contextmanager
    def held(self, fingerprint: str) -> Iterator[None]:
        """One process at a time works on a fingerprint. The lock ends with its process, however that ends."""
        own = self._place(fingerprint)
        own.mkdir(parents=True, exist_ok=True)
        with (own / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def fetch(self, fingerprint: str, folder: Path) -> bool:
        """Make `folder` the artifact of this fingerprint, if there is one. An artifact that lies in `folder` itself is taken over by `adopt`."""
        made = self._place(fingerprint) / "made"
        if not (made / "lineage.json").is_file() or Lineage.read(made).config != fingerprint:
            return False
        if folder.exists() and not folder.is_symlink():
            return False
        _link(folder, made)
        return True

    def clear(self, folder: Path) -> None:
        """Before other work on `folder`: a link to what was made there for another fingerprint goes, the artifact stays."""
        if folder.is_symlink():
            folder.unlink()

    def adopt(self, node: str, fingerprint: str, folder: Path, events: Callable[[], Sequence[Event]]) -> None:
        """Move a finished artifact to the shared folder and link to it; what is a link already stays. `events`: of the run, read where they are needed."""
        if folder.is_symlink():
            return
        own = self._place(fingerprint)
        if not (own / "made").exists():
            write_json(own / "cost.json", asdict(cost_of(events(), node, self.by)))
            folder.rename(own / "made")
            _link(folder, own / "made")

    def cost(self, fingerprint: str) -> Cost | None:
        """What the artifact of this fingerprint took; None where there is none."""
        file = self._place(fingerprint) / "cost.json"
        return Cost(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def _place(self, fingerprint: str) -> Path:
        return self.folder / "artifacts" / fingerprint[:32]


def _link(at: Path, target: Path) -> None:
    """A relative link that appears at once, in the place of another one if there is one: the whole study can be moved."""
    at.parent.mkdir(parents=True, exist_ok=True)
    temporary = at.parent / f".tmp-link-{at.name}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target.resolve(), at.parent.resolve()))
    temporary.replace(at)


def cost_of(events: Sequence[Event], node: str, by: str) -> Cost:
    """What a node took by the events of its run."""
    done = [event["seconds"] for event in events if event["event"] == "done" and event.get("node") == node]
    group, _, name = node.partition("/")
    trained = [event for event in events if event["event"] == "trained" and event.get("stage") == name] if group == "stages" else []
    if not trained:
        return Cost(node=node, by=by, seconds=done[-1] if done else 0.0)
    told = trained[-1]
    recorded = [event for event in counted(events).get(name, []) if event["event"] == "step"]
    tokens = _tokens(recorded, told["rows"] / max(1, told["steps"]))
    return Cost(node=node, by=by, seconds=told["seconds"], steps=told["steps"], rows=told["rows"], tokens=tokens)


def _tokens(recorded: Sequence[Mapping[str, float]], rows: float) -> float:
    """Tokens of all steps: those of a row since the last record, times the rows of its steps."""
    steps = [-1, *(int(event["step"]) for event in recorded)]
    each = [event["tokens_per_second"] / event["samples_per_second"] if event["samples_per_second"] else 0.0 for event in recorded]
    return sum(own * rows * (now - last) for own, (last, now) in zip(each, pairwise(steps)))
