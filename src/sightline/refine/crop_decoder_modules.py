"""The module of CropDecoder. Letters: K crops, B bands, C channels, L maps of the encoder; h, w px of a crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sightline.model.map_decoder_modules import DecoderSize, MapDecoder
from sightline.refine.crop_decoder import CropDecoder

PROMPTS = 3
"""Channels that say what is asked: inside of the box 0..1, signed distance to its edge -1..1, and how much of the pixel lies on the picture 0..1."""


class BoxDecoder(MapDecoder):
    """The decoder that sees the box: its planes are crop and prompt, and it is told the means of all maps inside and around the box."""

    def __init__(self, config: CropDecoder, bands: int, classes: int) -> None:
        size = DecoderSize(stem=config.stem, width=config.width, depth=config.depth)
        super().__init__(size, bands + PROMPTS, config.widths(), 2 * config.width, classes)

    def forward(self, crops: Tensor, prompts: Tensor, maps: list[Tensor]) -> Tensor:
        """`crops` (K, B, h, w) normalised, `prompts` (K, PROMPTS, h, w), `maps` L x (K, C, ..) -> (K, classes, h, w)."""
        near, x = self.joined(torch.cat([crops, prompts], 1), maps)
        inside, valid = (interpolate(prompts[:, k : k + 1], size=x.shape[2:], mode="area") for k in (0, 2))
        means = [(x * share).sum((2, 3)) / share.sum((2, 3)).clamp(min=1) for share in (inside * valid, (1 - inside) * valid)]
        return self.finished(near, x, torch.cat(means, 1))


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
