"""How well pixels are found. Every figure follows from counts of pixels: in both, only in the truth, only in the answer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon as Outline
from shapely import contains_xy, make_valid, prepare

from sightline.evaluate.localisation import ratio
from sightline.evaluate.metrics import Value
from sightline.evaluate.published import resampled
from sightline.samples.geometry import corners, decode_mask
from sightline.samples.sample import Box, Mask, Polygon, Region, RotatedBox


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


def painted(regions: Sequence[Region], width: int, height: int) -> NDArray[np.bool_]:
    """(height, width): pixels whose centre lies in one of the shapes; boxes are filled, points and the whole picture paint nothing. A mask of another size paints nothing either."""
    found = np.zeros((height, width), bool)
    for region in regions:
        if isinstance(region.shape, Mask):
            if (region.shape.width, region.shape.height) == (width, height):
                found |= decode_mask(region.shape)
        elif (outline := _outline(region)) is not None:
            _fill(found, outline)
    return found


def _fill(found: NDArray[np.bool_], outline: Sequence[tuple[float, float]]) -> None:
    """Set the pixels (height, width) whose centre lies in an outline; one that crosses itself holds what is inside any part of it."""
    shape = make_valid(Outline(outline))
    prepare(shape)
    left, top, right, bottom = shape.bounds
    rows, columns = slice(max(int(top), 0), max(math.ceil(bottom), 0)), slice(max(int(left), 0), max(math.ceil(right), 0))
    window = found[rows, columns]
    y, x = np.indices(window.shape)
    window |= contains_xy(shape, x + columns.start + 0.5, y + rows.start + 0.5)


def _outline(region: Region) -> list[tuple[float, float]] | None:
    shape = region.shape
    if isinstance(shape, Box):
        return [(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)]
    if isinstance(shape, RotatedBox):
        return [(float(x), float(y)) for x, y in corners(shape)]
    return list(shape.points) if isinstance(shape, Polygon) and len(shape.points) > 2 else None


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
