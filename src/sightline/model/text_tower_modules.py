"""The module of a dual tower's text side. Letters: P pictures, X texts, L text tokens, n picture tokens, C channels, E joint width (see batch.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sightline.model import hub_layout
from sightline.model.batch import Features, SideTexts
from sightline.model.text_tower import TextEncoderConfig


class TextTower(nn.Module):
    """Embeds texts and pools pictures into one space; similarity = scale.exp() * cosine + bias."""

    def __init__(self, config: TextEncoderConfig, channels: int) -> None:
        super().__init__()
        from transformers import AutoModel

        self.config = config
        tower_config = hub_layout.transformers_config(config.block(), "text_encoder")
        if config.checkpoint and hub_layout.find(config.checkpoint):
            self.tower: Any = hub_layout.load_weights(AutoModel, config.checkpoint, tower_config, "text_encoder")
        else:
            self.tower = AutoModel.from_config(tower_config)
        width = tower_config.hidden_size
        pooled = channels * (2 if config.pictures == "mean-max" else 1)
        self.text_projection = nn.Linear(width, config.width, bias=False)
        self.picture_projection = nn.Linear(pooled, config.width, bias=False)
        sigmoid = config.loss == "sigmoid"
        self.scale = nn.Parameter(torch.tensor(math.log(10.0) if sigmoid else math.log(1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        if config.tags:
            self.token_projection = nn.Linear(channels, config.width, bias=False)
            self.tag_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.tag_bias = nn.Parameter(torch.tensor(-5.0))

    @property
    def blocks(self) -> list[nn.Module]:
        """Repeated layers of the text tower."""
        lists = [module for module in self.tower.modules() if isinstance(module, nn.ModuleList)]
        return list(max(lists, key=len)) if lists else []

    def embed_texts(self, texts: SideTexts) -> Tensor:
        """(X, E) unit vectors."""
        places = torch.arange(texts.ids.shape[1], device=texts.ids.device)
        valid = places[None] < texts.lengths[:, None]
        hidden = self.tower(input_ids=texts.ids, attention_mask=valid.long()).last_hidden_state
        if self.config.texts == "last":
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), texts.lengths - 1]
        else:
            pooled = (hidden * valid[..., None]).sum(1) / texts.lengths[:, None]
        return normalize(self.text_projection(pooled).float(), dim=-1)

    def embed_pictures(self, features: Features) -> Tensor:
        """(P, 1, E) unit vectors of pictures of one crop each."""
        tokens = self._tokens(features)
        if self.config.pictures == "first":
            pooled = tokens[:, 0]
        elif self.config.pictures == "mean":
            pooled = tokens.mean(1)
        else:
            pooled = torch.cat([tokens.mean(1), tokens.amax(1)], dim=-1)
        return normalize(self.picture_projection(pooled).float(), dim=-1)[:, None]

    def embed_tokens(self, features: Features) -> Tensor:
        """(P, n, E) unit vectors of single picture tokens."""
        return normalize(self.token_projection(self._tokens(features)).float(), dim=-1)

    def _tokens(self, features: Features) -> Tensor:
        grids = set(features.grids)
        assert len(grids) == 1, f"pooling needs crops of one grid, found {grids}"
        return features.values.view(len(features.grids), -1, features.values.shape[-1])
