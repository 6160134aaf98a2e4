"""The module of a dual tower's text side. Letters: P pictures, X texts, L text tokens, n picture tokens, C channels, E joint width (see batch.py)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sightline.errors import Problem, Refused
from sightline.model import hub_layout, open_clip
from sightline.model.batch import Features, SideTexts
from sightline.model.text_tower import TextEncoderConfig
from sightline.model.tiling import Grid


class ProbePool(nn.Module):
    """One vector per crop: a learnt query asks all tokens, then a perceptron (Zhai et al. 2022, section 3.2). Under SigLIP's names, `vision_model.head.*`."""

    def __init__(self, channels: int, heads: int, inner: int) -> None:
        super().__init__()
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipMLP

        self.probe = nn.Parameter(torch.randn(1, 1, channels))
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.layernorm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = SiglipMLP(SiglipVisionConfig(hidden_size=channels, intermediate_size=inner, num_attention_heads=heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """(K, n, C) -> (K, C)."""
        asked = self.attention(self.probe.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)[0]
        return (asked + self.mlp(self.layernorm(asked)))[:, 0]


class TextTower(nn.Module):
    """Embeds texts and pools pictures into one space; similarity = scale.exp() * cosine + bias."""

    def __init__(self, config: TextEncoderConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        tower_config = hub_layout.transformers_config(config.block(), "text_encoder")
        published = open_clip.read_open_clip(config.checkpoint) if config.checkpoint else None
        kind = hub_layout.model_class(tower_config)
        if config.checkpoint and published is None and hub_layout.find(config.checkpoint):
            self.tower: Any = hub_layout.load_weights(kind, config.checkpoint, tower_config, "text_encoder")
        else:
            self.tower = kind._from_config(tower_config)
        if published is not None:
            open_clip.fill(self.tower, open_clip.part(published, "text_model."), str(config.checkpoint))
        self.text_projection = nn.Linear(tower_config.hidden_size, config.width, bias=False) if config.texts != "head" else None
        heads = config.heads or max(1, channels // 64)
        self.picture_head = self._head(channels, heads)
        pooled = channels * (2 if config.pictures == "mean-max" else 1)
        self.picture_projection = nn.Linear(pooled, config.width, bias=False) if self.picture_head is None else None
        self._refuse_widths(channels, tower_config)
        sigmoid = config.loss == "sigmoid"
        self.scale = nn.Parameter(torch.tensor(math.log(10.0) if sigmoid else math.log(1 / 0.07)))
        self.bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        if config.tags:
            self.token_projection = nn.Linear(channels, config.width, bias=False)
            self.tag_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.tag_bias = nn.Parameter(torch.tensor(-5.0))
        if config.checkpoint:
            self._take_published(config.checkpoint, published)

    def _head(self, channels: int, heads: int) -> nn.Module | None:
        """The pooling of pictures that is a module."""
        if self.config.pictures == "attention":
            from sightline.model.encoder_kinds.modified_resnet_modules import AttentionPool

            columns, rows = self.config.grid or (1, 1)
            return AttentionPool(channels, Grid(columns=columns, rows=rows), heads, self.config.width)
        return ProbePool(channels, heads, self.config.inner or 4 * channels) if self.config.pictures == "probe" else None

    def _refuse_widths(self, channels: int, tower: Any) -> None:
        """A probe and a tower's own head project to widths of their own: these must be E."""
        given = {"pictures: probe": channels} if self.config.pictures == "probe" else {}
        given |= {"texts: head": getattr(tower, "projection_size", 0)} if self.config.texts == "head" else {}
        wrong = [(name, width) for name, width in given.items() if width != self.config.width]
        if wrong:
            raise Refused(
                [
                    Problem(
                        code="model/joint-width",
                        place="text_encoder.width",
                        found=f"{name} gives vectors of {width} numbers, width is {self.config.width}",
                        allowed=str(width),
                        fix=f"text_encoder.width={width}",
                    )
                    for name, width in wrong
                ]
            )

    @torch.no_grad()
    def _take_published(self, checkpoint: str, tensors: dict[str, Tensor] | None) -> None:
        """Projections, scale and bias of a whole dual tower (CLIP, SigLIP). A checkpoint of a text tower alone has none: they start fresh."""
        own: dict[str, Tensor] = {"logit_scale": self.scale}
        own |= {"text_projection.weight": self.text_projection.weight} if self.text_projection is not None else {}
        own |= {"visual_projection.weight": self.picture_projection.weight} if self.picture_projection is not None else {}
        own |= (
            {f"vision_model.head.{name}": tensor for name, tensor in self.picture_head.named_parameters()} if isinstance(self.picture_head, ProbePool) else {}
        )
        own |= {"logit_bias": self.bias} if self.bias is not None else {}
        if self.config.pictures == "attention":
            self.picture_head.load(checkpoint, "text_encoder")  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
        found = hub_layout.published(checkpoint, own) if tensors is None else {name: tensors[name] for name in own if name in tensors}
        problems = []
        for name, given in found.items():
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
        if self.config.texts == "mean":
            pooled = (hidden * valid[..., None]).sum(1) / texts.lengths[:, None]
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), texts.lengths - 1]
        return normalize((self.tower.head if self.text_projection is None else self.text_projection)(pooled).float(), dim=-1)

    def embed_pictures(self, features: Features) -> Tensor:
        """(P, 1, E) unit vectors of pictures of one crop each."""
        tokens = self._tokens(features)
        if self.picture_head is not None:
            return normalize(self.picture_head(tokens).float(), dim=-1)[:, None]
        assert self.picture_projection is not None
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
