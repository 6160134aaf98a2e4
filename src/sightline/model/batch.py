"""Batch and Output: what the processor hands to a model, and what comes back.

Letters: B bins, T decoder tokens a bin, S slots, A answer tokens, P pictures, K crops, N entries of the feature table, X side texts, C encoder channels, D language-model
width, E joint embedding width, V vocabulary, Q vectors per picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from sightline.model.tiling import Grid, Tiling

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Packed ids with slots. `segments`: 1.. in order, 0 = padding at the end. `branches`: 0 = trunk of its segment, 1.. = a branch that sees the trunk and itself only."""

    ids: Tensor  # (B, T) int64
    positions: Tensor  # (B, T) int64, from 0 in each segment; a branch goes on from its trunk
    segments: Tensor  # (B, T) int32
    branches: Tensor  # (B, T) int32
    slots: Tensor  # (S,) int64 flat places b*T+t, ascending
    sources: Tensor  # (S,) int64 entries of the feature table


@dataclass(frozen=True, kw_only=True)
class Features:
    """Tokens of all crops one after another, nothing padded: values (sum of counts, C); `grids` per crop."""

    values: Tensor
    grids: tuple[Grid, ...]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures as tilings with unnormalised crops (bands, h, w) of the stored depth, or with cached features by encoder name."""

    tilings: tuple[Tiling, ...]
    picture_of: Tensor  # (K,) int64
    pixels: tuple[Tensor, ...] | None = None
    features: dict[str, Features] | None = None


@dataclass(frozen=True, kw_only=True)
class SideTexts:
    """Texts of a second tower: ids (X, L) padded at the end, lengths (X,), picture_of (X,) or -1."""

    ids: Tensor
    lengths: Tensor
    picture_of: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch. What is not in `answers` is not supervised: there is no ignore index."""

    decoder: Stream | None = None
    answers: Tensor  # (A,) int64 flat places that predict
    targets: Tensor  # (A,) int64
    weights: Tensor  # (A,) float32
    owners: Tensor  # (A,) int64 index into rows
    rows: tuple[tuple[str, str, str], ...]
    """(source, row, kind) of each segment."""
    pictures: Pictures
    texts: SideTexts | None = None
    tags: Tensor | None = None  # (P, W) uint8: which of the objective's words the captions of a picture name


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one forward gives; only what was asked for is filled in."""

    logp: Tensor | None = None  # (A,) float32 log-probability of each target
    lse: Tensor | None = None  # (A,) float32 log-sum-exp of the logits
    pictures: Tensor | None = None  # (P, Q, E) unit vectors
    tokens: Tensor | None = None  # (P, n, E) unit vectors of single tokens
    texts: Tensor | None = None  # (X, E) unit vectors


def to_device(value: T, device: torch.device | str) -> T:
    """A door object with every tensor moved."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(to_device(item, device) for item in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changes: dict[str, Any] = {f.name: to_device(getattr(value, f.name), device) for f in fields(value)}
        return replace(value, **changes)  # type: ignore[return-value]
    return value


def empty_pictures() -> Pictures:
    """No pictures at all."""
    return Pictures(tilings=(), picture_of=torch.zeros(0, dtype=torch.int64), pixels=())


def join_features(parts: Sequence[Features]) -> Features:
    """Features of several picture sets as one."""
    return Features(values=torch.cat([part.values for part in parts]), grids=tuple(grid for part in parts for grid in part.grids))
