"""The module of MapHead. Letters: G taps, V views, C channels, D width of hidden states, E numbers of a projected one (see batch.MaskTaps)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model.batch import MaskTaps
from sightline.model.encoders import EncoderConfig
from sightline.model.head_kinds.map_head import CONSUMER, MapHead
from sightline.model.map_decoder_modules import DecoderSize, MapDecoder, places

_PLANES = 3
"""Planes beside the bands: how far across and down, and how much of the pixel is picture."""


class TapProjection(nn.Sequential):
    """D -> D, ReLU, D -> E (LISA, section 3.2)."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, told))


class TapDecoder(MapDecoder):
    """The decoder that is told a tap. Views are looked at once; what depends on the tap begins at a quarter of the resolution."""

    def __init__(self, config: MapHead, tower: EncoderConfig) -> None:
        size = DecoderSize(stem=config.stem, width=config.width, depth=config.depth)
        super().__init__(size, len(tower.bands) + _PLANES, tower.map_widths(CONSUMER), config.told)
        self.looks = config.looks
        self.query = nn.Linear(config.told, config.looks * config.width)
        self.looked = nn.Conv2d(config.looks, config.width, 1)

    def forward(self, told: Tensor, views: Tensor, planes: Tensor, maps: list[Tensor]) -> Tensor:
        """Logits (G, h, w) of taps (G, E) on views (G,) of planes (V, .., h, w) and maps L x (V, C, ..)."""
        near, x = self.joined(planes, maps)
        near, x = near[views], x[views]
        query = self.query(told).unflatten(1, (self.looks, -1))
        found = torch.einsum("glc,gchw->glhw", query, x) * x.shape[1] ** -0.5
        return self.finished(near, x + self.looked(found), told)[:, 0]


class MapMaskHead(nn.Module):
    """Projection, decoder, and the tower where it is its own: paths `heads.mask.projection`, `.decoder`, `.encoder`."""

    def __init__(self, config: MapHead, width: int, tower: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = TapProjection(width, config.told)
        self.decoder = TapDecoder(config, tower)
        self.encoder: Any = tower.build() if isinstance(config.encoder, EncoderConfig) else None

    @property
    def spare(self) -> list[str]:
        """Of its own tower, what no map depends on."""
        return [f"encoder.{name}" for name in self.encoder.spare_for([self.encoder.config.read(CONSUMER)])] if self.encoder is not None else []

    def forward(self, taps: Tensor, asked: MaskTaps, encoders: Mapping[str, Any]) -> Tensor:
        """Logits (G, side, side)."""
        tower = self.encoder if isinstance(self.config.encoder, EncoderConfig) else encoders[self.config.encoder]
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in tower.parameters())
        with torch.set_grad_enabled(learns):
            maps = tower.maps(asked.pixels, CONSUMER)
        seen = (asked.pixels - tower.mean) / tower.std
        planes = torch.cat([seen, places(seen), asked.share[:, None]], 1)
        return self.decoder(self.projection(taps), asked.views, planes, maps)
