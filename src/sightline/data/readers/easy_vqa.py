"""easy-VQA: synthetic questions about one shape.

    SPLIT/questions.json: [[question, answer, picture number]]; SPLIT/images/NUMBER.png; answers.txt: all answers, one a line

The published lists have no ids: a question is `SPLIT/ROW`. `kind` is what is asked for: presence, color or shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.entries import entry_place, head
from sightline.data.readers.files import read_json, refuse
from sightline.data.readers.question_sets import PictureQuestions, asked, question_row
from sightline.data.readers.reader import SPLITS, Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_STRING = r'"(?:[^"\\]|\\.)*"'
_FIRST = re.compile(rf"\s*\[\s*\[\s*{_STRING}\s*,\s*{_STRING}\s*,\s*\d+\s*\]")
_FORM = "[question, answer, picture number]"
_PRESENCE = ("yes", "no")
_PNG = b"\x89PNG"


class EasyVqa(PictureQuestions):
    """easy-VQA question lists."""

    kind: Literal["easy-vqa"] = "easy-vqa"
    wanted: ClassVar[str] = f"a list of {_FORM}"

    def fits(self, file: Path) -> bool:
        """A list whose first item is a question, an answer and a number."""
        return _FIRST.match(head(file)) is not None

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question."""
        value = read_json(file)
        if not isinstance(value, list):
            raise Refused(refuse("wrong-shape", str(file), f"a JSON {type(value).__name__}", self.wanted, "name the file of questions"))
        names = (f"{row[-1]}.png" for row in value if isinstance(row, list) and row)
        root = self.root(file, names, usual)
        folder = file.resolve().parent.name
        split = SPLITS.get(folder.lower())
        for number, row in enumerate(value):
            place = entry_place(file, number)
            match row:
                case [str(question), str(answer), int(picture)] if question.strip() and answer.strip() and picture >= 0 and not isinstance(picture, bool):
                    kind = "presence" if answer in _PRESENCE else "color" if "color" in question else "shape"
                    attributes = {"split": split, "kind": kind} if split else {"kind": kind}
                    yield question_row(
                        id=f"{folder}/{number}",
                        place=place,
                        number=number,
                        picture=root / f"{picture}.png",
                        question=question,
                        answers=[answer],
                        attributes=attributes,
                    )
                case _:
                    yield refuse("wrong-shape", place, repr(row)[:120], _FORM, "mend the row")

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/SPLIT/questions.json and the PNG pictures of each split under numbers of their own, and PATH/answers.txt."""
        losses = Losses("easy-vqa")
        rows: dict[str, list[tuple[str, str, int]]] = {}
        numbers: dict[tuple[str, str], int] = {}
        for one in asked(samples, losses, "alternatives", "attributes"):
            picture = one.sample.pictures[0]
            assert isinstance(picture.data, bytes), "a picture that is a path of a store"
            if not one.answers or not picture.data.startswith(_PNG):
                losses.refuse("a question without an answer, or a picture that is no PNG", one.sample)
                continue
            split = one.split
            number = numbers.setdefault((split, picture.hash), sum(known == split for known, _ in numbers))
            rows.setdefault(split, []).append((one.question, one.answers[0], number))
            target = path / split / "images" / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(picture.data)
        for split, listed in rows.items():
            write_text(path / split / "questions.json", json_text(listed))
        answers = dict.fromkeys(answer for listed in rows.values() for _, answer, _ in listed)
        write_text(path / "answers.txt", "".join(f"{answer}\n" for answer in answers))
        return losses.problems()
