"""Batches of crops for training, a pure function of (seed, step): objects in the order of an epoch, boxes that are off by chance, crops that are turned and recoloured by chance."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.refine.crop_decoder import CropDecoder
from sightline.refine.crops import prompted_crop
from sightline.refine.mask_training import MaskTraining
from sightline.refine.objects import KnownObject, Looking, Objects, jittered, upright
from sightline.samples.dihedral import TURNS, turned_pixels
from sightline.samples.sample import Sample
from sightline.samples.store import Store
from sightline.samples.upright_crops import Window, sampled, windows_around, windows_within
from sightline.train.feeding import made_ahead

_UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """K crops with their targets. `rows`: (source, row, label) of each."""

    crops: Tensor  # (K, B, h, w) float32 0..255
    prompts: Tensor  # (K, 3, h, w) float32
    targets: Tensor  # (K, h, w) float32 0..1, share of the pixel that is the object's
    weights: Tensor  # (K, h, w) float32: 0 where nothing is known or no picture is
    classes: Tensor | None  # (K, h, w) int64, -1 where the label is not known
    rows: tuple[tuple[str, str, str], ...]


class CropFeed:
    """Batches of a training run; made ahead of time by one thread. `names`: data sets in the order of `stores`."""

    def __init__(
        self, stores: Sequence[Store], names: Sequence[str], objects: Objects, model: CropDecoder, fill: Sequence[float], training: MaskTraining, seed: int
    ) -> None:
        self.model, self.fill, self.training, self.seed = model, tuple(fill), training, seed
        self.looking = Looking(stores, model.bands, training.objects)
        self._by_store = [[one for one in objects.found if one.store == number] for number in range(len(stores))]
        self._times = [training.data[name] for name in names]
        self._counts = [math.ceil(round(len(own) * times, 6)) for own, times in zip(self._by_store, self._times)]
        self.per_epoch = sum(self._counts)
        self.steps = training.steps
        self._epoch: tuple[int, list[KnownObject]] = (-1, [])

    def place(self, step: int) -> dict[str, int]:
        """Where a step begins: epoch and visit within it, from 0."""
        epoch, visit = divmod(step * self.training.batch, self.per_epoch)
        return {"step": step, "epoch": epoch, "visit": visit}

    def visits(self, step: int) -> list[tuple[int, KnownObject]]:
        """(visit number, object) of one optimizer step."""
        found = []
        for visit in range(step * self.training.batch, (step + 1) * self.training.batch):
            epoch, place = divmod(visit, self.per_epoch)
            known = self._epoch  # two threads may ask
            if known[0] != epoch:
                self._epoch = known = (epoch, self._shuffled(np.random.default_rng([self.seed, epoch])))
            found.append((visit, known[1][place]))
        return found

    def _shuffled(self, rng: np.random.Generator) -> list[KnownObject]:
        drawn: list[KnownObject] = []
        for own, count in zip(self._by_store, self._counts):
            rounds = [rng.permutation(len(own)) for _ in range(-(-count // max(1, len(own))))]
            drawn += [own[int(number)] for number in np.concatenate([*rounds, np.zeros(0, int)])[:count]]
        return [drawn[int(number)] for number in rng.permutation(len(drawn))]

    def samples(self, step: int) -> list[tuple[Path, Sample]]:
        """The rows of an optimizer step with the folders of their stores: what is shown when the step fails."""
        stores = self.looking.stores
        return [(stores[one.store].path, stores[one.store][one.row]) for _, one in self.visits(step)]

    def ahead(self, steps: range) -> Generator[list[CropBatch]]:
        """The batches of these steps, each in a list of one."""
        return made_ahead(lambda step: [self.batch(step)], steps)

    def batch(self, step: int) -> CropBatch:
        """The crops of one optimizer step."""
        made = [self.crop(one, np.random.default_rng([self.seed, visit, 1])) for visit, one in self.visits(step)]
        stacked = [torch.from_numpy(np.stack(parts)) for parts in zip(*(arrays for arrays, _ in made), strict=True)]
        crops, prompts, targets, weights = (one.float() for one in stacked[:4])
        classes = stacked[4].long() if self.model.predicts == "classes" else None
        return CropBatch(crops=crops, prompts=prompts, targets=targets, weights=weights, classes=classes, rows=tuple(row for _, row in made))

    def crop(self, known: KnownObject, rng: np.random.Generator) -> tuple[tuple[NDArray[np.generic], ...], tuple[str, str, str]]:
        """(crop, prompt, target, weight, classes) of one visit, and its row."""
        looked, mask = self.looking.at(known), self.looking.mask(known)
        height, width = mask.shape
        box = upright(known, mask) if rng.uniform() < self.training.upright else known.box
        if rng.uniform() >= self.training.exact:
            box = jittered(box, self.training.jitter, rng)
        windows = windows_around(box, self.model.size, self.model.context, self.model.finest, self.model.coarsest)
        shown = windows_within(windows, width, height) or windows[:1]
        window = shown[int(rng.integers(len(shown)))]
        crop = prompted_crop(looked.pixels, window, box, self.fill)
        planes, _ = sampled(np.stack([mask, looked.ignored], axis=2), window)
        weight = (crop.prompt[2] > 0.5) & (planes[..., 1] < 0.5)
        classes = self._classes(known, window) if self.model.predicts == "classes" else np.zeros((0, 0), np.int16)
        values = np.where(crop.prompt[2] > 0, _recoloured(crop.values, self.training.colour, rng), crop.values)
        arrays: tuple[NDArray[np.generic], ...] = (values, crop.prompt, planes[..., 0], weight, classes)
        if self.training.augment == "dihedral":
            turn = int(rng.integers(TURNS))
            arrays = tuple(_turned(one, turn) for one in arrays)
        return arrays, (looked.sample.origin.source, looked.sample.id, known.label)

    def _classes(self, known: KnownObject, window: Window) -> NDArray[np.int16]:
        """(h, w): number of the label that has most of a pixel; -1 where none has half of it."""
        numbers = self.looking.classes(known, self.model.classes)
        planes, _ = sampled(np.stack([numbers == number for number in range(len(self.model.classes))], axis=2), window)
        best = planes.argmax(2).astype(np.int16)
        return np.where(planes.max(2) > 0.5, best, _UNKNOWN).astype(np.int16)


def _turned(array: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """An array (.., h, w) of a square crop after turn 0..7."""
    if array.ndim == 2:
        return np.ascontiguousarray(turned_pixels(array, turn))  # pyright: ignore[reportArgumentType]
    return np.ascontiguousarray(turned_pixels(array.transpose(1, 2, 0), turn).transpose(2, 0, 1))  # pyright: ignore[reportArgumentType]


def _recoloured(values: NDArray[np.float32], most: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A crop (B, h, w) a little brighter or darker, of more or less contrast, all bands alike and each for itself."""
    bands = len(values)
    gain = (1 + rng.uniform(-most, most)) * (1 + rng.uniform(-most, most, (bands, 1, 1)) / 2)
    shift = 255 * (rng.uniform(-most, most) / 2 + rng.uniform(-most, most, (bands, 1, 1)) / 4)
    middle = values.mean((1, 2), keepdims=True)
    return np.clip((values - middle) * gain + middle + shift, 0, 255).astype(np.float32)
