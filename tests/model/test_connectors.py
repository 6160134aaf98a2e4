"""Connectors: merging by hand, coordinates by formula, grids that add up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.batch import Features
from sightline.model.connector_modules import coordinates
from sightline.model.connectors import MlpConnector
from sightline.model.tiling import Grid


def identity(config: MlpConnector, channels: int) -> torch.nn.Module:
    """A connector of one layer that hands on what it was given."""
    module = config.build(channels, channels * config.merge**2)
    linear = module.blocks[0]
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(linear.in_features)[: linear.out_features])
        linear.bias.zero_()
    return module


def test_merging_puts_neighbours_side_by_side_rows_first() -> None:
    # 4 x 2 tokens numbered in raster order become 2 x 1, each of 4 numbers
    module = identity(MlpConnector(depth=1, merge=2), 1)
    found = module(Features(values=torch.arange(8.0)[:, None], grids=(Grid(columns=4, rows=2),)))
    assert found.values.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert found.grids == (Grid(columns=2, rows=1),)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4), st.integers(1, 3))
def test_crops_of_different_grids_are_merged_each_for_itself(halves: list[tuple[int, int]], merge: int) -> None:
    grids = tuple(Grid(columns=columns * merge, rows=rows * merge) for columns, rows in halves)
    values = torch.arange(float(sum(grid.count for grid in grids)))[:, None]
    module = identity(MlpConnector(depth=1, merge=merge), 1)
    found = module(Features(values=values, grids=grids))
    parts, start = [], 0
    for grid in grids:
        parts.append(module(Features(values=values[start : start + grid.count], grids=(grid,))).values)
        start += grid.count
    assert torch.equal(found.values, torch.cat(parts))
    assert sum(grid.count for grid in found.grids) == len(found.values) == len(values) // merge**2
    assert sorted(found.values.flatten().tolist()) == values.flatten().tolist()


@pytest.mark.parametrize("grid", [Grid(columns=3, rows=4), Grid(columns=4, rows=3), Grid(columns=4, rows=4, lead=1)])
def test_what_cannot_be_merged_is_refused(grid: Grid) -> None:
    with pytest.raises(Refused, match=rf"model/merge-grid at connector\.merge\n  found:   {grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens"):
        MlpConnector(merge=2).grid(grid)
    assert MlpConnector().grid(grid) == grid


def test_coordinates_are_centres_and_their_waves() -> None:
    grid = Grid(columns=2, rows=2, lead=1)
    assert coordinates(grid, 1, torch.device("cpu")).tolist() == [[0, 0], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    waves = coordinates(grid, 3, torch.device("cpu"))
    assert waves.shape == (5, 10) and waves[0].tolist() == [0.0] * 10
    x, y = 0.5, -0.5
    expected = [x, y, *(wave(octave * math.pi * at) for octave in (1, 2) for wave in (math.sin, math.cos) for at in (x, y))]
    assert waves[2].tolist() == pytest.approx(expected, abs=1e-6)


def test_places_of_each_crop_join_its_own_tokens() -> None:
    config = MlpConnector(depth=1, merge=2, coordinates=1)
    module = config.build(1, 6)
    with torch.no_grad():
        module.layers[0].weight.copy_(torch.eye(6))  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        module.layers[0].bias.zero_()  # pyright: ignore[reportIndexIssue, reportCallIssue]
    found = module(Features(values=torch.zeros(24, 1), grids=(Grid(columns=4, rows=2), Grid(columns=4, rows=4))))
    assert found.values[:, 4:].tolist() == [[-0.5, 0], [0.5, 0], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(("depth", "norm"), [(1, False), (2, True), (3, False)])
def test_depth_is_the_number_of_linear_layers(depth: int, norm: bool) -> None:
    module = MlpConnector(depth=depth, norm=norm).build(4, 6)
    found = module(Features(values=torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), grids=(Grid(columns=5, rows=1),)))
    assert len(module.blocks) == depth and found.values.shape == (5, 6)
    assert sum(isinstance(layer, torch.nn.GELU) for layer in module.layers) == depth - 1
    assert isinstance(module.norm, torch.nn.LayerNorm) == norm
