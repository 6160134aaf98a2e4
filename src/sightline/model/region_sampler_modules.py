"""Modules of region samplers. Letters: R regions, P points, n points before a round, a after it, k neighbours, N tokens, C inner width, D language-model width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.model.batch import Features, Pictures
from sightline.model.region_samplers import PlacedShape, SpatialRegions


class SpatialSampler(nn.Module):
    """See SpatialRegions."""

    def __init__(self, config: SpatialRegions, width: int) -> None:
        super().__init__()
        self.config = config
        inner = config.inner or width
        # without bias it may stand before the reading: a sum of tokens is brought to C as the tokens are
        self.reduce = nn.Linear(width, inner, bias=False) if config.inner else nn.Identity()
        self.rounds = nn.ModuleList(Round(inner, count, config.neighbours, config.pool) for count in config.anchors)
        self.flatten = nn.Linear(config.anchors[-1] * inner, inner)
        self.out = nn.Linear(inner, width)

    @property
    def blocks(self) -> list[nn.Module]:
        """The two rounds."""
        return list(self.rounds)

    def forward(self, features: Features, pictures: Pictures, regions: Sequence[PlacedShape]) -> Tensor:
        """Tokens (N, D) of a batch's crops and regions of its pictures -> (R, D). Raises Refused as SpatialRegions.locate does."""
        located = self.config.locate(pictures.tilings, dict(zip(features.crops, features.grids)), regions)
        dtype, device = self.out.weight.dtype, features.values.device
        tokens, starts = torch.from_numpy(located.tokens).to(device), torch.from_numpy(located.starts).to(device)
        weights, places = torch.from_numpy(located.weights).to(device, torch.float32), torch.from_numpy(located.places).to(device, torch.float32)
        values = self.reduce(features.values.to(dtype)).float()
        read = functional.embedding_bag(tokens, values, starts, mode="sum", per_sample_weights=weights)
        x = read.to(dtype).unflatten(0, places.shape[:2])
        for round_ in self.rounds:
            x, places = round_(x, places)
        return self.out(self.flatten(x.flatten(1)))


class Round(nn.Module):
    """One round: anchors, their neighbours, and what these say together. `own` and `centre` are the two halves of the published Conv1d(1) over [difference, anchor]."""

    def __init__(self, channels: int, anchors: int, neighbours: int, pool: Literal["max", "mean"]) -> None:
        super().__init__()
        self.anchors = anchors
        self.neighbours = neighbours
        self.pool = pool
        self.difference = nn.Linear(channels + 2, channels + 2)
        self.own = nn.Linear(channels + 2, channels)
        self.centre = nn.Linear(channels + 2, channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Values (R, n, C) and places (R, n, 2) of points -> those of the anchors, (R, a, C) and (R, a, 2)."""
        anchors = farthest(places, self.anchors)
        kept = torch.take_along_dim(places, anchors[..., None], 1)
        near = (kept[:, :, None] - places[:, None]).square().sum(-1).topk(self.neighbours, largest=False).indices
        first = torch.arange(len(places), device=places.device)[:, None] * places.shape[1]
        points = torch.cat([x, places.to(x.dtype)], dim=2).flatten(0, 1)
        # both layers are affine, so that a difference of points is one of what they become: each point goes through them once and not once per anchor
        lifted, nothing = self.own(self.difference(points)), self.own(self.difference(points.new_zeros(1, points.shape[1])))
        shift = self.centre(points[first + anchors]) - lifted[first + anchors] + nothing
        found = self.norm(functional.relu(lifted[first[..., None] + near] + shift[:, :, None]))
        return found.amax(2) if self.pool == "max" else found.mean(2), kept


def farthest(places: Tensor, count: int) -> Tensor:
    """Numbers (R, count) of points (R, n, 2), each the farthest from those before it; the first is the first."""
    chosen = torch.zeros(len(places), 1, dtype=torch.int64, device=places.device)
    nearest = torch.full_like(places[..., 0], torch.inf)
    found = [chosen]
    while len(found) < count:
        anchor = torch.take_along_dim(places, chosen[..., None], 1)
        nearest = torch.minimum(nearest, (places - anchor).square().sum(-1))
        chosen = nearest.argmax(1, keepdim=True)
        found.append(chosen)
    return torch.cat(found, dim=1)
