"""MME (Fu et al. 2023): two yes/no questions for each picture; perception and cognition are sums of subtask scores.

A subtask's score = 100 (acc + acc+), 0..200: acc over questions, acc+ over pictures with both questions right. Perception is the sum of ten subtasks (at most 2000), cognition of four (800).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from sightline.data.readers.files import read_text
from sightline.evaluate import yes_no
from sightline.evaluate.metrics import Value, resamples, share
from sightline.evaluate.official_sets import mme_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, refused
from sightline.evaluate.vlmevalkit_tsv import read_tsv
from sightline.lineage import write_text

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_SUMS = {"perception score": PERCEPTION, "cognition score": COGNITION}
_COLUMNS = 4
_SEED = 20


class Mme(PublishedKind):
    """MME: folders of subtasks as published, files of answers (`SUBTASK.txt`), or a TSV file. Scores are in points, 0..200 a subtask."""

    files: ClassVar[str] = "the folder of subtasks, a folder of answers SUBTASK.txt, or a TSV file"
    kind: Literal["mme"] = "mme"
    rule: yes_no.Rule = "mme"
    """How answers are read: mme (the official first four characters), tolerant, word or pope."""
    max_tokens: int = 16
    """Longest answer."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind. Files of answers hold no pictures: they can be scored, not asked."""
        path = Path(self.path)
        if path.suffix == ".tsv":
            yield from read_tsv(path, self.folder(), seen)
        elif not path.is_dir():
            raise refused("official-row", self.path, "no folder", self.files, "correct the path")
        elif any(path.glob("*.txt")) and seen:
            raise refused(
                "no-pictures", self.path, "answers without pictures", "the folder of subtasks", "give the published folder, or score the answers: --answers"
            )
        elif any(path.glob("*.txt")):
            yield from (row for row, _ in read_mme_answers(path))
        else:
            yield from mme_rows(path, self.seen(seen))

    def group(self, row: PublishedRow) -> Hashable:
        """Both questions about a picture belong together."""
        return picture_of(row)

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Right where the label is the truth's; an answer that is neither yes nor no is never right."""
        said = yes_no.RULES[self.rule](answer)
        return Verdict(score=float(said == row.answer.lower()), read=said)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, the sums of points where every subtask is there, and for each subtask its points, acc and acc+."""
        scores = np.array([verdict.score for verdict in verdicts])
        tasks: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            tasks.setdefault(row.told("category"), []).append(number)
        parts = {
            task: _Subtask([picture_of(rows[number]) for number in numbers], scores[numbers], np.random.default_rng([_SEED, k]))
            for k, (task, numbers) in enumerate(tasks.items())
        }
        found = {"all": share(float(scores.sum()), len(scores))}
        for name, members in _SUMS.items():
            if all(member in parts for member in members):
                again = sum((parts[member].again for member in members), np.zeros(1))
                found[name] = _value(sum(parts[member].points for member in members), again, sum(len(tasks[member]) for member in members))
        for task, part in parts.items():
            found[f"{task} score"] = _value(part.points, part.again, len(tasks[task]))
            found[f"{task} acc"] = share(float(part.scores.sum()), len(part.scores))
            found[f"{task} acc+"] = share(part.both, part.pictures)
        return found


class _Subtask:
    """Points of one subtask, once and in 200 resamples of its pictures."""

    def __init__(self, pictures: Sequence[Hashable], scores: np.ndarray, rng: np.random.Generator) -> None:
        self.scores = scores
        groups: dict[Hashable, list[float]] = {}
        for picture, score in zip(pictures, scores, strict=True):
            groups.setdefault(picture, []).append(float(score))
        broken = [picture for picture, several in groups.items() if len(several) != 2]
        if broken:
            raise refused("not-a-pair", str(broken[0]), f"{len(groups[broken[0]])} questions about a picture", "two", "read the whole subtask")
        both = np.array([all(several) for several in groups.values()], float)
        right = np.array([sum(several) for several in groups.values()])
        self.both, self.pictures = float(both.sum()), len(both)
        self.points = 100 * (float(right.sum()) / (2 * self.pictures) + self.both / self.pictures)
        times = resamples(list(groups), rng)
        self.again = 100 * (times @ right / (2 * self.pictures) + times @ both / self.pictures)


def _value(points: float, again: np.ndarray, n: int) -> Value:
    low, high = np.percentile(again, (2.5, 97.5))
    return Value(value=points, low=float(min(low, points)), high=float(max(high, points)), n=n)


def picture_of(row: PublishedRow) -> tuple[str, str]:
    """Subtask and picture of a row."""
    picture = row.told("image_path", "image") or (row.pictures[0].hash if row.pictures else "")
    if not picture:
        raise refused("not-a-pair", row.place, "no name of a picture", "image_path, or a picture", "read with pictures")
    return row.told("category"), picture


def read_mme_answers(folder: Path) -> list[tuple[PublishedRow, str]]:
    """(question, response) of each line of SUBTASK.txt: picture, question, Yes or No, response, separated by tabs and nothing else; nothing is stripped.

    Lines are named SUBTASK/PICTURE/1 and /2, the question with the truth Yes first, as `mme_rows` finds them. Raises Refused with every line that is none.
    """
    found: list[tuple[PublishedRow, str]] = []
    for file in sorted(folder.glob("*.txt")):
        seen: dict[str, int] = {}
        for number, line in enumerate(read_text(file).split("\n"), 1):
            fields = line.removesuffix("\r").split("\t")
            if not line.strip():
                continue
            if len(fields) != _COLUMNS or fields[2] not in ("Yes", "No"):
                raise refused("mme-line", f"{file}:{number}", repr(line[:80]), "picture, question, Yes or No, response, between tabs", "mend the line")
            picture, question, truth, response = fields
            seen[picture] = seen.get(picture, 0) + 1
            row = PublishedRow(
                index=f"{file.stem}/{picture}/{seen[picture]}",
                place=f"{file}:{number}",
                question=question,
                answer=truth,
                fields={"category": file.stem, "image": picture},
            )
            found.append((row, response))
    return found


def write_mme_answers(rows: Iterable[PublishedRow], answers: Mapping[str, str], folder: Path) -> None:
    """Write folder/SUBTASK.txt as the official tool reads them: tabs and line breaks inside questions and responses become blanks."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        subtask, picture = picture_of(row)
        plain = [" ".join(text.split("\t")).replace("\r", " ").replace("\n", " ") for text in (picture, row.question, row.answer, answers[row.index])]
        lines.setdefault(subtask, []).append("\t".join(plain) + "\n")
    for subtask, written in lines.items():
        write_text(folder / f"{Path(subtask).name}.txt", "".join(written))
