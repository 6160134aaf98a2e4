"""Feature cache: a frozen encoder looks at each picture once. One folder per (encoder weights, what is read, tiler, precision); addressed by picture hash."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from sightline.lineage import artifact, sha256_json, write_json
from sightline.model.batch import Features, Pictures
from sightline.model.processor import FeatureSource, Processor
from sightline.model.tiling import Grid, cut
from sightline.model.vlm import Model
from sightline.progress import Progress
from sightline.samples.pictures import pixels
from sightline.samples.sample import Picture

_BATCH = 64
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class FeatureCache(FeatureSource):
    """Memory-mapped features: `index.json` maps a picture hash to its first row and its grids, `values.bin` holds (rows, C) in the compute dtype."""

    def __init__(self, folder: Path) -> None:
        head = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.encoder: str = head["encoder"]
        self._dtype = _DTYPES[head["precision"]]
        self._rows: dict[str, tuple[int, list[list[int]]]] = head["pictures"]
        raw = np.memmap(folder / "values.bin", dtype=np.int16 if self._dtype == torch.bfloat16 else np.float32, mode="r").reshape(-1, head["channels"])
        self._values = raw

    def __call__(self, hashes: Sequence[str]) -> dict[str, Features]:
        """Features of these pictures, in this order."""
        parts, grids = [], []
        for key in hashes:
            start, shapes = self._rows[key]
            own = [Grid(columns=c, rows=r, lead=lead) for c, r, lead in shapes]
            parts.append(self._values[start : start + sum(grid.count for grid in own)])
            grids += own
        values = torch.from_numpy(np.concatenate(parts))
        return {self.encoder: Features(values=values.view(self._dtype) if self._dtype == torch.bfloat16 else values, grids=tuple(grids))}


def build_cache(
    root: Path, model: Model, weights: str, processor: Processor, pictures: Iterable[tuple[Picture, Path]], precision: str, label: str
) -> FeatureCache:
    """The cache of these pictures under `root`/KEY, made now if it is not there. `weights` identifies the encoder's tensors; pictures come with the folder of their store."""
    config = model.config
    encoder = config.encoders[0]
    assert config.tiler is not None
    unique = {picture.hash: (picture, folder) for picture, folder in pictures}
    # mean and std are no weights, yet features depend on them; where the weights came from says nothing
    said = encoder.model_dump(mode="json", exclude={"name", "checkpoint"})
    key = sha256_json([weights, said, config.tiler.model_dump(mode="json"), precision, sorted(unique)])[:16]
    folder = root / key
    if (folder / "index.json").is_file():
        return FeatureCache(folder)
    progress = Progress(label, len(unique), "pictures")
    index: dict[str, tuple[int, list[list[int]]]] = {}
    rows = 0
    device = next(model.parameters()).device
    with artifact(folder) as temporary:
        with (temporary / "values.bin").open("wb") as stream:
            items = list(unique.values())
            for start in range(0, len(items), _BATCH):
                chunk = items[start : start + _BATCH]
                measures = [processor.measure(picture.width, picture.height) for picture, _ in chunk]
                crops = [cut(pixels(picture, store), measure.tiling) for (picture, store), measure in zip(chunk, measures)]
                batch = Pictures(
                    tilings=tuple(m.tiling for m in measures),
                    picture_of=torch.tensor([i for i, own in enumerate(crops) for _ in own]),
                    pixels=tuple(torch.from_numpy(crop).to(device) for own in crops for crop in own),
                )
                features = encode(model, batch, precision)
                stream.write(_bytes(features.values, precision))
                grids = iter(features.grids)
                for (picture, _), own in zip(chunk, crops):
                    shapes = [next(grids) for _ in own]
                    index[picture.hash] = (rows, [[g.columns, g.rows, g.lead] for g in shapes])
                    rows += sum(grid.count for grid in shapes)
                progress.advance(len(chunk))
        write_json(temporary / "index.json", {"encoder": encoder.name, "precision": precision, "channels": encoder.channels(), "pictures": index})
    progress.close()
    return FeatureCache(folder)


@torch.no_grad()
def encode(model: Model, pictures: Pictures, precision: str) -> Features:
    """What the connector would read of these pictures, in the compute dtype."""
    encoder = model.config.encoders[0]
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        features = model.encoders[encoder.name](pictures, encoder.read())
    return Features(values=features.values.to(_DTYPES[precision]), grids=features.grids)


def _bytes(values: torch.Tensor, precision: str) -> bytes:
    values = values.cpu().contiguous()
    return (values.view(torch.int16) if precision == "bfloat16" else values).numpy().tobytes()
