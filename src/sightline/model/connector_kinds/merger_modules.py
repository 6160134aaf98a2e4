"""The module of the merger. Letters: N tokens, C channels, D language-model width. Tensor names are the published ones."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.merger import MergerConnector
from sightline.model.connector_modules import space_to_depth


class Merger(nn.Module):
    """See MergerConnector."""

    def __init__(self, config: MergerConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        joined = channels * config.merge**2
        self.ln_q = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(joined, joined), nn.GELU(), nn.Linear(joined, width))

    @property
    def blocks(self) -> list[nn.Module]:
        """Linear layers in depth order."""
        return [self.mlp[0], self.mlp[2]]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (N', D) with the grids after merging."""
        joined = space_to_depth(replace(features, values=self.ln_q(features.values)), self.config.merge)
        return Features(values=self.mlp(joined), grids=tuple(self.config.grid(grid) for grid in features.grids), crops=features.crops)
