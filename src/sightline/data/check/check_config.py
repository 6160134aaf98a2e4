"""Thresholds of `data check`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sightline.data.hashing import NEAR
from sightline.kinds import Config

Severity = Literal["refuse", "warn", "off"]


class CheckConfig(Config):
    """From which values on a rule speaks. Every field can be set with `--set FIELD=VALUE`."""

    rules: tuple[str, ...] = Field(default=(), strict=False)
    """Rules that are applied; empty = all."""
    severity: dict[str, Severity] = {}
    """Another severity for a rule: `refuse` makes the exit code 1, `warn` only lists, `off` leaves it out."""
    quarantine: tuple[str, ...] = Field(default=(), strict=False)
    """Rules whose rows `--quarantine` sets aside; empty = all rules of severity `refuse`."""

    least_side: int = Field(default=100, ge=1)
    """Pictures with a shorter side in px are small."""
    most_pixels: int = Field(default=50_000_000, ge=1)
    """Pictures with more pixels are large."""
    aspect: float = Field(default=3.0, ge=1)
    """Pictures at least this many times as long as wide are extreme."""
    nodata: float = Field(default=0.3, ge=0, le=1)
    """Share of px without data from which a picture is reported."""
    near: int = Field(default=NEAR, ge=0, le=16)
    """Bits of 64 by which both perceptual hashes of near duplicates may differ."""
    orientations: bool = True
    """Whether quarter turns and mirror images of a picture are near duplicates."""

    tolerance: float = Field(default=1.0, ge=0)
    """Px by which a region may pass the edge of its picture."""
    least_region: float = Field(default=1.0, ge=0)
    """Px below which the width or height of a region is degenerate."""
    tiny_area: float = Field(default=1024.0, ge=0)
    """Px of area below which an object is tiny (32x32, the bound of COCO's small objects)."""
    tiny_share: float = Field(default=0.25, ge=0, le=1)
    """Share of tiny objects from which a source is reported."""
    crowded: int = Field(default=100, ge=1)
    """Objects of a picture above which no text can list them all."""
    ignored: tuple[str, ...] = Field(default=("dontcare", "dont care", "ignore", "ignored region", "ignored regions", "crowd", "group"), strict=False)
    """Labels that are no objects."""
    convention_share: float = Field(default=0.1, gt=0, le=1)
    """Share of a source's boxes that must be impossible before another convention is considered."""

    caption_words: tuple[int, int] = Field(default=(3, 80), strict=False)
    """Fewest and most words of a caption; three Chinese characters count as two words."""
    letters: float = Field(default=0.5, ge=0, le=1)
    """Least share of letters and digits among the characters of a caption that are not blank."""
    sentence_words: int = Field(default=4, ge=1)
    """Words from which an answer is a sentence, and its form may be monotonous."""
    form_share: float = Field(default=0.02, gt=0, le=1)
    """Share of a source's sentences that one form may have."""
    distinct: float = Field(default=0.1, ge=0, le=1)
    """Least share of different pairs of neighbouring words among all pairs (distinct-2)."""
    prior: float = Field(default=0.5, gt=0, le=1)
    """Share of questions that may be answered right without the picture."""
    negated: float = Field(default=0.05, gt=0, le=1)
    """Share of questions with a negation from which a source is reported."""
    enough: int = Field(default=20, ge=2)
    """Texts or objects below which no share of a source is reported."""
    leak_words: int = Field(default=8, ge=1)
    """Words from which an equal text on both sides of a split is a leak."""
    text_likeness: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of 5-character pieces from which two texts without pictures are the same."""

    most_of_class: float = Field(default=0.5, gt=0, le=1)
    """Share of objects or rows that one class may have."""
    imbalance: float = Field(default=20.0, ge=1)
    """Times that the commonest class may be as frequent as the rarest."""
    domain_to_generic: float = Field(default=1.0, ge=0)
    """Least number of domain rows for each generic one."""
    model_written: float = Field(default=0.5, ge=0, le=1)
    """Share of rows whose text a model may have written."""
    second_language: float = Field(default=0.01, gt=0, le=1)
    """Share of a second language from which a mix is reported."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a row; longer ones would be cut. Needs the tokens that `--recipe` or `--model` measures."""
