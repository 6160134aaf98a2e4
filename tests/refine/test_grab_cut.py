"""The cut by colour alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_refine_pictures import coloured

from sightline.refine.box_masks import FillBox
from sightline.refine.grab_cut import GrabCut, _cut, _neighbours, grab_cut
from sightline.samples.geometry import decode_mask
from sightline.samples.sample import Box, Mask, Region, RotatedBox


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_cut_is_the_least_of_all_labellings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    front, back = rng.uniform(0, 9, (2, 6)).round(2)
    free = rng.uniform(size=6) < 0.8
    edges = np.array([(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)])
    weights = rng.uniform(0, 5, len(edges)).round(2)

    def energy(labels: np.ndarray) -> float:
        return float(np.where(labels, front, back)[free].sum() + weights[labels[edges[:, 0]] != labels[edges[:, 1]]].sum())

    found = _cut(front, back, free, edges, weights)
    assert not found[~free].any()
    least = min(energy(labels) for bits in product((False, True), repeat=6) if not (labels := np.array(bits))[~free].any())
    assert energy(found) == pytest.approx(least, abs=1e-6)


def test_neighbours_of_a_raster() -> None:
    shown = np.ones((3, 4), bool)
    shown[0, 0] = False
    pairs, weights = _neighbours(np.zeros((3, 4, 1)), shown)
    assert len(pairs) == 29 - 3 and sorted(set(weights.round(4).tolist())) == [35.3553, 50.0]
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} == {tuple(pair) for pair in np.sort(pairs, 1).tolist()} and pairs.max() == 10


def test_a_disc_is_cut_out_of_its_box() -> None:
    picture = coloured(60, 50, disc=(30, 25, 10))
    y, x = np.indices((50, 60)) + 0.5
    true = (x - 30) ** 2 + (y - 25) ** 2 <= 100
    for shape in (Box(x0=19, y0=14, x1=41, y1=36), RotatedBox(cx=30, cy=25, w=22, h=22, theta=30)):
        [region] = GrabCut().refine(picture, [Region(shape=shape)])
        assert isinstance(region.shape, Mask)
        found = decode_mask(region.shape)
        assert (found & true).sum() / (found | true).sum() > 0.93
    whole = [Region(shape=Box(x0=0, y0=0, x1=60, y1=50))]
    assert GrabCut().refine(picture, whole) == FillBox().refine(picture, whole)  # no background to learn from


def test_one_colour_is_no_reason_to_fail() -> None:
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    assert not grab_cut(np.zeros((8, 8, 3), np.float32), inside, np.ones((8, 8), bool), 2)[~inside].any()
