"""What every kind of question has in common: what it is made from, and what it becomes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.data.synthesis.corpus_statistics import Statistics
from sightline.data.synthesis.phrasings import LANGUAGES, Language, Phrasings, Slots, Words, filled
from sightline.data.synthesis.picture_facts import Known, Rules
from sightline.samples.sample import Item, Region, Sample, Show, Text, Turn


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One conversation about a picture: a question and its answer, or several where the answer is too long for one."""

    kind: str
    language: str
    template: str
    """Which wordings were drawn: `KIND-LANGUAGE-QUESTION-ANSWER`."""
    turns: tuple[Turn, ...]
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    """Short right answers, for scoring."""
    reached: tuple[int, ...] = ()
    """Numbers of the things that are shown, asked for or counted."""
    targets: tuple[Region, ...] = ()
    """Masks of the components in the answer, for a model that turns boxes into masks."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes of questions and answers."""

    most_labels: int = 8
    most_boxes: int = 10
    follow_ups: int = 3
    most_counted: int = 10
    zeros: float = 0.1
    options: int = 4
    several: float = 0.3
    least_owned: float = 0.6
    most_lines: int = 60
    terse: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A picture to be asked about, with all that a kind may look at."""

    sample: Sample
    known: Known
    rules: Rules
    statistics: Statistics
    phrasings: Phrasings
    languages: tuple[Language, ...] = LANGUAGES
    limits: Limits = Limits()
    change: str = ""
    """Label of what has changed in pairs of pictures."""

    def said_absent(self) -> list[str]:
        """Labels that the set annotates and that are certainly not in this picture, by name."""
        if not self.known.closed:
            return []
        there = [*self.known.shares, *self.known.doubtful]
        return [label for label in sorted(self.statistics.of(self.known.source).labels) if not any(self.rules.related(label, other) for other in there)]

    def asking(self, kind: str, rng: np.random.Generator) -> Asking:
        """A question in a language drawn for it."""
        language = self.languages[int(rng.integers(len(self.languages)))]
        return Asking(subject=self, kind=kind, rng=rng, words=Words(self.rules.table, language))


class Asking:
    """One question in the making: draws wordings and remembers which."""

    def __init__(self, *, subject: Subject, kind: str, rng: np.random.Generator, words: Words) -> None:
        self.subject, self.kind, self.rng, self.words = subject, kind, rng, words
        self._numbers: list[int] = []

    def say(self, form: str, slots: Slots, *, keep: bool = True) -> tuple[Item, ...]:
        """A wording of a form, filled; `keep`: its number becomes part of the template's id."""
        drawn = self.subject.phrasings.draw(self.words.language, self.kind, form, self.rng)
        if keep:
            self._numbers.append(drawn.number)
        return filled(drawn.wording, slots)

    def bare(self) -> bool:
        """Whether this question asks for a bare answer."""
        return bool(self.rng.random() < self.subject.limits.terse)

    def cued(self, items: tuple[Item, ...], form: str = "cue") -> tuple[Item, ...]:
        """A question that asks for a bare answer."""
        gap = "" if self.words.language == "zh" else " "
        (cue,) = self.say(form, {}, keep=False)
        assert isinstance(cue, Text)
        return (*items[:-1], Text(text=f"{last.text}{gap}{cue.text}")) if isinstance(last := items[-1], Text) else (*items, Text(text=gap + cue.text))

    @property
    def template(self) -> str:
        """Id of what was drawn."""
        return "-".join([self.kind, self.words.language, *map(str, self._numbers)])


def pictures_shown(sample: Sample) -> tuple[Item, ...]:
    """All pictures of a sample, in order."""
    return tuple(Show(picture=number) for number in range(len(sample.pictures)))


def exchange(subject: Subject, question: tuple[Item, ...], answer: tuple[Item, ...]) -> tuple[Turn, Turn]:
    """A question under its pictures, and the answer."""
    return Turn(role="user", items=(*pictures_shown(subject.sample), *question)), Turn(role="assistant", items=answer)


def favourite(candidates: Sequence[str], key: int) -> str:
    """The candidate with the smallest hash under `key`: a new candidate changes the choice only where it wins."""
    return min(candidates, key=lambda candidate: (zlib.crc32(f"{key}/{candidate}".encode()), candidate))


Maker = Callable[[Subject, np.random.Generator, int], list[Asked]]
"""Makes at most so many questions of one kind; fewer where the annotations give fewer."""
