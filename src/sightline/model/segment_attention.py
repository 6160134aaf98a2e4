"""Causal self-attention of packed segments, each by itself: nothing is computed across samples and no (T, T) mask exists. Letters: B bins, T tokens, H heads, d head width.

It is an attention function of transformers. The pattern travels in the place of the mask: an empty tensor that holds the runs of the stream. A model class that reads or changes the mask itself
fails on the empty tensor; nothing is masked wrongly without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sightline.model.attention import allowed
from sightline.model.batch import Run, Stream

NAME = "segments"
"""Its name among the attention functions of transformers."""


@dataclass(frozen=True, kw_only=True)
class SegmentPattern:
    """The runs of a stream, and the mask (n, n) bool of each run with branches."""

    runs: tuple[Run, ...]
    masks: tuple[Tensor | None, ...]
    asked: tuple[Tensor, ...] | None = None
    """Per run, the places in it that the last layer is asked for; None = all."""

    @classmethod
    def of(cls, stream: Stream) -> SegmentPattern:
        """The pattern of a stream whose runs are known."""
        flat_segments, flat_branches = stream.segments.flatten(), stream.branches.flatten()
        masks: list[Tensor | None] = []
        start = 0
        for run in stream.runs:
            where = slice(start, start + run.length)
            masks.append(_mask(flat_segments[where], flat_branches[where], stream) if run.says == "branches" else None)
            start += run.length
        assert start == flat_segments.numel(), "runs cover the stream"
        return cls(runs=stream.runs, masks=tuple(masks))

    def asking(self, places: Tensor) -> SegmentPattern:
        """The same for some flat places (A,) of the stream, those of each run one after another."""
        lengths = torch.tensor([run.length for run in self.runs])
        ends = lengths.cumsum(0)
        counts = torch.bincount(torch.searchsorted(ends, places, right=True), minlength=len(self.runs)).tolist()
        starts = (ends - lengths).tolist()
        return replace(self, asked=tuple(own - start for own, start in zip(places.split(counts), starts)))


def carrying(what: object, like: Tensor) -> Tensor:
    """An empty tensor in the place of the mask that carries a SegmentPattern, or a Held."""
    mask = torch.empty(1, 1, 1, 0, dtype=torch.bool, device=like.device)
    mask.carried = what  # pyright: ignore[reportAttributeAccessIssue]
    return mask


class Held:
    """Keys and values of a layer for all tokens, which the queries of the places that its pattern asks for read."""

    def __init__(self, pattern: SegmentPattern) -> None:
        self.pattern = pattern
        self.parts: tuple[Tensor, Tensor] | None = None


class _Taken(Exception):
    """A layer has given its keys and values."""


def _mask(segments: Tensor, branches: Tensor, stream: Stream) -> Tensor:
    none = stream.slots[:0]
    return allowed(Stream(ids=segments[None], positions=segments[None], segments=segments[None], branches=branches[None], slots=none, sources=none))[0]


def register() -> None:
    """Make it known to transformers, once."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.compiler.disable
def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **said: Any) -> tuple[Tensor, None]:
    """(B, H, T, d) -> (B, T, H, d). With an ordinary mask it is transformers' own function."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    carried = getattr(attention_mask, "carried", None)
    if carried is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **said)
    assert said.get("softcap") is None and said.get("position_bias") is None and said.get("s_aux") is None, "scores that this function does not know"
    if isinstance(carried, Held):
        if carried.parts is None:
            carried.parts = key, value
            raise _Taken
        return by_segment(query, *carried.parts, carried.pattern, said.get("scaling"), said.get("dropout", 0.0)), None
    return by_segment(query, key, value, carried, said.get("scaling"), said.get("dropout", 0.0)), None


def by_segment(query: Tensor, key: Tensor, value: Tensor, pattern: SegmentPattern, scale: float | None = None, dropout: float = 0.0) -> Tensor:
    """(B, H, T, d) queries, keys and values with H or fewer heads -> (B, T, H, d); padding gets zeros. Where places are asked for, queries are (1, H, A, d) of them: (1, A, H, d).

    On the CPU it computes in float32: that is faster than bfloat16 there, and the angles of the positions are float32 as they come.
    """
    bins, heads, length, _ = query.shape
    kind = query.device.type
    dtype = torch.float32 if kind == "cpu" else torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    with torch.autocast(kind, enabled=False):
        q, k, v = (one.transpose(1, 2).flatten(0, 1).to(dtype) for one in (query, key, value))
        if pattern.asked is None and q.is_cuda and q.dtype != torch.float32 and not dropout and all(run.says == "causal" for run in pattern.runs):
            found = _varlen(q, k, v, [run.length for run in pattern.runs], scale)
        else:
            found = _each(q, k, v, pattern, scale, dropout)
    return found.to(value.dtype).view(bins, length, heads, -1)


def _each(q: Tensor, k: Tensor, v: Tensor, pattern: SegmentPattern, scale: float | None, dropout: float) -> Tensor:
    """(B * T, H, d) -> the same, or (A, H, d), run after run."""
    lengths = [run.length for run in pattern.runs]
    queries = q.split(lengths if pattern.asked is None else [len(asked) for asked in pattern.asked])
    found = []
    for number, (run, mask, own_q, own_k, own_v) in enumerate(zip(pattern.runs, pattern.masks, queries, k.split(lengths), v.split(lengths))):
        if pattern.asked is not None:
            asked = pattern.asked[number]
            mask = torch.arange(run.length, device=q.device) <= asked[:, None] if mask is None else mask[asked]
        if run.says == "padding":
            found.append(torch.zeros_like(own_q))
        elif len(own_q):
            own = [part.transpose(0, 1)[None] for part in (own_q, own_k, own_v)]
            said: dict[str, Any] = {"attn_mask": mask[None, None]} if mask is not None else {"is_causal": True}
            done = scaled_dot_product_attention(*own, dropout_p=dropout, scale=scale, enable_gqa=q.shape[1] != k.shape[1], **said)
            found.append(done[0].transpose(0, 1))
    return torch.cat(found)


class AskedRows:
    """A hook before the last decoder layer: it goes on with the rows that are asked for.

    Keys and values are taken from the layer's own code over all tokens, which stops there; then the layer runs over the rows alone, its attention reading what was taken. Right for any layer that
    attends once and otherwise treats tokens one by one.
    """

    _TENSORS = frozenset({"hidden_states", "attention_mask", "position_ids", "position_embeddings"})

    def __init__(self, pattern: SegmentPattern, places: Tensor) -> None:
        self.pattern, self.places = pattern.asking(places), places
        self.took = False
        """Whether the layer ran for the rows alone: its inputs were those that are known here."""

    def __call__(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        [x] = args
        held = Held(self.pattern)
        if not {name for name, value in kwargs.items() if torch.is_tensor(value) or isinstance(value, tuple)} <= self._TENSORS:
            return args, kwargs
        try:
            layer.forward(x, **{**kwargs, "attention_mask": carrying(held, x)})
        except _Taken:
            self.took = True
        assert self.took, "a layer without attention"
        changed: dict[str, Any] = {"attention_mask": carrying(held, x)}
        if kwargs.get("position_embeddings") is not None:
            changed["position_embeddings"] = tuple(self._rows(one.expand(*x.shape[:2], -1)) for one in kwargs["position_embeddings"])
        if kwargs.get("position_ids") is not None:
            ids = kwargs["position_ids"]  # (B, T), or (3, B, T) on a grid
            changed["position_ids"] = ids.expand(*ids.shape[:-2], *x.shape[:2]).flatten(-2)[..., self.places][..., None, :]
        return (self._rows(x),), {**kwargs, **changed}

    def _rows(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)[self.places][None]


def _varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float | None) -> Tensor:
    """(B * T, H, d) by one kernel for sequences of several lengths."""
    from torch.nn.attention.varlen import varlen_attn

    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(q.device, non_blocking=True)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    return varlen_attn(q, k, v, bounds, bounds, max(lengths), max(lengths), scale=scale, window_size=(-1, 0))  # pyright: ignore[reportReturnType]
