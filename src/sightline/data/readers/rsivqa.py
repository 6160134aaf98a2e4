"""RSIVQA: questions about remote-sensing pictures in lines of text.

    airport_1.jpg:what is the theme of this picture?airport
    P0003: does this picture contain plane?no

The name of a picture stands before the first colon, with or without its suffix; it is looked for below the folder of the file. One blank after the colon is no part of the question.
The question ends at the last question mark. Questions have no ids and are numbered as `FILE:LINE`; `kind` is told from the first words.
A question that has lost its object ("How many  in the picture?") is kept as published, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.entries import head
from sightline.data.readers.files import read_text, refuse
from sightline.data.readers.question_sets import PictureQuestions, PicturesBelow, asked, question_row, warning
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_KINDS = (("theme", r"\btheme\b"), ("location", r"\blocation\b|^where\b"), ("count", r"^how many\b"), ("presence", r"^(does|do|is|are)\b"))
"""Kinds and what their questions look like, the first that fits."""
_LOST = re.compile(r"\b(many|the)  ?(in|are)\b", re.IGNORECASE)
_FORM = "NAME:question?answer"
_SAMPLED = 3
"""Lines that `recognise` reads."""


class Rsivqa(PictureQuestions):
    """RSIVQA question lines."""

    kind: Literal["rsivqa"] = "rsivqa"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)
    wanted: ClassVar[str] = f"lines {_FORM}"

    def fits(self, file: Path) -> bool:
        """The first lines are of the form."""
        lines = [line for line in head(file).splitlines() if line.strip()][:_SAMPLED]
        return bool(lines) and all(_parts(line) for line in lines)

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per line."""
        root = file.parent if self.pictures is None else self.root(file, (), usual)
        pictures = PicturesBelow(root)
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            parts = _parts(line)
            if parts is None:
                yield refuse("question-line", place, line[:120], _FORM, "mend the line")
                continue
            name, question, answer = parts
            try:
                picture = pictures.find(name, place)
            except Refused as refused:
                yield from refused.problems
                continue
            lost = (
                [warning("lost-object", place, question[:120], "a question that says what it is about", "leave the row out")] if _LOST.search(question) else []
            )
            yield question_row(
                id=f"{file.stem}:{number}",
                place=place,
                number=number,
                picture=picture,
                question=question,
                answers=[answer],
                attributes=_attributes(question),
                losses=lost,
            )

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/questions.txt and the pictures under images/ beside it."""
        losses, folder = Losses("rsivqa"), PictureFolder(path)
        lines: list[str] = []
        for one in asked(samples, losses, "alternatives", "attributes"):
            name = PurePosixPath(folder.add(one.sample.pictures[0], "images")).name
            line = f"{name}:{one.question}{one.answers[0] if one.answers else ''}"
            if _parts(line) != (name, one.question, *one.answers[:1]):
                losses.refuse("a question that does not end in a question mark, or text that its line cannot hold", one.sample)
            else:
                lines.append(line + "\n")
        write_text(path / "questions.txt", "".join(lines))
        return losses.problems()


def _parts(line: str) -> tuple[str, str, str] | None:
    """Name, question and answer of a line; None where one is missing, or where there are several lines."""
    name, _, rest = line.partition(":")
    question, mark, answer = rest.rpartition("?")
    whole = mark and name.strip() and "?" not in name and question.strip(" ?") and answer.strip() and len(line.splitlines()) == 1
    return (name, question.removeprefix(" ") + mark, answer) if whole else None


def _attributes(question: str) -> dict[str, Any]:
    kind = next((kind for kind, pattern in _KINDS if re.search(pattern, question, re.IGNORECASE)), None)
    return {} if kind is None else {"kind": kind}
