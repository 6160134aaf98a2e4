"""Batches of a stage: which rows each optimizer step visits, as a pure function of (seed, step), encoded ahead of time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from sightline.data.mixture import Mixture
from sightline.errors import Problem, Refused
from sightline.model.batch import Batch
from sightline.model.packing import Encoded, FeatureSource
from sightline.model.processor import Processor
from sightline.samples.sample import Regions, Sample
from sightline.train.batching import Load, shares_bins, within_budget
from sightline.train.objectives import Objective
from sightline.train.stage import StageConfig
from sightline.train.world import ALONE, World

T = TypeVar("T")
_AHEAD = 4
_EVEN = 64
"""Packed bins are padded to a multiple of so many tokens: oneDNN keeps a kernel for each shape that it ever saw, megabytes each, and GPUs work in tiles."""


class Feed:
    """Batches of a stage, a pure function of (seed, step); made ahead of time by one thread."""

    def __init__(
        self,
        mixture: Mixture,
        processor: Processor,
        objective: Objective,
        stage: StageConfig,
        seed: int,
        features: FeatureSource | None,
        world: World = ALONE,
    ) -> None:
        self.mixture, self.processor, self.objective, self.stage, self.seed, self.features = mixture, processor, objective, stage, seed, features
        self.world = world
        self.packs, self.apart = shares_bins(processor.config, stage.pack, f"stages.{stage.name}.pack")
        """Whether samples share a bin; why not, where the recipe leaves it open."""
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
        if stage.batch % world.size:
            raise Refused(
                Problem(
                    code="train/batch-of-processes",
                    place=f"stages.{stage.name}.batch",
                    found=f"{stage.batch} rows on {world.size} processes",
                    allowed=f"a multiple of {world.size}: every process does the same number of rows",
                    fix=f"batch: {-(-stage.batch // world.size) * world.size}",
                )
            )
        self._epoch: tuple[int, list[tuple[int, int]]] = (-1, [])
        self.steps = stage.total_steps(self.per_epoch)
        """Optimizer steps of the whole stage."""

    def place(self, step: int) -> dict[str, int]:
        """Where a step begins, for people and for checkpoints: epoch and visit within it, from 0."""
        epoch, visit = divmod(step * self.stage.batch, self.per_epoch)
        return {"step": step, "epoch": epoch, "visit": visit}

    def visits(self, step: int) -> list[tuple[int, int, int]]:
        """(visit number, share, row) of one optimizer step; epochs follow each other without a gap."""
        found = []
        for visit in range(step * self.stage.batch, (step + 1) * self.stage.batch):
            epoch, place = divmod(visit, self.per_epoch)
            known = self._epoch  # two threads may ask
            if known[0] != epoch:
                self._epoch = known = (epoch, self.mixture.rows(np.random.default_rng([self.seed, epoch])))
            share, row = known[1][place]
            found.append((visit, share, row))
        return found

    def samples(self, step: int) -> list[tuple[Path, Sample]]:
        """The rows that an optimizer step visits, with the folders of their stores: what is shown when the step fails."""
        stores = [(self.mixture.shares[share].store, row) for _, share, row in self.visits(step)]
        return [(store.path, store[row]) for store, row in stores]

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of one optimizer step that this rank trains on, the largest first; every rank has as many."""
        encoded = [self._encoded(*visit) for visit in self.visits(step)]
        return [self._batch([encoded[row] for row in rows]) for rows in self.groups([Load.of(one) for one in encoded])]

    def groups(self, loads: Sequence[Load]) -> list[list[int]]:
        """Rows of this rank's micro-batches: within `tokens` where the stage says it, else `micro_batch` rows each."""
        rank, size = self.world.rank, self.world.size
        if self.objective.splits and self.stage.tokens is not None:
            return within_budget(loads, self.stage.tokens, size)[rank::size]
        own = list(range(rank, len(loads), size))
        rows = self.stage.micro_batch if self.objective.splits and self.stage.micro_batch else len(own)
        cut = [own[start : start + rows] for start in range(0, len(own), rows)]
        return sorted(cut, key=lambda rows: -sum(loads[row].tokens for row in rows))

    def _encoded(self, visit: int, share: int, row: int) -> Encoded:
        rng = np.random.default_rng([self.seed, visit, 1])
        one = self.objective.encode(self._sample(share, row), self.processor, rng)
        return replace(one, orientation=int(rng.integers(8))) if self.stage.augment == "dihedral" else one

    def _batch(self, encoded: list[Encoded]) -> Batch:
        words = len(getattr(self.objective, "words", ()))
        return self.processor.collate(
            [encoded] if self.packs else [[one] for one in encoded], features=self.features, tag_words=words, even=_EVEN if self.packs else 1
        )

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
        return made_ahead(self.micro_batches, steps)


def made_ahead(make: Callable[[int], T], steps: range) -> Generator[T]:
    """`make(step)` of these steps in order, made by one thread a few steps before they are asked for."""
    ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=_AHEAD)
    stop = threading.Event()

    def work() -> None:
        for step in steps:
            try:
                made: T | BaseException = make(step)
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
