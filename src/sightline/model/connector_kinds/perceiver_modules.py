"""The module of the perceiver. Letters: K crops, L most tokens of a crop, Q latents, C channels, D language-model width. Tensor names are the published ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.perceiver import PerceiverConnector
from sightline.model.connector_modules import GatedMlp, padded

_EPS = 1e-6


class _Attention(nn.Module):
    def __init__(self, config: PerceiverConnector, width: int) -> None:
        super().__init__()
        self.head_width = config.head_width
        own, shared = config.heads * config.head_width, config.key_heads * config.head_width
        self.q_proj = nn.Linear(width, own, bias=False)
        self.k_proj = nn.Linear(width, shared, bias=False)
        self.v_proj = nn.Linear(width, shared, bias=False)
        self.o_proj = nn.Linear(own, width, bias=False)

    def forward(self, latents: Tensor, context: Tensor, real: Tensor) -> Tensor:
        both = torch.cat([context, latents], dim=1)
        q, k, v = (x.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for x in (self.q_proj(latents), self.k_proj(both), self.v_proj(both)))
        found = functional.scaled_dot_product_attention(q, k, v, real[:, None, None], enable_gqa=True)
        return self.o_proj(found.transpose(1, 2).flatten(2))


class _Layer(nn.Module):
    def __init__(self, config: PerceiverConnector, width: int) -> None:
        super().__init__()
        self.input_latents_norm = nn.RMSNorm(width, eps=_EPS)
        self.input_context_norm = nn.RMSNorm(width, eps=_EPS)
        self.self_attn = _Attention(config, width)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=_EPS)
        self.mlp = GatedMlp(width, 4 * width, width)

    def forward(self, latents: Tensor, context: Tensor, real: Tensor) -> Tensor:
        latents = latents + self.self_attn(self.input_latents_norm(latents), self.input_context_norm(context), real)
        return latents + self.mlp(self.post_attention_layernorm(latents))


class _Resampler(nn.Module):
    def __init__(self, config: PerceiverConnector, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.ones(config.latents, width))
        self.layers = nn.ModuleList(_Layer(config, width) for _ in range(config.depth))
        self.norm = nn.RMSNorm(width, eps=_EPS)

    def forward(self, context: Tensor, real: Tensor) -> Tensor:
        latents = self.latents.expand(len(context), -1, -1)
        seen = torch.cat([real, real.new_ones(latents.shape[:2])], dim=1)
        for layer in self.layers:
            latents = layer(latents, context, seen)
        return self.norm(latents)


class Perceiver(nn.Module):
    """See PerceiverConnector."""

    def __init__(self, config: PerceiverConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.modality_projection = GatedMlp(channels, config.inner, width)
        self.perceiver_resampler = _Resampler(config, width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    @property
    def blocks(self) -> list[nn.Module]:
        """The perceptron, then the layers."""
        return [self.modality_projection, *self.perceiver_resampler.layers]

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(N, C) -> (K * Q, D)."""
        found = self.perceiver_resampler(*padded(replace(features, values=self.modality_projection(features.values))))
        return Features(values=found.flatten(0, 1), grids=tuple(self.config.grid(grid) for grid in features.grids), crops=features.crops)
