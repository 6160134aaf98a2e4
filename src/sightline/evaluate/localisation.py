"""How well rotated boxes are found, in px of the source picture: pairs of found and true boxes, their errors, and average precision by the rule of DOTA's task 1.

Letters: T true boxes, F found boxes of one question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from shapely import Polygon, area, intersection, union_all

from sightline.evaluate.metrics import Value
from sightline.evaluate.published import resampled
from sightline.evaluate.region_matching import BoxErrors, Pair, errors, overlap
from sightline.samples.geometry import Points, corners
from sightline.samples.sample import RotatedBox

SIZES = (("small", 32.0**2), ("medium", 96.0**2), ("large", math.inf))
"""Name and largest area in px (excluded), as COCO groups them."""
_POINTS = np.linspace(0, 1, 11)
_SLACK = 1e-9
"""A recall of 3 of 5 reaches 0.6, whatever binary fractions make of it."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The boxes that one answer gives beside those that are true."""

    pairs: tuple[Pair, ...]
    """One to one, with the largest sum of IoU."""
    errors: tuple[BoxErrors, ...]
    """Of each pair."""
    best: tuple[float, ...]
    """(T,) the largest IoU of each true box with any found one."""
    areas: tuple[float, ...]
    """(T,) px."""
    found: int
    excess: float
    """Area in px that the found boxes cover together outside all true ones."""
    covered: float
    """Area in px that the found boxes cover together."""
    format_error: bool = False
    """Whether something in the answer looked like a box and was not well formed."""

    def hits(self, iou: float) -> int:
        """Pairs whose IoU is at least so much."""
        return sum(pair.iou >= iou for pair in self.pairs)

    def right(self, iou: float) -> bool:
        """Whether as many boxes were found as are true, and each pair has at least this IoU."""
        return self.found == len(self.best) == self.hits(iou)


def compare(true: Sequence[RotatedBox], found: Sequence[RotatedBox], format_error: bool = False) -> Found:
    """Pair found boxes with true ones, and measure what is beside them."""
    ious = overlaps(true, found)
    rows, columns = linear_sum_assignment(ious, maximize=True)
    pairs = tuple(Pair(truth=t, found=f, iou=float(ious[t, f])) for t, f in zip(rows.tolist(), columns.tolist(), strict=True) if ious[t, f] > 0)
    ours, theirs = (union_all([Polygon(corners(box)) for box in boxes if min(box.w, box.h) > 0]) for boxes in (found, true))
    return Found(
        pairs=pairs,
        errors=tuple(errors(true[pair.truth], found[pair.found]) for pair in pairs),
        best=tuple(ious.max(axis=1, initial=0.0).tolist()),
        areas=tuple(box.w * box.h for box in true),
        found=len(found),
        excess=float(ours.difference(theirs).area),
        covered=float(ours.area),
        format_error=format_error,
    )


def overlaps(true: Sequence[RotatedBox], found: Sequence[RotatedBox]) -> NDArray[np.float64]:
    """(T, F) rotated IoU; boxes whose circles do not meet are not looked at."""
    ious = np.zeros((len(true), len(found)))
    ours, theirs = (np.array([(box.cx, box.cy, math.hypot(box.w, box.h) / 2) for box in boxes]).reshape(-1, 1, 3) for boxes in (true, found))
    apart = ours - theirs.swapaxes(0, 1)
    near = np.hypot(apart[..., 0], apart[..., 1]) < ours[..., 2] + theirs[..., 2].T
    for t, f in np.argwhere(near).tolist():
        ious[t, f] = overlap(true[t], found[f])
    return ious


def localisation_metrics(results: Sequence[Found], pictures: Sequence[Hashable]) -> dict[str, Value]:
    """Figures over all questions, with resamples of the pictures.

    acc@0.5, acc@0.75: questions answered with as many boxes as are true, each pair at that IoU. precision@0.5, recall@0.5, f1@0.5 and miss: over boxes. mean-iou: of each true box with its
    best found one. matched-iou, angle-error (degrees, long boxes only) and centre-error: over pairs of IoU 0.5 or more. excess: share of the found area outside true boxes. format-error: answers.
    recall small, medium, large: true boxes below 32 x 32 px, below 96 x 96 px, and others.
    """
    hits = [[(pair, wrong) for pair, wrong in zip(one.pairs, one.errors, strict=True) if pair.iou >= 0.5] for one in results]
    hit = [len(several) for several in hits]
    true, found = [len(one.best) for one in results], [one.found for one in results]
    angles = [[wrong.angle for _, wrong in several if wrong.angle is not None] for several in hits]
    one_each = [1] * len(results)
    parts: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "acc@0.5": ([one.right(0.5) for one in results], one_each),
        "acc@0.75": ([one.right(0.75) for one in results], one_each),
        "f1@0.5": ([2 * n for n in hit], [t + f for t, f in zip(true, found)]),
        "precision@0.5": (hit, found),
        "recall@0.5": (hit, true),
        "mean-iou": ([sum(one.best) for one in results], true),
        "matched-iou": ([sum(pair.iou for pair, _ in several) for several in hits], hit),
        "miss": ([t - n for t, n in zip(true, hit)], true),
        "excess": ([one.excess for one in results], [one.covered for one in results]),
        "angle-error": ([sum(several) for several in angles], [len(several) for several in angles]),
        "centre-error": ([sum(wrong.centre for _, wrong in several) for several in hits], hit),
        "format-error": ([one.format_error for one in results], one_each),
    }
    least = 0.0
    for name, most in SIZES:
        inside = [[least <= area < most for area in one.areas] for one in results]
        parts[f"recall {name}"] = ([sum(own[pair.truth] for pair, _ in several) for own, several in zip(inside, hits)], [sum(own) for own in inside])
        least = most
    return {name: ratio(above, below, pictures) for name, (above, below) in parts.items() if sum(below) > 0}


def ratio(above: Sequence[float], below: Sequence[float], groups: Sequence[Hashable]) -> Value:
    """Sum of `above` by sum of `below` over questions, resampled by group; 0 where nothing is counted. `n` is what is counted."""
    upper, lower = np.array(above, float), np.array(below, float)
    value = resampled(groups, lambda times: np.where(times @ lower > 0, times @ upper / np.maximum(times @ lower, 1e-12), 0.0))
    return value._replace(n=round(float(lower.sum())) or value.n)


# average precision


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true objects of a class on one picture."""

    outlines: tuple[Points, ...]
    """(4, 2) corners in px, each."""
    difficult: tuple[bool, ...]
    """Those that count neither as found nor as missed."""

    @property
    def counted(self) -> int:
        """Objects that are not difficult."""
        return len(self.outlines) - sum(self.difficult)


Flags = list[tuple[float, bool]]
"""Score of each detection, and whether it is right."""


def detection_flags(scores: Sequence[float], outlines: Sequence[Points], truth: Truth, least: float = 0.5) -> Flags:
    """Which detections of a class on one picture are right, the surest first, those of equal score in their order.

    A detection belongs to the true object with which its outline has the largest IoU. Above `least` it is right the first time and wrong again; one of a difficult object is left out.
    """
    flags: Flags = []
    taken: set[int] = set()
    ious = _outline_ious(outlines, truth.outlines)
    for number in sorted(range(len(scores)), key=lambda one: -scores[one]):
        best = int(ious[number].argmax()) if truth.outlines else -1
        if best < 0 or ious[number, best] <= least:
            flags.append((scores[number], False))
        elif not truth.difficult[best]:
            flags.append((scores[number], best not in taken))
            taken.add(best)
    return flags


def _outline_ious(found: Sequence[Points], true: Sequence[Points]) -> NDArray[np.float64]:
    """(F, T) IoU of convex outlines."""
    ours, theirs = (np.array([Polygon(outline).convex_hull for outline in outlines], object) for outlines in (found, true))
    common = area(intersection(ours[:, None], theirs[None])).reshape(len(found), len(true))
    union = area(ours)[:, None] + area(theirs)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def merged(flags: Iterable[Flags]) -> list[bool]:
    """Which detections of a class are right, the surest of all pictures first."""
    return [right for _, right in sorted((one for several in flags for one in several), key=lambda one: -one[0])]


def average_precision(flags: Sequence[bool], true: int, eleven: bool = True) -> float:
    """Average precision of detections in falling order of score, 0..1.

    `eleven`: mean over recalls 0, .1 .. 1 of the best precision at that recall or beyond it (VOC 2007, which DOTA uses); else the area under the same curve (VOC 2010).
    """
    if not true or not flags:
        return 0.0
    right = np.cumsum(flags)
    recalls, precisions = right / true, right / np.arange(1, len(flags) + 1)
    best = np.maximum.accumulate(precisions[::-1])[::-1]
    if eleven:
        return float(np.mean([best[recalls >= point - _SLACK].max(initial=0.0) for point in _POINTS]))
    steps = np.diff(np.concatenate([[0.0], recalls]))
    return float(steps @ best)
