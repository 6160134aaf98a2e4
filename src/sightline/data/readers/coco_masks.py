"""COCO's ways to write a mask: polygons, runs, and runs as a short string.

Runs are column-major and start with the zero run, as `Mask` does. The short string writes each run (from the fourth on its difference to the run two before) in groups of five bits, lowest first,
each as one character from `0` on; the sixth bit says that a group follows, the fifth bit of the last group is the sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.samples.sample import Mask

_GROUP, _SIGN, _MORE, _ZERO = 0x1F, 0x10, 0x20, 48
_LARGEST_SHIFT = 35
"""A run has at most 40 bits: more than the pixels of any picture."""
_LARGEST = 1e12
_FINE = 5
"""Corners of polygons are rounded to this fraction of a pixel."""


def compress_runs(runs: Sequence[int]) -> str:
    """The short string of runs."""
    signs: list[str] = []
    for number, run in enumerate(runs):
        rest = run - (runs[number - 2] if number > 2 else 0)
        while True:
            group, rest = rest & _GROUP, rest >> 5
            last = rest == (-1 if group & _SIGN else 0)
            signs.append(chr(group + (0 if last else _MORE) + _ZERO))
            if last:
                break
    return "".join(signs)


def expand_runs(text: str) -> list[int]:
    """The runs of a short string. ValueError when it is none."""
    runs: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - _ZERO
        if not 0 <= bits < 2 * _MORE or shift > _LARGEST_SHIFT:
            raise ValueError(f"{sign!r} after {len(runs)} runs is no part of a run")
        value |= (bits & _GROUP) << shift
        shift += 5
        if not bits & _MORE:
            value -= 1 << shift if bits & _SIGN else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the last run is cut off")
    return runs


def read_runs(value: Any, width: int, height: int) -> Mask:
    """The mask of a JSON object {"size": [height, width], "counts": runs or short string}. ValueError when it does not fill the picture."""
    size, counts = (value.get("size"), value.get("counts")) if isinstance(value, dict) else (None, None)
    if size != [height, width]:
        raise ValueError(f"a mask of size {str(size)[:60]} on a picture of height {height} and width {width}")
    runs = expand_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs):
        raise ValueError(f"counts {str(counts)[:60]}, which are no runs")
    if sum(runs) != width * height:
        raise ValueError(f"runs of sum {sum(runs)} for {width * height} px")
    return Mask(width=width, height=height, runs=_without_empty(runs))


def write_runs(mask: Mask) -> dict[str, Any]:
    """The JSON object of a mask, its runs as a short string."""
    return {"size": [mask.height, mask.width], "counts": compress_runs(mask.runs)}


def _without_empty(runs: list[int]) -> tuple[int, ...]:
    """Runs of which only the first may be empty: empty ones join their neighbours."""
    result = runs[:1]
    for number, run in enumerate(runs[1:], 1):
        if number % 2 == len(result) % 2:
            if run:
                result.append(run)
        else:
            result[-1] += run
    return tuple(result)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number that a picture can have: neither infinite nor beyond all measure."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def are_numbers(value: Any) -> bool:
    """Whether a JSON value is a list of such numbers."""
    return isinstance(value, list) and {*map(type, value)} <= {int, float} and all(-_LARGEST <= number <= _LARGEST for number in value)


def read_outline(value: Any) -> NDArray[np.float64]:
    """Corners (n, 2) of one polygon [x0, y0, x1, y1, ..]. ValueError when it has fewer than three, or numbers that are none."""
    if not are_numbers(value) or len(value) < 6 or len(value) % 2:
        raise ValueError(f"outline {str(value)[:60]}, which is no list of three corners or more")
    return np.array(value, np.float64).reshape(-1, 2)


def fill(outlines: Sequence[NDArray[np.float64]], width: int, height: int) -> Mask:
    """The pixels inside any of the outlines.

    Corners are rounded to a fifth of a pixel and edges walked on that grid; in each column of pixels the edges cross, the rows between two crossings are inside: the same pixels as COCO's own
    tools give (maskApi.c, rleFrPoly), so that published areas and scores are met.
    """
    crossed = [places for corners in outlines if len(places := _crossings(corners, width, height))]
    first, last = min((int(places.min()) for places in crossed), default=0), max((int(places.max()) for places in crossed), default=0)
    # Every outline is left as often as it is entered: nothing is inside before the first crossing and after the last.
    inside = np.zeros(last - first + 1, np.bool_)
    for places in crossed:
        inside |= np.cumsum(np.bincount(places - first, minlength=len(inside))) % 2 == 1
    edges = np.flatnonzero(np.diff(inside, prepend=False)) + first
    runs = np.diff(edges[edges < height * width], prepend=0, append=height * width)
    return Mask(width=width, height=height, runs=tuple(runs.tolist()))


def _crossings(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.int64]:
    """Column-major places at which one outline is entered or left."""
    # Corners far outside would make edges of any length; those this far are moved in, where they bound the same pixels of any ordinary outline.
    bound = float(_FINE * 4 * (width + height) + 64)
    fine = np.trunc(np.clip(_FINE * corners + 0.5, -bound, bound)).astype(np.int64)
    u, v = _walk(fine)
    step = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.where(u[step] < u[step - 1], u[step], u[step] - 1) + 0.5) / _FINE - 0.5
    y = np.ceil(np.clip((np.minimum(v[step], v[step - 1]) + 0.5) / _FINE - 0.5, 0, height))
    keep = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    return (x[keep] * height + y[keep]).astype(np.int64)


def _walk(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All grid points on the edges of a closed outline, in order, each edge from its lower end in its longer direction so that both ways give the same points."""
    us: list[NDArray[np.int64]] = []
    vs: list[NDArray[np.int64]] = []
    points = corners.tolist()
    for (xs, ys), (xe, ye) in zip(points, points[1:] + points[:1], strict=True):
        dx, dy = abs(xe - xs), abs(ys - ye)
        flat = dx >= dy
        turned = xs > xe if flat else ys > ye
        if turned:
            xs, xe, ys, ye = xe, xs, ye, ys
        slope = ((ye - ys) / dx if dx else 0.0) if flat else (xe - xs) / dy
        along = np.arange((dx if flat else dy) + 1)
        along = along[::-1] if turned else along
        us.append(along + xs if flat else np.trunc(xs + slope * along + 0.5).astype(np.int64))
        vs.append(np.trunc(ys + slope * along + 0.5).astype(np.int64) if flat else along + ys)
    return np.concatenate(us), np.concatenate(vs)
