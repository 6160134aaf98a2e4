"""Batch and Output: what the processor hands to a model, and what comes back.

Letters: B bins, T decoder tokens a bin, S slots, A answer tokens, P pictures, K crops, N entries of the feature table, X side texts, C encoder channels, D language-model
width, E joint embedding width, V vocabulary, Q vectors per picture, G masks.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from sightline.model.pieces import PlacedShape
from sightline.model.tiling import Crop, Grid, Tiling
from sightline.samples.bands import FULL

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring tokens of a stream that belong together: a segment, plain or with branches, or padding."""

    length: int
    says: Literal["causal", "branches", "padding"]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Packed ids with slots. `segments`: 1.. in order, 0 = padding at the end. `branches`: 0 = trunk of its segment, 1.. = a branch that sees the trunk and itself only."""

    ids: Tensor  # (B, T) int64
    positions: Tensor  # (B, T) int64, or (3, B, T) where positions lie on a grid: from 0 in each segment; a branch goes on from its trunk
    segments: Tensor  # (B, T) int32
    branches: Tensor  # (B, T) int32
    slots: Tensor  # (S,) int64 flat places b*T+t, ascending
    sources: Tensor  # (S,) int64 entries of the feature table
    runs: tuple[Run, ...] = ()
    """What `segments` and `branches` say, on the host: all B * T tokens in order. Empty = not known, read the tensors."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Tokens of crops one after another, nothing padded: values (sum of counts, C); `grids` per crop; `crops`: which crops of the batch they are, ascending."""

    values: Tensor
    grids: tuple[Grid, ...]
    crops: tuple[int, ...]

    def split(self) -> list[Tensor]:
        """The tokens of each crop, (count, C)."""
        return list(self.values.split([grid.count for grid in self.grids]))


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures as tilings with unnormalised crops (bands, h, w) of the stored depth, or with cached features by encoder name."""

    tilings: tuple[Tiling, ...]
    picture_of: Tensor  # (K,) int64
    pixels: tuple[Tensor, ...] | None = None
    features: dict[str, Features] | None = None
    bands: tuple[str, ...] | None = None
    """Names of the bands of every crop (of each frame, where frames of a film are one crop); None: those of whichever encoder reads them."""

    def crop(self, number: int, bands: tuple[str, ...]) -> Tensor:
        """Pixels of one crop in these bands, on the scale 0..255 on which encoders normalise: 8 bits as stored, other depths as float32."""
        assert self.pixels is not None, "a batch with cached features does not pass through the encoder"
        found = self.pixels[number]
        if found.dtype == torch.uint16:  # few operations of torch know it
            found = found.view(torch.int16).int().bitwise_and(0xFFFF) * (FULL["uint8"] / FULL["uint16"])
        elif found.dtype != torch.uint8:
            found = found.float() * (FULL["uint8"] / FULL["float32"])
        if self.bands is None or self.bands == bands:
            return found
        places = [self.bands.index(band) for band in bands]
        return found.view(-1, len(self.bands), *found.shape[1:])[:, places].flatten(0, 1)

    def crops(self) -> list[Crop]:
        """All crops, in batch order."""
        return [crop for tiling in self.tilings for crop in tiling.crops]

    def seen(self, roles: Container[str]) -> list[int]:
        """Numbers of the crops with these roles, ascending."""
        return [number for number, crop in enumerate(self.crops()) if crop.role in roles]


@dataclass(frozen=True, kw_only=True)
class SideTexts:
    """Texts of a second tower: ids (X, L) padded at the end, lengths (X,), picture_of (X,) or -1."""

    ids: Tensor
    lengths: Tensor
    picture_of: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskTaps:
    """What a mask head is asked: G masks on V pictures, each seen whole in a square of S px; s = S / stride places of the head's grid."""

    answers: Tensor  # (G,) int64 which of the batch's answers predicts the token of each mask
    views: Tensor  # (G,) int64 the picture that it lies on
    pixels: Tensor  # (V, bands, S, S) float32 on the scale 0..255 on which encoders normalise
    share: Tensor  # (V, s, s) float32 how much of each place shows picture, 0..1
    targets: Tensor | None = None  # (G, s, s) float32 how much of each place the true mask covers, 0..1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch. What is not in `answers` is not supervised: there is no ignore index."""

    decoder: Stream | None = None
    memory: Stream | None = None
    """What the decoder reads by cross-attention; same B, M >= 1 tokens a bin."""
    sees: Tensor | None = None  # (B, T, 2) int32: a decoder token may read memory [lo, hi) of its bin; lo = hi: none
    answers: Tensor  # (A,) int64 flat places that predict
    targets: Tensor  # (A,) int64
    weights: Tensor  # (A,) float32
    owners: Tensor  # (A,) int64 index into rows
    rows: tuple[tuple[str, str, str], ...]
    """(source, row, kind) of each segment."""
    pictures: Pictures
    texts: SideTexts | None = None
    regions: tuple[PlacedShape, ...] = ()
    """(picture, shape) of the regions that slots take, in px of the source picture; None = the whole picture."""
    tags: Tensor | None = None  # (P, W) uint8: which of the objective's words the captions of a picture name
    masks: MaskTaps | None = None
    """Masks that answers name; None where they name none, or the model has no head that draws them."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a second forward of the same step goes on from, gathered by the objective: features of an earlier Output, texts, and which are paired."""

    features: Features
    texts: SideTexts
    pairs: Tensor  # (Y, 2) int64: number of the picture, number of the text


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one forward gives; only what was asked for is filled in."""

    logp: Tensor | None = None  # (A,) float32 log-probability of each target; for `tell`, (Z,) of each text token
    lse: Tensor | None = None  # (A,) float32 log-sum-exp of the logits
    mean_logp: Tensor | None = None  # (Z,) float32 mean log-probability over the vocabulary, for label smoothing
    owners: Tensor | None = None  # (Z,) int64 number of the text that a token belongs to
    pictures: Tensor | None = None  # (P, Q, E) unit vectors
    tokens: Tensor | None = None  # (P, n, E) unit vectors of single tokens
    texts: Tensor | None = None  # (X, E) unit vectors
    match: Tensor | None = None  # (Y, 2) logits: no match, match
    features: Features | None = None  # what the text encoder read of the pictures
    masks: Tensor | None = None  # (G, s, s) logits of the batch's masks; None where it has none


def to_device(value: T, device: torch.device | str) -> T:
    """A door object with every tensor moved."""
    if isinstance(value, Tiling | Grid | Run):
        return value
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
