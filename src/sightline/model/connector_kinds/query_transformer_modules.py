"""The module of the Q-Former. Attributes carry the published names, so that published weights fit by name.

Letters: K crops, P pictures, Q queries, X texts, L text tokens, Y pairs, N tokens of a crop, C channels, W width of the Q-Former, D language-model width, E joint width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import Blip2QFormerModel, InstructBlipQFormerModel

from sightline.model import hub_layout
from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.connector_modules import padded
from sightline.model.text_kinds.sides import Told, WordHead, backward_looking, likelihood, real, starting
from sightline.model.tiling import Grid


class _Words(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(settings.vocab_size, settings.hidden_size, padding_idx=settings.pad_token_id)
        self.position_embeddings = nn.Embedding(settings.max_position_embeddings, settings.hidden_size)
        for table in (self.word_embeddings, self.position_embeddings):
            nn.init.normal_(table.weight, std=settings.initializer_range)


class QueryTransformer(nn.Module):
    """See QueryTransformerConnector. A connector (forward) and, with `text`, a text encoder (embed_pictures, embed_texts, match, tell)."""

    bias = None

    def __init__(self, config: QueryTransformerConnector, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        settings: Any = hub_layout.transformers_config(config.block() | {"encoder_hidden_size": channels}, "connector")
        inner = settings.hidden_size
        self.qformer: Any = (Blip2QFormerModel if settings.model_type == "blip_2_qformer" else InstructBlipQFormerModel)(settings)
        self.qformer.set_attn_implementation("sdpa")
        self.query_tokens = nn.Parameter(torch.randn(1, config.queries, inner) * settings.initializer_range)
        self.language_projection = nn.Linear(inner, width) if config.project and width else None
        if settings.model_type == "blip_2_qformer" and (config.text or config.reads_text):
            self.embeddings = _Words(settings)
        if config.text:
            self.vision_projection = nn.Linear(inner, config.joint)
            self.text_projection = nn.Linear(inner, config.joint)
            self.itm_head = nn.Linear(inner, 2)
            self.cls = WordHead(inner, settings.vocab_size, settings.hidden_act, settings.layer_norm_eps, settings.initializer_range)
            self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def blocks(self) -> list[nn.Module]:
        """Layers in depth order."""
        return list(self.qformer.encoder.layer)

    @property
    def spare(self) -> list[str]:
        """Names of what no output depends on: the text's feed-forward in the last layer where only queries are read; all of the text side where no text enters."""
        if self.config.text or not hasattr(self.blocks[0], "intermediate"):
            return []
        layers: list[Any] = self.blocks[-1:] if self.config.reads_text else self.blocks
        found = [parameter for layer in layers for part in (layer.intermediate, layer.output) for parameter in part.parameters()]
        tables = () if self.config.reads_text else (self._table.word_embeddings, self._table.position_embeddings)
        ids = {id(parameter) for parameter in (*found, *(table.weight for table in tables))}
        return [name for name, parameter in self.named_parameters() if id(parameter) in ids]

    # connector

    def forward(self, features: Features, texts: SideTexts | None = None, pictures: Pictures | None = None) -> Features:
        """(sum of N, C) -> (K * Q, D), a grid of Q lead tokens for each crop; with `reads_text`, beside the text of the crop's picture."""
        ids, valid = self._read(features, texts, pictures) if self.config.reads_text else (None, None)
        hidden = self._see(*padded(features), ids, valid)[:, : self.config.queries]
        if self.language_projection is not None:
            hidden = self.language_projection(hidden)
        grid = Grid(columns=0, rows=0, lead=self.config.queries)
        return Features(values=hidden.flatten(0, 1), grids=(grid,) * len(features.grids), crops=features.crops)

    def _read(self, features: Features, texts: SideTexts | None, pictures: Pictures | None) -> tuple[Tensor, Tensor]:
        """Ids (K, L) of the text of each crop's picture, and where they are tokens. A picture without text has none of its own, and one blank column is always there."""
        device = features.values.device
        crops = torch.tensor(features.crops, device=device)
        owner = crops if pictures is None else pictures.picture_of[crops]
        if texts is None:
            return torch.zeros(len(crops), 1, dtype=torch.int64, device=device), torch.zeros(len(crops), 1, dtype=torch.bool, device=device)
        belongs = owner[:, None] == texts.picture_of
        assert bool((belongs.sum(1) <= 1).all()), "a picture is read with one text"
        text = belongs.int().argmax(1)
        return texts.ids[text], real(texts)[text] & belongs.any(1)[:, None]

    # text encoder

    def embed_pictures(self, features: Features) -> Tensor:
        """(P, Q, E) unit vectors of pictures of one crop each."""
        return normalize(self.vision_projection(self._see(*padded(features))).float(), dim=-1)

    def embed_texts(self, texts: SideTexts) -> Tensor:
        """(X, E) unit vectors from the first token; no query is there."""
        hidden = self._run(self._embed(None, texts.ids), real(texts)[:, None], 0)
        return normalize(self.text_projection(hidden[:, 0]).float(), dim=-1)

    def match(self, features: Features, texts: SideTexts, pairs: Tensor) -> Tensor:
        """Logits (Y, 2) of no match and match for pairs (Y, 2) of a picture and a text: the mean over queries, which read the text and are read by it."""
        memory, there = padded(features)
        picture, text = pairs.unbind(1)
        hidden = self._see(memory[picture], there[picture], texts.ids[text], real(texts)[text])[:, : self.config.queries]
        return self.itm_head(hidden).float().mean(1)

    def tell(self, features: Features, texts: SideTexts) -> Told:
        """Likelihood of each text, given its own picture: queries read queries, text reads queries and the text before it."""
        memory, there = padded(features)
        ids, queries = starting(texts.ids, self.config.ids[self.config.decode]), self.config.queries
        length = queries + ids.shape[1]
        pattern = torch.zeros(len(ids), length, length, dtype=torch.bool, device=ids.device)
        pattern[:, :, :queries] = True
        pattern[:, queries:, queries:] = backward_looking(real(texts))
        hidden = self._run(self._embed(len(ids), ids), pattern, queries, memory[texts.picture_of], there[texts.picture_of])[:, queries:]
        return likelihood(self.cls, self._table.word_embeddings.weight, hidden, texts)

    # both

    @property
    def _table(self) -> Any:
        return self.embeddings if hasattr(self, "embeddings") else self.qformer.embeddings

    def _see(self, memory: Tensor, there: Tensor, ids: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Queries, and text (K, L) where given, all reading each other -> (K, Q + L, W)."""
        seen = torch.ones(len(memory), 1, self.config.queries, dtype=torch.bool, device=memory.device)
        pattern = seen if valid is None else torch.cat([seen, valid[:, None]], dim=2)
        return self._run(self._embed(len(memory), ids), pattern, self.config.queries, memory, there)

    def _embed(self, rows: int | None, ids: Tensor | None) -> Tensor:
        """Normalised inputs (rows, Q + L, W): queries for `rows` rows, ids (rows, L), or both."""
        parts = [] if rows is None else [self.query_tokens.expand(rows, -1, -1)]
        if ids is not None:
            parts.append(self._table.word_embeddings(ids) + self._table.position_embeddings.weight[: ids.shape[1]])
        x = torch.cat(parts, dim=1)
        owner = self.qformer if hasattr(self.qformer, "layernorm") else self.qformer.embeddings
        return owner.dropout(owner.layernorm(x))

    def _run(self, x: Tensor, pattern: Tensor, queries: int, memory: Tensor | None = None, there: Tensor | None = None) -> Tensor:
        """(K, T, W) under a (K, T or 1, T) pattern, the first `queries` places reading memory (K, N, C) where it is `there` (K, N) -> (K, T, W)."""
        reads = there[:, None, None] if there is not None else None
        return self.qformer.encoder(
            x, attention_mask=pattern[:, None], encoder_hidden_states=memory, encoder_attention_mask=reads, query_length=queries
        ).last_hidden_state
