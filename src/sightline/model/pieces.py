"""Pieces: what chat formats, layouts and codecs write before anything is tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.model.tiling import Grid
from sightline.samples.sample import Shape

StreamName = Literal["decoder", "memory"]
PlacedShape = tuple[int, Shape | None]
"""A shape on picture number p, in px of the picture; None = the whole picture."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """Plain text. Neighbours of equal weight and kind are tokenised together, with control tokens switched off."""

    text: str
    weight: float = 0.0
    """> 0: the tokens are learnt with this weight."""
    answer: bool = False
    """Text of an assistant turn; its start is always a token boundary."""
    stream: StreamName = "decoder"
    sees: int | None = None
    """Number of the crop of its picture whose memory alone it reads; None = as its place says."""
    picture: int | None = None
    """The picture that it belongs to, set for what a layout writes; None = text of the conversation."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control token by name, such as `<|im_end|>`. Only formats and layouts write it: text of samples never can."""

    token: str
    weight: float = 0.0
    answer: bool = False
    stream: StreamName = "decoder"
    sees: int | None = None
    """As for Words."""
    picture: int | None = None
    """As for Words."""
    around: bool = False
    """Frames a picture as a text would: not counted among the positions that the picture takes."""
    merge: bool = False
    """Written once where an equal one stands right before it, as the wrap tokens of adjacent pictures."""
    tap: PlacedShape | None = None
    """What a head is to make of the hidden state that predicts the token."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Places that take entries of the feature table: `entries` index the crop tokens of picture number `picture`; -1-k is vector number k of the layout."""

    picture: int
    entries: tuple[int, ...] | range
    grid: Grid | None = None
    """Columns and rows that positions on a grid are made from, where the language model has such positions."""
    frames: int = 1
    """Frames of a film that follow each other in `entries`; each has the grid."""
    crop: int | None = None
    """The crop whose entries these are, where they are those of one crop."""
    region: PlacedShape | None = None
    """The region whose vector this is, instead of entries."""
    stream: StreamName = "decoder"


Piece = Words | Control | Slots
