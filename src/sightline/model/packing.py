"""Samples on the host, and how several of them become the tensors of one batch. Packing adds offsets and nothing else.

Letters: B bins, T tokens a bin, S slots, A answer tokens, P pictures (see batch.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from sightline.model.assembly import Measure
from sightline.model.batch import Features, Run, Stream
from sightline.model.pieces import PlacedShape
from sightline.model.tiling import Tiling
from sightline.samples.sample import Picture


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a film that an encoder takes as one crop; all have one size."""

    pictures: tuple[Picture, ...]

    @property
    def hash(self) -> str:
        """The hashes of its pictures."""
        return "+".join(picture.hash for picture in self.pictures)

    @property
    def width(self) -> int:
        """px."""
        return self.pictures[0].width

    @property
    def height(self) -> int:
        """px."""
        return self.pictures[0].height


@dataclass(frozen=True, kw_only=True)
class EncodedStream:
    """One stream of a sample on the host, m tokens."""

    ids: np.ndarray  # (m,) int64
    positions: np.ndarray  # (m,) int64, or (3, m) on a grid
    branches: np.ndarray  # (m,) int32
    slots: np.ndarray  # (s,) int64 places in ids
    entries: np.ndarray  # (s,) int64: crop tokens of all pictures together; -1-k = vector k: the layout's, then the sample's regions


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample on the host. Arrays are numpy; `slots` are places in ids, `entries` index the crop tokens of all its pictures together (-1-k = vector k: the layout's, then the sample's regions)."""

    sample: str
    source: str
    ids: np.ndarray  # (t,) int64
    positions: np.ndarray  # (t,) int64, or (3, t) on a grid
    branches: np.ndarray  # (t,) int32
    slots: np.ndarray  # (s,) int64
    entries: np.ndarray  # (s,) int64
    sees: np.ndarray | None = None  # (t, 2) int32: memory [lo, hi) that each token reads
    memory: EncodedStream | None = None
    answers: np.ndarray  # (a,) int64 places that predict
    targets: np.ndarray  # (a,) int64
    weights: np.ndarray  # (a,) float32
    pair_of: np.ndarray  # (a,) int64: which user/assistant pair a target belongs to
    kinds: tuple[str, ...]
    pictures: tuple[Picture | Frames, ...]
    measures: tuple[Measure, ...]
    texts: tuple[str, ...] = ()
    """Side texts for a dual tower."""
    read: tuple[str, ...] = ()
    """Per picture, the text that a connector reads with it."""
    regions: tuple[PlacedShape, ...] = ()
    """(picture, shape) of the regions that its slots take."""
    taps: tuple[tuple[int, PlacedShape], ...] = ()
    """Of each mask that it names: number of the answer that predicts its token, and (picture, shape)."""
    tags: tuple[int, ...] | None = None
    """Numbers of the objective's tag words that its captions name."""
    orientation: int = 0
    """0..7: quarter turns (orientation % 4) and a mirror (orientation >= 4) of the crops, for augmentation."""

    @property
    def length(self) -> int:
        """Decoder positions."""
        return len(self.ids)

    @property
    def stream(self) -> EncodedStream:
        """The decoder's stream."""
        return EncodedStream(ids=self.ids, positions=self.positions, branches=self.branches, slots=self.slots, entries=self.entries)

    def shown(self) -> list[Shown]:
        """What the batch must hold of each picture."""
        read = self.read or ("",) * len(self.pictures)
        return [Shown(picture.hash, self.orientation, measure.tiling, text) for picture, measure, text in zip(self.pictures, self.measures, read)]


class Shown(NamedTuple):
    """A picture as a sample shows it: equal ones are encoded once a batch."""

    hash: str
    orientation: int
    tiling: Tiling
    read: str


_NONE = np.zeros(0, np.int64)


def pictured(picture: Picture | Frames, measure: Measure, sample: str = "", source: str = "picture", texts: tuple[str, ...] = ()) -> Encoded:
    """One picture without a sequence, and side texts about it."""
    return Encoded(
        sample=sample or picture.hash,
        source=source,
        ids=_NONE,
        positions=_NONE,
        branches=_NONE.astype(np.int32),
        slots=_NONE,
        entries=_NONE,
        answers=_NONE,
        targets=_NONE,
        weights=_NONE.astype(np.float32),
        pair_of=_NONE,
        kinds=("pair",),
        pictures=(picture,),
        measures=(measure,),
        texts=texts,
    )


NO_TOKENS = EncodedStream(ids=_NONE, positions=_NONE, branches=_NONE.astype(np.int32), slots=_NONE, entries=_NONE)
"""A stream without tokens."""


class FeatureSource:
    """Protocol of the feature cache: pictures as (hash, tiling) in, Features by encoder name out."""

    def __call__(self, pictures: Sequence[tuple[str, Tiling]]) -> dict[str, Features]:
        """Features of these pictures, in this order."""
        raise NotImplementedError


class Table:
    """The pictures of a batch, each once, and where the entries of each begin in the feature table."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.places: dict[Shown, int] = {}
        self.pictures: list[Picture | Frames] = []
        self._first: list[int] = []
        self.regions: list[PlacedShape] = []
        self._regions: dict[int, int] = {}
        self.total = 0
        """Crop tokens of all pictures; the layout's vectors and prompts come after them."""
        for encoded in rows:
            for shown, picture, measure in zip(encoded.shown(), encoded.pictures, encoded.measures):
                if shown not in self.places:
                    self.places[shown] = len(self.places)
                    self.pictures.append(picture)
                    self._first.append(self.total)
                    self.total += measure.entries
            self._regions[id(encoded)] = len(self.regions)
            own = self.of(encoded)
            self.regions += [(own[picture], shape) for picture, shape in encoded.regions]

    def placed(self, encoded: Encoded, stream: EncodedStream, vectors: int) -> EncodedStream:
        """A stream of a sample whose entries are lines of the table."""
        return replace(stream, entries=self.sources(encoded, stream.entries, vectors))

    def of(self, encoded: Encoded) -> list[int]:
        """Numbers of a sample's pictures."""
        return [self.places[shown] for shown in encoded.shown()]

    def sources(self, encoded: Encoded, entries: np.ndarray, vectors: int) -> np.ndarray:
        """Entries of a sample's own count as lines of the table: crop tokens, then `vectors` of the layout and prompts, then regions."""
        if not len(entries):
            return entries
        own = np.cumsum([0, *(measure.entries for measure in encoded.measures)])
        first = np.asarray([self._first[number] for number in self.of(encoded)], np.int64)
        picture = np.searchsorted(own, entries, side="right") - 1
        number = -1 - entries
        number = np.where(number >= vectors, number + self._regions[id(encoded)], number)
        return np.where(entries < 0, self.total + number, entries - own[picture] + first[np.clip(picture, 0, len(first) - 1)])


def width_of(lengths: Iterable[int], even: int) -> int:
    """Tokens of the widest bin, rounded up to a multiple of `even`."""
    return -(-max(lengths, default=0) // even) * even


def packed_stream(bins: Sequence[Sequence[EncodedStream]], pad: int, least: int = 0, even: int = 1) -> Stream | None:
    """One stream of a batch, at least `least` tokens wide; its entries are lines of the feature table. None where no bin has a token."""
    width = width_of([least, *(sum(len(one.ids) for one in packed) for packed in bins)], even)
    if not width:
        return None
    shape = (len(bins), width)
    ids = np.full(shape, pad, np.int64)
    streams = next((one.positions.ndim for packed in bins for one in packed if len(one.ids)), 1)
    positions = np.zeros((3, *shape) if streams == 2 else shape, np.int64)
    segments, branches = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    slots, sources = [_NONE], [_NONE]
    runs: list[Run] = []
    for b, packed in enumerate(bins):
        start = 0
        for number, one in enumerate(packed):
            where = slice(start, start + len(one.ids))
            ids[b, where], branches[b, where], segments[b, where] = one.ids, one.branches, number + 1
            if len(one.ids):
                positions[..., b, where] = one.positions
            slots.append(one.slots + b * width + start)
            sources.append(one.entries)
            runs += [Run(length=len(one.ids), says="branches" if one.branches.any() else "causal")] if len(one.ids) else []
            start += len(one.ids)
        runs += [Run(length=width - start, says="padding")] if start < width else []
    return Stream(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        branches=torch.from_numpy(branches),
        slots=torch.from_numpy(np.concatenate(slots)),
        sources=torch.from_numpy(np.concatenate(sources)),
        runs=tuple(runs),
    )


def packed_sight(bins: Sequence[Sequence[Encoded]], even: int = 1) -> torch.Tensor:
    """(B, T, 2): what each decoder token sees of the memory of its bin; a sample without memory sees none."""
    sees = np.zeros((len(bins), width_of((sum(one.length for one in packed) for packed in bins), even), 2), np.int32)
    for b, packed in enumerate(bins):
        start = before = 0
        for one in packed:
            if one.memory is not None and one.sees is not None:
                seen = one.sees[:, 1] > one.sees[:, 0]
                sees[b, start : start + one.length][seen] = one.sees[seen] + before
                before += len(one.memory.ids)
            start += one.length
    return torch.from_numpy(sees)


class Answers(NamedTuple):
    """What a batch teaches: flat places that predict (A,), target ids, weights, and the row that each belongs to."""

    places: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor


def packed_answers(bins: Sequence[Sequence[Encoded]], even: int = 1) -> Answers:
    """Answers of all rows, in order."""
    width = width_of((sum(one.length for one in packed) for packed in bins), even)
    places, targets, weights, owners = [_NONE], [_NONE], [_NONE.astype(np.float32)], [_NONE]
    row = 0
    for b, packed in enumerate(bins):
        start = b * width
        for one in packed:
            places.append(one.answers + start)
            targets.append(one.targets)
            weights.append(one.weights)
            owners.append(np.full(len(one.targets), row, np.int64))
            start, row = start + one.length, row + 1
    return Answers(*(torch.from_numpy(np.concatenate(parts)) for parts in (places, targets, weights, owners)))


def oriented(crop: torch.Tensor, orientation: int) -> torch.Tensor:
    """A crop (bands, h, w) after `orientation % 4` quarter turns and, from 4 on, a mirror."""
    plain = crop.view(torch.int16) if crop.dtype == torch.uint16 else crop  # torch turns no unsigned numbers of 16 bits
    turned = torch.rot90(plain, orientation % 4, (1, 2)) if orientation % 4 else plain
    return (turned.flip(2) if orientation >= 4 else turned).contiguous().view(crop.dtype)
