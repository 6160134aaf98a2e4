"""The attention pattern of a packed stream, made once from segments and branches, in the form that the backend needs."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.model.batch import Stream


def allowed(stream: Stream) -> Tensor:
    """(B, T, T) bool: which key each query may read. Causal, same segment, and the key is in the trunk or in the query's own branch; padding reads itself."""
    segments, branches = stream.segments, stream.branches
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, :, None]
    seen = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    itself = torch.eye(length, dtype=torch.bool, device=segments.device)
    return (causal & same & seen) | itself


def both_ways(stream: Stream) -> Tensor:
    """(B, M, M) bool for encoders: same segment and same branch, whatever comes first; padding reads itself."""
    same = (stream.segments[:, :, None] == stream.segments[:, None, :]) & (stream.segments > 0)[:, :, None]
    itself = torch.eye(stream.segments.shape[1], dtype=torch.bool, device=same.device)
    return (same & (stream.branches[:, :, None] == stream.branches[:, None, :])) | itself


def readable(sees: Tensor, memory: int) -> Tensor:
    """(B, T, M) bool: which memory token each decoder token may read, from (B, T, 2) bounds."""
    place = torch.arange(memory, device=sees.device)
    return (place >= sees[..., :1]) & (place < sees[..., 1:])


def backend_mask(pattern: Tensor, backend: str, dtype: torch.dtype) -> Tensor:
    """A (B, Tq, Tk) pattern for an attention backend: additive (B, 1, Tq, Tk) in `dtype` for eager, where a boolean would be added as 0 and 1 without a word; boolean for sdpa."""
    if backend == "sdpa":
        return pattern[:, None]
    return torch.zeros(pattern.shape, dtype=dtype, device=pattern.device).masked_fill_(~pattern, torch.finfo(dtype).min)[:, None]
