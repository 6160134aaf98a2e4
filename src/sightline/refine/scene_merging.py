"""Boxes that overlapping windows name, as the objects of one scene: every object once, and what a window's edge has cut off put together or dropped.

A box that comes within `edge` px of an inner edge of its window is a fragment. Objects smaller than the overlap are whole in at least one window; there the fragments
of them in other windows are known by what a person who saw no more than that window would have drawn. Larger objects have no whole box: their fragments are joined
where they agree on what both windows show.

    pieces of one label --pairs that meet--> whole ones, best first (non-maximum suppression by rotated IoU) --> fragments of these dropped --> the rest joined

Of two boxes the one whose centre is farther from the inner edges of its window is kept. The result does not depend on the order of the pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field

from sightline.kinds import Config
from sightline.samples.geometry import corners, min_area_rect
from sightline.samples.sample import RotatedBox

Floats = NDArray[np.float64]


class MergeConfig(Config):
    """When two boxes of one label are one object."""

    iou: float = Field(default=0.5, gt=0, le=1)
    """Rotated IoU from which two boxes are the same object."""
    contained: float = Field(default=0.6, gt=0, le=1)
    """Share of the smaller box that lies in the other, from which boxes of two windows are the same object."""
    edge: float = Field(default=2.0, gt=0)
    """Px of the scene within which a box touches an edge of its window."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box that one window names, in px of the scene; w and h above 0."""

    label: str
    box: RotatedBox
    window: int
    score: float | None = None
    """Probability, 0..1; None where the answerer gives none."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """One object."""

    label: str
    box: RotatedBox
    score: float | None
    pieces: tuple[int, ...]
    """Numbers of the pieces that it was made of: one, or the fragments that were joined."""
    cut: bool
    """A fragment without anything to join it to: some of the object is missing."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """All objects, and what became of the other pieces."""

    regions: tuple[Merged, ...]
    """By label, then from top to bottom."""
    counts: Counter[str] = field(default_factory=Counter)
    """repeated: twice in one window; duplicates: the same object in another one; fragments dropped; pieces joined. All but the last are gone."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Pieces of one label, best first: whole ones before fragments."""

    numbers: NDArray[np.int64]
    shapes: NDArray[np.object_]
    areas: Floats
    windows: Floats
    """(n, 4) bounds of each piece's window."""
    cut: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Meetings:
    """Pieces that meet, the better one first, as numbers within their group."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    common: Floats
    iou: Floats
    contained: Floats
    same: NDArray[np.bool_]
    """Of one window."""


def merge_pieces(pieces: Sequence[Piece], windows: Sequence[tuple[float, float, float, float]], size: tuple[int, int], config: MergeConfig) -> Merge:
    """The objects of a scene of `size` (width, height) px. `windows`: left, top, right, bottom of each window, px of the scene."""
    counts: Counter[str] = Counter({"repeated": 0, "duplicates": 0, "fragments dropped": 0, "pieces joined": 0})
    by_label: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        by_label.setdefault(piece.label, []).append(number)
    bounds = np.array(windows, np.float64).reshape(-1, 4)
    found = [one for label in sorted(by_label) for one in _merge_label(pieces, by_label[label], bounds, size, config, counts)]
    return Merge(regions=tuple(sorted(found, key=lambda one: (one.label, one.box.cy, one.box.cx, one.box.w, one.box.h, one.box.theta))), counts=counts)


def _merge_label(
    pieces: Sequence[Piece], numbers: Sequence[int], bounds: Floats, size: tuple[int, int], config: MergeConfig, counts: Counter[str]
) -> list[Merged]:
    group = _grouped(pieces, np.array(numbers), bounds, size, config.edge)
    pairs = _pairs(group, config.edge)
    gone = _suppressed(group, pairs, config, counts)
    found = [pieces[number] for number in group.numbers.tolist()]
    whole = [place for place in range(len(found)) if not gone[place] and not group.cut[place]]
    kept = [Merged(label=one.label, box=one.box, score=one.score, pieces=(int(group.numbers[place]),), cut=False) for place in whole for one in [found[place]]]
    joined = [_joined(found, group, places, counts) for places in _components(group, pairs, gone, config)]
    return kept + _apart(joined, kept, config, counts)


def _grouped(pieces: Sequence[Piece], numbers: NDArray[np.int64], bounds: Floats, size: tuple[int, int], edge: float) -> _Group:
    boxes = np.array([(one.box.cx, one.box.cy, one.box.w, one.box.h, one.box.theta) for number in numbers.tolist() for one in [pieces[number]]])
    windows = bounds[[pieces[number].window for number in numbers.tolist()]]
    shapes = _outlines(boxes)
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    left, top, right, bottom = windows.T
    inner = np.stack([left > 0, top > 0, right < size[0] - 1e-6, bottom < size[1] - 1e-6])
    touched = np.stack([x0 <= left + edge, y0 <= top + edge, x1 >= right - edge, y1 >= bottom - edge])
    cut = np.asarray(np.any(inner & touched, axis=0))
    reach = np.where(inner, np.stack([boxes[:, 0] - left, boxes[:, 1] - top, right - boxes[:, 0], bottom - boxes[:, 1]]), np.inf).min(0)
    scores = np.array([-1.0 if (score := pieces[number].score) is None else score for number in numbers.tolist()])
    order = np.lexsort((*windows.T[::-1], *boxes.T[::-1], -scores, -reach, cut))
    return _Group(numbers=numbers[order], shapes=shapes[order], areas=boxes[order, 2] * boxes[order, 3], windows=windows[order], cut=cut[order])


def _outlines(boxes: Floats) -> NDArray[np.object_]:
    """(n,) shapely polygons of boxes (n, 5): cx, cy, w, h, theta; see `geometry.corners`."""
    angle = np.radians(boxes[:, 4, None])
    dx = boxes[:, 2, None] / 2 * np.array([-1, 1, 1, -1])
    dy = boxes[:, 3, None] / 2 * np.array([-1, -1, 1, 1])
    cosine, sine = np.cos(angle), np.sin(angle)
    corners = np.stack([boxes[:, 0, None] + cosine * dx - sine * dy, boxes[:, 1, None] + sine * dx + cosine * dy], axis=-1)
    return np.array(shapely.polygons(corners), dtype=object)


def _pairs(group: _Group, edge: float) -> _Meetings:
    first, second = shapely.STRtree(group.shapes).query(group.shapes, predicate="dwithin", distance=edge)
    ahead = first < second
    first, second = first[ahead], second[ahead]
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    common = shapely.area(shapely.intersection(group.shapes[first], group.shapes[second]))
    a, b = group.areas[first], group.areas[second]
    return _Meetings(
        first=first,
        second=second,
        common=common,
        iou=common / (a + b - common),
        contained=common / np.minimum(a, b),
        same=(group.windows[first] == group.windows[second]).all(1),
    )


def _suppressed(group: _Group, pairs: _Meetings, config: MergeConfig, counts: Counter[str]) -> NDArray[np.bool_]:
    """Which pieces are another piece, or a fragment of it. Fragments suppress only what one window says twice."""
    gone = np.zeros(len(group.areas), bool)
    equal, inside, part = pairs.iou >= config.iou, pairs.contained >= config.contained, _parts(group, pairs, config)
    starts = np.searchsorted(pairs.first, np.arange(len(gone) + 1))
    windows = [tuple(row) for row in group.windows.tolist()]
    for place in range(len(gone)):
        if gone[place]:
            continue
        near = [pair for pair in range(starts[place], starts[place + 1]) if not gone[pairs.second[pair]]]
        # a window that names this object too means another one by its further boxes
        named = {windows[place], *(windows[pairs.second[pair]] for pair in near if equal[pair])}
        for pair in near:
            other = pairs.second[pair]
            if pairs.same[pair]:
                name = "repeated" if equal[pair] else ""
            elif group.cut[place]:
                name = ""
            elif group.cut[other]:
                name = "fragments dropped" if equal[pair] or part[pair] else ""
            else:
                name = "duplicates" if equal[pair] or (inside[pair] and windows[other] not in named) else ""
            if name:
                gone[other] = True
                counts[name] += 1
    return gone


def _parts(group: _Group, pairs: _Meetings, config: MergeConfig) -> NDArray[np.bool_]:
    """Which pairs are a whole box and what another window's edge leaves of it: the rectangle around what that window shows of the whole holds the fragment."""
    found = np.zeros(len(pairs.first), bool)
    asked = np.flatnonzero(~group.cut[pairs.first] & group.cut[pairs.second] & ~pairs.same)
    if not len(asked):
        return found
    whole, fragment = pairs.first[asked], pairs.second[asked]
    seen = shapely.intersection(group.shapes[whole], shapely.box(*group.windows[fragment].T))
    drawn = shapely.buffer(shapely.oriented_envelope(seen), config.edge, join_style="mitre")
    held = shapely.area(shapely.intersection(group.shapes[fragment], drawn))
    found[asked] = ~shapely.is_empty(seen) & (held >= config.contained * group.areas[fragment])
    return found


def _components(group: _Group, pairs: _Meetings, gone: NDArray[np.bool_], config: MergeConfig) -> list[list[int]]:
    """Fragments that are left, those of one object together: in what both windows show, one holds most of the other."""
    left = group.cut & ~gone
    asked = np.flatnonzero(left[pairs.first] & left[pairs.second] & ~pairs.same)
    first, second = pairs.first[asked], pairs.second[asked]
    both = shapely.intersection(shapely.box(*group.windows[first].T), shapely.box(*group.windows[second].T))
    shown = np.minimum(*(shapely.area(shapely.intersection(group.shapes[places], both)) for places in (first, second)))
    agree = (shown > 0) & (pairs.common[asked] >= config.contained * shown)
    root = {place: place for place in np.flatnonzero(left).tolist()}

    def top(place: int) -> int:
        while root[place] != place:
            root[place] = place = root[root[place]]
        return place

    for a, b in zip(first[agree].tolist(), second[agree].tolist(), strict=True):
        low, high = sorted((top(a), top(b)))
        root[high] = low
    found: dict[int, list[int]] = {}
    for place in root:
        found.setdefault(top(place), []).append(place)
    return list(found.values())


def _joined(found: Sequence[Piece], group: _Group, places: Sequence[int], counts: Counter[str]) -> Merged:
    """One object of its fragments: the rectangle of least area around them, their mean score by area."""
    first, numbers = found[places[0]], tuple(int(group.numbers[place]) for place in places)
    if len(places) == 1:
        return Merged(label=first.label, box=first.box, score=first.score, pieces=numbers, cut=True)
    counts["pieces joined"] += len(places)
    box = min_area_rect(np.concatenate([corners(found[place].box) for place in places]))
    known = np.array([(score, group.areas[place]) for place in places if (score := found[place].score) is not None])
    score = float(np.average(known[:, 0], weights=known[:, 1])) if len(known) else None
    return Merged(label=first.label, box=box, score=score, pieces=numbers, cut=False)


def _apart(joined: Sequence[Merged], kept: Sequence[Merged], config: MergeConfig, counts: Counter[str]) -> list[Merged]:
    """Joined objects that are no other one, the largest first."""
    ordered = [*kept, *sorted(joined, key=lambda one: (one.cut, -one.box.w * one.box.h, one.box.cy, one.box.cx))]
    if not joined:
        return []
    shapes = _outlines(np.array([(one.box.cx, one.box.cy, one.box.w, one.box.h, one.box.theta) for one in ordered]))
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    asked = (first < second) & (second >= len(kept))
    first, second = first[asked], second[asked]
    common = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    equal = common >= config.iou * (shapely.area(shapes[first]) + shapely.area(shapes[second]) - common)
    gone: set[int] = set()
    for a, b in sorted(zip(first[equal].tolist(), second[equal].tolist(), strict=True), key=lambda pair: (pair[1], pair[0])):
        if a not in gone:
            gone.add(b)
    counts["duplicates"] += len(gone)
    return [one for place, one in enumerate(ordered) if place >= len(kept) and place not in gone]
