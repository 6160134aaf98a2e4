"""Features of pictures that were looked at: each picture is encoded once, however many questions are about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from sightline.evaluate.side_by_side import side_by_side
from sightline.model.assembly import Measure
from sightline.model.batch import Features, Pictures
from sightline.model.packing import Encoded, FeatureSource, Frames, pictured
from sightline.model.processor import Processor
from sightline.model.tiling import Tiling
from sightline.model.vlm import Model
from sightline.samples.sample import Picture
from sightline.train.feature_cache import encode

KEPT_BYTES = 1 << 30
"""Features that are kept; beyond it those that no batch asked for lately are forgotten, and never those of the batch at hand."""
CHUNK, CPU_CHUNK = 64, 1
"""Pictures encoded at once: on a CPU what its caches hold."""


_Key = tuple[str, Tiling]
"""Hash of a picture, and how it is cut."""


class Looked(FeatureSource):
    """Features of pictures that were looked at, forgotten oldest first."""

    def __init__(self, model: Model, processor: Processor, precision: str) -> None:
        self.model, self.processor, self.precision = model, processor, precision
        self._known: dict[_Key, dict[str, Features]] = {}

    def look(self, encoded: Iterable[Encoded]) -> None:
        """Encode the pictures of these samples that are not known yet."""
        asked = {(picture.hash, measure.tiling): (picture, measure) for one in encoded for picture, measure in zip(one.pictures, one.measures)}
        self._known |= {key: self._known.pop(key) for key in asked if key in self._known}  # now the youngest: what this batch needs is not forgotten below
        items = [(key, asked[key]) for key in asked if key not in self._known]
        size = CPU_CHUNK if next(self.model.parameters()).device.type == "cpu" else CHUNK
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        for seen in side_by_side(self.model, self._seen, chunks):
            self._known |= seen
        room = KEPT_BYTES - sum(map(_bytes, self._known.values()))
        for key in list(self._known):
            if room >= 0 or key in asked:
                break
            room += _bytes(self._known.pop(key))

    def forget(self) -> None:
        """Let go of all features: of pictures that nobody asks about again."""
        self._known.clear()

    def _seen(self, items: Sequence[tuple[_Key, tuple[Picture | Frames, Measure]]]) -> dict[_Key, dict[str, Features]]:
        """Features of these pictures."""
        pictures = self.processor.collate([[pictured(picture, measure)] for _, (picture, measure) in items]).pictures
        assert pictures.pixels is not None
        device = next(self.model.parameters()).device
        features = encode(self.model, replace(pictures, pixels=tuple(p.to(device) for p in pictures.pixels)), self.precision)
        return dict(zip((key for key, _ in items), _by_picture(features, pictures)))

    def __call__(self, pictures: Sequence[tuple[str, Tiling]]) -> dict[str, Features]:
        firsts, total = [], 0
        for _, tiling in pictures:
            firsts.append(total)
            total += len(tiling.crops)
        found = {}
        for encoder in self.model.config.encoders:
            parts = [self._known[key][encoder.name] for key in pictures]
            found[encoder.name] = Features(
                values=torch.cat([part.values for part in parts]),
                grids=tuple(grid for part in parts for grid in part.grids),
                crops=tuple(first + crop for first, part in zip(firsts, parts) for crop in part.crops),
            )
        return found


def _bytes(features: dict[str, Features]) -> int:
    return sum(own.values.nbytes for own in features.values())


def _by_picture(features: dict[str, Features], pictures: Pictures) -> list[dict[str, Features]]:
    """Features of a batch taken apart by picture; crops are counted from 0 in each."""
    owners = pictures.picture_of.tolist()
    found: list[dict[str, Features]] = [{} for _ in pictures.tilings]
    for name, own in features.items():
        parts = dict(zip(own.crops, zip(own.split(), own.grids)))
        for number, tiling in enumerate(pictures.tilings):
            first = owners.index(number)
            crops = [crop for crop in range(first, first + len(tiling.crops)) if crop in parts]
            values = torch.cat([parts[crop][0] for crop in crops]) if crops else own.values[:0]
            found[number][name] = Features(values=values, grids=tuple(parts[crop][1] for crop in crops), crops=tuple(crop - first for crop in crops))
    return found
