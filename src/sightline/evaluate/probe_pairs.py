"""Pairs of yes/no questions about a user's own pictures, made so that their words tell nothing: every question is asked as often where yes is right as where no is.

    annotations --candidates--> for each picture and kind: (question whose answer is yes, question whose answer is no), several
    candidates  --balanced-->   at most one pair for each picture and kind, such that each question has as many yes as no

With this balance no rule that sees the words alone, whatever it has learnt, is right on more than half of the questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from sightline.data.facts import Facts, facts_of
from sightline.data.labels import LabelTable
from sightline.samples.painting import painted
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Point, Region, Sample

Kind = Literal["existence", "count", "position", "color"]
KINDS: tuple[Kind, ...] = ("existence", "count", "position", "color")
"""Also the names of the folders, as MME spells them."""
_QUARTERS = {"northwest": "upper left", "northeast": "upper right", "southwest": "lower left", "southeast": "lower right"}
_MARGIN = 0.08
"""Share of a side around the middle in which a centre is in no quarter."""
_LEAST_SHARE = 0.005
_MOST_COUNTED = 10
_CANDIDATES = 24
"""Pairs of a picture and kind from which one is chosen."""
_CLEARLY = 0.7
"""Share of the pixels under a region that have its colour, so that anybody would say it."""
_FEWEST_PIXELS = 64
_HUES = (("red", -15, 15), ("yellow", 48, 68), ("green", 85, 160), ("blue", 195, 255))
"""Degrees of hue that nobody calls otherwise."""
COLOURS = (*(name for name, _, _ in _HUES), "black", "white")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two questions that may be asked about one picture."""

    picture: int
    """Number of the sample."""
    kind: Kind
    yes: str
    no: str


def candidates(samples: Sequence[Sample], kinds: Sequence[Kind], rng: np.random.Generator) -> list[Candidate]:
    """All pairs that the annotations allow, at most 24 for each picture and kind, drawn by `rng`. Only the first picture of a sample is asked about."""
    table = LabelTable.load()
    known = [facts_of(sample, ground=(), margin=_MARGIN, least_share=_LEAST_SHARE) for sample in samples]
    labels = sorted(set().union(*(facts.present for facts in known)))
    found: list[Candidate] = []
    for number, (sample, facts) in enumerate(zip(samples, known, strict=True)):
        single = _single(sample, facts)
        for kind in kinds:
            if kind == "existence":
                pairs = list(_existence(sample, facts, labels, table))
            elif kind == "count":
                pairs = list(_count(facts))
            elif kind == "position":
                pairs = list(_position(facts, single))
            else:
                pairs = list(_colour(sample, single))
            chosen = rng.permutation(len(pairs))[:_CANDIDATES].tolist()
            found += [Candidate(picture=number, kind=kind, yes=pairs[one][0], no=pairs[one][1]) for one in sorted(chosen)]
    return found


def _single(sample: Sample, facts: Facts) -> dict[str, Region]:
    """Labels of which exactly one object is there, so that `the ship` is one."""
    many = Counter(thing.label for thing in facts.objects)
    sure = {label for label, count in many.items() if count == 1 and label not in facts.uncounted}
    return {region.label: region for region in sample.annotations if region.picture == 0 and region.label in sure and region.shape is not None}


def _existence(sample: Sample, facts: Facts, labels: Sequence[str], table: LabelTable) -> Iterator[tuple[str, str]]:
    """A label that is there and one that certainly is not: no kind of what is there or in doubt, on a picture all of which is annotated."""
    whole = all(region.shape is None for region in sample.annotations)
    if facts.partial or whole:
        return
    there = [table.canonical(label) for label in (*facts.present, *facts.doubtful)]
    absent = [label for label in labels if not any(_related(table, table.canonical(label), other) for other in there)]
    yield from ((_exists(label), _exists(other)) for label in sorted(facts.present) for other in absent)


def _related(table: LabelTable, one: str, other: str) -> bool:
    return table.within(one, other) or table.within(other, one)


def _exists(label: str) -> str:
    return f"Is there any {label} in the picture?"


def _count(facts: Facts) -> Iterator[tuple[str, str]]:
    """The number of objects of a label, and one that is at most two away."""
    for label, count in sorted(Counter(thing.label for thing in facts.objects).items()):
        if label in facts.uncounted or count > _MOST_COUNTED:
            continue
        for other in (count - 2, count - 1, count + 1, count + 2):
            if 1 <= other <= _MOST_COUNTED:
                yield f"Is the number of {label} in the picture {count}?", f"Is the number of {label} in the picture {other}?"


def _position(facts: Facts, single: dict[str, Region]) -> Iterator[tuple[str, str]]:
    """The quarter of the only object of a label, and another one."""
    for thing in facts.objects:
        if thing.label in single and thing.place is not None:
            for other in _QUARTERS:
                if other != thing.place:
                    yield tuple(f"Is the {thing.label} in the {_QUARTERS[place]} quarter of the picture?" for place in (thing.place, other))  # pyright: ignore[reportReturnType]


def _colour(sample: Sample, single: dict[str, Region]) -> Iterator[tuple[str, str]]:
    """The colour of the only object of a label, where an attribute says it or the pixels clearly do, and another one."""
    values: NDArray[np.uint8] | None = None
    for label, region in sorted(single.items()):
        said = region.attributes.get("color", region.attributes.get("colour"))
        colour = said.strip().lower() if isinstance(said, str) else None
        if colour is None and not isinstance(region.shape, Point):
            values = rgb_pixels(sample.pictures[0]) if values is None else values
            colour = clear_colour(values[painted([region], values.shape[1], values.shape[0])])
        if colour in COLOURS:
            yield from ((f"Is the {label} {colour}?", f"Is the {label} {other}?") for other in COLOURS if other != colour)


def clear_colour(values: NDArray[np.uint8]) -> str | None:
    """The colour that at least 70 % of pixels (n, 3) have; None where there is none, or fewer than 64 pixels."""
    if len(values) < _FEWEST_PIXELS:
        return None
    rgb = values[:, :3].astype(float) / 255
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    spread = np.maximum(high - low, 1e-9)
    red, green, blue = rgb.T
    hue = 60 * np.where(high == red, (green - blue) / spread % 6, np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4))
    vivid = (high > 0.3) & ((high - low) > 0.45 * high)
    shares = {name: float(np.mean(vivid & ((hue - first) % 360 <= last - first))) for name, first, last in _HUES}
    shares |= {"black": float(np.mean(high < 0.15)), "white": float(np.mean((low > 0.85) & (high - low < 0.1)))}
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= _CLEARLY else None


def balanced(found: Sequence[Candidate], most: int, rng: np.random.Generator) -> list[Candidate]:
    """The most pairs, at most `most`, with at most one for each picture, such that each question has as many yes as no (an integer program; all candidates are of one kind).

    Ties are broken by `rng`.
    """
    if not found:
        return []
    pictures = {number: row for row, number in enumerate(dict.fromkeys(one.picture for one in found))}
    questions = {text: row for row, text in enumerate(dict.fromkeys(text for one in found for text in (one.yes, one.no)))}
    columns = np.arange(len(found))
    once = coo_array((np.ones(len(found)), ([pictures[one.picture] for one in found], columns)), shape=(len(pictures), len(found)))
    signs = np.concatenate([np.ones(len(found)), -np.ones(len(found))])
    rows = [questions[one.yes] for one in found] + [questions[one.no] for one in found]
    even = coo_array((signs, (rows, np.concatenate([columns, columns]))), shape=(len(questions), len(found)))
    limits = [LinearConstraint(once.tocsr(), -np.inf, 1), LinearConstraint(even.tocsr(), 0, 0), LinearConstraint(np.ones((1, len(found))), -np.inf, most)]
    # a random worth below the smallest step of the count: it chooses among solutions of equal size
    worth = -1 - rng.random(len(found)) / (len(found) + 1)
    solved = milp(worth, constraints=limits, bounds=Bounds(0, 1), integrality=np.ones(len(found)), options={"mip_rel_gap": 0.005})
    assert solved.x is not None, solved.message  # nothing chosen is always allowed
    return [one for one, taken in zip(found, solved.x > 0.5, strict=True) if taken]
