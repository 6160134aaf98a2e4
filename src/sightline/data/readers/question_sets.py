"""What sets of questions share: one sample per question, the picture shown before it, right answers, and the way back into a file."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from sightline.data.readers.annotation_reader import AnnotationReader
from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, picture_folder, refuse, within
from sightline.data.readers.reader import SPLITS, Row
from sightline.data.readers.writing import Losses, conversations, joined
from sightline.errors import Problem, Refused
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
PLAIN = re.compile(r"[A-Za-z0-9_-]{1,60}")
"""What of a sample may become part of a file's name."""
FULLY_RIGHT = 3
"""Annotators of ten whose common answer gets full marks (VQA accuracy, Antol et al. 2015)."""


class QuestionSet(AnnotationReader):
    """Base of readers of question sets: a subclass says which files are its own and lists the questions of one."""

    usual: ClassVar[tuple[str, ...]] = ()
    """Folders in which pictures are looked for."""

    def fits(self, file: Path) -> bool:
        """Whether a file, by its name and head, is of this format."""
        raise NotImplementedError

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question of a file, as `question_row` makes them; pictures are looked for in `usual`, seen from the file."""
        raise NotImplementedError

    def reason(self, file: Path) -> str | None:
        """See AnnotationReader."""
        return f"has {self.wanted}" if self.fits(file) else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per question, over all files at `path`; an id that comes twice is a problem."""
        seen: dict[str, str] = {}
        for file in self.chosen(path):
            # Nothing above the given folder is searched; where the file is one level down, its neighbours are.
            above = [posixpath.join("..", name) for name in (*self.usual, "")] if path.is_dir() and file.parent != path else []
            for row in self.questions(file, [*self.usual, *above]):
                if isinstance(row, Row) and seen.setdefault(row.id, row.place) != row.place:
                    yield refuse("repeated-id", row.place, f"id {row.id[:60]!r} again, first at {seen[row.id]}", "ids that are unique", "remove one of them")
                else:
                    yield row

    def partners(self, file: Path) -> list[Path]:
        """Files that are read with a file of questions: their answers, for instance."""
        return []

    def annotated(self, path: Path) -> frozenset[Path]:
        """The files of questions, and those that are read with them."""
        files = self.files(path)
        return frozenset(files).union(*(self.partners(file) for file in files))

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The question with its answers; without an answer where none is published."""
        return [*row.data["losses"], question_sample(row, pictures, origin)]


class PictureQuestions(QuestionSet):
    """Base of question sets that name their pictures."""

    pictures: str | None = None
    """Folder from which the names of pictures start, relative to the file; found beside it, or one level above, when absent."""
    usual: ClassVar[tuple[str, ...]] = ("images",)

    def root(self, file: Path, names: Iterable[object], usual: Sequence[str]) -> Path:
        """The folder from which the names of pictures start."""
        return picture_folder(file.parent, self.pictures, names, usual)


def question_row(
    *,
    id: str,
    place: str,
    number: object,
    picture: Path | None,
    question: str,
    answers: Sequence[str],
    attributes: Mapping[str, Any],
    losses: Sequence[Problem] = (),
) -> Row:
    """A row for `question_sample`: `answers` are right ones, the first is said and the others are alternatives; `losses` are warnings about it."""
    data = {"question": question, "answers": tuple(dict.fromkeys(answers)), "attributes": dict(attributes), "losses": tuple(losses)}
    return Row(id=id, place=place, number=str(number), pictures=() if picture is None else (str(picture),), data=data)


def question_sample(row: Row, pictures: tuple[Picture, ...], origin: Origin) -> Sample:
    """Picture and question, then the answer."""
    shown = (Show(picture=0),) if pictures else ()
    turns = [Turn(role="user", items=(*shown, Text(text=row.data["question"])))]
    if answers := row.data["answers"]:
        turns.append(Turn(role="assistant", items=(Text(text=answers[0]),), alternatives=tuple((Text(text=text),) for text in answers[1:])))
    return Sample(id=row.id, pictures=pictures, turns=tuple(turns), attributes=row.data["attributes"], origin=origin)


def picture_within(root: Path, name: object, place: str) -> Path:
    """`root/name`. Refused for a name that leads out of `root`."""
    picture = within(root, name, place)
    if isinstance(picture, Problem):
        raise Refused(picture)
    return picture


class PicturesBelow:
    """Pictures anywhere below a folder, by path, by name and by stem."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, list[str]] = {}
        for name in files_below(root, PICTURE_SUFFIXES):
            last = posixpath.basename(name)
            for key in {name, last, posixpath.splitext(last)[0]}:
                self._found.setdefault(key, []).append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def find(self, name: str, place: str) -> Path:
        """The picture of that path, name or stem; where none is there, the path where it is missed. Refused when there are several."""
        found = self._found.get(name, [name])
        if len(found) > 1 and name not in found:
            several = f"{len(found)} pictures {name!r}: {', '.join(found[:3])}"
            raise Refused(refuse("ambiguous-picture", place, several, "one picture of a name", "read with the folder that holds the right one"))
        return picture_within(self._root, name if name in found else found[0], place)


def split_in(name: str) -> str | None:
    """The split that a file name says: train in `v2_OpenEnded_mscoco_train2014_questions`."""
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), None)


def known_split(name: str) -> dict[str, Any]:
    """`split` as an attribute where a file name says it."""
    split = split_in(name)
    return {"split": split} if split else {}


def published_id(text: str) -> int | str:
    """An id as sets of questions publish it: a whole number where it is one."""
    return int(text) if _NUMBER.fullmatch(text) else text


def warning(code: str, place: str, found: str, allowed: str, fix: str) -> Problem:
    """A problem of this room for which nothing is refused."""
    return replace(refuse(code, place, found, allowed, fix), severity="warn")


def agreed(answers: Sequence[str], said: str | None = None) -> list[str]:
    """Right answers of several annotators: `said` or the most frequent one (the earliest among equals), then the others that get full marks, most frequent first."""
    counts = Counter(text for text in answers if text.strip())
    ranked = [text for text, _ in counts.most_common()]
    first = [said] if said is not None else ranked[:1]
    return first + [text for text in ranked if text not in first and counts[text] >= FULLY_RIGHT]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as a question set can hold it."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Right answers, the one that is said first; empty when none is known."""
    sample: Sample

    @property
    def split(self) -> str:
        """The split, which names a file; `train` where the sample has none."""
        return split_of(self.sample)


def split_of(sample: Sample) -> str:
    """`split` of a sample that is written, `train` where it has none."""
    return str(sample.attributes.get("split", "train"))


def asked(samples: Iterable[Sample], losses: Losses, *cannot: str, pictures: int = 1) -> Iterator[Asked]:
    """The questions of the samples; what the format `cannot` hold is counted in `losses`, and so are samples that are no question about `pictures` pictures."""
    for sample in samples:
        if len(sample.pictures) != pictures:
            losses.refuse(f"{len(sample.pictures)} pictures where the format has {pictures}", sample)
            continue
        if not PLAIN.fullmatch(split_of(sample)):
            losses.refuse("a split that is no plain word", sample)
            continue
        losses.of(sample, "annotations", "weights", "origin", *cannot)
        for identity, turns in conversations(sample):
            plain = [joined(turn.items) for turn in turns]
            shown = [Show(picture=0)] * pictures
            said = [texts(items[len(shown) :] if k == 0 else items) for k, items in enumerate(plain)]
            if [turn.role for turn in turns] not in (["user"], ["user", "assistant"]) or list(plain[0][: len(shown)]) != shown or None in said:
                losses.refuse("turns other than a picture with a question and an answer in words", sample)
                continue
            others = (texts(joined(items)) for items in turns[1].alternatives) if len(turns) > 1 else ()
            answers = [*said[1:], *others]
            yield Asked(id=identity, question=said[0] or "", answers=tuple(text for text in answers if text), sample=sample)


def texts(items: Sequence[object]) -> str | None:
    """The one text that the items are, or None."""
    return items[0].text if len(items) == 1 and isinstance(items[0], Text) else None
