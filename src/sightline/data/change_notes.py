"""The operator `change-notes`: questions about a pair of pictures, asked of two lists in text that say what stands where on each day.

A small language model learns to compare two lists far more cheaply than two pictures; what it has learnt there serves it when tokens of pictures take the place of the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.data.operators import Outcome
from sightline.kinds import Config
from sightline.samples.exchange import Answer
from sightline.samples.sample import Regions, Sample, Show, Text, Turn

THINGS = "things"
"""Attribute of a pair: for each of the two days a list of [label, x, y], the centre in px."""
_LETTERS = "abcdefghijklmnop"


class ChangeNotes(Config):
    """Pictures of a pair become notes, `earlier: b2building . d1pond . later: d1pond .`: one word for each thing, its cell and its label. Needs the attribute `things` (made pairs)."""

    kind: Literal["change-notes"] = "change-notes"
    cells: int = Field(default=4, ge=1, le=16)
    """Columns, and rows, that a picture is divided into."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row without pictures; rules change-notes/nothing-known, and change-notes/regions where an answer or question holds regions, which need a picture."""
        days = sample.attributes.get(THINGS)
        if days is None or len(sample.pictures) != 2 or not sample.turns:
            return Outcome(verdict="quarantined", rule="change-notes/nothing-known")
        if any(isinstance(item, Regions) for turn in sample.turns for item in turn.items):
            return Outcome(verdict="quarantined", rule="change-notes/regions")
        notes = " ".join(f"{name}: {self._listed(sample, number, days[number], rng)}" for number, name in enumerate(("earlier", "later")))
        turns = tuple(replace(turn, items=_told(turn, notes)) for turn in sample.turns)
        attributes = {name: value for name, value in sample.attributes.items() if name != THINGS}
        origin = replace(sample.origin, parents=(*sample.origin.parents, sample.id), maker="template:change-notes")
        return Outcome(samples=(replace(sample, pictures=(), annotations=(), turns=turns, attributes=attributes, origin=origin),))

    def _listed(self, sample: Sample, picture: int, things: Sequence[tuple[str, float, float]], rng: np.random.Generator) -> str:
        shown = sample.pictures[picture]
        cells = [
            f"{_LETTERS[min(int(x / shown.width * self.cells), self.cells - 1)]}{min(int(y / shown.height * self.cells), self.cells - 1) + 1}{label}"
            for label, x, y in things
        ]
        return " ".join(f"{cells[place]} ." for place in rng.permutation(len(cells))) or "nothing ."


def _told(turn: Turn, notes: str) -> tuple:
    """A turn with the notes in the place of its pictures, as one text, so that all questions of a row begin alike."""
    if not any(isinstance(item, Show) for item in turn.items):
        return turn.items
    said = "".join(item.text for item in turn.items if isinstance(item, Text))
    return (Text(text=f"{notes} {said}"),)
