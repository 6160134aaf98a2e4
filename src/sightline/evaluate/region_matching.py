"""Which of the regions that an answer names is which of those that are there, and how far apart the two are. All geometry is in px of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from sightline.samples.geometry import rotated_iou
from sightline.samples.sample import RotatedBox

LEAST = 0.1
"""Rotated IoU below which two boxes are not the same thing."""
LONG = 1.5
"""Ratio of the sides from which a box has a direction that can be wrong."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A box that is there and the one that was found for it, by their numbers."""

    truth: int
    found: int
    iou: float


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Every box of two lists: in one pair, missed or extra."""

    pairs: tuple[Pair, ...]
    missed: tuple[int, ...]
    """Numbers of boxes that are there and that nothing was found for."""
    extra: tuple[int, ...]
    """Numbers of boxes that were found where nothing is."""


@dataclass(frozen=True, kw_only=True)
class BoxErrors:
    """How far a found box is from the one that is there."""

    centre: float
    """Distance of the centres over the square root of the true area."""
    size: float
    """|ln(area found / area true)|: 0.41 is half as large again, or two thirds."""
    angle: float | None
    """Degrees, 0..90, between the long sides; None where either box is no longer than 1.5 times its width."""


def match(truths: Sequence[RotatedBox], found: Sequence[RotatedBox], least: float = LEAST) -> Matching:
    """Pairs of largest total rotated IoU (Kuhn 1955, the Hungarian method), those below `least` undone."""
    pairs: list[Pair] = []
    if truths and found:
        iou = np.array([[overlap(one, other) for other in found] for one in truths])
        for row, column in zip(*linear_sum_assignment(-np.where(iou >= least, iou, 0.0)), strict=True):
            if iou[row, column] >= least:
                pairs.append(Pair(truth=int(row), found=int(column), iou=float(iou[row, column])))
    taken, given = {pair.truth for pair in pairs}, {pair.found for pair in pairs}
    missed = tuple(number for number in range(len(truths)) if number not in taken)
    return Matching(pairs=tuple(pairs), missed=missed, extra=tuple(number for number in range(len(found)) if number not in given))


def overlap(a: RotatedBox, b: RotatedBox) -> float:
    """Rotated IoU, 0..1; 0 where a box has no area."""
    return min(1.0, rotated_iou(a, b)) if min(a.w, a.h, b.w, b.h) > 0 else 0.0


def mean_iou(truths: Sequence[RotatedBox], found: Sequence[RotatedBox]) -> float:
    """IoU of the pairs, summed, over the longer list: what is missed and what is extra both count 0. Two empty lists agree: 1."""
    most = max(len(truths), len(found))
    return sum(pair.iou for pair in match(truths, found).pairs) / most if most else 1.0


def errors(truth: RotatedBox, found: RotatedBox) -> BoxErrors:
    """Errors of centre, size and angle. Both boxes have an area."""
    area = truth.w * truth.h
    turned = abs((truth.theta - found.theta + 90) % 180 - 90)
    long = all(box.w >= LONG * box.h for box in (truth, found))
    return BoxErrors(
        centre=math.hypot(truth.cx - found.cx, truth.cy - found.cy) / math.sqrt(area),
        size=abs(math.log(found.w * found.h / area)),
        angle=turned if long else None,
    )
