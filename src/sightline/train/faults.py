"""Steps that must not count: no answer to learn from, or a loss or gradient that is no number. They end the stage before any weight changes, and show their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.model.batch import Batch
from sightline.samples.pictures import ending
from sightline.samples.sample import Picture, Sample
from sightline.train.feeding import Feed

_NAMED = 16
"""Rows that are named in the message; all are in the event."""


class Faults:
    """Ends stage `stage` at a step that must not count. `folder`: where the pictures of its rows are written (None: nowhere)."""

    def __init__(self, stage: str, feed: Feed, record: Callable[[dict[str, Any]], None], folder: Path | None) -> None:
        self.stage, self.feed, self.record, self.folder = stage, feed, record, folder

    def refuse_empty(self, total: Mapping[str, float], batches: Sequence[Batch], step: int) -> None:
        """Refused where a term has nothing to learn from in the whole step: its mean would be 0 / 0."""
        empty = [term for term, count in total.items() if not count > 0]
        if empty:
            found = f"nothing to learn from for {', '.join(empty)} (count 0)"
            fix = "look at these rows (sightline data show): give them answers or take them out, or make the batch larger"
            self._end("train/no-answer-tokens", step, found, "at least one answer token per step", fix, batches)

    def refuse_non_finite(self, what: str, values: Mapping[str, Tensor], batches: Sequence[Batch], step: int) -> None:
        """Refused where one of `values`, losses of a micro-batch or the norm of the step's gradient before it is applied, is no number."""
        if torch.stack([value.detach() for value in values.values()]).isfinite().all():
            return
        found = ", ".join(f"{name} {value.item():g}" for name, value in values.items())
        fix = "look at these rows (sightline data show), lower the learning rate, or use precision: float32"
        self._end(f"train/non-finite-{what}", step, found, "a finite loss and gradient", fix, batches)

    def _end(self, code: str, step: int, found: str, allowed: str, fix: str, batches: Sequence[Batch]) -> None:
        names = list(dict.fromkeys((source, row) for batch in batches for source, row, _ in batch.rows))
        samples = {(one.origin.source, one.id): (root, one) for root, one in self.feed.samples(step)}
        rows = [{"source": source, "id": row, "pictures": self._shown(step, *samples.get((source, row), (None, None)))} for source, row in names]
        self.record({"event": "fault", "stage": self.stage, "step": step, "code": code, "found": found, "rows": rows})
        said = ", ".join(f"{source}:{row}" for source, row in names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        kept = f"; their pictures are in {self.folder}" if self.folder is not None and any(row["pictures"] for row in rows) else ""
        raise Refused(Problem(code=code, place=f"stage {self.stage}, step {step}", found=f"{found} on rows {said}{kept}", allowed=allowed, fix=fix))

    def _shown(self, step: int, root: Path | None, sample: Sample | None) -> list[str]:
        """Names, in the folder, of the pictures of a row, whose stored bytes are written there."""
        if self.folder is None or sample is None or root is None:
            return []
        return [_copied(picture, root, self.folder / f"step-{step:06d}") for picture in sample.pictures]


def _copied(picture: Picture, root: Path, folder: Path) -> str:
    data = picture.data if isinstance(picture.data, bytes) else (root / picture.data).read_bytes()
    name = f"{picture.hash[:16]}{ending(data)}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return f"{folder.name}/{name}"
