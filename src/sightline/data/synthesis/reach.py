"""What no question reaches: the share of annotated objects, by class and size, that is neither shown, nor asked for, nor counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sightline.data.synthesis.picture_facts import Known
from sightline.data.synthesis.synthesize import Synthesize
from sightline.samples.sample import Sample

SIZES = (("small", 32.0**2), ("medium", 96.0**2), ("large", float("inf")))
"""Sizes by area in px, as COCO has them."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Objects of one class and size: how many there are, and how many at least one question reaches."""

    label: str
    size: str
    objects: int
    reached: int


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The reach of a whole set. `left_out`: annotations that no question may be about, by reason; they are no part of the objects."""

    rows: tuple[Reach, ...]
    left_out: dict[str, int]

    @property
    def objects(self) -> int:
        """All objects."""
        return sum(row.objects for row in self.rows)

    @property
    def missed(self) -> float:
        """Share of objects that no question reaches, 0..1."""
        return 1 - sum(row.reached for row in self.rows) / self.objects if self.objects else 0.0

    def record(self) -> dict[str, Any]:
        """The coverage as JSON."""
        return {"objects": self.objects, "missed": round(self.missed, 4), "left_out": self.left_out, "rows": [asdict(row) for row in self.rows]}

    def __str__(self) -> str:
        lines = [f"{row.label:24}{row.size:8}{row.reached:>7} of {row.objects:<7}" for row in self.rows]
        left = "; ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        if not self.objects:
            return "no objects that a question could reach"
        return "\n".join([*lines, f"no question reaches {self.missed:.1%} of {self.objects} objects", *([f"not asked about: {left}"] if left else [])])


def size_of(area: float) -> str:
    """`small`, `medium` or `large`."""
    return next(name for name, below in SIZES if area < below)


def coverage(samples: Iterable[Sample], config: Synthesize) -> Coverage:
    """How many objects the rows of `synthesize` reach. `samples` are its output: questions, and the rows that it set aside, which reach nothing."""
    pictures: dict[tuple[str, str], Known] = {}
    reached: dict[tuple[str, str], set[int]] = {}
    for sample in samples:
        whole = sample.origin.parents[0] if "reached" in sample.attributes else sample.id
        key = (sample.origin.source, whole)
        if sample.pictures and key not in pictures:
            pictures[key] = config.known(sample)
        reached.setdefault(key, set()).update(sample.attributes.get("reached", ()))
    return covered((known, reached[key]) for key, known in pictures.items())


def covered(pictures: Iterable[tuple[Known, set[int]]]) -> Coverage:
    """The same from what is known of each picture and the numbers of the things that were reached."""
    objects: Counter[tuple[str, str]] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    left_out: Counter[str] = Counter()
    for known, reached in pictures:
        left_out.update(known.left_out)
        for thing in known.things:
            key = (thing.label, size_of(thing.area))
            objects[key] += 1
            found[key] += thing.number in reached
    order: Sequence[str] = [name for name, _ in SIZES]
    keys = sorted(objects, key=lambda key: (key[0], order.index(key[1])))
    rows = tuple(Reach(label=label, size=size, objects=objects[label, size], reached=found[label, size]) for label, size in keys)
    return Coverage(rows=rows, left_out=dict(sorted(left_out.items())))
