"""What a refiner is: boxes on a picture become masks. And the two that need no training: the filled box, and the answerer that passes its regions through a refiner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.errors import Problem, Refused
from sightline.evaluate.answers import Keyed
from sightline.lineage import sha256_json
from sightline.samples.exchange import Answer, Request
from sightline.samples.geometry import encode_mask
from sightline.samples.sample import Item, Picture, Region, Regions, Sample
from sightline.samples.upright_crops import TurnedBox, Window, box_around


class Refiner(Protocol):
    """Boxes to masks: local, published and plain refiners are interchangeable."""

    @property
    def id(self) -> str:
        """What tells its masks from those of another one: a hash of weights and settings."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of a picture that it looks at."""
        ...

    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """The regions in their order, each with a Mask of the whole picture in place of its shape. Refused: shapes without an area, all listed."""
        ...


def prompts_of(picture: Picture, regions: Sequence[Region]) -> list[TurnedBox]:
    """The box of each region. Refused lists those that have none: points, lines, the whole picture."""
    boxes = [box_around(region.shape) for region in regions]
    problems = [
        Problem(
            code="refine/no-box",
            place=f"{picture.name or picture.hash[:12]}, region {number}",
            found=f"{region.label or 'a region'}: {type(region.shape).__name__ if region.shape is not None else 'the whole picture'} without an area",
            allowed="a box, a rotated box, a polygon or a mask",
            fix="leave the region out",
        )
        for number, (region, box) in enumerate(zip(regions, boxes, strict=True))
        if box is None
    ]
    if problems:
        raise Refused(problems)
    return [box for box in boxes if box is not None]


def filled(box: TurnedBox, width: int, height: int) -> NDArray[np.bool_]:
    """(height, width): pixels whose centre lies in the box."""
    found = np.zeros((height, width), bool)
    frame = Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=1.0, width=0, height=0)
    reach = np.array([(-box.w, -box.h), (box.w, -box.h), (box.w, box.h), (-box.w, box.h)]) / 2
    corners = frame.to_source(reach)
    left, top = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, (width, height)).astype(int)
    y, x = np.indices((bottom - top, right - left))
    places = np.abs(frame.to_crop(np.stack([x.ravel() + left + 0.5, y.ravel() + top + 0.5], 1)))
    found[top:bottom, left:right] = (places <= (box.w / 2, box.h / 2)).all(1).reshape(bottom - top, right - left)
    return found


def masked(regions: Sequence[Region], masks: Sequence[NDArray[np.bool_]]) -> list[Region]:
    """The regions with these pixels (height, width) as their shape."""
    return [replace(region, shape=encode_mask(mask)) for region, mask in zip(regions, masks, strict=True)]


class FillBox:
    """The floor under every refiner: the box itself."""

    id = "fill-box"
    bands: tuple[str, ...] = ()

    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """See Refiner."""
        return masked(regions, [filled(box, picture.width, picture.height) for box in prompts_of(picture, regions)])


class Refined:
    """An answerer whose regions are masks: `answerer` answers, `refiner` turns each box that it names into a mask. Regions without an area stay as they are, and are told in the answer's problems."""

    def __init__(self, answerer: Keyed, refiner: Refiner) -> None:
        self.answerer, self.refiner = answerer, refiner

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt, which are the answerer's."""
        return self.answerer.measure(sample)

    def key(self, request: Request) -> str:
        """The answerer's key with the refiner's id: another refiner gives another answer."""
        return sha256_json({"answer": self.answerer.key(request), "refiner": self.refiner.id})

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once. Refused: two requests of one sample id with different pictures, between which an answer could not be told."""
        asked: dict[str, tuple[Picture, ...]] = {}

        def noted() -> Iterator[Request]:
            for request in requests:
                sample = request.sample
                known = asked.setdefault(sample.id, sample.pictures)
                if [one.hash for one in known] != [one.hash for one in sample.pictures]:
                    allowed, fix = "one set of pictures for a sample id", "give the samples ids of their own"
                    raise Refused(Problem(code="refine/same-id", place=sample.id, found="two requests with different pictures", allowed=allowed, fix=fix))
                yield request

        for answer in self.answerer.answer(noted()):
            yield self._refined(answer, asked[answer.sample])

    def _refined(self, answer: Answer, pictures: Sequence[Picture]) -> Answer:
        items: list[Item] = []
        problems = list(answer.problems)
        for item in answer.items:
            if isinstance(item, Regions):
                found = list(item.regions)
                for number, picture in enumerate(pictures):
                    own = [place for place, region in enumerate(found) if region.picture == number and box_around(region.shape) is not None]
                    for place, region in zip(own, self.refiner.refine(picture, [found[place] for place in own])):
                        found[place] = region
                problems += [self._left(answer.sample, region) for region in item.regions if box_around(region.shape) is None]
                item = replace(item, regions=tuple(found))
            items.append(item)
        identity = {"key": sha256_json({"answer": answer.key, "refiner": self.refiner.id}), "weights": sha256_json([answer.weights, self.refiner.id])}
        return replace(answer, items=tuple(items), problems=tuple(problems), **identity)

    def _left(self, sample: str, region: Region) -> Problem:
        found = f"{region.label or 'a region'} is {type(region.shape).__name__ if region.shape is not None else 'the whole picture'}: no box, so no mask"
        return Problem(code="refine/no-box", place=sample, found=found, allowed="a box, a rotated box, a polygon or a mask", severity="warn")
