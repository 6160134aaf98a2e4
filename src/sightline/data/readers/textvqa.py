"""TextVQA: questions that need the text in a picture, with ten people's answers.

    TextVQA_0.5.1_train.json: {"data": [{"question_id", "question", "image_id", "image_classes", "answers": [..], "set_name"}]}; train_images/IMAGE_ID.jpg

The most frequent answer is said, others from three people or more are alternatives. The test split has no answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.entries import Entry, each, listed, mentions
from sightline.data.readers.question_sets import PictureQuestions, agreed, asked, picture_within, published_id, question_row
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_SUFFIX = ".jpg"


class Textvqa(PictureQuestions):
    """TextVQA questions."""

    kind: Literal["textvqa"] = "textvqa"
    wanted: ClassVar[str] = "a list `data` of question_id, question, image_id and answers"
    usual: ClassVar[tuple[str, ...]] = ("train_images", "test_images", "images")

    def fits(self, file: Path) -> bool:
        """The fields of the head; captions of the same pictures have no `question`."""
        return mentions(file, "data", "question", "question_id", "image_id", "set_name")

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question."""
        rows = listed(file, "data")
        root = self.root(file, (f"{value.get('image_id')}{_SUFFIX}" for _, value in rows if isinstance(value, dict)), usual)

        def question(entry: Entry, number: int) -> list[Row]:
            attributes: dict[str, Any] = {"split": entry.text("set_name")}
            given: list[str] = []
            if entry.value.get("answers"):
                given = attributes["answers"] = entry.texts("answers")
            if entry.value.get("image_classes"):
                attributes["image_classes"] = entry.texts("image_classes")
            return [
                question_row(
                    id=entry.identity("question_id"),
                    place=entry.place,
                    number=number,
                    picture=picture_within(root, entry.text("image_id") + _SUFFIX, entry.place),
                    question=entry.text("question"),
                    answers=agreed(given),
                    attributes=attributes,
                )
            ]

        yield from each(rows, question)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/TextVQA_SPLIT.json and the pictures, which must be named .jpg, under images/."""
        losses, folder = Losses("textvqa"), PictureFolder(path)
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in asked(samples, losses):
            known = one.sample.attributes
            given = known.get("answers", list(one.answers))
            if agreed(given) != list(one.answers):
                losses.refuse("answers that do not follow from their frequency", one.sample)
                continue
            name = folder.add(one.sample.pictures[0], "images").removeprefix("images/")
            if not name.endswith(_SUFFIX):
                losses.refuse(f"a picture that is not named {_SUFFIX}", one.sample)
                continue
            if set(known) - {"answers", "split", "image_classes", "turns"}:
                losses.warn("attributes", one.sample)
            split = one.split
            row = {"question_id": published_id(one.id), "question": one.question, "image_id": name.removesuffix(_SUFFIX), "answers": given, "set_name": split}
            rows.setdefault(split, []).append(row | ({"image_classes": known["image_classes"]} if "image_classes" in known else {}))
        for split, found in rows.items():
            write_text(path / f"TextVQA_{split}.json", json_text({"data": found}))
        return losses.problems()
