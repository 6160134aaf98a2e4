"""The module of attention pooling. Letters: N tokens, N' windows, S tokens of a window, H heads, C channels, D language-model width."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.attention_pool import AttentionPoolConnector
from sightline.model.connector_modules import GatedMlp, space_to_depth
from sightline.model.tiling import Crop, Grid

_NOTHING, _PART, _WHOLE = range(3)


def shown(crop: Crop, grid: Grid) -> Tensor:
    """(count,) int64: whether each token's patch shows no picture (0), picture in part (1) or picture alone (2)."""
    axes = [
        torch.tensor([_covered(i * size / count, (i + 1) * size / count, low, high) for i in range(count)])
        for size, count, low, high in ((crop.window[2], grid.columns, crop.valid[0], crop.valid[2]), (crop.window[3], grid.rows, crop.valid[1], crop.valid[3]))
    ]
    return torch.minimum(axes[0], axes[1][:, None]).flatten()


def _covered(start: float, end: float, low: int, high: int) -> int:
    if min(end, high) <= max(start, low):
        return _NOTHING
    return _WHOLE if low <= start and end <= high else _PART


class _MeanQueryAttention(nn.Module):
    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, width)
        self.k_proj = nn.Linear(channels, width)
        self.v_proj = nn.Linear(channels, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, windows: Tensor) -> Tensor:
        """(N', S, C) -> (N', C after pooling)."""
        mean = windows.mean(1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in (self.q_proj(mean), self.k_proj(windows), self.v_proj(windows)))
        # a window has few tokens and there are many windows: products are cheaper here than a fused kernel
        weights = (torch.einsum("nhc,nshc->nhs", q, k).float() * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        return self.o_proj(torch.einsum("nhs,nshc->nhc", weights, v).flatten(1))


class AttentionPool(nn.Module):
    """See AttentionPoolConnector."""

    def __init__(self, config: AttentionPoolConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        pooled = config.pooled(channels)
        self.pad_embed = nn.Parameter(torch.zeros(2, channels)) if config.padding != "none" else None
        self.pooling = _MeanQueryAttention(channels, pooled, config.heads)
        self.projector = GatedMlp(pooled, config.inner, width)

    @property
    def blocks(self) -> list[nn.Module]:
        """Pooling, then the perceptron."""
        return [self.pooling, self.projector]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (N', D) with one token for each window."""
        grids, values = tuple(self.config.grid(grid) for grid in features.grids), features.values
        if self.pad_embed is not None:
            assert pictures is not None, "padding is told by the tilings"
            vectors = torch.cat([self.pad_embed, torch.zeros_like(self.pad_embed[:1])])
            values = values + vectors[self._shown(features, pictures).to(values.device)].to(values.dtype)
        windows = space_to_depth(replace(features, values=values), self.config.pool)
        pooled = self.pooling(windows.unflatten(1, (-1, values.shape[1])))
        return Features(values=self.projector(pooled), grids=grids, crops=features.crops)

    def _shown(self, features: Features, pictures: Pictures) -> Tensor:
        """What each token shows, or what the published model takes for it, (N,)."""
        teller: list[Crop | None] = list(pictures.crops())
        if self.config.padding == "next":
            teller = [crop for tiling in pictures.tilings for crop in (*tiling.crops[1:], None)]
        crops = [(teller[number], grid) for number, grid in zip(features.crops, features.grids)]
        told = [shown(crop, grid) if crop is not None else torch.full((grid.count,), _PART) for crop, grid in crops]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *told])
