"""Modules of connectors, and what several of them share. Letters: K crops, N tokens, L most tokens of a crop, C channels, D language-model width (see batch.py)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connectors import MlpConnector
from sightline.model.tiling import Grid


def coordinates(grid: Grid, octaves: int, device: torch.device) -> Tensor:
    """(count, 2 + 4 * (octaves - 1)): centres in -1..1, then sin and cos of 2^k * pi * centre. Lead tokens get zeros."""
    x = (torch.arange(grid.columns, device=device) + 0.5) / grid.columns * 2 - 1
    y = (torch.arange(grid.rows, device=device) + 0.5) / grid.rows * 2 - 1
    centre = torch.stack([x.repeat(grid.rows), y.repeat_interleave(grid.columns)], dim=1)
    parts = [centre] + [wave(centre * math.pi * 2**k) for k in range(octaves - 1) for wave in (torch.sin, torch.cos)]
    found = torch.cat(parts, dim=1)
    return torch.cat([found.new_zeros(grid.lead, found.shape[1]), found])


def space_to_depth(features: Features, side: int, by_columns: bool = False) -> Tensor:
    """Side x side neighbours joined on the channels, di then dj, (N', side * side * C). Rasters that side does not divide are filled up with zeros.

    Joined tokens are in raster order, or column by column.
    """
    if len(set(features.grids)) == 1:  # the common case in one reshape: every crop has the same grid
        return _merge(features.values, features.grids[0], side, by_columns)
    parts = [_merge(values, grid, side, by_columns) for values, grid in zip(features.split(), features.grids)]
    return torch.cat([features.values[:0].repeat(1, side * side), *parts])


def _merge(values: Tensor, grid: Grid, side: int, by_columns: bool) -> Tensor:
    cells = values.view(-1, grid.rows, grid.columns, values.shape[1])
    if grid.rows % side or grid.columns % side:
        cells = functional.pad(cells, (0, 0, 0, -grid.columns % side, 0, -grid.rows % side))
    crops, rows, columns, channels = cells.shape
    cells = cells.view(crops, rows // side, side, columns // side, side, channels)
    return cells.permute((0, 3, 1, 2, 4, 5) if by_columns else (0, 1, 3, 2, 4, 5)).reshape(-1, side * side * channels)


def padded(features: Features) -> tuple[Tensor, Tensor]:
    """Tokens of each crop in a row of its own, (K, L, C) with zeros at the end, and where they are real, (K, L)."""
    counts = torch.tensor([grid.count for grid in features.grids], device=features.values.device)
    if not features.grids:
        return features.values[:, None], counts.new_ones(0, 1, dtype=torch.bool)
    rows = nn.utils.rnn.pad_sequence(features.split(), batch_first=True)
    return rows, torch.arange(rows.shape[1], device=rows.device) < counts[:, None]


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases."""

    def __init__(self, channels: int, inner: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(channels, inner, bias=False)
        self.up_proj = nn.Linear(channels, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., D)."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mlp(nn.Module):
    """See MlpConnector."""

    def __init__(self, config: MlpConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        joined = channels * config.merge**2 * config.concat
        self.norm = nn.LayerNorm(joined) if config.norm else nn.Identity()
        widths = [joined + (2 + 4 * (config.coordinates - 1) if config.coordinates else 0), *[config.inner or width] * (config.depth - 1), width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.GELU()] if layers else []
            layers.append(nn.Linear(before, after, bias=config.bias))
        self.layers = nn.Sequential(*layers)
        self._places: dict[tuple[Grid, torch.device], Tensor] = {}

    @property
    def blocks(self) -> list[nn.Module]:
        """Linear layers in depth order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (N', D) with the grids after merging."""
        values, grids = features.values, tuple(self.config.grid(grid) for grid in features.grids)
        if self.config.merge > 1:
            values = space_to_depth(features, self.config.merge, self.config.merge_order == "columns")
        if self.config.concat > 1:  # every crop's count divides, so no group mixes two crops
            values = values.reshape(-1, self.config.concat * values.shape[1])
        values = self.norm(values)
        if self.config.coordinates:
            none = values.new_zeros(0, 2 + 4 * (self.config.coordinates - 1))
            values = torch.cat([values, torch.cat([none, *(self._place(grid, values.device).to(values.dtype) for grid in grids)])], dim=1)
        return Features(values=self.layers(values), grids=grids, crops=features.crops)

    def _place(self, grid: Grid, device: torch.device) -> Tensor:
        key = (grid, device)
        if key not in self._places:
            self._places[key] = coordinates(grid, self.config.coordinates, device)
        return self._places[key]
