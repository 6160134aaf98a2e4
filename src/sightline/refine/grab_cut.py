"""GrabCut (Rother, Kolmogorov and Blake 2004): what belongs to the box by colour alone, as a minimal cut of a graph of its pixels. The floor for refiners that learn. Any number of bands.

Section numbers are those of the paper; capacities are whole numbers, so that the cut is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from sightline.refine.box_masks import filled, masked, prompts_of
from sightline.samples.pictures import band_pixels
from sightline.samples.sample import Picture, Region
from sightline.samples.upright_crops import TurnedBox, pasted, sampled, windows_around

_COMPONENTS = 5
_GAMMA = 50.0
_UNIT = 100
"""Capacity of 1: a hundredth is told apart."""
_FOR_EVER = 1 << 28
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


class GrabCut:
    """See Refiner. `size`: side of the crop in px, to which larger boxes are reduced (smaller ones are not enlarged: blended edges would become a colour of their own); `rounds`: of cutting and learning the colours anew."""

    def __init__(self, bands: Sequence[str] = ("red", "green", "blue"), size: int = 72, rounds: int = 3, context: float = 1.5) -> None:
        self.bands, self.size, self.rounds, self.context = tuple(bands), size, rounds, context

    @property
    def id(self) -> str:
        """Its settings."""
        return f"grab-cut {','.join(self.bands)} {self.size} {self.rounds} {self.context:g}"

    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """See Refiner. Where the box leaves nothing around it there is no background to learn from: the box is filled."""
        boxes = prompts_of(picture, regions)
        pixels = band_pixels(picture, self.bands) if boxes else np.zeros((0, 0, 0), np.uint8)
        return masked(regions, [self._mask(pixels, box) for box in boxes])

    def _mask(self, pixels: NDArray[np.uint8], box: TurnedBox) -> NDArray[np.bool_]:
        height, width = pixels.shape[:2]
        [window] = windows_around(box, self.size, self.context, 1.0, np.inf)
        values, valid = sampled(pixels, window)
        half = (box.w / window.scale / 2, box.h / window.scale / 2)
        places = np.abs(np.arange(self.size) + 0.5 - self.size / 2)
        inside = (places[None] <= half[0]) & (places[:, None] <= half[1])
        shown = valid > 0.5
        if not (shown & ~inside).any() or not (shown & inside).any():
            return filled(box, width, height)
        found = grab_cut(values, inside, shown, self.rounds)
        rows, columns, share, within = pasted(found.astype(np.float32), window, width, height)
        mask = np.zeros((height, width), bool)
        mask[rows, columns] = within & (share >= 0.5)
        return mask & filled(box, width, height)


def grab_cut(values: NDArray[np.float32], inside: NDArray[np.bool_], shown: NDArray[np.bool_], rounds: int) -> NDArray[np.bool_]:
    """(h, w): the foreground among the pixels `inside`, by values (h, w, bands); what is outside is background, what is not `shown` takes no part (section 3)."""
    points = values[shown].astype(np.float64)
    free = inside[shown]
    front = free.copy()
    edges, weights = _neighbours(values.astype(np.float64), shown)
    for _ in range(rounds):
        if front.sum() < 2 or (~front).sum() < 2:
            break
        costs = [_cost(points, points[chosen]) for chosen in (front, ~front)]  # minus the log-likelihood, equation 9
        before = front
        front = _cut(costs[0], costs[1], free, edges, weights)
        if np.array_equal(before, front):
            break
    found = np.zeros(shown.shape, bool)
    found[shown] = front
    return found


def _neighbours(values: NDArray[np.float64], shown: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs (n, 2) of the eight-neighbourhood among shown pixels, and what it costs to cut each: gamma / distance * exp(-beta |difference|^2), equations 4 and 5."""
    numbers = np.full(shown.shape, -1)
    numbers[shown] = np.arange(shown.sum())
    pairs, gaps, lengths = [], [], []
    height, width = shown.shape
    for down, right in _STEPS:
        first = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        second = (slice(down, height), slice(max(0, right), width - max(0, -right)))
        both = shown[first] & shown[second]
        pairs.append(np.stack([numbers[first][both], numbers[second][both]], 1))
        gaps.append(((values[first] - values[second])[both] ** 2).sum(1))
        lengths.append(np.full(int(both.sum()), np.hypot(down, right)))
    gap, length = np.concatenate(gaps), np.concatenate(lengths)
    beta = 1 / max(2 * gap.mean(), 1e-9) if len(gap) else 0.0
    return np.concatenate(pairs), _GAMMA / length * np.exp(-beta * gap)


def _cost(points: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the log-density of points (n, bands) under a mixture of Gaussians learnt from `own`. The whole mixture counts, not the cheapest component of equation 8: several of one colour would outbid one."""
    count = min(_COMPONENTS, len(np.unique(own, axis=0)), len(own))
    _, member = kmeans2(own, count, minit="++", rng=np.random.default_rng(0), missing="warn") if count > 1 else (None, np.zeros(len(own), int))
    costs = []
    for number in range(count):
        mine = own[member == number]
        if not len(mine):
            continue
        spread = np.atleast_2d(np.cov(mine.T, bias=True)) + np.eye(own.shape[1])
        apart = points - mine.mean(0)
        distance = (apart @ np.linalg.inv(spread) * apart).sum(1)
        costs.append(-np.log(len(mine) / len(own)) + 0.5 * np.linalg.slogdet(spread)[1] + 0.5 * distance)
    return -np.logaddexp.reduce(-np.array(costs), axis=0)


def _cut(
    front: NDArray[np.float64], back: NDArray[np.float64], free: NDArray[np.bool_], edges: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(n,): what is on the source's side of the minimal cut. `front`, `back`: cost of calling a pixel foreground or background; those that are not `free` are background."""
    count = len(front)
    source, sink = count, count + 1
    least = np.minimum(front, back)  # the same from both changes no cut
    to_pixel = np.where(free, np.round((back - least) * _UNIT), 0)
    to_sink = np.where(free, np.round((front - least) * _UNIT), _FOR_EVER)
    link = np.round(weights * _UNIT)
    pixels = np.arange(count)
    starts = np.concatenate([np.full(count, source), pixels, edges[:, 0], edges[:, 1]])
    ends = np.concatenate([pixels, np.full(count, sink), edges[:, 1], edges[:, 0]])
    capacity = np.minimum(np.concatenate([to_pixel, to_sink, link, link]), _FOR_EVER).astype(np.int32)
    graph = coo_array((capacity, (starts.astype(np.int32), ends.astype(np.int32))), shape=(count + 2, count + 2)).tocsr()
    residual = graph - maximum_flow(graph, source, sink).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    found = np.zeros(count + 2, bool)
    found[reached] = True
    return found[:count]
