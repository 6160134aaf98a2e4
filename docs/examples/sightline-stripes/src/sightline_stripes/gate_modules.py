"""The module of the connector."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from sightline.model.batch import Features, Pictures, SideTexts


class GatedLinear(nn.Module):
    """(N, C) -> (N, D)."""

    def __init__(self, channels: int, width: int, bias: bool) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(channels))
        self.linear = nn.Linear(channels, width, bias=bias)

    @property
    def blocks(self) -> list[nn.Module]:
        """The one layer."""
        return [self.linear]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """Same grids, width D."""
        return replace(features, values=self.linear(features.values * self.gate))
