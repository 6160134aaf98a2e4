"""Feature cache: frozen encoders look at each picture once. One folder per (encoders' weights, what is read, tiler, precision); addressed by picture hash and tiling."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sightline.errors import Problem, Refused
from sightline.lineage import artifact, sha256_json, write_json
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Features, Pictures
from sightline.model.packing import FeatureSource
from sightline.model.processor import Processor
from sightline.model.tiling import Grid, Tiling
from sightline.model.vlm import Model
from sightline.progress import Progress
from sightline.samples.sample import Picture

_BATCH = 64
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class FeatureCache(FeatureSource):
    """Memory-mapped features: `index.json` maps a picture (hash and tiling) to its first row and the grids of its crops, per encoder; `NAME.bin` holds (rows, C) in the compute dtype."""

    def __init__(self, folder: Path) -> None:
        head = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._dtype = _DTYPES[head["precision"]]
        self._rows: dict[str, dict[str, tuple[int, list[list[int] | None]]]] = head["pictures"]
        stored = np.int16 if self._dtype == torch.bfloat16 else np.float32
        self._values = {
            name: np.memmap(folder / f"{name}.bin", dtype=stored, mode="r").reshape(-1, channels) if channels else np.zeros((0, 1), stored)
            for name, channels in head["channels"].items()
        }

    def __call__(self, pictures: Sequence[tuple[str, Tiling]]) -> dict[str, Features]:
        """Features of these pictures, in this order."""
        keys = [picture_key(*picture) for picture in pictures]
        found = {}
        for name, values in self._values.items():
            parts, grids, crops, first = [], [], [], 0
            for key in keys:
                start, shapes = self._rows[key][name]
                own = [Grid(columns=shape[0], rows=shape[1], lead=shape[2]) for shape in shapes if shape is not None]
                parts.append(values[start : start + sum(grid.count for grid in own)])
                grids += own
                crops += [first + number for number, shape in enumerate(shapes) if shape is not None]
                first += len(shapes)
            joined = torch.from_numpy(np.concatenate(parts))
            found[name] = Features(values=joined.view(self._dtype) if self._dtype == torch.bfloat16 else joined, grids=tuple(grids), crops=tuple(crops))
        return found


def build_cache(
    root: Path, model: Model, weights: str, processor: Processor, pictures: Iterable[tuple[Picture, Path, int]], precision: str, label: str
) -> FeatureCache:
    """The cache of these pictures under `root`/KEY, made now if it is not there. `weights` identifies the encoders' tensors.

    Pictures come with the folder of their store and the number of pictures in their sample, which a tiler may share a budget among.
    Refused where prompts stand inside the encoders.
    """
    config = model.config
    assert config.tiler is not None
    if config.prompted_encoders:
        found, allowed = "features of encoders with learnt prompts among their tokens", "encoders alone, or prompts behind the connector"
        raise Refused(Problem(code="train/cache-of-prompts", place="model.prompts.place", found=found, allowed=allowed, fix="cache_features: false"))
    unique: dict[str, tuple[Picture, Path, Tiling]] = {}
    for picture, folder, among in pictures:
        tiling = processor.measure(picture.width, picture.height, among).tiling
        unique.setdefault(picture_key(picture.hash, tiling), (picture, folder, tiling))
    # mean and std are no weights, yet features depend on them; where the weights came from says nothing
    said = [encoder.model_dump(mode="json", exclude={"checkpoint"}) for encoder in config.encoders]
    key = sha256_json([weights, said, config.tiler.model_dump(mode="json"), precision, sorted(unique)])[:16]
    folder = root / key
    if (folder / "index.json").is_file():
        return FeatureCache(folder)
    _refuse_full_disk(root, predicted_bytes(config, [tiling for _, _, tiling in unique.values()], precision), len(unique))
    progress = Progress(label, len(unique), "pictures")
    device = next(model.parameters()).device
    with artifact(folder) as temporary:
        writer = _Writer(temporary, [encoder.name for encoder in config.encoders], precision)
        items = list(unique.items())
        for start in range(0, len(items), _BATCH):
            chunk = items[start : start + _BATCH]
            crops = [processor.cut(picture, tiling, store) for _, (picture, store, tiling) in chunk]
            batch = Pictures(
                tilings=tuple(tiling for _, (_, _, tiling) in chunk),
                picture_of=torch.tensor([i for i, own in enumerate(crops) for _ in own]),
                pixels=tuple(torch.from_numpy(crop).to(device) for own in crops for crop in own),
                bands=config.bands,
            )
            writer.add([key for key, _ in chunk], [len(own) for own in crops], encode(model, batch, precision))
            progress.advance(len(chunk))
        writer.close()
    progress.close()
    return FeatureCache(folder)


def predicted_bytes(config: ModelConfig, tilings: Iterable[Tiling], precision: str) -> int:
    """Size of the values of a cache of pictures cut like this, before any is encoded; the index comes on top, some hundred bytes a picture."""
    width = {encoder.name: encoder.channels() * _DTYPES[precision].itemsize for encoder in config.encoders}
    sizes = Counter((encoder.name, crop.window[2:]) for tiling in tilings for crop in tiling.crops for encoder in config.encoders if crop.role in encoder.sees)
    grids = {encoder.name: encoder.grid for encoder in config.encoders}
    return sum(grids[name](*size).count * width[name] * count for (name, size), count in sizes.items())


def _refuse_full_disk(root: Path, needed: int, pictures: int) -> None:
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise Refused(
            Problem(
                code="train/cache-too-large",
                place=str(root),
                found=f"{needed / 2**30:.1f} GiB of features of {pictures} pictures, {free / 2**30:.1f} GiB free",
                allowed="features that fit the disk",
                fix="cache_features: false for the stage, or a run folder on another disk",
            )
        )


class _Writer:
    """One file of values per encoder, and the index over them."""

    def __init__(self, folder: Path, encoders: Sequence[str], precision: str) -> None:
        self.folder, self.precision = folder, precision
        self.files = {name: (folder / f"{name}.bin").open("wb") for name in encoders}
        self.rows = dict.fromkeys(encoders, 0)
        self.channels = dict.fromkeys(encoders, 0)
        self.index: dict[str, dict[str, tuple[int, list[list[int] | None]]]] = {}

    def add(self, keys: Sequence[str], counts: Sequence[int], features: dict[str, Features]) -> None:
        """Features of several pictures; `counts` = crops of each."""
        for name, own in features.items():
            self.files[name].write(_bytes(own.values, self.precision))
            self.channels[name] = own.values.shape[1]
            shapes = dict(zip(own.crops, own.grids))
            first = 0
            for key, count in zip(keys, counts):
                grids = [shapes.get(first + number) for number in range(count)]
                stated = [[grid.columns, grid.rows, grid.lead] if grid is not None else None for grid in grids]
                self.index.setdefault(key, {})[name] = (self.rows[name], stated)
                self.rows[name] += sum(grid.count for grid in grids if grid is not None)
                first += count

    def close(self) -> None:
        """Write the index."""
        for file in self.files.values():
            file.close()
        write_json(self.folder / "index.json", {"precision": self.precision, "channels": self.channels, "pictures": self.index})


@lru_cache(maxsize=65536)
def picture_key(picture: str, tiling: Tiling) -> str:
    """The name of a picture cut in one way."""
    return f"{picture}:{sha256_json(repr(tiling))[:16]}"


@torch.no_grad()
def encode(model: Model, pictures: Pictures, precision: str) -> dict[str, Features]:
    """What the connector would read of these pictures, per encoder, in the compute dtype."""
    device = next(model.parameters()).device
    found = {}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        for encoder in model.config.encoders:
            features = model.encoders[encoder.name](pictures, encoder.read())
            found[encoder.name] = replace(features, values=features.values.to(_DTYPES[precision]))
    return found


def _bytes(values: torch.Tensor, precision: str) -> bytes:
    values = values.cpu().contiguous()
    return (values.view(torch.int16) if precision == "bfloat16" else values).numpy().tobytes()
