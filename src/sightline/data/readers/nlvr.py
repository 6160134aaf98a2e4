"""NLVR: true or false statements about synthetic pictures of three boxes with shapes in them.

    SPLIT/SPLIT.json: {"sentence", "label": "true" | "false", "identifier", "directory", "evals", "structured_rep"} a line; SPLIT/images/DIRECTORY/SPLIT-IDENTIFIER-K.png

K is one of six orders of the three boxes. Every order whose picture is there is a row `IDENTIFIER-K`, as published; where none is, order 0 is missed. The label is text and stays text.
The five votes are `answers`. In order 0 every shape is also an annotation, labelled with colour and type: boxes are 100 px wide and 150 px apart. In the other orders it is not
published which box stands where.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_lines, read_records
from sightline.data.readers.entries import Entry, each, mentions
from sightline.data.readers.files import files_below, refuse
from sightline.data.readers.question_sets import PictureQuestions, asked, picture_within, question_row, question_sample, split_of
from sightline.data.readers.reader import SPLITS, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Box, Origin, Picture, Region, Sample

_LABELS = ("true", "false")
_ORDERS = 6
_PITCH = 150
"""Px between the left edges of neighbouring boxes."""
_BOXES = 3
_IDENTITY = re.compile(r"([A-Za-z0-9-]+)-0")
_COLOURS = {"#0099ff": "blue"}
"""Colours that are not published as words."""


class Nlvr(PictureQuestions):
    """NLVR statements."""

    kind: Literal["nlvr"] = "nlvr"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl")
    wanted: ClassVar[str] = "a JSON line with sentence, label, identifier, directory and structured_rep"

    def fits(self, file: Path) -> bool:
        """The fields of the head."""
        return mentions(file, "sentence", "label", "identifier", "directory", "structured_rep")

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per statement and order of its boxes."""
        root = file.parent / (self.pictures or "images")
        there = set(files_below(root, (".png",))) if root.is_dir() else set()
        split = SPLITS.get(file.stem.lower(), file.stem)

        def statement(entry: Entry, number: int) -> list[Row]:
            label, identity = entry.text("label"), entry.text("identifier")
            if label not in _LABELS:
                raise entry.wrong("label", "the text true or false")
            names = [f"{entry.text('directory')}/{file.stem}-{identity}-{order}.png" for order in range(_ORDERS)]
            orders = [order for order, name in enumerate(names) if name in there] or [0]
            attributes: dict[str, Any] = {"split": split, "kind": "statement", "options": list(_LABELS)}
            if "evals" in entry.value:
                attributes["answers"] = list(entry.entry("evals").value.values())
            shapes = _shapes(entry)
            made: list[Row] = []
            for order in orders:
                picture = picture_within(root, names[order], entry.place)
                row = question_row(
                    id=f"{identity}-{order}",
                    place=f"{entry.place}, order {order}",
                    number=number,
                    picture=picture,
                    question=entry.text("sentence"),
                    answers=[label],
                    attributes=attributes,
                )
                made.append(replace(row, data={**row.data, "shapes": shapes if order == 0 else []}))
            return made

        yield from each(read_records(file), statement)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The statement, its truth, and the shapes that the picture is made of."""
        regions = tuple(Region(label=label, attributes={"box": box}, shape=shape) for label, box, shape in row.data["shapes"])
        return [replace(question_sample(row, pictures, origin), annotations=regions)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/SPLIT/SPLIT.json and the pictures, for statements in order 0."""
        losses = Losses("nlvr")
        lines: dict[str, list[dict[str, Any]]] = {}
        for sample in samples:
            record = _record(sample)
            if record is None:
                losses.refuse("no true or false statement `IDENTIFIER-0` about one picture of boxes with shapes", sample)
                continue
            (picture,), split = sample.pictures, split_of(sample)
            losses.of(sample, "weights", "origin")
            lines.setdefault(split, []).append(record)
            folder = PictureFolder(path / split)
            folder.add(replace(picture, name=f"{split}-{record['identifier']}-0.png"), "images/0")
        for split, records in lines.items():
            write_text(path / split / f"{split}.json", json_lines(records))
        return losses.problems()


def _record(sample: Sample) -> dict[str, Any] | None:
    """The published form of a statement; None where the format does not hold the sample."""
    one = next(asked([replace(sample, annotations=())], Losses("nlvr")), None)
    identity = _IDENTITY.fullmatch(sample.id)
    items = [_item(region) for region in sample.annotations]
    if one is None or identity is None or one.answers not in [(label,) for label in _LABELS] or None in items:
        return None
    boxes = [[item for box, item in filter(None, items) if box == number] for number in range(_BOXES)]
    votes = {f"r{number}": vote for number, vote in enumerate(sample.attributes.get("answers", []))}
    return {
        "sentence": one.question,
        "label": one.answers[0],
        "identifier": identity[1],
        "directory": "0",
        "evals": votes,
        "structured_rep": boxes,
    }


def _item(region: Region) -> tuple[int, dict[str, Any]] | None:
    """Number of the box and published form of a shape."""
    shape, (colour, _, kind) = region.shape, (region.label or "").partition(" ")
    box = region.attributes.get("box")
    if not isinstance(shape, Box) or not kind or not isinstance(box, int) or box not in range(_BOXES) or shape.x1 - shape.x0 != shape.y1 - shape.y0:
        return None
    published = {word: name for name, word in _COLOURS.items()}.get(colour, colour.capitalize())
    return box, {"x_loc": shape.x0 - box * _PITCH, "y_loc": shape.y0, "type": kind, "color": published, "size": shape.x1 - shape.x0}


def _shapes(entry: Entry) -> list[tuple[str, int, Box]]:
    """(label, number of the box, shape) of every item of a record."""
    boxes = entry.value.get("structured_rep")
    if not isinstance(boxes, list) or not all(isinstance(box, list) for box in boxes):
        raise Refused(refuse("wrong-shape", entry.place, "no lists as `structured_rep`", "three lists of items", "mend the row"))
    made: list[tuple[str, int, Box]] = []
    for number, box in enumerate(boxes):
        for item in (Entry(value, f"{entry.place}, box {number}") for value in box):
            x, y, size = number * _PITCH + item.number("x_loc"), item.number("y_loc"), item.number("size")
            colour = item.text("color")
            made.append((f"{_COLOURS.get(colour, colour.lower())} {item.text('type')}", number, Box(x0=x, y0=y, x1=x + size, y1=y + size)))
    return made
