"""What a check knows of each row after its pictures have been looked at once: small, without pixels, able to travel between processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from sightline.data.check.check_config import CheckConfig
from sightline.errors import Problem
from sightline.samples.bands import COLOURS, Depth
from sightline.samples.geometry import mask_area, shoelace
from sightline.samples.sample import Box, Item, Mask, Origin, Polygon, Region, Regions, RotatedBox, Sample, Text

_NOWHERE = Origin(source="")
ASIDE = ("crowd", "iscrowd", "difficult", "ignore", "truncated")
"""Attributes of regions that people mark as doubtful."""


@dataclass(kw_only=True, slots=True)
class PictureFacts:
    """One picture as it lies in its file."""

    hash: str
    name: str
    """Path or name of its file."""
    width: int
    height: int
    """Size in px, upright."""
    mode: str = "RGB"
    """Pillow's name of its bands."""
    orientation: int = 1
    """EXIF orientation; 1 = as stored."""
    bands: tuple[str, ...] = COLOURS
    depth: Depth = "uint8"
    constant: tuple[str, ...] = ()
    """Bands of one value everywhere; looked for where there are others than red, green and blue of 8 bits."""
    nodata: float = 0.0
    """Share of px without data: the no-data value of the file, else 0, in every band; looked for as `constant` is."""
    grey: bool = False
    """Three bands that are equal everywhere."""
    prints: str = ""
    """`PictureHashes.text()`; empty where the picture could only be measured."""


@dataclass(kw_only=True, slots=True)
class Finding:
    """What one rule says about one row, or about a whole source (`row` is None)."""

    rule: str
    found: str
    row: int | None = None
    source: str = ""
    other: int | None = None
    """The row that it is compared with; the one that may stay."""
    regions: tuple[int, ...] = ()
    """Numbers of the annotations concerned."""
    picture: int = 0
    figures: Mapping[str, int | float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The finding as JSON, without row numbers, which mean nothing outside one check."""
        return {"rule": self.rule, "found": self.found, "source": self.source, **({"figures": dict(self.figures)} if self.figures else {})}


@dataclass(kw_only=True, slots=True)
class Exchange:
    """A question ("" for a caption) and all its right answers, the first one first; an assistant's turn that stands alone is a caption."""

    question: str
    answers: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class RowFacts:
    """One row that could be read, or the problems for which it could not."""

    place: str
    data_set: int
    unit: int = -1
    part: int = 0
    """Which rows of its set it was made of, and which of their samples it is."""
    number: int = -1
    """Row number over all sets of a check, given when all are known."""
    id: str = ""
    refused: tuple[Problem, ...] = ()
    lost: tuple[Problem, ...] = ()
    """What was lost in reading."""
    origin: Origin = _NOWHERE
    pictures: tuple[PictureFacts, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    references: tuple[str, ...] = ()
    """Texts as published."""
    labels: tuple[str | None, ...] = ()
    """Label of every region, in the order of `regions_of`."""
    areas: tuple[float, ...] = ()
    """Area of every region in px^2; 0 for points."""
    aside: tuple[bool, ...] = ()
    """Whether the region is marked as a crowd, difficult or to be ignored."""
    boxes: tuple[tuple[float, ...], ...] = ()
    """x0, y0, x1, y1 as given, and the width and height of their picture, for each upright box."""
    angles: tuple[float, ...] = ()
    """Degrees of rotated boxes."""
    upright: tuple[tuple[float, ...], ...] = ()
    turned: tuple[tuple[float, ...], ...] = ()
    """Change of colour across the outlines of upright and of rotated boxes, in each reading (see `outlines.looked`); none of rows that were not looked at."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    unfit: tuple[Problem, ...] = ()
    """Why the model whose tokens are measured would not take the row."""
    findings: tuple[Finding, ...] = ()
    """What the rules that look at one row say, given when the other facts are known."""

    @property
    def split(self) -> str | None:
        """`train`, `val`, `test` or what the set calls it."""
        split = self.attributes.get("split")
        return None if split is None else str(split)

    @property
    def captions(self) -> tuple[str, ...]:
        """Texts that answer no question."""
        return tuple(text for exchange in self.exchanges if not exchange.question for text in exchange.answers)

    @property
    def texts(self) -> tuple[str, ...]:
        """All questions and answers, in order."""
        return tuple(filter(None, chain.from_iterable((exchange.question, *exchange.answers) for exchange in self.exchanges)))


def regions_of(sample: Sample) -> list[Region]:
    """Annotations, then the regions that turns name."""
    said = [region for turn in sample.turns for item in turn.items if isinstance(item, Regions) for region in item.regions]
    return [*sample.annotations, *said]


def exchanges_of(sample: Sample) -> tuple[Exchange, ...]:
    """Questions with their answers; the system turn is part of no question."""
    asked = ""
    found: list[Exchange] = []
    for turn in sample.turns:
        if turn.role == "user":
            asked = _text(turn.items)
        elif turn.role == "assistant":
            found.append(Exchange(question=asked, answers=tuple(_text(items) for items in (turn.items, *turn.alternatives))))
            asked = ""
    return tuple(found)


def facts_of(
    sample: Sample, pictures: tuple[PictureFacts, ...], config: CheckConfig, *, place: str, data_set: int, unit: int, part: int, **others: Any
) -> RowFacts:
    """Facts of a sample whose pictures have been looked at."""
    regions = regions_of(sample)
    references = sample.attributes.get("references")
    return RowFacts(
        id=sample.id,
        place=place,
        data_set=data_set,
        unit=unit,
        part=part,
        origin=sample.origin,
        pictures=pictures,
        exchanges=exchanges_of(sample),
        references=tuple(map(str, references)) if isinstance(references, list | tuple) else (),
        labels=tuple(region.label for region in regions),
        areas=tuple(map(area, regions)),
        aside=tuple(is_aside(region, config) for region in regions),
        boxes=boxes_of(sample, regions),
        angles=tuple(region.shape.theta for region in regions if isinstance(region.shape, RotatedBox)),
        attributes={key: value for key, value in sample.attributes.items() if key != "references"},
        **others,
    )


def is_aside(region: Region, config: CheckConfig) -> bool:
    """Whether a region is no object to be asked about: a crowd, difficult, or of a label that says to ignore it."""
    marked = bool(region.attributes) and any(map(region.attributes.get, ASIDE))
    return marked or (region.label is not None and _plain(region.label) in config.ignored)


@lru_cache(maxsize=1 << 12)
def _plain(label: str) -> str:
    return label.casefold().replace("-", " ").replace("_", " ")


def _text(items: Iterable[Item]) -> str:
    return "".join(item.text for item in items if isinstance(item, Text))


def area(region: Region) -> float:
    """Area of a region in px^2."""
    shape = region.shape
    if isinstance(shape, Box):
        return max(0.0, shape.x1 - shape.x0) * max(0.0, shape.y1 - shape.y0)
    if isinstance(shape, RotatedBox):
        return shape.w * shape.h
    if isinstance(shape, Polygon):
        return abs(shoelace(np.array(shape.points))) if len(shape.points) > 2 else 0.0
    return float(mask_area(shape)) if isinstance(shape, Mask) else 0.0


def boxes_of(sample: Sample, regions: list[Region]) -> tuple[tuple[float, ...], ...]:
    """Upright boxes with the size of their picture."""
    sizes = [(picture.width, picture.height) for picture in sample.pictures]
    return tuple((shape.x0, shape.y0, shape.x1, shape.y1, *sizes[region.picture]) for region in regions if isinstance(shape := region.shape, Box))
