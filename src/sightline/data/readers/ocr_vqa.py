"""OCR-VQA: questions about book covers.

    dataset.json: {ID: {"imageURL", "questions": [..], "answers": [..], "title", "authorName", "genre", "split": 1 | 2 | 3}}; images/ID.jpg
    flat: [{"sample_id", "questions": [..], "answers": [..]}]; images/SAMPLE_ID.jpg

Every question of a cover is a row `ID#NUMBER`. The picture is found by its id, whatever its suffix: downloads are .jpg, .gif or .gif renamed to .jpg.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text, read_records
from sightline.data.readers.entries import Entry, by_key, each, mentions
from sightline.data.readers.files import first_row, refuse
from sightline.data.readers.question_sets import PictureQuestions, PicturesBelow, asked, question_row
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_SPLITS = {1: "train", 2: "val", 3: "test"}
_NUMBERS = {name: number for number, name in _SPLITS.items()}
_KEPT = ("title", "authorName", "genre")
"""Published fields that are attributes under their own names."""


class OcrVqa(PictureQuestions):
    """OCR-VQA covers, as published and as flat lists."""

    kind: Literal["ocr-vqa"] = "ocr-vqa"
    wanted: ClassVar[str] = "covers by id with imageURL, questions and answers, or rows of sample_id, questions and answers"

    def fits(self, file: Path) -> bool:
        """The published head, or the fields of a flat row."""
        if mentions(file, "imageURL", "questions", "answers"):
            return True
        row = first_row(file)
        return row is not None and {"sample_id", "questions", "answers"} <= set(row)

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question of each cover."""
        first = first_row(file)
        rows = (
            read_records(file)
            if first is not None and "sample_id" in first
            else [(f"{file}:{key[:60]}", {"sample_id": key, **_object(value)}) for key, value in by_key(file)]
        )
        root = file.parent if self.pictures is None else self.root(file, (), usual)
        pictures = PicturesBelow(root)

        def cover(entry: Entry, number: int) -> list[Row]:
            identity, questions, answers = entry.identity("sample_id"), entry.texts("questions"), entry.texts("answers")
            if len(questions) != len(answers) or not all(text.strip() for text in (*questions, *answers)):
                found = f"{len(questions)} questions and {len(answers)} answers, or one without text"
                raise Refused(refuse("question-answers", entry.place, found, "an answer in words to every question", "mend the row"))
            picture = pictures.find(identity if identity in pictures else f"{usual[0]}/{identity}.jpg", entry.place)
            attributes: dict[str, Any] = entry.known(*_KEPT) | _split(entry)
            return [
                question_row(
                    id=f"{identity}#{k}",
                    place=f"{entry.place}, question {k}",
                    number=number,
                    picture=picture,
                    question=question,
                    answers=[answer],
                    attributes=attributes,
                )
                for k, (question, answer) in enumerate(zip(questions, answers, strict=True))
            ]

        yield from each(rows, cover)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/dataset.json and the covers under images/; questions of one picture are one row."""
        losses, folder = Losses("ocr-vqa"), PictureFolder(path)
        rows: dict[str, dict[str, Any]] = {}
        for one in asked(samples, losses, "alternatives"):
            known, (picture,) = one.sample.attributes, one.sample.pictures
            if not one.answers or one.split not in _NUMBERS:
                losses.refuse("a question without an answer, or a split that is none of train, val and test", one.sample)
                continue
            if set(known) - {"split", "turns", *_KEPT}:
                losses.warn("attributes", one.sample)
            suffix = PurePosixPath(picture.name).suffix
            cover = PurePosixPath(folder.add(replace(picture, name=one.id.rpartition("#")[0] + suffix), "images")).stem
            about = {"imageURL": f"{cover}{suffix}", "questions": [], "answers": []} | {key: known.get(key, "") for key in _KEPT}
            row = rows.setdefault(cover, about | {"split": _NUMBERS[one.split]})
            if one.id != f"{cover}#{len(row['questions'])}":
                losses.warn("ids", one.sample)
            row["questions"].append(one.question)
            row["answers"].append(one.answers[0])
        write_text(path / "dataset.json", json_text(rows))
        return losses.problems()


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _split(entry: Entry) -> dict[str, str]:
    if entry.value.get("split") is None:
        return {}
    split = entry.whole("split")
    if split not in _SPLITS:
        raise entry.wrong("split", "1 (train), 2 (val) or 3 (test)")
    return {"split": _SPLITS[split]}
