"""How fast a stage goes: what its batches hold, the arithmetic that this takes as a share of the device's peak, and memory."""

from __future__ import annotations

import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.model.batch import Batch, Stream
from sightline.model.tiling import Crop

_GIB = 2**30
_RESIDENT = Path("/proc/self/statm")
"""Linux: pages of this process, its second number those in memory."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What training takes: FLOPs of a unit of each count (see `Counts`), forward and backward, and the peak of one device in FLOP/s for the stage's compute type."""

    flops: Mapping[str, float]
    peak: float

    def utilisation(self, counts: Mapping[str, float], seconds: float, devices: int) -> float:
        """Model-FLOP utilisation (Chowdhery et al. 2022, appendix B): FLOPs of what the counts say over those that `devices` could do in `seconds`."""
        return sum(each * counts.get(name, 0.0) for name, each in self.flops.items()) / (seconds * devices * self.peak)


class Counts:
    """What a process trained on, by name: samples; tokens of the decoder without padding; answers, the supervised ones; squares, the sum of squared segment lengths.

    Also, where there are any: texts, tokens of side texts; entries, lines of the feature table; `encoders.NAME`, tokens that an encoder computed (none where features are cached).
    """

    def __init__(self, encoders: Sequence[Any] = ()) -> None:
        self.encoders = encoders
        """Configs of the vision encoders whose tokens are counted."""
        self.found: Counter[str] = Counter()
        self._tokens: dict[tuple[str, int, int], dict[str, int]] = {}

    def add(self, batch: Batch) -> None:
        """Count a batch that lies on the host."""
        self.found["samples"] += len(batch.rows)
        self.found["answers"] += len(batch.targets)
        if batch.decoder is not None:
            lengths = _lengths(batch.decoder)
            self.found["tokens"] += sum(lengths)
            self.found["squares"] += sum(length * length for length in lengths)
        if batch.texts is not None:
            self.found["texts"] += int(batch.texts.lengths.sum())
        self.found["entries"] += max((1 + int(one.sources.max()) for one in (batch.decoder, batch.memory) if one is not None and len(one.sources)), default=0)
        if batch.pictures.features is None and self.encoders:
            for crop in batch.pictures.crops():
                self.found.update(self._of(crop))

    def take(self) -> dict[str, float]:
        """The counts since they were last taken."""
        found = {name: float(count) for name, count in self.found.items()}
        self.found.clear()
        return found

    def _of(self, crop: Crop) -> dict[str, int]:
        key = (crop.role, crop.window[2], crop.window[3])
        if key not in self._tokens:
            self._tokens[key] = {f"encoders.{encoder.name}": encoder.grid(*key[1:]).count for encoder in self.encoders if crop.role in encoder.sees}
        return self._tokens[key]


def _lengths(stream: Stream) -> list[int]:
    """Lengths of a stream's segments, padding left out."""
    if stream.runs:
        return [run.length for run in stream.runs if run.says != "padding"]
    return [length for own in stream.segments for length in torch.bincount(own[own > 0]).tolist() if length]


def memory(device: torch.device | None) -> tuple[float, str]:
    """GiB, and of what: on a GPU the most that tensors took since the last call, else what the process holds now (where the system does not say, the most it held)."""
    if device is not None and device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most / _GIB, "GPU, peak"
    if _RESIDENT.is_file():
        return int(_RESIDENT.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / _GIB, "process"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / _GIB, "process, peak"


def norms_by_part(norms: Mapping[str, Tensor], parts: Sequence[str]) -> dict[str, float]:
    """Euclidean norm of the gradient of each part, from those of its tensors; a tensor belongs to the longest path that it lies in."""
    values = torch.stack([*norms.values()]).double().tolist() if norms else []
    found: dict[str, float] = {}
    for name, value in zip(norms, values):
        part = max((path for path in parts if name.startswith(f"{path}.") or name == path), key=len, default=None)
        if part is not None:
            found[part] = found.get(part, 0.0) + value * value
    return {part: square**0.5 for part, square in found.items()}
