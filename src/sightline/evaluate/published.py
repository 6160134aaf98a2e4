"""Benchmarks that are read from their published files: rows, the questions made of them, and what all such kinds share. A kind adds its prompt, its verdict and its metrics."""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from sightline.data.readers.files import within
from sightline.errors import Problem, Refused
from sightline.evaluate.asking import Question, Scores, judged, paired
from sightline.evaluate.benchmarks import cut_off
from sightline.evaluate.metrics import Value, commonest, resamples, share
from sightline.kinds import Config
from sightline.samples.exchange import Answer, Answerer, Decoding, Request
from sightline.samples.pictures import read_picture
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text, Turn

LETTERS = string.ascii_uppercase
DIRECT = "Answer with the option's letter from the given choices directly."
"""The usual instruction after the options."""
_SEED = 20
_MARKER = re.compile(r"<image ([1-9])>")


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One question as its file says it."""

    index: str
    """Its name in the file, unique."""
    place: str
    """Where it stands, for people: file:line."""
    question: str
    answer: str
    """The right answer; a letter where there are options."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text; empty for open questions."""
    pictures: tuple[Picture, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    """Other columns under their published names: category, l2-category, split, hint .. ."""

    def told(self, *names: str) -> str:
        """The first of these columns that says something, or nothing."""
        return next((self.fields[name] for name in names if self.fields.get(name)), "")


class Verdict(NamedTuple):
    """What one answer is worth, and what was read in it."""

    score: float
    """0..1."""
    read: str | None
    """The label, letter or text that the answer was read as; None = it could not be read."""


Seen = Callable[[str, str], Picture] | None
"""How a picture is opened, by name and place; None = pictures are not opened, because nobody is asked."""


def pictures_in(folder: Path) -> Callable[[str, str], Picture]:
    """Opens pictures by their relative path in a folder, once each. Refused for names that lead out of it and for pictures that do not decode."""
    known: dict[str, Picture] = {}

    def opened(name: str, place: str) -> Picture:
        if name not in known:
            path = within(folder, name, place)
            if isinstance(path, Problem):
                raise Refused(path)
            known[name] = read_picture(path, place)
        return known[name]

    return opened


class PublishedKind(Config):
    """Base of kinds that read their own files."""

    judged: ClassVar[bool] = False
    """Whether a model must judge the answers."""
    files: ClassVar[str] = "a TSV file"
    """What `path` may be, for errors and documentation."""
    path: str
    """The published file or folder."""
    pictures: str | None = None
    """Folder from which the names of pictures start; default is beside the file."""
    limit: int | None = Field(default=None, ge=1)
    """Ask the first so many questions only; copies of one question are one."""
    max_tokens: int = Field(default=32, ge=1)
    """Longest answer."""
    prompt: str = ""
    """What is said after the question, on a line of its own."""

    @property
    def asked_of(self) -> str:
        """What is asked, for people: the file."""
        return self.path

    @abstractmethod
    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """The questions of the files, in order; pictures are opened only where they are `seen`."""
        raise NotImplementedError

    @abstractmethod
    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """What an answer is worth."""
        raise NotImplementedError

    @abstractmethod
    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """The published figures, the headline first."""
        raise NotImplementedError

    def verdicts(self, rows: Sequence[PublishedRow], answers: Sequence[str], judge: Answerer | None) -> list[Verdict | None]:
        """What each answer is worth; None = the judge did not say, and the row is left out and counted."""
        return [self.verdict(row, answer) for row, answer in zip(rows, answers, strict=True)]

    def asked(self, row: PublishedRow) -> str:
        """The words of the user turn: hint, question, options, instruction, each on lines of its own."""
        options = [f"{letter}. {text}" for letter, text in row.options.items()]
        return "\n".join(filter(None, (row.told("hint"), row.question, *options, self.prompt)))

    def decoding(self) -> Decoding:
        """How answers are drawn: the likeliest token each time."""
        return Decoding(max_tokens=self.max_tokens)

    def group(self, row: PublishedRow) -> Hashable:
        """Rows of a group are one question to `limit`."""
        return row.index

    def kind_of(self, row: PublishedRow) -> str:
        """The group under which the report shows a row."""
        return row.told("category") or "question"

    def folder(self) -> Path:
        """Where the names of pictures start."""
        path = Path(self.path)
        return (path if path.is_dir() else path.parent) if self.pictures is None else Path(self.pictures)

    def seen(self, seen: bool) -> Seen:
        """How pictures beside the file are opened."""
        return pictures_in(self.folder()) if seen else None

    def build(self, samples: Iterable[Sample] = (), seen: bool = True) -> PublishedBenchmark:
        """The benchmark of the files; `samples` are none. `seen=False`: pictures are not opened, for scoring answers that are there already.

        Raises Refused where the files are not there, or not what they should be.
        """
        return PublishedBenchmark(self, self._limited(self.rows(seen)), seen)

    def _limited(self, rows: Iterator[PublishedRow]) -> list[PublishedRow]:
        if self.limit is None:
            return list(rows)
        groups: set[Hashable] = set()
        found = []
        for row in rows:
            if len(groups) < self.limit or self.group(row) in groups:
                groups.add(self.group(row))
                found.append(row)
        return found


def items_of(text: str, pictures: Sequence[Picture]) -> tuple[Item, ...]:
    """Words with each picture where its mark `<image K>` stands first; pictures without a mark come before all words, and later marks of a picture stay words."""
    marked = [match for match in _MARKER.finditer(text) if int(match[1]) <= len(pictures)]
    first: dict[int, re.Match[str]] = {}
    for match in marked:
        first.setdefault(int(match[1]) - 1, match)
    items: list[Item] = [Show(picture=k) for k in range(len(pictures)) if k not in first]
    at = 0
    for number, match in sorted(first.items(), key=lambda one: one[1].start()):
        items += [Text(text=text[at : match.start()]), Show(picture=number)]
        at = match.end()
    items.append(Text(text=text[at:]))
    return tuple(item for item in items if not isinstance(item, Text) or item.text)


class PublishedBenchmark:
    """Questions of published files and the scorer of their answers, as their kind says."""

    needs = ("write",)

    def __init__(self, config: PublishedKind, rows: Sequence[PublishedRow], seen: bool = True) -> None:
        self.config, self.rows = config, tuple(rows)
        places: dict[str, str] = {}
        problems = []
        for row in self.rows:
            if row.index in places:
                found = f"{row.index!r} again, first at {places[row.index]}"
                problems.append(Problem(code="evaluate/repeated-id", place=row.place, found=found, allowed="names that are unique", fix="remove one of them"))
            places.setdefault(row.index, row.place)
        unanswered = [row for row in self.rows if not row.answer.strip()]
        if unanswered:
            found, allowed = f"{len(unanswered)} rows without an answer, this one first", "an answer for each question"
            problems.append(Problem(code="evaluate/no-answer", place=unanswered[0].place, found=found, allowed=allowed, fix="use the split that holds answers"))
        if not self.rows:
            problems.append(Problem(code="evaluate/nothing-to-ask", place=config.asked_of, found="no question", allowed=config.files, fix="correct the path"))
        if problems:
            raise Refused(problems)
        self.questions = tuple(self._question(row) for row in self.rows)

    def _question(self, row: PublishedRow) -> Question:
        items = items_of(self.config.asked(row), row.pictures)
        kind = self.config.kind_of(row)
        sample = Sample(
            id=row.index, pictures=row.pictures, turns=(Turn(role="user", items=items),), attributes={"kind": kind}, origin=Origin(source=self.config.asked_of)
        )
        right = (row.answer, row.options[row.answer]) if row.answer in row.options else (row.answer,)
        return Question(request=Request(sample=sample, decoding=self.config.decoding()), kind=kind, right=right, source=sample)

    @property
    def headline(self) -> tuple[str, ...]:
        """Metrics that stand first on the page."""
        return ("all",)

    def requests(self) -> Iterable[Request]:
        """One request per row."""
        return [question.request for question in self.questions]

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """The published metrics. Habits: `unparsed`, the share of answers in which nothing could be read; `unjudged`, the share that the judge left out of the metrics."""
        matched = paired(self.questions, answers)
        found = self.config.verdicts(self.rows, [answer.text for answer in matched], judge)
        kept = [(row, verdict) for row, verdict in zip(self.rows, found) if verdict is not None]
        metrics = self.config.metrics([row for row, _ in kept], [verdict for _, verdict in kept]) if kept else {}
        rows = tuple(judged(question, answer, verdict.score) for question, answer, verdict in zip(self.questions, matched, found) if verdict is not None)
        habits = {
            "unparsed": share(sum(verdict is not None and verdict.read is None for verdict in found), len(found)),
            "unjudged": share(sum(verdict is None for verdict in found), len(found)),
            "same-answer": share(commonest(answer.text for answer in matched)[1], len(matched)),
            "cut-off": cut_off(matched),
        }
        return Scores(metrics=metrics, habits=habits, per_request=rows)


def by_group(names: Iterable[str], scores: Iterable[float]) -> dict[str, Value]:
    """Mean score of each group with Wilson's interval, in the order in which they come; rows without a name are in none."""
    found: dict[str, list[float]] = {}
    for name, score in zip(names, scores, strict=True):
        if name:
            found.setdefault(name, []).append(score)
    return {name: share(sum(several), len(several)) for name, several in found.items()}


def resampled(groups: Sequence[Hashable], figure: Callable[[np.ndarray], np.ndarray]) -> Value:
    """A figure with the middle 95 % of 200 resamples of the groups. `figure` takes how often each row counts, (R, rows), and gives (R,)."""
    once = float(figure(np.ones((1, len(groups))))[0])
    low, high = np.percentile(figure(resamples(groups, np.random.default_rng(_SEED)).astype(float)), (2.5, 97.5))
    return Value(value=once, low=float(min(low, once)), high=float(max(high, once)), n=len(set(groups)))


def refused(code: str, place: str, found: Any, allowed: str, fix: str) -> Refused:
    """A refusal of this room."""
    return Refused(Problem(code=f"evaluate/{code}", place=place, found=str(found), allowed=allowed, fix=fix))
