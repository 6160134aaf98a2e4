"""A light decoder of masks that learns from nothing: an encoder's maps, the picture itself at half of its resolution, and what is asked. Letters: K crops, C channels, L maps; h, w px of a crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

GROUPS = 8
"""Groups of a normalisation; widths are multiples of it."""


@dataclass(frozen=True, kw_only=True)
class DecoderSize:
    """Channels and depth of a decoder."""

    stem: int
    """Channels at half of the resolution."""
    width: int
    """Channels at a quarter."""
    depth: int
    """Residual blocks at a quarter."""


class ResidualBlock(nn.Module):
    """x + two convolutions (He et al. 2016, pre-activation), with group normalisation: crops of a batch do not see each other."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, width) for _ in range(2)])
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False) for d in (1, dilation)])

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, h, w) -> the same shape."""
        y = x
        for norm, convolution in zip(self.norms, self.convolutions):
            y = convolution(norm(y).relu())
        return x + y


class MapDecoder(nn.Module):
    """From an encoder's maps and planes of the crop's own resolution to logits of that resolution.

    Half the resolution: the planes, four px to a place, so that no edge is lost. A quarter: that, and all maps, resized and summed (Lin et al. 2017); what is told scales and shifts it
    (Perez et al. 2018, equation 1). Then up again, past the half resolution's own features.
    """

    def __init__(self, size: DecoderSize, planes: int, maps: Sequence[int], told: int, classes: int = 1) -> None:
        super().__init__()
        stem, width = size.stem, size.width
        self.near = nn.Sequential(nn.Conv2d(4 * planes, stem, 3, padding=1), nn.GroupNorm(GROUPS, stem), nn.ReLU(), ResidualBlock(stem))
        self.down = nn.Conv2d(stem, width, 3, stride=2, padding=1)
        self.laterals = nn.ModuleList([nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(GROUPS, width)) for channels in maps])
        self.told = nn.Sequential(nn.Linear(told, width), nn.ReLU(), nn.Linear(width, 2 * width))
        self.body = nn.Sequential(*(ResidualBlock(width, dilation=2 if number % 2 else 1) for number in range(size.depth)))
        self.up = nn.Conv2d(width, stem, 1)
        self.edges = ResidualBlock(stem)
        self.out = nn.Conv2d(stem, 4 * classes, 3, padding=1)

    def joined(self, planes: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features at half (K, stem, h/2, w/2) and at a quarter (K, width, h/4, w/4) of planes (K, .., h, w) and L maps (K, C, ..)."""
        near = self.near(pixel_unshuffle(planes, 2))
        x = self.down(near)
        size = x.shape[2:]
        for lateral, found in zip(self.laterals, maps, strict=True):
            x = x + interpolate(lateral(found), size=size, mode="bilinear", align_corners=False)
        return near, x

    def finished(self, near: Tensor, x: Tensor, told: Tensor) -> Tensor:
        """Logits (K, classes, h, w) of both, by what is told (K, T) of each."""
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        x = self.body(x * (1 + scale) + shift)
        x = interpolate(self.up(x), scale_factor=2, mode="bilinear", align_corners=False)
        return pixel_shuffle(self.out(self.edges(x + near).relu()), 2)


def places(planes: Tensor) -> Tensor:
    """Two planes (K, 2, h, w) of how far across and down a pixel lies, -1..1."""
    height, width = planes.shape[2:]
    down, across = (torch.linspace(-1, 1, side, device=planes.device, dtype=planes.dtype) for side in (height, width))
    grid = torch.stack([across.expand(height, width), down[:, None].expand(height, width)])
    return grid.expand(len(planes), -1, -1, -1)
