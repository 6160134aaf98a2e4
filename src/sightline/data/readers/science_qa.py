"""ScienceQA: school questions with choices, half of them about a picture.

    problems.json: {ID: {"question", "choices": [..], "answer": 1, "hint", "image": "image.png" | null, "lecture", "solution", "grade", "subject", "topic", "category", "skill", "split"}}
    images/SPLIT/ID/image.png

The user turn is the published prompt QCM (question, context, options), after it the picture; the answer is LEA (lecture, solution, "The answer is B."), or the sentence alone. The choices are
`options`. A problem without a hint has the context N/A. Blanks at the ends of lecture and solution are no part of the answer.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.entries import Entry, by_key, each, mentions
from sightline.data.readers.question_sets import PictureQuestions, picture_within, question_row, question_sample
from sightline.data.readers.reader import Row
from sightline.errors import Problem
from sightline.samples.sample import Origin, Picture, Sample, Show

_KEPT = ("grade", "subject", "topic", "category", "skill")
"""Published fields that are attributes under their own names."""


class ScienceQa(PictureQuestions):
    """ScienceQA problems."""

    kind: Literal["science-qa"] = "science-qa"
    wanted: ClassVar[str] = "problems by id with question, choices, answer, lecture and solution"
    target: Literal["LEA", "A"] = "LEA"
    """What the assistant says: lecture, solution and answer, or the answer alone."""

    def fits(self, file: Path) -> bool:
        """The fields of the head."""
        return mentions(file, "question", "choices", "answer", "hint", "lecture", "solution")

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per problem."""
        rows = [(f"{file}:{key[:60]}", {"pid": key, **value} if isinstance(value, dict) else value) for key, value in by_key(file)]
        root = self.root(file, (_name(value) for _, value in rows if isinstance(value, dict) and value.get("image")), usual)

        def problem(entry: Entry, number: int) -> list[Row]:
            choices, answer = entry.texts("choices"), entry.whole("answer")
            if not 0 <= answer < len(choices) <= len(string.ascii_uppercase):
                raise entry.wrong("answer", f"0..{len(choices) - 1}, the number of one of at most 26 choices")
            named = entry.optional("image")
            attributes: dict[str, Any] = {"split": entry.text("split"), "kind": "choice", "options": choices, **entry.known(*_KEPT)}
            return [
                question_row(
                    id=entry.text("pid"),
                    place=entry.place,
                    number=number,
                    picture=picture_within(root, _name(entry.value), entry.place) if named else None,
                    question=_prompt(entry, choices),
                    answers=[self._answer(entry, answer)],
                    attributes=attributes,
                )
            ]

        yield from each(rows, problem)

    def _answer(self, entry: Entry, answer: int) -> str:
        said = f"The answer is {string.ascii_uppercase[answer]}."
        told = [entry.optional("lecture"), entry.optional("solution")] if self.target == "LEA" else []
        return " ".join([*(text.strip() for text in told if text), said])

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The problem, its picture after the words."""
        sample = question_sample(row, pictures, origin)
        user, *others = sample.turns
        words = tuple(item for item in user.items if not isinstance(item, Show))
        return [replace(sample, turns=(replace(user, items=words + tuple(Show(picture=k) for k in range(len(pictures)))), *others))]


def _name(value: dict[str, Any]) -> str:
    return f"{value.get('split')}/{value.get('pid')}/{value.get('image')}"


def _prompt(entry: Entry, choices: Sequence[str]) -> str:
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return f"Question: {entry.text('question')}\nContext: {entry.optional('hint') or 'N/A'}\nOptions: {options}"
