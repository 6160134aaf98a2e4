"""Pieces: what chat formats, layouts and codecs write before anything is tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.model.tiling import Grid

StreamName = Literal["decoder", "memory"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Plain text. Neighbours of equal weight and kind are tokenised together, with control tokens switched off."""

    text: str
    weight: float = 0.0
    """> 0: the tokens are learnt with this weight."""
    answer: bool = False
    """Text of an assistant turn; its start is always a token boundary."""
    stream: StreamName = "decoder"


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control token by name, such as `<|im_end|>`. Only formats and layouts write it: text of samples never can."""

    token: str
    weight: float = 0.0
    answer: bool = False
    stream: StreamName = "decoder"


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Places that take entries of the feature table: `entries` index the crop tokens of picture number `picture`."""

    picture: int
    entries: tuple[int, ...] | range
    grid: Grid | None = None
    stream: StreamName = "decoder"


Piece = Words | Control | Slots
