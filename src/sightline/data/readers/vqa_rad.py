"""VQA-RAD: questions about radiology pictures.

    trainset.json, testset.json: [{"qid", "image_name", "image_organ", "question", "answer", "answer_type", "question_type", "phrase_type"}]; images/NAME

Types of questions stay as published, misspelt and combined ones included; so do questions that stand in both files. A number as answer becomes its digits, and stays a number in `answers`.
Blanks at the ends of a question are left out with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text, read_records
from sightline.data.readers.entries import Entry, each, mentions
from sightline.data.readers.question_sets import PictureQuestions, asked, picture_within, published_id, question_row, warning
from sightline.data.readers.reader import SPLITS, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_KEPT = ("answer_type", "image_organ", "phrase_type")
"""Published fields that are attributes under their own names; `question_type` is `kind`."""


class VqaRad(PictureQuestions):
    """VQA-RAD question lists."""

    kind: Literal["vqa-rad"] = "vqa-rad"
    wanted: ClassVar[str] = "qid, image_name, image_organ, question and answer"

    def fits(self, file: Path) -> bool:
        """The fields of the head."""
        return mentions(file, "qid", "image_name", "image_organ", "question")

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question."""
        listed = list(read_records(file))
        names = (value.get("image_name") for _, value in listed if isinstance(value, dict))
        root = self.root(file, names, usual)
        split = SPLITS.get(file.stem.removesuffix("set"))

        def question(entry: Entry, number: int) -> list[Row]:
            answer = entry.identity("answer")
            attributes: dict[str, Any] = {"split": split} if split else {}
            attributes |= {"kind": entry.text("question_type")} | entry.known(*_KEPT)
            if not isinstance(entry.value["answer"], str):
                attributes["answers"] = [entry.value["answer"]]
            said = entry.text("question")
            blank = warning("stray-blank", entry.place, repr(said[:120]), "a question without blanks at its ends", "nothing: they are left out")
            return [
                question_row(
                    id=entry.identity("qid"),
                    place=entry.place,
                    number=number,
                    picture=picture_within(root, entry.value.get("image_name"), entry.place),
                    question=said.strip(),
                    answers=[answer],
                    attributes=attributes,
                    losses=[blank] if said != said.strip() else [],
                )
            ]

        yield from each(listed, question)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/trainset.json or testset.json by `split`, and the pictures under images/."""
        losses, folder = Losses("vqa-rad"), PictureFolder(path)
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in asked(samples, losses, "alternatives"):
            known = one.sample.attributes
            if not one.answers:
                losses.refuse("a question without an answer", one.sample)
                continue
            answers = known.get("answers") or list(one.answers)
            row = {
                "qid": published_id(one.id),
                "image_name": PurePosixPath(folder.add(one.sample.pictures[0], "images")).name,
            }
            row |= {key: known.get(key, "") for key in _KEPT} | {"question_type": known.get("kind", "OTHER"), "question": one.question, "answer": answers[0]}
            rows.setdefault(one.split, []).append(row)
        for split, listed in rows.items():
            write_text(path / f"{split}set.json", json_text(listed))
        return losses.problems()
