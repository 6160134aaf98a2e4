"""Modules of connectors. Letters: N tokens, C channels, D language-model width (see batch.py)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sightline.model.batch import Features
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


class Mlp(nn.Module):
    """See MlpConnector."""

    def __init__(self, config: MlpConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        inner = channels * config.merge**2
        self.norm = nn.LayerNorm(inner) if config.norm else nn.Identity()
        joined = inner + (2 + 4 * (config.coordinates - 1) if config.coordinates else 0)
        layers: list[nn.Module] = [nn.Linear(joined, width)]
        for _ in range(config.depth - 1):
            layers += [nn.GELU(), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers)
        self._places: dict[tuple[Grid, torch.device], Tensor] = {}

    @property
    def blocks(self) -> list[nn.Module]:
        """Linear layers in depth order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, features: Features) -> Features:
        """(N, C) -> (N', D) with the grids after merging."""
        values, grids = features.values, tuple(self.config.grid(grid) for grid in features.grids)
        if self.config.merge > 1:
            values = self._merge(values, features.grids)
        values = self.norm(values)
        if self.config.coordinates:
            values = torch.cat([values, torch.cat([self._place(grid, values.device) for grid in grids]).to(values.dtype)], dim=1)
        return Features(values=self.layers(values), grids=grids)

    def _place(self, grid: Grid, device: torch.device) -> Tensor:
        key = (grid, device)
        if key not in self._places:
            self._places[key] = coordinates(grid, self.config.coordinates, device)
        return self._places[key]

    def _merge(self, values: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        s, channels = self.config.merge, values.shape[1]
        if len(set(grids)) == 1:  # the common case in one reshape: every crop has the same grid
            grid = grids[0]
            cells = values.view(len(grids), grid.rows // s, s, grid.columns // s, s, channels)
            return cells.permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s * channels)
        parts, start = [], 0
        for grid in grids:
            parts.append(self._merge(values[start : start + grid.count], (grid,)))
            start += grid.count
        return torch.cat(parts)
