"""The module of the multimodal mixture of encoder and decoder. Attributes carry the published names, so that published weights fit by name.

Letters: B bins or texts, T tokens, M memory tokens, P pictures, X texts, Y pairs, C channels, W = D width, E joint width, A answer tokens, V vocabulary (see batch.py).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, scaled_dot_product_attention
from transformers.activations import ACT2FN

from sightline.errors import Problem, Refused
from sightline.model import hub_layout
from sightline.model.batch import Features, SideTexts
from sightline.model.connector_modules import padded
from sightline.model.text_kinds.med import MedText
from sightline.model.text_kinds.sides import Told, WordHead, backward_looking, likelihood, real, starting


class _Output(nn.Module):
    """LayerNorm(x + dense(found)): what attention and feed-forward end with."""

    def __init__(self, settings: Any, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, found: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(found)) + x)


class _Heads(nn.Module):
    """Multi-head attention from tokens of width W to a source of `width` channels."""

    def __init__(self, settings: Any, width: int) -> None:
        super().__init__()
        self.heads, self.drop = settings.num_attention_heads, settings.attention_probs_dropout_prob
        self.query = nn.Linear(settings.hidden_size, settings.hidden_size)
        self.key = nn.Linear(width, settings.hidden_size)
        self.value = nn.Linear(width, settings.hidden_size)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def keys(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, M, head) of a source (B, M, width)."""
        return self._split(self.key(source)), self._split(self.value(source))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], pattern: Tensor, backend: str) -> Tensor:
        """(B, T, W) reads keys under a (B, T or 1, M) pattern in which every row reads something -> (B, T, W)."""
        query, drop = self._split(self.query(x)), self.drop if self.training else 0.0
        if backend == "sdpa":
            found = scaled_dot_product_attention(query, *keys, attn_mask=pattern[:, None], dropout_p=drop)
        else:
            scores = (query @ keys[0].transpose(2, 3) * query.shape[-1] ** -0.5).masked_fill(~pattern[:, None], -math.inf)
            found = dropout(scores.softmax(-1), drop) @ keys[1]
        return found.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, settings: Any, width: int) -> None:
        super().__init__()
        self.self = _Heads(settings, width)
        self.output = _Output(settings, settings.hidden_size)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], pattern: Tensor, backend: str) -> Tensor:
        return self.output(self.self(x, keys, pattern, backend), x)


class _Intermediate(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(settings.hidden_size, settings.intermediate_size)
        self.activation = ACT2FN[settings.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class MedLayer(nn.Module):
    """Self-attention, cross-attention where there is memory, feed-forward; each with a LayerNorm behind it. `twofold`: a self-attention of its own for the decoder."""

    def __init__(self, settings: Any, number: int, backend: str, twofold: bool) -> None:
        super().__init__()
        self.number, self.backend = number, backend
        self.attention = _Attention(settings, settings.hidden_size)
        if twofold:
            self.decoder_attention = _Attention(settings, settings.hidden_size)
        self.crossattention = _Attention(settings, settings.encoder_hidden_size)
        self.intermediate = _Intermediate(settings)
        self.output = _Output(settings, settings.intermediate_size)

    def forward(self, x: Tensor, pattern: Tensor, memory: Tensor | None, reads: Tensor | None, writes: bool, cache: Any) -> Tensor:
        """(B, T, W) under (B, Tq, Tk), reading memory (B, M, C) under `reads` (B, Tq or 1, M) -> (B, T, W). A token that reads nothing skips cross-attention."""
        attention = self.decoder_attention if writes and hasattr(self, "decoder_attention") else self.attention
        keys = attention.self.keys(x)
        if cache is not None:
            keys = cache.self_attention_cache.update(*keys, self.number)
        x = attention(x, keys, pattern, self.backend)
        if memory is not None and reads is not None:
            some = reads.any(-1, keepdim=True)
            x = torch.where(some, self.crossattention(x, self._memory_keys(memory, cache), reads | ~some, self.backend), x)
        return self.output(self.intermediate(x), x)

    def _memory_keys(self, memory: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """Keys of the memory: while decoding they are computed when it is read first, and again when it has grown."""
        if cache is None:
            return self.crossattention.self.keys(memory)
        known = cache.cross_attention_cache.layers
        seen = known[self.number].get_seq_length() if self.number < len(known) else 0
        if seen < memory.shape[1]:
            return cache.cross_attention_cache.update(*self.crossattention.self.keys(memory[:, seen:]), self.number)
        return known[self.number].keys, known[self.number].values


class _Embeddings(nn.Module):
    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(settings.vocab_size, settings.hidden_size, padding_idx=settings.pad_token_id)
        self.position_embeddings = nn.Embedding(settings.max_position_embeddings, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.LayerNorm(words + self.position_embeddings(positions)))


class _Layers(nn.Module):
    def __init__(self, settings: Any, backend: str, twofold: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(MedLayer(settings, number, backend, twofold) for number in range(settings.num_hidden_layers))


class MedStack(nn.Module):
    """Embeddings and layers."""

    def __init__(self, settings: Any, backend: str, twofold: bool = False) -> None:
        super().__init__()
        self.embeddings = _Embeddings(settings)
        self.encoder = _Layers(settings, backend, twofold)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=settings.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    @property
    def words(self) -> Tensor:
        """(V, W), which also make the logits."""
        return self.embeddings.word_embeddings.weight

    def forward(
        self, x: Tensor, positions: Tensor, pattern: Tensor, memory: Tensor | None = None, reads: Tensor | None = None, writes: bool = False, cache: Any = None
    ) -> Tensor:
        """Word embeddings (B, T, W) at positions (B, T) -> (B, T, W); see MedLayer."""
        x = self.embeddings(x, positions)
        for layer in self.encoder.layer:
            x = layer(x, pattern, memory, reads, writes, cache)
        return x


class _Decoder(nn.Module):
    """The head over words and, where nothing is shared, layers of its own."""

    def __init__(self, settings: Any, backend: str, own: bool) -> None:
        super().__init__()
        self.bert = MedStack(settings, backend) if own else None
        self.cls = WordHead(settings.hidden_size, settings.vocab_size, settings.hidden_act, settings.layer_norm_eps, settings.initializer_range)


class Med(nn.Module):
    """See MedText. Text encoder (embed_pictures, embed_texts, match, tell) and language model (embed, encode, hidden, logits) in one."""

    tells_pictures = False
    """Of an encoded question the decoder reads the text alone: the encoder has read the picture into it."""

    window = None
    bias = None

    def __init__(self, config: MedText, channels: int | None) -> None:
        super().__init__()
        self.config = config
        block = config.block() | ({"encoder_hidden_size": channels} if channels is not None else {})
        settings: Any = hub_layout.transformers_config(block, "med")
        encodes, writes = set(config.modes) != {"tell"}, "tell" in config.modes
        shared = encodes and writes and config.share == "all-but-self-attention"
        self.memory_width: int = settings.encoder_hidden_size
        self.text_encoder = MedStack(settings, config.attention, twofold=shared) if encodes else None
        self.text_decoder = _Decoder(settings, config.attention, own=not shared) if writes else None
        if "embed" in config.modes:
            self.vision_proj = nn.Linear(settings.encoder_hidden_size, config.joint)
            self.text_proj = nn.Linear(settings.hidden_size, config.joint)
            self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if "match" in config.modes:
            self.itm_head = nn.Linear(settings.hidden_size, 2)
        if config.checkpoint and hub_layout.find(config.checkpoint):
            self._take_published(config.checkpoint)

    @torch.no_grad()
    def _take_published(self, checkpoint: str) -> None:
        """Weights of a published captioner, matcher or answerer of questions. One that lacks a side lends it the other's; projections and matching head may start fresh."""
        own = self.state_dict()
        sources = {name: _published_names(name) for name in own}
        found = hub_layout.published(checkpoint, [source for names in sources.values() for source in names])
        given = {name: next((found[source] for source in names if source in found), None) for name, names in sources.items()}
        missing = [name for name, tensor in given.items() if tensor is None and name.startswith(("text_encoder.", "text_decoder."))]
        wrong = [name for name, tensor in given.items() if tensor is not None and tensor.shape != own[name].shape]
        fix = "use the config.json and the modes that belong to these weights"
        problems = [
            Problem(
                code="model/shape-mismatch",
                place=f"{checkpoint}:{name}",
                found=f"shape {tuple(getattr(given[name], 'shape', ()))} in the checkpoint",
                allowed=f"shape {tuple(own[name].shape)} by the config",
                fix=fix,
            )
            for name in wrong
        ]
        if missing:
            listed = f"{len(missing)} tensors are not in the checkpoint: {', '.join(missing[:8])}"
            problems.append(Problem(code="model/missing-weights", place=checkpoint, found=listed, allowed="every tensor of its layers", fix=fix))
        if problems:
            raise Refused(problems)
        for name, tensor in given.items():
            if tensor is not None:
                own[name].copy_(tensor)

    @property
    def blocks(self) -> list[nn.Module]:
        """Layers of the encoder, then those of a decoder of its own."""
        return [layer for stack in (self.text_encoder, self._own_decoder) if stack is not None for layer in stack.encoder.layer]

    @property
    def _own_decoder(self) -> MedStack | None:
        return self.text_decoder.bert if self.text_decoder is not None else None

    @property
    def _encoder(self) -> MedStack:
        assert self.text_encoder is not None, f"built for {self.config.modes}: nothing encodes"
        return self.text_encoder

    @property
    def _decoder(self) -> MedStack:
        assert self.text_decoder is not None, f"built for {self.config.modes}: nothing writes"
        return self._own_decoder or self._encoder

    # text encoder

    def embed_pictures(self, features: Features) -> Tensor:
        """(P, 1, E) unit vectors from the class token, the first of each picture's one crop. Refused where the encoder's class token was dropped."""
        if not all(grid.lead for grid in features.grids):
            raise Refused(
                Problem(
                    code="model/no-class-token",
                    place="text_encoder",
                    found="picture tokens without a class token",
                    allowed="an encoder with a class token that is kept: its first token stands for the picture",
                    fix="encoders: tokens: all, or reads: {text_encoder: {lead: keep}}",
                )
            )
        counts = torch.tensor([grid.count for grid in features.grids], device=features.values.device)
        return normalize(self.vision_proj(features.values[counts.cumsum(0) - counts]).float(), dim=-1)[:, None]

    def embed_texts(self, texts: SideTexts) -> Tensor:
        """(X, E) unit vectors from the first token."""
        hidden = self._encode(texts.ids, real(texts))
        return normalize(self.text_proj(hidden[:, 0]).float(), dim=-1)

    def match(self, features: Features, texts: SideTexts, pairs: Tensor) -> Tensor:
        """Logits (Y, 2) of no match and match for pairs (Y, 2) of a picture and a text."""
        memory, there = padded(features)
        picture, text = pairs.unbind(1)
        ids = starting(texts.ids, self.config.ids[self.config.encode])[text]
        hidden = self._encode(ids, real(texts)[text], memory[picture], there[picture][:, None])
        return self.itm_head(hidden[:, 0]).float()

    def tell(self, features: Features, texts: SideTexts) -> Told:
        """Likelihood of each text, given its own picture (`picture_of`)."""
        memory, there = padded(features)
        ids = starting(texts.ids, self.config.ids[self.config.decode])
        own, pattern = texts.picture_of, backward_looking(real(texts))
        hidden = self._decoder(self.embed(ids), _positions(ids), pattern, memory[own], there[own][:, None], writes=True)
        assert self.text_decoder is not None
        return likelihood(self.text_decoder.cls, self._decoder.words, hidden, texts)

    def _encode(self, ids: Tensor, valid: Tensor, memory: Tensor | None = None, reads: Tensor | None = None) -> Tensor:
        """(X, L) ids, their places of tokens (X, L) -> (X, L, W), bi-directional."""
        return self._encoder(self._encoder.embeddings.word_embeddings(ids), _positions(ids), valid[:, None], memory, reads)

    # language model

    def new_cache(self) -> Any:
        """An empty cache for `hidden`: keys of the decoder, and of the memory once it was read."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D), the decoder's words."""
        return self._decoder.embeddings.word_embeddings(ids)

    def embed_memory(self, ids: Tensor) -> Tensor:
        """(B, M) -> (B, M, D), the words of what reads it: of the encoder where it takes questions."""
        return (self._encoder if "question" in self.config.modes else self._decoder).embeddings.word_embeddings(ids)

    def encode(self, m: Tensor, pattern: Tensor, pictures: Tensor) -> Tensor:
        """Questions: memory (B, M, D) under a (B, M, M) pattern, of which `pictures` (B, M) bool are picture tokens -> (B, M, D).

        Text tokens read each other, and by cross-attention the picture tokens of their segment; their positions are counted in their segment, without the pictures.
        The decoder reads what comes out at text tokens; what comes out at picture tokens means nothing.
        """
        text = pattern & ~pictures[:, None]
        itself = torch.eye(m.shape[1], dtype=torch.bool, device=m.device)
        places = (text & itself.logical_not().tril()).sum(-1).masked_fill(pictures, 0)
        return self._encoder(m, places, text | itself, m, pattern & pictures[:, None] & ~pictures[:, :, None])

    def hidden(
        self, x: Tensor, positions: Tensor, pattern: Tensor, cache: Any = None, memory: Tensor | None = None, memory_pattern: Tensor | None = None
    ) -> Tensor:
        """(B, T, D) under a (B, Tq, Tk) pattern, reading memory (B, M, C) under (B, Tq, M) -> (B, T, D). With a cache, its columns come first in Tk."""
        return self._decoder(x, positions, pattern, memory, memory_pattern, writes=True, cache=cache)

    def logits(self, rows: Tensor) -> Tensor:
        """(A, D) -> (A, V) float32."""
        assert self.text_decoder is not None
        return self.text_decoder.cls(rows, self._decoder.words)

    def prove_logits(self) -> None:
        """Nothing to prove: no other class stands between its hidden states and its logits."""


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def _published_names(name: str) -> tuple[str, ...]:
    """Where a published checkpoint may hold a tensor of ours, best first: either side's layers may serve both, and the decoder's own self-attention is its `attention`."""
    if name.startswith("text_encoder."):
        inner = name.removeprefix("text_encoder.")
        sides = ("text_encoder.", "text_decoder.bert.")
        if ".decoder_attention." in inner:
            return tuple(side + inner.replace(".decoder_attention.", ".attention.") for side in reversed(sides))
        return tuple(side + inner for side in sides)
    if name.startswith("text_decoder.bert."):
        return (name, name.replace("text_decoder.bert.", "text_encoder."))
    return (name,)
