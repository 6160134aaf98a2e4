"""The module of a dual tower's text side. Letters: P pictures, X texts, L text tokens, n picture tokens, C channels, E joint width (see batch.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sightline.errors import Problem, Refused
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
        if config.checkpoint:
            self._take_published(config.checkpoint)

    @torch.no_grad()
    def _take_published(self, checkpoint: str) -> None:
        """Projections, scale and bias of a whole dual tower (CLIP, SigLIP). A checkpoint of a text tower alone has none: they start fresh."""
        own = {"text_projection.weight": self.text_projection.weight, "visual_projection.weight": self.picture_projection.weight, "logit_scale": self.scale}
        if self.bias is not None:
            own["logit_bias"] = self.bias
        problems = []
        for name, given in hub_layout.published(checkpoint, own).items():
            if given.numel() == own[name].numel() and given.dim() in (own[name].dim(), 1):
                own[name].copy_(given.reshape(own[name].shape))
                continue
            problems.append(
                Problem(
                    code="model/shape-mismatch",
                    place=f"{checkpoint}:{name}",
                    found=f"shape {tuple(given.shape)} in the checkpoint",
                    allowed=f"shape {tuple(own[name].shape)} by the recipe",
                    fix="set text_encoder.width and text_encoder.pictures to what the checkpoint was trained with",
                )
            )
        if problems:
            raise Refused(problems)

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
