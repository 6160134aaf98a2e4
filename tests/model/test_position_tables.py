"""Positions for other sizes: bicubic by its formula, and the buckets of Idefics2."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.model.towers.position_tables import bucket_ids, buckets, resized


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as torch has it."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def weights(old: int, new: int, aligned: bool) -> Tensor:
    """(new, old): what each new place takes of each old one, edges repeated."""
    found = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = i * (old - 1) / (new - 1) if aligned else (i + 0.5) * old / new - 0.5
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            found[i, min(max(j, 0), old - 1)] += cubic(place - j)
    return found


@pytest.mark.parametrize(("old", "new"), [((3, 4), (5, 2)), ((24, 24), (36, 36)), ((24, 24), (19, 29)), ((2, 2), (3, 3))])
@pytest.mark.parametrize("rule", ["interpolate", "interpolate-aligned"])
def test_bicubic_by_its_formula(old: tuple[int, int], new: tuple[int, int], rule: Any) -> None:
    table = torch.randn(1 + old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    found = resized(table, 1, old, new, rule)
    aligned = rule == "interpolate-aligned"
    down, across = (weights(a, b, aligned) for a, b in zip(old, new))
    raster = torch.einsum("ij,jkc,lk->ilc", down, table[1:].double().view(*old, 3), across)
    assert torch.equal(found[0], table[0])
    torch.testing.assert_close(found[1:].double(), raster.flatten(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["interpolate", "interpolate-aligned", "interpolate-antialiased"])
def test_a_grid_of_the_same_size_is_left_as_it_is(rule: Any) -> None:
    table = torch.randn(13, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resized(table, 1, (3, 4), (3, 4), rule), table, rtol=0, atol=1e-6)


def test_aligned_corners_stay_where_they_are_and_the_others_move() -> None:
    table = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    aligned = resized(table, 0, (4, 4), (7, 7), "interpolate-aligned").view(7, 7, 2)
    torch.testing.assert_close(aligned[::6, ::6], table.view(4, 4, 2)[::3, ::3])
    assert (resized(table, 0, (4, 4), (7, 7), "interpolate").view(7, 7, 2)[0, 0] - table[0]).abs().max() > 1e-2


@pytest.mark.parametrize(("cells", "expected"), [(4, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 2]), (6, [0, 0, 1, 2, 2, 3]), (1, [0])])
def test_buckets_of_a_side_of_four(cells: int, expected: list[int]) -> None:
    assert buckets(cells, 4).tolist() == expected


def test_buckets_of_a_whole_crop_are_its_raster() -> None:
    assert bucket_ids(70, 70, 70).tolist() == list(range(4900))
    assert bucket_ids(2, 3, 4).tolist() == [0, 1, 2, 8, 9, 10]
