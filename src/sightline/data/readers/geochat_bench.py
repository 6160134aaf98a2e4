"""GeoChat-Bench: the questions on which remote-sensing dialogue models are scored.

    scenes, questions: {"question_id", "image", "text", "ground_truth"} a line
    references, regions: {"question_id", "image_id", "question", "ground_truth", "type", "dataset", "obj_ids", "size_group"} a line; the picture is IMAGE_ID.png

A true answer in words is the assistant's turn. One in corners, lists of four (x, y) in px, becomes Regions. The `kind` is the published `type`; `question` is taken as it stands, the task words that
published scripts put before it are left to the prompt. A scene's class is told by `question_id` before its slash, and that is its answer where no `ground_truth` stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from sightline.data.readers.annotation_reader import read_records
from sightline.data.readers.entries import Entry, each
from sightline.data.readers.files import first_row
from sightline.data.readers.question_sets import PictureQuestions, picture_within, question_row, question_sample
from sightline.data.readers.reader import Row
from sightline.errors import Problem
from sightline.samples.geometry import convex_hull, min_area_rect
from sightline.samples.sample import Origin, Picture, Region, Regions, RotatedBox, Sample, Turn

_SUFFIX = ".png"
_KEPT = ("dataset", "obj_ids", "size_group")
"""Published fields that are attributes under their own names."""


class GeoChatBench(PictureQuestions):
    """GeoChat-Bench questions."""

    kind: Literal["geochat-bench"] = "geochat-bench"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl",)
    wanted: ClassVar[str] = "lines of question_id with image and text, or with image_id and question"

    def fits(self, file: Path) -> bool:
        """The fields of the first line."""
        row = first_row(file) or {}
        return "question_id" in row and (_reference(row) or ({"image", "text"} <= set(row) and ("ground_truth" in row or "/" in str(row["question_id"]))))

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per line."""
        rows = list(read_records(file))
        root = self.root(file, (_name(value) for _, value in rows if isinstance(value, dict)), usual)

        def question(entry: Entry, number: int) -> list[Row]:
            reference = _reference(entry.value)
            told, regions = _truth(entry)
            row = question_row(
                id=f"{file.stem}/{entry.identity('question_id')}",
                place=entry.place,
                number=number,
                picture=picture_within(root, _name(entry.value), entry.place),
                question=entry.text("question" if reference else "text"),
                answers=[told] if told else [],
                attributes={"split": "test", **_attributes(entry)},
            )
            return [replace(row, data={**row.data, "regions": regions})]

        yield from each(rows, question)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The question with its answer in words or in regions."""
        sample = question_sample(row, pictures, origin)
        regions = tuple(Region(shape=shape) for shape in row.data["regions"])
        answer = (Turn(role="assistant", items=(Regions(regions=regions),)),) if regions else ()
        return [replace(sample, turns=sample.turns + answer)]


def _reference(row: dict[str, Any]) -> bool:
    return {"image_id", "question", "ground_truth"} <= set(row)


def _name(row: dict[str, Any]) -> object:
    return row.get("image") if "image" in row else f"{row.get('image_id')}{_SUFFIX}"


def _attributes(entry: Entry) -> dict[str, Any]:
    kind = entry.optional("type")
    return ({"kind": kind} if kind else {}) | {key: entry.value[key] for key in _KEPT if entry.value.get(key) is not None}


def _truth(entry: Entry) -> tuple[str | None, list[RotatedBox]]:
    """The true answer in words, or as boxes."""
    value = entry.value.get("ground_truth")
    if isinstance(value, list):
        return None, [_box(quad, entry) for quad in value]
    if value is None:
        return entry.text("question_id").split("/")[0], []
    return entry.identity("ground_truth"), []


def _box(quad: Any, entry: Entry) -> RotatedBox:
    pairs = quad if isinstance(quad, list) and len(quad) == 4 and all(isinstance(pair, list) and len(pair) == 2 for pair in quad) else []
    values = [value for pair in pairs for value in pair]
    if len(values) != 8 or not all(isinstance(value, int | float) and abs(value) < 1e9 and math.isfinite(value) for value in values):
        raise entry.wrong("ground_truth", "words, or lists of four corners [x, y]")
    corners = np.array(values, np.float64).reshape(4, 2)
    if len(convex_hull(corners)) < 3:
        raise entry.wrong("ground_truth", "corners that enclose an area")
    return min_area_rect(corners)
