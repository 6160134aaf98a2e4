"""How well pixels are found. Every figure follows from counts of pixels: in both, only in the truth, only in the answer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.evaluate.localisation import ratio
from sightline.evaluate.metrics import Value
from sightline.evaluate.published import resampled


class Pixels(NamedTuple):
    """Counts of one question."""

    both: int
    missed: int
    """In the truth only."""
    extra: int
    """In the answer only."""

    @property
    def union(self) -> int:
        """Pixels of either."""
        return sum(self)

    @property
    def iou(self) -> float:
        """Intersection by union; 1 where both are empty."""
        return self.both / self.union if self.union else 1.0

    @property
    def dice(self) -> float:
        """2 both / (truth + answer); 1 where both are empty."""
        return 2 * self.both / (self.union + self.both) if self.union else 1.0


def count_pixels(true: NDArray[np.bool_], found: NDArray[np.bool_], ignored: NDArray[np.bool_] | None = None) -> Pixels:
    """Counts of two masks (height, width); `ignored` pixels count nowhere."""
    if ignored is not None:
        true, found = true & ~ignored, found & ~ignored
    both = int(np.count_nonzero(true & found))
    return Pixels(both, int(np.count_nonzero(true)) - both, int(np.count_nonzero(found)) - both)


def mask_metrics(counts: Sequence[Pixels], labels: Sequence[str], pictures: Sequence[Hashable]) -> dict[str, Value]:
    """miou and dice: means over labels of figures over all their pixels, labels that are in neither truth nor answer left out; fwiou weights labels by their true pixels.

    giou: mean IoU of single questions, 1 where both are empty; ciou: all intersections by all unions (Lai et al. 2024, section 4). Then the IoU of each label that is somewhere.
    """
    names = list(dict.fromkeys(labels))
    member = np.array([[label == name for name in names] for label in labels], float)  # (rows, labels)
    both, missed, extra = (np.array(column, float)[:, None] * member for column in zip(*counts, strict=True))

    def over_labels(times: np.ndarray, kind: str) -> np.ndarray:
        tp, fn, fp = times @ both, times @ missed, times @ extra
        union = tp + fn + fp
        there = union > 0
        figure = np.where(there, (2 * tp if kind == "dice" else tp) / np.maximum(union + (tp if kind == "dice" else 0), 1), 0.0)
        weights = tp + fn if kind == "fwiou" else there.astype(float)
        return (figure * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-12)

    ious = np.array([one.iou for one in counts])
    found = {
        "miou": resampled(pictures, lambda times: over_labels(times, "iou")),
        "dice": resampled(pictures, lambda times: over_labels(times, "dice")),
        "fwiou": resampled(pictures, lambda times: over_labels(times, "fwiou")),
        "giou": resampled(pictures, lambda times: times @ ious / times.sum(axis=1)),
        "ciou": ratio([one.both for one in counts], [one.union for one in counts], pictures),
    }
    for name in names:
        own = [number for number, label in enumerate(labels) if label == name]
        if not any(counts[k].union for k in own):
            continue
        found[f"iou {name}"] = ratio([counts[k].both for k in own], [counts[k].union for k in own], [pictures[k] for k in own])
    return found
