"""The operator `segment`: questions whose answers are masks, of what is there and of what is not (LISA, section 3.1; rejection as in GSVA, https://arxiv.org/abs/2312.10103)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sightline.data.components import components_of
from sightline.data.facts import PLACES
from sightline.data.operators import Outcome
from sightline.data.wording import said, with_article
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.exchange import Answer
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.painting import painted
from sightline.samples.sample import Item, Mask, Polygon, Region, Regions, Sample, Show, Text, Turn

THERE, ABSENT = "segment", "segment-none"
"""Kinds of question: of something that is there, and of something that is not."""
_UNKNOWN = ("ignore", "crowd", "iscrowd", "difficult")
"""Attributes of regions of which it is not known what belongs to them."""


class Segment(Config):
    """One sample per picture whose turns are independent pairs: `segment the pond`, answered by its label and its masks, or that there is none."""

    kind: Literal["segment"] = "segment"
    per_picture: int = Field(default=4, ge=1, le=100)
    """Questions per picture, fewer where annotations give fewer; none is asked twice."""
    absent: float = Field(default=0.2, ge=0, lt=1)
    """Share of questions about a label that the set knows and the picture does not have."""
    placed: float = Field(default=0.5, ge=0, le=1)
    """Share of questions, where it can be asked so, about the one object of a label in a quadrant, instead of all objects of the label."""
    leave_out: tuple[str, ...] = Field(default=("bare", "field", "forest", "grass"), strict=False)
    """Labels that nothing is asked about, such as ground."""
    margin: float = Field(default=0.05, ge=0.0, le=0.5)
    """An object whose centre is nearer to a midline than this share of the side is in no quadrant."""
    least_pixels: int = Field(default=8, ge=1)
    """Labels with a smaller object, or a smaller piece of one, are not asked about."""
    most: int = Field(default=6, ge=1)
    """Labels with more objects are not asked about as a whole."""
    ask: tuple[str, ...] = Field(default=("segment the {what}", "mark the {what}", "where is the {what}? answer with a mask"), min_length=1, strict=False)
    """Wordings of the question, drawn at random; `{what}` stands for `pond` or `pond in the northwest`, `{a_what}` for the same with its article."""
    none: str = Field(default="there is none", min_length=1)
    """The answer where nothing of that label is there."""

    @model_validator(mode="after")
    def _asks_about_something(self) -> Self:
        for wording in self.ask:
            try:
                wording.format_map({"what": "x", "a_what": "x"})
            except (KeyError, ValueError, IndexError):
                raise ValueError(f"wording {wording!r}: allowed are {{what}}, {{a_what}}") from None
            if "{what}" not in wording and "{a_what}" not in wording:
                raise ValueError(f"wording {wording!r} does not say what it asks about: use {{what}} or {{a_what}}")
        return self

    def learn(self, samples: Iterable[Sample]) -> Segmenting:
        """The operator with the labels of its set. Refused where no region is a mask or a polygon."""
        labels = {region.label for sample in samples for region in sample.annotations if region.label and isinstance(region.shape, Mask | Polygon)}
        kept = tuple(sorted(labels - set(self.leave_out)))
        if not kept:
            allowed, fix = "labels of masks or polygons", "read a set with masks, or leave fewer labels out"
            raise Refused(Problem(code="data/no-masks", place="segment", found="no mask with a label to ask about", allowed=allowed, fix=fix))
        return Segmenting(config=self, labels=kept)


@dataclass(frozen=True, kw_only=True)
class _Object:
    """One object of a label, and the quadrant of its middle where it is clear."""

    mask: Mask
    place: str | None


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A question and its answer."""

    kind: str
    label: str
    what: str
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """`segment` that knows the labels of its set."""

    config: Segment
    labels: tuple[str, ...]
    kind: str = "segment"

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with its pairs as turns; one about which nothing can be asked is quarantined."""
        if len(sample.pictures) != 1:
            return Outcome(verdict="quarantined", rule="segment/not-one-picture")
        drawn = self._drawn(sample, rng)
        if not drawn:
            return Outcome(verdict="quarantined", rule="segment/nothing-to-ask")
        turns: list[Turn] = []
        for pair in drawn:
            wording = self.config.ask[int(rng.integers(len(self.config.ask)))]
            asked = wording.format(what=pair.what, a_what=with_article(pair.what))
            regions = tuple(Region(label=pair.label, shape=mask) for mask in pair.masks)
            answer: Item = Regions(regions=regions, label=said(pair.label)) if regions else Text(text=self.config.none)
            turns += (Turn(role="user", items=(Show(picture=0), Text(text=asked))), Turn(role="assistant", items=(answer,)))
        kinds, labels = ",".join(pair.kind for pair in drawn), [pair.label for pair in drawn]
        attributes = {**sample.attributes, "turns": "independent", "kind": kinds, "asked": labels}
        origin = replace(sample.origin, parents=(sample.id,), maker="template:segment")
        return Outcome(samples=(replace(sample, turns=tuple(turns), attributes=attributes, origin=origin),))

    def _drawn(self, sample: Sample, rng: np.random.Generator) -> list[_Pair]:
        """Pairs in random order, at most `per_picture`; absent labels in their share of them."""
        objects, doubtful = self._objects(sample)
        there = [pair for label, own in objects.items() for pair in self._asked(label, own, rng)]
        seen = {region.label for region in sample.annotations}
        unclear = any(region.attributes.get(name) for region in sample.annotations for name in _UNKNOWN if region.label is None)
        gone = [] if unclear else [_Pair(kind=ABSENT, label=label, what=said(label)) for label in self.labels if label not in seen and label not in doubtful]
        chances = rng.random(self.config.per_picture) < self.config.absent
        found: list[_Pair] = []
        for chance in chances.tolist():
            offered = gone if chance and gone else there
            if offered:
                found.append(offered.pop(int(rng.integers(len(offered)))))
        return found

    def _asked(self, label: str, own: Sequence[_Object], rng: np.random.Generator) -> list[_Pair]:
        """What may be asked of a label: all of its objects, or single ones by their quadrant."""
        places = [one.place for one in own]
        alone = [one for one in own if one.place is not None and places.count(one.place) == 1] if len(own) > 1 and None not in places else []
        if alone and rng.random() < self.config.placed:
            return [_Pair(kind=THERE, label=label, what=f"{said(label)} in the {one.place}", masks=(one.mask,)) for one in alone]
        return [_Pair(kind=THERE, label=label, what=said(label), masks=tuple(one.mask for one in own))] if len(own) <= self.config.most else []

    def _objects(self, sample: Sample) -> tuple[dict[str, list[_Object]], set[str]]:
        """Label -> its objects from top to bottom, of labels that may be asked about; and labels that are there, but not clearly enough."""
        picture = sample.pictures[0]
        masks: dict[str, list[np.ndarray]] = {}
        doubtful: set[str] = set()
        single = {region.label for region in sample.annotations if isinstance(region.shape, Polygon) or "instance" in region.attributes}
        for region in sample.annotations:
            if region.label not in self.labels or not isinstance(region.shape, Mask | Polygon):
                continue
            if any(region.attributes.get(name) for name in _UNKNOWN):
                doubtful.add(region.label)
            elif isinstance(region.shape, Polygon) or "instance" in region.attributes:
                masks.setdefault(region.label, []).append(painted([region], picture.width, picture.height))
            elif region.label not in single:
                pieces = components_of(decode_mask(region.shape), least=1)
                masks.setdefault(region.label, []).extend(decode_mask(one.mask(picture.width, picture.height)) for one in pieces.found)
        doubtful |= {label for label, own in masks.items() if any(one.sum() < self.config.least_pixels for one in own)}
        return {label: sorted((self._object(one) for one in own), key=_first) for label, own in masks.items() if label not in doubtful}, doubtful

    def _object(self, pixels: np.ndarray) -> _Object:
        height, width = pixels.shape
        rows, columns = np.nonzero(pixels)
        across, down = float(columns.mean() + 0.5) / width - 0.5, float(rows.mean() + 0.5) / height - 0.5
        clear = min(abs(across), abs(down)) >= self.config.margin
        return _Object(mask=encode_mask(pixels), place=PLACES[2 * (down > 0) + (across > 0)] if clear else None)


def _first(one: _Object) -> tuple[int, int]:
    """Row and column of the middle of an object, in eighths of the picture: reading order."""
    pixels = decode_mask(one.mask)
    rows, columns = np.nonzero(pixels)
    return int(rows.mean() * 8 // pixels.shape[0]), int(columns.mean() * 8 // pixels.shape[1])
