"""Regions that an answer names, as its text comes: in px of the picture that was shown, and with masks where a refiner makes them."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sightline.errors import Problem, Refused
from sightline.model.processor import Processor
from sightline.samples.codecs import regions_in
from sightline.samples.records import region_record
from sightline.samples.sample import Item, Picture, Region, Regions, Sample
from sightline.samples.upright_crops import box_around

Outside = Callable[..., Awaitable[Any]]
"""Runs a function with its arguments beside the event loop."""
Read = tuple[Sequence[Item], Sequence[Problem]]
"""What an answer says, and what of it is not well formed."""
MASKS = 64
"""Regions of an answer that are given masks: each is a search of its own, and an answer that repeats itself may name hundreds."""
PIXELS = 1 << 26
"""Pixels of all masks that are made at once."""


class Refiner(Protocol):
    """Boxes to masks, as the room `refine` makes them."""

    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """The regions in their order, each with a Mask of the whole picture in place of its shape. Refused: shapes without an area, pictures that it cannot look at."""
        ...


class Masks:
    """A refiner that many requests use, one after another."""

    def __init__(self, refiner: Refiner) -> None:
        self.refiner = refiner
        self._lock = threading.Lock()

    def add(self, regions: Sequence[Region], pictures: Sequence[Picture]) -> tuple[list[Region | None], list[Problem]]:
        """Each region with a mask for its shape, None where it gets none, and why. Waits: call it outside of the event loop."""
        found: list[Region | None] = [None] * len(regions)
        problems: list[Problem] = []
        boxed = [place for place, region in enumerate(regions) if box_around(region.shape) is not None]
        if len(boxed) > MASKS:
            problems.append(Problem(code="serve/masks", place="regions", found=f"{len(boxed)} regions", allowed=f"masks of the first {MASKS}", severity="warn"))
        for number, picture in enumerate(pictures):
            own = [place for place in boxed[:MASKS] if regions[place].picture == number]
            try:
                masked = self._refined(picture, [regions[place] for place in own])
            except Refused as refused:
                problems += refused.problems
                continue
            for place, region in zip(own, masked, strict=True):
                found[place] = region
        return found, problems

    def _refined(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """A few at a time: masks are as large as the picture."""
        few = max(1, PIXELS // (picture.width * picture.height))
        with self._lock:
            return [region for start in range(0, len(regions), few) for region in self.refiner.refine(picture, regions[start : start + few])]


@dataclass(kw_only=True)
class NamedRegions:
    """What the answers to one request name; `masks` where boxes are given masks. Nothing, where the model has no codec or answers in JSON (`off`)."""

    processor: Processor
    sample: Sample
    masks: Masks | None = None
    off: bool = False
    texts: dict[int, str] = field(default_factory=dict)
    """Of each choice, what came so far."""
    _told: dict[int, int] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether nothing is told."""
        return self.off or self.processor.config.codec is None

    def told(self, text: str) -> dict[str, Any]:
        """`regions` of a text, and `region_problems` where something in it is not well formed. Without masks."""
        return {} if self.silent else self._records(self.processor.items(text, self.sample), None)

    async def finished(self, text: str, outside: Outside, read: Read | None = None) -> dict[str, Any]:
        """The same of a whole answer, with masks; `outside` makes them beside the event loop. `read`: what the answer says, where the engine knows more of it than its text."""
        if self.silent:
            return {}
        found = read if read is not None else self.processor.items(text, self.sample)
        return self._records(found, None) if self.masks is None else await outside(self._records, found, self.masks)

    def newly(self, choice: int, added: str) -> dict[str, Any]:
        """All regions that a choice has named so far, where there are more of them than were told. A text is read again only when it goes on with a sign that may end a region.

        The masks of a model that draws them are told at the end: they are drawn when all words are written.
        """
        text = self.texts[choice] = self.texts.get(choice, "") + added
        if self.silent or self.processor.masks is not None or not any(closes(sign) for sign in added):
            return {}
        found = self.told(text)["regions"]
        more = len(found) > self._told.get(choice, 0)
        self._told[choice] = max(self._told.get(choice, 0), len(found))
        return {"regions": found} if more else {}

    def _records(self, read: Read, masks: Masks | None) -> dict[str, Any]:
        items, problems = read
        labels = [region.label or item.label for item in items if isinstance(item, Regions) for region in item.regions]
        regions = regions_in(items)
        found = [{**region_record(region), "label": label} for region, label in zip(regions, labels, strict=True)]
        told = [*problems]
        if masks is not None:
            made, more = masks.add(regions, self.sample.pictures)
            found = [{**record, "mask": region_record(region)["mask"]} if region is not None else record for record, region in zip(found, made, strict=True)]
            told += more
        return {"regions": found, **({"region_problems": [problem.record() for problem in told]} if told else {})}


def closes(sign: str) -> bool:
    """Whether a sign may be the last of a region: a closing bracket of any script, or the end of a tag."""
    return sign in ">\uff1e" or unicodedata.category(sign) == "Pe"
