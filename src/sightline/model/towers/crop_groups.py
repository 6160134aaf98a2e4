"""Crops of a batch put together by size, so that each size is embedded by one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CropsOfSize:
    """Crops of one size, (n, bands, h, w), and their places among the crops of the call."""

    places: list[int]
    crops: Tensor


def by_size(pixels: Sequence[Tensor]) -> list[CropsOfSize]:
    """One group per size, in order of first appearance; float32 where some crops of a size are and others are not."""
    places: dict[torch.Size, list[int]] = {}
    for place, crop in enumerate(pixels):
        places.setdefault(crop.shape, []).append(place)
    return [CropsOfSize(places=found, crops=_stacked([pixels[place] for place in found])) for found in places.values()]


def _stacked(crops: Sequence[Tensor]) -> Tensor:
    one = all(crop.dtype == crops[0].dtype for crop in crops)
    return torch.stack(list(crops) if one else [crop.float() for crop in crops])
