"""Modules of fusions. Letters: B bins, T decoder tokens, M memory tokens, D width (see batch.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, silu

from sightline.errors import Problem, Refused
from sightline.model.attention import both_ways
from sightline.model.batch import Stream
from sightline.model.fusion import GatedCrossAttention
from sightline.model.segment_attention import SegmentPattern

PASSED = "sightline_memory"
"""Keyword under which memory travels through a language model's forward to the blocks between its layers."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What decoding and training read by cross-attention: values (B, M, D), and what the blocks made of them, kept while decoding."""

    values: Tensor
    keys: tuple[tuple[Tensor, Tensor], ...] = ()
    told: Tensor | None = None  # (B, M) bool: what may be read at all; None = all of it
    segments: Tensor | None = None  # (B, M): whose it is, 0 = nobody's; None = it does not matter

    def select(self, bins: Tensor) -> Memory:
        """Keep these bins, in this order."""
        told, segments = (own[bins] if own is not None else None for own in (self.told, self.segments))
        return Memory(values=self.values[bins], keys=tuple((k[bins], v[bins]) for k, v in self.keys), told=told, segments=segments)

    @staticmethod
    def stack(memories: list[Memory]) -> Memory:
        """Memory of other bins below each other; narrow ones end in tokens that nobody sees."""
        width = max(one.values.shape[1] for one in memories)
        wide = lambda own, dim: pad(own, (0, 0) * (own.dim() - 1 - dim) + (0, width - own.shape[dim]))  # noqa: E731
        told, segments = ([own for one in memories if (own := getattr(one, name)) is not None] for name in ("told", "segments"))
        return Memory(
            values=torch.cat([wide(one.values, 1) for one in memories]),
            keys=tuple((torch.cat([wide(k, 2) for k, _ in own]), torch.cat([wide(v, 2) for _, v in own])) for own in zip(*(one.keys for one in memories))),
            told=torch.cat([wide(own, 1) for own in told]) if told else None,
            segments=torch.cat([wide(own, 1) for own in segments]) if segments else None,
        )

    def join(self, later: Memory) -> Memory:
        """Memory of the same bins, `later` after this one."""
        keys = tuple((torch.cat([k, k2], 2), torch.cat([v, v2], 2)) for (k, v), (k2, v2) in zip(self.keys, later.keys))
        pairs = (self.told, later.told), (self.segments, later.segments)
        told, segments = (torch.cat([own, more], 1) if own is not None and more is not None else None for own, more in pairs)
        return Memory(values=torch.cat([self.values, later.values], 1), keys=keys, told=told, segments=segments)


class Sequence(nn.Module):
    """h = hidden(x): nothing but the decoder."""

    def attach(self, language_model: nn.Module) -> None:
        """Nothing to attach."""

    def remember(self, language_model: Any, m: Tensor, stream: Stream, keep: bool) -> Memory:
        """No layout and no route of this fusion writes memory."""
        raise AssertionError("a sequence has no memory")

    def forward(
        self,
        language_model: Any,
        x: Tensor,
        positions: Tensor,
        pattern: Tensor | SegmentPattern,
        memory: Memory | None = None,
        reads: Tensor | None = None,
        cache: Any = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) under a (B, Tq, Tk) pattern -> (B, T, D)."""
        return language_model.hidden(x, positions, pattern, cache)


class OwnCrossAttention(nn.Module):
    """A language model whose decoder reads memory itself; with `encode` its encoder turns the memory stream into what the decoder reads."""

    def __init__(self, encode: bool) -> None:
        super().__init__()
        self.encode = encode

    def attach(self, language_model: nn.Module) -> None:
        """Nothing to attach."""

    def remember(self, language_model: Any, m: Tensor, stream: Stream, keep: bool) -> Memory:
        """(B, M, D) -> what the decoder reads."""
        if not self.encode:
            return Memory(values=m)
        pictures = torch.zeros(m.shape[:2], dtype=torch.bool, device=m.device)
        pictures.view(-1)[stream.slots] = True
        told = None if language_model.tells_pictures else ~pictures
        return Memory(values=language_model.encode(m, both_ways(stream), pictures), told=told)

    def forward(
        self,
        language_model: Any,
        x: Tensor,
        positions: Tensor,
        pattern: Tensor | SegmentPattern,
        memory: Memory | None = None,
        reads: Tensor | None = None,
        cache: Any = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); `reads` (B, T, M) says which memory each token may read."""
        if memory is None or reads is None:
            memory, reads = Memory(values=x.new_zeros(len(x), 1, language_model.memory_width)), x.new_zeros(*x.shape[:2], 1, dtype=torch.bool)
        reads = reads if memory.told is None else reads & memory.told[:, None]
        return language_model.hidden(x, positions, pattern, cache, memory=memory.values, memory_pattern=reads)


class _Norm(nn.Module):
    """Root-mean-square normalisation, computed in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class _CrossAttention(nn.Module):
    """Grouped-query attention from decoder tokens to memory, queries and keys normalised per head, no positions."""

    def __init__(self, width: int, heads: int, key_heads: int, head: int, eps: float) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head = heads, key_heads, head
        self.q_proj = nn.Linear(width, heads * head, bias=False)
        self.k_proj = nn.Linear(width, key_heads * head, bias=False)
        self.v_proj = nn.Linear(width, key_heads * head, bias=False)
        self.o_proj = nn.Linear(heads * head, width, bias=False)
        self.q_norm = _Norm(head, eps)
        self.k_norm = _Norm(head, eps)

    def keys(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, key heads, M, head) of memory (B, M, D)."""
        shape = (*memory.shape[:2], self.key_heads, self.head)
        return self.k_norm(self.k_proj(memory).view(shape)).transpose(1, 2), self.v_proj(memory).view(shape).transpose(1, 2)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], reads: Tensor) -> Tensor:
        """(B, T, D) reads (B, T, M) of the keys; every row of `reads` has something to read."""
        q = self.q_norm(self.q_proj(x).view(*x.shape[:2], self.heads, self.head)).transpose(1, 2)
        found = scaled_dot_product_attention(q, keys[0].to(q.dtype), keys[1].to(q.dtype), attn_mask=reads[:, None], enable_gqa=self.heads != self.key_heads)
        return self.o_proj(found.transpose(1, 2).flatten(2))


class _GatedMlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class GatedBlock(nn.Module):
    """x += tanh(a) attention(x, memory); x += tanh(b) mlp(x). a = b = 0 at the start."""

    def __init__(self, language: dict[str, Any]) -> None:
        super().__init__()
        width, heads = language["hidden_size"], language["num_attention_heads"]
        eps = language.get("rms_norm_eps", 1e-6)
        key_heads = language.get("num_key_value_heads") or heads
        self.input_layernorm = _Norm(width, eps)
        self.cross_attn = _CrossAttention(width, heads, key_heads, language.get("head_dim") or width // heads, eps)
        self.cross_attn_attn_gate = nn.Parameter(torch.zeros(1))
        self.post_attention_layernorm = _Norm(width, eps)
        self.mlp = _GatedMlp(width, language["intermediate_size"])
        self.cross_attn_mlp_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], reads: Tensor, leaks: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), reading (B, T, M). A token that reads nothing gets nothing, or through its attention branch alone what `leaks` (B, T, M) to it."""
        some = reads.any(-1, keepdim=True)
        asked = reads if leaks is None else reads | leaks & ~some
        fed = asked.any(-1, keepdim=True)
        x = x + self.cross_attn_attn_gate.tanh() * (self.cross_attn(self.input_layernorm(x), keys, asked | ~fed) * fed)
        return x + self.cross_attn_mlp_gate.tanh() * (self.mlp(self.post_attention_layernorm(x)) * some)


@dataclass(frozen=True, kw_only=True)
class _Passed:
    memory: Memory
    reads: Tensor
    leaks: Tensor | None


class GatedCrossAttentionBlocks(nn.Module):
    """See GatedCrossAttention. Each block runs as a pre-hook of its decoder layer, so that the language model's class and weight keys stay untouched."""

    def __init__(self, config: GatedCrossAttention, language: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.before = config.before(language["num_hidden_layers"])
        deep = [layer for layer in self.before if layer >= language["num_hidden_layers"]]
        if deep or not self.before:
            raise Refused(
                Problem(
                    code="model/fusion-layers",
                    place="model.fusion",
                    found=f"blocks before layers {list(self.before)}",
                    allowed=f"layers 0..{language['num_hidden_layers'] - 1} of this language model, at least one",
                    fix="change fusion.layers or fusion.every",
                )
            )
        self.layers = nn.ModuleList(GatedBlock(language) for _ in self.before)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in depth order."""
        return list(self.layers)

    def attach(self, language_model: Any) -> None:
        """Hook the blocks between the layers of a language model; every layer gets a hook, because each must give the keyword up."""
        for number, layer in enumerate(language_model.blocks):
            layer.register_forward_pre_hook(partial(self._run, number), with_kwargs=True)

    def _run(self, number: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        passed: _Passed | None = kwargs.pop(PASSED, None)
        if passed is None or number not in self.before:
            return args, kwargs
        index = self.before.index(number)
        block: Any = self.layers[index]
        keys = passed.memory.keys[index] if passed.memory.keys else block.cross_attn.keys(passed.memory.values)
        x = block(args[0], keys, passed.reads, passed.leaks)
        return (x, *args[1:]), kwargs

    def remember(self, language_model: Any, m: Tensor, stream: Stream, keep: bool) -> Memory:
        """Memory (B, M, D) as it is; with `keep` also the keys and values of every block, for decoding."""
        memory = Memory(values=m)
        return replace(memory, keys=tuple(block.cross_attn.keys(m) for block in self.layers)) if keep else memory  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]

    def forward(
        self,
        language_model: Any,
        x: Tensor,
        positions: Tensor,
        pattern: Tensor | SegmentPattern,
        memory: Memory | None = None,
        reads: Tensor | None = None,
        cache: Any = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D). Blocks run whatever the batch holds: without memory they read one blank token that no row sees. `segments` (B, T) of the tokens."""
        if memory is None or reads is None:
            memory, reads = Memory(values=torch.zeros_like(x[:, :1])), x.new_zeros(*x.shape[:2], 1, dtype=torch.bool)
        leaks = None
        if self.config.unattended == "uniform":
            leaks = torch.ones_like(reads) if memory.segments is None or segments is None else segments[:, :, None] == memory.segments[:, None]
        return language_model.hidden(x, positions, pattern, cache, **{PASSED: _Passed(memory=memory, reads=reads, leaks=leaks)})
