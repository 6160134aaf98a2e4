"""The module of CropDecoder. Letters: K crops, B bands, C channels, L maps of the encoder; h, w px of a crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from sightline.refine.crop_decoder import CropDecoder

PROMPTS = 3
"""Channels that say what is asked: inside of the box 0..1, signed distance to its edge -1..1, and how much of the pixel lies on the picture 0..1."""
_GROUPS = 8


class _Block(nn.Module):
    """x + two convolutions (He et al. 2016, pre-activation), with group normalisation: crops of a batch do not see each other."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(_GROUPS, width) for _ in range(2)])
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=d, dilation=d, bias=False) for d in (1, dilation)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, convolution in zip(self.norms, self.convolutions):
            y = convolution(norm(y).relu())
        return x + y


class BoxDecoder(nn.Module):
    """From the encoder's maps, the crop and the prompt to logits of the crop's own resolution.

    Half the resolution: crop and prompt, four px to a place, so that no edge is lost. A quarter: that, and all maps, resized and summed (Lin et al. 2017); what the means of the maps inside
    and around the box say scales and shifts it (Perez et al. 2018, equation 1). Then up again, past the half resolution's own features.
    """

    def __init__(self, config: CropDecoder, bands: int, classes: int) -> None:
        super().__init__()
        stem, width = config.stem, config.width
        self.near = nn.Sequential(nn.Conv2d(4 * (bands + PROMPTS), stem, 3, padding=1), nn.GroupNorm(_GROUPS, stem), nn.ReLU(), _Block(stem))
        self.down = nn.Conv2d(stem, width, 3, stride=2, padding=1)
        self.laterals = nn.ModuleList([nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(_GROUPS, width)) for channels in config.widths()])
        self.told = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2 * width))
        self.body = nn.Sequential(*(_Block(width, dilation=2 if number % 2 else 1) for number in range(config.depth)))
        self.up = nn.Conv2d(width, stem, 1)
        self.edges = _Block(stem)
        self.out = nn.Conv2d(stem, 4 * classes, 3, padding=1)

    def forward(self, crops: Tensor, prompts: Tensor, maps: list[Tensor]) -> Tensor:
        """`crops` (K, B, h, w) normalised, `prompts` (K, PROMPTS, h, w), `maps` L x (K, C, ..) -> (K, classes, h, w)."""
        near = self.near(pixel_unshuffle(torch.cat([crops, prompts], 1), 2))
        x = self.down(near)
        size = x.shape[2:]
        for lateral, found in zip(self.laterals, maps, strict=True):
            x = x + interpolate(lateral(found), size=size, mode="bilinear", align_corners=False)
        inside, valid = (interpolate(prompts[:, k : k + 1], size=size, mode="area") for k in (0, 2))
        means = [(x * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1) for share in (inside * valid, (1 - inside) * valid)]
        scale, shift = self.told(torch.cat(means, 1))[:, :, None, None].chunk(2, 1)
        x = self.body(x * (1 + scale) + shift)
        x = interpolate(self.up(x), scale_factor=2, mode="bilinear", align_corners=False)
        return pixel_shuffle(self.out(self.edges(x + near).relu()), 2)


class CropSegmenter(nn.Module):
    """Encoder and decoder. Parts `encoder` and `decoder`: what the loop, checkpoints and averages know of a model."""

    abilities = ("mask",)

    def __init__(self, config: CropDecoder) -> None:
        super().__init__()
        self.config = config.resolve()
        self.encoder = self.config.encoder.build()
        self.decoder = BoxDecoder(self.config, len(self.config.bands), len(self.config.classes) if self.config.predicts == "classes" else 1)

    def parts(self) -> dict[str, Any]:
        """Parts by path."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    @property
    def fill(self) -> tuple[float, ...]:
        """What stands outside of pictures, per band: what the encoder subtracts."""
        return tuple(self.encoder.mean.flatten().tolist())

    def forward(self, crops: Tensor, prompts: Tensor) -> Tensor:
        """Logits (K, 1 or classes, h, w) of crops (K, B, h, w) 0..255 with `fill` outside of the picture, and prompts (K, PROMPTS, h, w)."""
        if self.config.predicts == "classes":
            prompts = torch.cat([torch.zeros_like(prompts[:, :2]), prompts[:, 2:]], 1)
        normalised = (crops - self.encoder.mean) / self.encoder.std
        return self.decoder(normalised, prompts, self.encoder.maps(crops))
