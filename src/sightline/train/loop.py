"""The loop: one stage from first to last optimizer step. It reads top to bottom; data, objective, freeze table and schedule are handed in."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from sightline.data.mixture import Mixture
from sightline.errors import Problem, Refused
from sightline.model.batch import Batch, to_device
from sightline.model.packing import FeatureSource
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.progress import Progress
from sightline.samples.sample import Regions, Sample
from sightline.train.objectives import Objective
from sightline.train.stage import Prepared, StageConfig

CHECK_AFTER = 3
"""Optimizer steps of non-zero rate after which every trainable tensor must have changed and no frozen one may have."""
_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage did."""

    steps: int
    rows: int
    seconds: float
    curve: list[tuple[int, float]]
    """(step, loss) as recorded."""
    unread: list[str]
    """Trainable tensors that no forward read: never changed."""


class Feed:
    """Batches of a stage, a pure function of (seed, step); made ahead of time by one thread."""

    def __init__(self, mixture: Mixture, processor: Processor, objective: Objective, stage: StageConfig, seed: int, features: FeatureSource | None) -> None:
        self.mixture, self.processor, self.objective, self.stage, self.seed, self.features = mixture, processor, objective, stage, seed, features
        self.per_epoch = len(mixture)
        if not self.per_epoch:
            raise Refused(
                Problem(
                    code="train/no-rows",
                    place=f"stages.{stage.name}.data",
                    found="0 rows",
                    allowed="at least one kept row",
                    fix="check the data step: everything may be quarantined",
                )
            )
        self._epoch: tuple[int, list[tuple[int, int]]] = (-1, [])

    def visits(self, step: int) -> list[tuple[int, int, int]]:
        """(visit number, share, row) of one optimizer step; epochs follow each other without a gap."""
        found = []
        for visit in range(step * self.stage.batch, (step + 1) * self.stage.batch):
            epoch, place = divmod(visit, self.per_epoch)
            if self._epoch[0] != epoch:
                self._epoch = (epoch, self.mixture.rows(np.random.default_rng([self.seed, epoch])))
            share, row = self._epoch[1][place]
            found.append((visit, share, row))
        return found

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of one optimizer step."""
        size = self.stage.micro_batch or self.stage.batch
        visits = self.visits(step)
        return [self._batch(visits[start : start + size]) for start in range(0, len(visits), size)]

    def _batch(self, visits: list[tuple[int, int, int]]) -> Batch:
        encoded = []
        for visit, share, row in visits:
            rng = np.random.default_rng([self.seed, visit, 1])
            one = self.objective.encode(self._sample(share, row), self.processor, rng)
            encoded.append(replace(one, orientation=int(rng.integers(8))) if self.stage.augment == "dihedral" else one)
        words = len(getattr(self.objective, "words", ()))
        return self.processor.collate([[one] for one in encoded], features=self.features, tag_words=words)

    def _sample(self, share: int, row: int) -> Sample:
        sample = self.mixture.shares[share].store[row]
        if self.stage.augment == "dihedral" and any(isinstance(item, Regions) for turn in sample.turns for item in turn.items):
            found = "regions said in a turn, and crops that are turned after the text is written"
            fix = "take `augment` out of the stage, and turn the rows themselves: {dihedral: {}} among the operators of the data"
            raise Refused(
                Problem(code="train/turned-regions", place=f"{self.mixture.shares[share].name}:{sample.id}", found=found, allowed="augment: none", fix=fix)
            )
        return sample

    def ahead(self, steps: range) -> Generator[list[Batch]]:
        """Micro-batches of these steps, prepared while the previous ones are trained on."""
        ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=_AHEAD)
        stop = threading.Event()

        def work() -> None:
            for step in steps:
                try:
                    made: list[Batch] | BaseException = self.micro_batches(step)
                except BaseException as error:
                    made = error
                while not stop.is_set():
                    try:
                        ready.put(made, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set() or isinstance(made, BaseException):
                    return

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            for _ in steps:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            worker.join()


class ChangeCheck:
    """After CHECK_AFTER steps: every trainable tensor that was read has changed, no frozen one has."""

    def __init__(self, model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
        self.trained = trained
        ids = {id(p) for p in trained.values()}
        self.frozen = {
            name: tensor for name, tensor in [*model.named_parameters(), *model.named_buffers()] if id(tensor) not in ids and not _moves(model, name)
        }
        self.before = {name: _mark(tensor) for name, tensor in (*self.trained.items(), *self.frozen.items())}

    def run(self, stage: str) -> list[str]:
        """Names of trainable tensors that nothing reads. Refused where a read one stood still, or a frozen one moved."""
        unchanged = [name for name, p in self.trained.items() if _mark(p) == self.before[name]]
        # a gradient of nothing but zeros is that of a part whose input no row had: regions that no question named
        unread = [name for name in unchanged if (gradient := self.trained[name].grad) is None or not gradient.any()]
        still = [name for name in unchanged if name not in unread]
        moved = [name for name, tensor in self.frozen.items() if _mark(tensor) != self.before[name]]
        problems = [
            Problem(
                code="train/tensor-stands-still",
                place=name,
                found=f"unchanged after {CHECK_AFTER} steps",
                allowed="every trained tensor changes",
                fix=f"take it out of stages.{stage}.train or check its gradient",
            )
            for name in still
        ] + [
            Problem(
                code="train/frozen-tensor-moved",
                place=name,
                found=f"changed within {CHECK_AFTER} steps",
                allowed="frozen parts stay as they are",
                fix="report this: it is a defect",
            )
            for name in moved
        ]
        if problems:
            raise Refused(problems)
        return unread


def _moves(model: nn.Module, name: str) -> bool:
    """Buffers of a module in training mode (running statistics of a trained part) may move."""
    owner = model.get_submodule(name.rsplit(".", 1)[0]) if "." in name else model
    return name.rsplit(".", 1)[-1] in dict(owner.named_buffers(recurse=False)) and owner.training


def _mark(tensor: torch.Tensor) -> tuple[float, float]:
    # places count: the two numbers of a softmax's bias change by opposite amounts, which no plain sum shows
    wide = tensor.detach().double().flatten()
    place = torch.arange(len(wide), device=wide.device, dtype=wide.dtype).remainder_(8191).add_(1)
    return wide.dot(place).item(), wide.square().dot(place).item()


def train(
    model: Model, prepared: Prepared, objective: Objective, feed: Feed, stage: StageConfig, record: Callable[[dict[str, Any]], None], label: str
) -> Outcome:
    """Run a stage. `record` receives flat events (step, loss terms, rate, norm). Refused on a non-finite loss or gradient, naming the rows."""
    total = stage.total_steps(feed.per_epoch)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(prepared.groups, betas=stage.betas, fused=True)
    check = ChangeCheck(model, prepared.trained)
    progress = Progress(label, total, "steps")
    curve: list[tuple[int, float]] = []
    unread: list[str] = []
    start = time.monotonic()
    with closing(feed.ahead(range(total))) as ahead:
        for step, batches in enumerate(ahead):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * stage.rate(step, total)
            objective.at(step, feed.seed)
            counts = _total([objective.counts(batch) for batch in batches])
            terms: dict[str, float] = {}
            for batch in batches:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=stage.precision == "bfloat16"):
                    losses = objective(model, to_device(batch, device))
                loss = torch.stack([value / counts[term] for term, value in losses.sums.items()]).sum()
                _refuse_non_finite("loss", {"loss": loss, **losses.sums}, [batch], f"stage {stage.name}, step {step}")
                loss.backward()
                for term, value in losses.sums.items():
                    terms[term] = terms.get(term, 0.0) + value.item() / counts[term]
            norm = nn.utils.clip_grad_norm_(prepared.trained.values(), stage.clip)
            _refuse_non_finite("gradient", {"norm": norm}, batches, f"stage {stage.name}, step {step}")
            optimizer.step()
            objective.after_step(model)
            if step + 1 == CHECK_AFTER:
                unread = check.run(stage.name)
            optimizer.zero_grad(set_to_none=True)
            if step % stage.every == 0 or step + 1 == total:
                curve.append((step, sum(terms.values())))
                record(
                    {
                        "event": "step",
                        "stage": stage.name,
                        "step": step,
                        "loss": sum(terms.values()),
                        "terms": terms,
                        "rate": stage.rate(step, total),
                        "norm": norm.item(),
                    }
                )
            progress.advance(1, f"loss {sum(terms.values()):.3f}")
    progress.close()
    return Outcome(steps=total, rows=total * stage.batch, seconds=time.monotonic() - start, curve=curve, unread=unread)


def _total(counts: list[dict[str, float]]) -> dict[str, float]:
    """Global counts of one optimizer step."""
    return {term: sum(count[term] for count in counts) for term in counts[0]}


def _refuse_non_finite(what: str, values: Mapping[str, torch.Tensor], batches: list[Batch], place: str) -> None:
    """Refused with the rows of `batches` where a loss, or the norm of a gradient that is not applied yet, is no number."""
    if torch.stack([value.detach() for value in values.values()]).isfinite().all():
        return
    rows = ", ".join(f"{source}:{row}" for source, row, _ in [row for batch in batches for row in batch.rows][:16])
    raise Refused(
        Problem(
            code=f"train/non-finite-{what}",
            place=place,
            found=", ".join(f"{name} {value.item():g}" for name, value in values.items()) + f" on rows {rows}",
            allowed="a finite loss and gradient, and at least one answer token per step",
            fix="look at these rows (sightline data show), lower the learning rate, or use precision: float32",
        )
    )
