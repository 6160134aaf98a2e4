"""Modules that ONNX graphs are traced from: one crop in, its tokens out. Letters: C channels, N tokens of a crop, D language-model width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.model.batch import Features, Pictures
from sightline.model.encoders import Read
from sightline.model.tiling import Crop, Grid, Tiling
from sightline.samples.frames import Frame


class TowerGraph(nn.Module):
    """An encoder, and its connector where it has one of its own."""

    def __init__(self, encoder: Any, read: Read, grid: Grid, connector: Any = None) -> None:
        super().__init__()
        self.encoder, self.read, self.grid = encoder, read, grid
        self.connector = ConnectorGraph(connector, grid) if connector is not None else None

    def forward(self, crop: Tensor) -> Tensor:
        """(1, 3, height, width) uint8 -> (1, N, C)."""
        values = self.encoder(_pictures(crop, self.encoder.config.sees[0]), self.read).values
        tokens = values.view(1, self.grid.count, -1)
        return tokens if self.connector is None else self.connector(tokens)


class ConnectorGraph(nn.Module):
    """A connector that reads tokens of one crop."""

    def __init__(self, connector: Any, grid: Grid) -> None:
        super().__init__()
        self.connector, self.grid = connector, grid

    def forward(self, tokens: Tensor) -> Tensor:
        """(1, N, C) -> (1, N', D)."""
        return self.connector(Features(values=tokens[0], grids=(self.grid,), crops=(0,))).values[None]


def _pictures(crop: Tensor, role: Any) -> Pictures:
    """One picture that is one crop."""
    _, _, height, width = crop.shape
    own = Crop(view=0, window=(0, 0, width, height), role=role, valid=(0, 0, width, height))
    tiling = Tiling(size=(width, height), grid=(1, 1), views=(), crops=(own,), seen=Frame(width=width, height=height))
    return Pictures(tilings=(tiling,), picture_of=crop.new_zeros(1, dtype=torch.int64), pixels=(crop[0],))
