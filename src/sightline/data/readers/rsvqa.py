"""RSVQA, low and high resolution: questions about satellite and aerial pictures, in three files a split.

    LR_split_train_questions.json: {"questions": [{"id", "img_id", "type", "question", "answers_ids", "active"}]}
    LR_split_train_answers.json: {"answers": [{"id", "question_id", "answer", "active"}]}
    Images_LR/IMG_ID.tif

Answers are joined by `question_id`. Rows that are not active carry nothing but their id: they are left out and counted. Published scores put counts of the low-resolution set, and areas, into
five buckets; the number as published stays in `answers`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.entries import LONGEST_SHOWN, Entry, each, listed, mentions
from sightline.data.readers.files import refuse
from sightline.data.readers.question_sets import PictureQuestions, known_split, picture_within, question_row, warning
from sightline.data.readers.reader import Row
from sightline.errors import Problem, Refused

_BOUNDS = ((1, 10), (11, 100), (101, 1000))
_AREA = re.compile(r"([0-9]{1,18})(m2)")
_COUNT = re.compile(r"([0-9]{1,18})()")
_SUFFIX = ".tif"


class Rsvqa(PictureQuestions):
    """RSVQA-LR and RSVQA-HR."""

    kind: Literal["rsvqa"] = "rsvqa"
    wanted: ClassVar[str] = "a list `questions` of id, img_id, type, question and active"
    usual: ClassVar[tuple[str, ...]] = ("Images_LR", "Images_HR", "Images", "images", "Data")
    numbers: Literal["bucket", "raw"] = "bucket"
    """Whether counts (LR) and areas are said as ranges, as published scores do, or as published."""

    def fits(self, file: Path) -> bool:
        """The name and the fields of the head."""
        return file.stem.endswith("questions") and mentions(file, "questions", "active", "id") and bool(self.partners(file))

    def partners(self, file: Path) -> list[Path]:
        """The answers and the list of pictures."""
        names = (file.name.replace("questions", part) for part in ("answers", "images"))
        return [partner for name in names if (partner := file.with_name(name)).is_file()]

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per active question."""
        answers: dict[str, list[str]] = {}
        for found in each(_active(file.with_name(file.name.replace("questions", "answers")), "answers"), lambda entry, _: [_answer(entry)]):
            if isinstance(found, Problem):
                yield found
            else:
                answers.setdefault(found[0], []).append(found[1])
        rows = _active(file, "questions")
        idle = len(listed(file, "questions")) - len(rows)
        root = self.root(file, (f"{value.get('img_id')}{_SUFFIX}" for _, value in rows if isinstance(value, dict)), usual)
        low = file.name.startswith("LR")

        def question(entry: Entry, number: int) -> list[Row]:
            identity, kind = entry.identity("id"), entry.text("type")
            if identity not in answers:
                raise Refused(
                    refuse("missing-answer", entry.place, f"no active answer to question {identity[:LONGEST_SHOWN]}", "an answer to every question", "add it")
                )
            raw = answers[identity]
            said = [self._said(text, low and kind == "count") for text in raw]
            attributes: dict[str, Any] = known_split(file.stem) | {"kind": kind} | ({"answers": raw} if said != raw else {})
            return [
                question_row(
                    id=identity,
                    place=entry.place,
                    number=number,
                    picture=picture_within(root, entry.identity("img_id") + _SUFFIX, entry.place),
                    question=entry.text("question"),
                    answers=said,
                    attributes=attributes,
                )
            ]

        made = list(each(rows, question))
        if idle:
            # Counted at the first row that is there, since a count is no row of its own.
            note = warning("inactive-rows", str(file), f"{idle} of {idle + len(rows)} rows have `active: false`", "active rows", "nothing: they were left out")
            first = next((k for k, row in enumerate(made) if isinstance(row, Row)), None)
            for k, row in enumerate(made):
                yield replace(row, data={**row.data, "losses": (note,)}) if k == first and isinstance(row, Row) else row
            if first is None:
                yield replace(note, severity="refuse")
        else:
            yield from made

    def _said(self, answer: str, counted: bool) -> str:
        match = _AREA.fullmatch(answer) or (_COUNT.fullmatch(answer) if counted else None)
        return answer if match is None or self.numbers == "raw" else bucket(int(match[1]), match[2])


def bucket(number: int, unit: str = "") -> str:
    """The range of published scores that holds a number: 0, 1 to 10, 11 to 100, 101 to 1000, more (Lobry et al. 2020)."""
    if number == 0:
        return f"0{unit}"
    return next((f"between {low}{unit} and {high}{unit}" for low, high in _BOUNDS if number <= high), f"more than 1000{unit}")


def _active(file: Path, key: str) -> list[tuple[str, Any]]:
    return [(place, value) for place, value in listed(file, key) if not (isinstance(value, dict) and value.get("active") is False)]


def _answer(entry: Entry) -> tuple[str, str]:
    return entry.identity("question_id"), entry.identity("answer")
