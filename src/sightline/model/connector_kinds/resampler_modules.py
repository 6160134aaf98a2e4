"""Modules of resamplers. Letters: K crops, N tokens, L most keys of a query or crop, G queries a side, C channels, D language-model width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.resamplers import MOST_SAMPLES, ResamplerConnector, SpatialResamplerConnector
from sightline.model.connector_modules import padded
from sightline.model.tiling import Grid

T = TypeVar("T")


def sincos(side: int, width: int) -> Tensor:
    """(side, side, D) float32: the first half of the channels tells the column, the second the row; each half is all sines, then all cosines."""
    waves = torch.arange(side)[:, None] * 10000 ** (-torch.arange(width // 4) / (width // 4))
    axis = torch.cat([waves.sin(), waves.cos()], dim=1)
    return torch.cat([axis[None].expand(side, -1, -1), axis[:, None].expand(-1, side, -1)], dim=2)


def roi_weights(length: int, side: int, samples: int) -> Tensor:
    """(side * samples, length): what each sample of each of `side` boxes takes from a row of `length` tokens.

    RoIAlign (https://arxiv.org/abs/1703.06870, section 3) is bilinear, hence the product of two such tables; here without the half-token shift.
    A box is at least one token long, a bin is the mean of ceil(its length) points, and points past the last token's end count as zero.
    """
    size = max(length / side, 1.0)
    points = math.ceil(size / samples)
    within = (torch.arange(samples * points) + 0.5) * (size / (samples * points))
    at = (torch.arange(side)[:, None] * (length / side) + within).flatten()
    distance = (at.clamp(max=length - 1)[:, None] - torch.arange(length)).abs()
    weights = (1 - distance).clamp(min=0) * (at <= length)[:, None]
    return weights.view(side * samples, points, length).mean(1)


class _QueryModule(nn.Module):
    """Queries, positions, one attention layer and the closing norm and projection."""

    def __init__(self, side: int, heads: int, channels: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(sincos(side, width).flatten(0, 1), requires_grad=False)  # stored and counted with published weights
        self.query = nn.Parameter(torch.empty(side * side, width))
        self.kv_proj = nn.Linear(channels, width, bias=False) if channels != width else nn.Identity()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(width, eps=1e-6)
        self.ln_post = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in (self.kv_proj, self.attn.out_proj):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)

    @property
    def blocks(self) -> list[nn.Module]:
        """The attention layer."""
        return [self.attn]

    @property
    def spare(self) -> list[str]:
        """The table of positions is fixed."""
        return ["pos_embed"]

    def positions(self, grid: Grid) -> Tensor:
        """The position table resized to a crop's grid, (count, D)."""
        side = math.isqrt(len(self.pos_embed))
        table = self.pos_embed.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(table, size=(grid.rows, grid.columns), mode="bicubic", align_corners=False)
        return resized[0].flatten(1).T.to(self.pos_embed.dtype)

    def read(self, queries: Tensor, keys: Tensor, values: Tensor, real: Tensor) -> Tensor:
        """(n, q, D) queries over (n, L, D) keys and values where `real` (n, L)."""
        mask = ~real if len(real) else None  # a mask without rows cannot be spread over the heads
        found, _ = self.attn(queries, keys, values, key_padding_mask=mask, need_weights=False)
        return self.ln_post(found) @ self.proj


def _by_grid(grids: tuple[Grid, ...], make: Callable[[Grid], T]) -> list[T]:
    made = {grid: make(grid) for grid in dict.fromkeys(grids)}
    return [made[grid] for grid in grids]


class Resampler(_QueryModule):
    """See ResamplerConnector."""

    def __init__(self, config: ResamplerConnector, channels: int, width: int) -> None:
        super().__init__(config.side, config.heads(width), channels, width)
        self.config = config

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (K * G * G, D)."""
        grids = tuple(self.config.grid(grid) for grid in features.grids)
        x = self.ln_kv(self.kv_proj(features.values))
        places = torch.cat([x.new_zeros(0, x.shape[1]), *_by_grid(features.grids, self.positions)])
        values, real = padded(replace(features, values=x))
        keys, _ = padded(replace(features, values=x + places))
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(grids), -1, -1)
        return Features(values=self.read(queries, keys, values, real).flatten(0, 1), grids=grids, crops=features.crops)


class SpatialResampler(_QueryModule):
    """See SpatialResamplerConnector."""

    def __init__(self, config: SpatialResamplerConnector, channels: int, width: int) -> None:
        super().__init__(config.side, config.heads(width), channels, width)
        self.config = config

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (K * G * G, D)."""
        grids = tuple(self.config.grid(grid) for grid in features.grids)
        x = self.ln_kv(self.kv_proj(features.values))
        places, tables = _by_grid(features.grids, self.positions), _by_grid(features.grids, self._tables)
        crops = list(zip(x.split([grid.count for grid in features.grids]), places, tables))
        none = x.new_zeros(0, MOST_SAMPLES, x.shape[1])
        values = torch.cat([none, *(self._boxes(crop, *table) for crop, _, table in crops)])
        keys = torch.cat([none, *(self._boxes(crop + place, *table) for crop, place, table in crops)])
        samples = torch.tensor([math.prod(self.config.samples(grid)) for grid in features.grids], device=x.device)
        real = torch.arange(MOST_SAMPLES, device=x.device) < samples.repeat_interleave(len(self.query))[:, None]
        queries = (self.ln_q(self.query) + self.pos_embed).repeat(len(grids), 1)
        return Features(values=self.read(queries[:, None], keys, values, real)[:, 0], grids=grids, crops=features.crops)

    def _tables(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """What the samples take from each row and from each column, (G * down, rows) and (G * across, columns)."""
        across, down = self.config.samples(grid)
        device = self.query.device
        return roi_weights(grid.rows, self.config.side, down).to(device), roi_weights(grid.columns, self.config.side, across).to(device)

    def _boxes(self, tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Samples of each box of a crop, filled up with zeros, (G * G, MOST_SAMPLES, D)."""
        side = self.config.side
        sampled = torch.einsum("ar,rcd,bc->abd", rows, tokens.float().view(rows.shape[1], columns.shape[1], -1), columns)
        boxes = sampled.view(side, len(rows) // side, side, len(columns) // side, -1).transpose(1, 2).flatten(0, 1).flatten(1, 2)
        return functional.pad(boxes, (0, 0, 0, MOST_SAMPLES - boxes.shape[1])).to(tokens.dtype)
