"""GQA: questions made from scene graphs.

    train_balanced_questions.json: {ID: {"question", "imageId", "answer", "fullAnswer", "isBalanced", "types": {"structural", "semantic", "detailed"}, ..}}; images/IMAGE.jpg
    flat: [{"image": "2405722.jpg", "question", "question_id", "answer": "no"}]

`kind` is the structural type (verify, query, choose, logical, compare); `semantic`, `detailed` and `full_answer` are attributes. Programs, annotations and entailed questions are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text, read_records
from sightline.data.readers.entries import Entry, by_key, each, mentions
from sightline.data.readers.files import first_row
from sightline.data.readers.question_sets import PictureQuestions, asked, picture_within, published_id, question_row
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_SPLITS = ("train", "val", "testdev", "test", "challenge", "submission")
_TYPES = {"kind": "structural", "semantic": "semantic", "detailed": "detailed"}


class Gqa(PictureQuestions):
    """GQA questions, as published and as flat lists."""

    kind: Literal["gqa"] = "gqa"
    wanted: ClassVar[str] = "questions by id with imageId, or rows of image, question, question_id and one answer"

    def fits(self, file: Path) -> bool:
        """The published head, or the fields of a flat row."""
        if mentions(file, "imageId", "question"):
            return True
        row = first_row(file)
        return row is not None and isinstance(row.get("answer"), str) and {"image", "question", "question_id"} <= set(row)

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question."""
        flat = not mentions(file, "imageId", "question")
        rows = list(read_records(file)) if flat else by_key(file)
        names = (_name(value) for _, value in rows if isinstance(value, dict))
        root = self.root(file, names, usual)
        word = next((word for word in file.stem.split("_") if word in _SPLITS), None)
        split = {"split": word} if word else {}

        def question(entry: Entry, number: int) -> list[Row]:
            attributes = {**split, **({} if flat else _attributes(entry))}
            answer = entry.optional("answer")
            return [
                question_row(
                    id=entry.identity("question_id") if flat else rows[number][0],
                    place=entry.place if flat else f"{file}:{rows[number][0][:60]}",
                    number=number,
                    picture=picture_within(root, _name(entry.value), entry.place),
                    question=entry.text("question"),
                    answers=[answer] if answer else [],
                    attributes=attributes,
                )
            ]

        yield from each(rows if flat else ((f"{file}:{key[:60]}", value) for key, value in rows), question)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write flat lists, PATH/gqa_SPLIT.json, and the pictures under images/."""
        losses, folder = Losses("gqa"), PictureFolder(path)
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in asked(samples, losses, "alternatives", "attributes"):
            if not one.answers:
                losses.refuse("a question without an answer", one.sample)
                continue
            name = folder.add(one.sample.pictures[0], "images").removeprefix("images/")
            row = {"image": name, "question": one.question, "question_id": published_id(one.id), "answer": one.answers[0]}
            rows.setdefault(one.split, []).append(row)
        for split, found in rows.items():
            write_text(path / f"gqa_{split}.json", json_text(found))
        return losses.problems()


def _name(value: dict[str, Any]) -> object:
    return f"{value['imageId']}.jpg" if isinstance(value.get("imageId"), str | int) else value.get("image")


def _attributes(entry: Entry) -> dict[str, Any]:
    types = entry.entry("types") if entry.value.get("types") is not None else None
    found = {} if types is None else {name: text for name, key in _TYPES.items() if (text := types.optional(key))}
    full = entry.optional("fullAnswer")
    return found | ({"full_answer": full} if full else {})
