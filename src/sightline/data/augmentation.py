"""The operator that turns and mirrors pictures together with their regions, angles and words of direction."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from sightline.data.operators import Outcome
from sightline.kinds import Config
from sightline.lineage import sha256_bytes
from sightline.samples.bands import colours_alone
from sightline.samples.dihedral import TURNS, turned_pixels, turned_point, turned_region, turned_turns
from sightline.samples.exchange import Answer
from sightline.samples.geo import turned_geo
from sightline.samples.pictures import encoded, pixels
from sightline.samples.sample import Picture, Sample

_QUALITY = 95
"""JPEG pictures stay JPEG: at this quality a second coding changes grey values by about one."""


class Dihedral(Config):
    """Quarter turns and mirror images of pictures that have no up: aerial pictures, parts on a table. Not for pictures with writing in them."""

    kind: Literal["dihedral"] = "dihedral"
    turns: tuple[Annotated[int, Field(ge=0, lt=TURNS)], ...] = Field(default=tuple(range(TURNS)), min_length=1, strict=False)
    """Which of 0..7: number % 4 quarter turns clockwise, after a mirroring left to right from 4 on."""
    every: bool = False
    """Make a row for each of `turns`; otherwise one of them is drawn for each row."""
    doubtful: Literal["keep", "quarantine"] = "keep"
    """What happens to rows with a word that may or may not be a direction (`left` without company, clock times): they stay as they are, or are set aside."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample turned; rule dihedral/doubtful. Attribute `turn` says how; ids of further rows end in `@turn`."""
        if not sample.pictures:
            return Outcome(samples=(sample,))
        chosen = self.turns if self.every else (self.turns[int(rng.integers(len(self.turns)))],)
        made = [turned_sample(sample, turn) for turn in chosen]
        if any(one is None for one in made):
            return Outcome(samples=(sample,)) if self.doubtful == "keep" else Outcome(verdict="quarantined", rule="dihedral/doubtful")
        turned = [one for one in made if one is not None]
        if self.every:
            turned = [replace(one, id=f"{one.id}@{turn}") if turn else one for one, turn in zip(turned, chosen, strict=True)]
        return Outcome(samples=tuple(turned))


def turned_sample(sample: Sample, turn: int) -> Sample | None:
    """The sample with all of its pictures turned alike (see `samples.dihedral`), the very same one for turn 0; None when a text cannot be turned."""
    if turn == 0:
        return sample
    turns = turned_turns(sample, turn)
    if turns is None:
        return None
    sizes = tuple((picture.width, picture.height) for picture in sample.pictures)
    annotations = tuple(turned_region(region, sizes, turn) for region in sample.annotations)
    origin = replace(sample.origin, parents=(*sample.origin.parents, sample.id))
    pictures = tuple(_turned(picture, turn) for picture in sample.pictures)
    return replace(sample, pictures=pictures, turns=turns, annotations=annotations, attributes={**sample.attributes, "turn": turn}, origin=origin)


def _turned(picture: Picture, turn: int) -> Picture:
    array = np.ascontiguousarray(turned_pixels(pixels(picture), turn))
    size = (picture.width, picture.height)
    geo = picture.geo and turned_geo(picture.geo, lambda x, y: turned_point(x, y, size, turn))
    out = io.BytesIO()
    jpeg = isinstance(picture.data, bytes) and picture.data[:2] == b"\xff\xd8"
    if colours_alone(picture):
        Image.fromarray(array).save(out, "JPEG" if jpeg else "PNG", **({"quality": _QUALITY, "subsampling": 0} if jpeg else {}))
    else:
        out.write(encoded(array, picture.bands, geo))
    data = out.getvalue()
    return replace(picture, hash=sha256_bytes(data), width=array.shape[1], height=array.shape[0], data=data, geo=geo)
