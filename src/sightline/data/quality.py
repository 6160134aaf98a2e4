"""The operator `corrupt`: pictures spoilt on purpose, by a seed, so that a model can be taught and asked what is wrong with a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from sightline.data.operators import Outcome
from sightline.data.quality_faults import FAULTS, Fault, spoilt
from sightline.kinds import Config
from sightline.lineage import sha256_bytes
from sightline.samples.exchange import Answer
from sightline.samples.pictures import pixels
from sightline.samples.sample import Picture, Sample

QUALITY, STRENGTH = "quality", "quality_strength"
"""Attributes of a row: the name of its fault, and how strong it is, 0..1."""


class Corrupt(Config):
    """Pictures with a fault that a person would see: the attributes `quality` and `quality_strength` say which and how strong. Regions stay where they are."""

    kind: Literal["corrupt"] = "corrupt"
    faults: dict[Fault, Annotated[float, Field(ge=0)]] = Field(default=dict.fromkeys(FAULTS, 1.0), min_length=1)
    """How often each fault is drawn; `clean` leaves a picture as it is."""
    strength: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(default=(0.35, 1.0), strict=False)
    """Range that the strength is drawn from, evenly. At 1 a blur has 3 % of the side, bands lie 5 % apart, half of the picture is under clouds."""
    every: bool = False
    """Make a row for each fault of `faults` whose weight is not 0; otherwise one of them is drawn for each row."""
    least_change: float = Field(default=1.0, ge=0)
    """Mean change in grey levels below which a fault cannot be seen, as a blur of still water: it is made at its greatest strength then, or else not at all, counted as `corrupt_invisible`."""

    @model_validator(mode="after")
    def _can_draw(self) -> Self:
        if not any(self.faults.values()):
            raise ValueError("faults: at least one needs a weight above 0")
        if self.strength[0] > self.strength[1]:
            raise ValueError("strength is a lower and an upper bound")
        return self

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with all of its pictures spoilt alike; rule corrupt/invisible when no fault can be seen, corrupt/no-picture for a row without one. With `every`, ids end in `@FAULT`."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="corrupt/no-picture")
        weights: dict[Fault, float] = {fault: weight for fault, weight in self.faults.items() if weight}
        names: list[Fault] = list(weights)
        seed = int(rng.integers(2**63))
        chosen: list[Fault] = names if self.every else [names[int(rng.choice(len(names), p=np.array(list(weights.values())) / sum(weights.values())))]]
        # each fault has a generator of its own: a further one in `faults` changes none of the others
        found = [self._spoilt(sample, fault, np.random.default_rng([seed, FAULTS.index(fault)])) for fault in chosen]
        made = [one for one in found if one is not None]
        columns = {"corrupt_invisible": len(found) - len(made)}
        if not made:
            return Outcome(verdict="quarantined", rule="corrupt/invisible", columns=columns)
        if self.every:
            made = [replace(one, id=f"{one.id}@{one.attributes[QUALITY]}") for one in made]
        return Outcome(samples=tuple(made), columns=columns)

    def _spoilt(self, sample: Sample, fault: Fault, rng: np.random.Generator) -> Sample | None:
        """The sample with this fault; None when it cannot be seen at any strength that is allowed."""
        drawn, seed = float(rng.uniform(*self.strength)), int(rng.integers(2**63))
        for strength in (drawn, self.strength[1]):
            made = spoilt_sample(sample, fault, strength, seed, self.least_change)
            if made is not None:
                return made
        return None


def spoilt_sample(sample: Sample, fault: Fault, strength: float, seed: int, least_change: float = 0.0) -> Sample | None:
    """The sample with one fault in all of its pictures, re-encoded as PNG; None when their mean change is below `least_change` grey levels. Clean pictures keep their bytes."""
    if fault == "clean" or strength == 0:
        return replace(sample, attributes={**sample.attributes, QUALITY: "clean", STRENGTH: 0.0})
    before = [pixels(picture) for picture in sample.pictures]
    after = [spoilt(array, fault, strength, np.random.default_rng([seed, number])) for number, array in enumerate(before)]
    if np.mean([np.abs(new.astype(np.int16) - old).mean() for new, old in zip(after, before, strict=True)]) < least_change:
        return None
    pictures = tuple(_encoded(picture, array) for picture, array in zip(sample.pictures, after, strict=True))
    origin = replace(sample.origin, parents=(*sample.origin.parents, sample.id))
    attributes = {**sample.attributes, QUALITY: fault, STRENGTH: round(strength, 4)}
    return replace(sample, pictures=pictures, attributes=attributes, origin=origin)


def _encoded(picture: Picture, array: np.ndarray) -> Picture:
    """The picture with other pixels, (height, width, 3) uint8, and the place that it had."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", compress_level=1)
    data = out.getvalue()
    name = str(PurePath(picture.name).with_suffix(".png")) if picture.name else ""
    return replace(picture, hash=sha256_bytes(data), data=data, name=name, depth="uint8", bands=("red", "green", "blue"))
