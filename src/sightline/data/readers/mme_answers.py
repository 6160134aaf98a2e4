"""Answers of a model to MME's questions, as its scoring tool reads them.

    SUBTASK.txt: picture name, question, ground truth, response of the model, separated by tabs, a line per question

There are no pictures: a sample has the question and the true answer as turns, and `picture`, `kind` (the subtask) and `response` as attributes. Its id is `SUBTASK/LINE`. Nothing is stripped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.data.readers.entries import head
from sightline.data.readers.files import read_text, refuse
from sightline.data.readers.question_sets import PLAIN, QuestionSet, asked, question_row
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Sample

_TRUTHS = ("Yes", "No")
_COLUMNS = 4
_FORM = "picture, question, Yes or No, response, separated by tabs"


class MmeAnswers(QuestionSet):
    """MME questions with a model's responses."""

    kind: Literal["mme-answers"] = "mme-answers"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)
    wanted: ClassVar[str] = f"lines of {_FORM}"

    def fits(self, file: Path) -> bool:
        """The first line has the four columns."""
        return _columns(head(file).split("\n", 1)[0]) is not None

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per line."""
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            columns = _columns(line.removesuffix("\r"))
            if columns is None:
                yield refuse("answer-line", f"{file}:{number}", line[:120], _FORM, "mend the line")
                continue
            picture, question, truth, response = columns
            attributes = {"kind": file.stem, "picture": picture, "response": response}
            yield question_row(
                id=f"{file.stem}/{number}",
                place=f"{file}:{number}",
                number=number,
                picture=None,
                question=question,
                answers=[truth],
                attributes=attributes,
            )

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/SUBTASK.txt, the samples of a subtask in their order."""
        losses = Losses("mme-answers")
        lines: dict[str, list[str]] = {}
        for one in asked(samples, losses, "alternatives", pictures=0):
            known = one.sample.attributes
            line = "\t".join([str(known.get("picture", "")), one.question, *one.answers[:1], str(known.get("response", ""))])
            subtask = str(known.get("kind", ""))
            if _columns(line) is None or "\n" in line or "\r" in line or not PLAIN.fullmatch(subtask):
                losses.refuse(f"a question that is no line of {_FORM}", one.sample)
            else:
                lines.setdefault(subtask, []).append(line + "\n")
        for subtask, written in lines.items():
            write_text(path / f"{subtask}.txt", "".join(written))
        return losses.problems()


def _columns(line: str) -> list[str] | None:
    columns = line.split("\t")
    fits = len(columns) == _COLUMNS and columns[2] in _TRUTHS and all(columns[:2])
    return columns if fits else None
