"""Questions from annotations: independent question-answer pairs about a picture, about notes that say the same in text, and captions.

`questions_of` is the pure core. The operators `questions`, `notes` and `captions` turn its pairs into samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from sightline.data.facts import PLACES, Facts, facts_of
from sightline.data.operators import OPERATOR, Outcome
from sightline.data.wording import NUMBERS, counted, listed, plural, said, with_article
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.exchange import Answer
from sightline.samples.sample import Sample, Show, Text, Turn

Kind = Literal["presence", "labels", "count", "where", "at", "ground", "read"]
Candidate = tuple[str, str]
"""What a question is about (a label, a place or nothing) and its answer."""

_PHRASINGS: dict[Kind, tuple[str, ...]] = {
    "presence": ("is there {a_label}?",),
    "labels": ("which objects are there?",),
    "count": ("how many {labels} are there?",),
    "where": ("where is the {label}?",),
    "at": ("what is in the {place}?",),
    "ground": ("what is the ground?",),
    "read": ("what is written?",),
}
_SLOTS: dict[Kind, tuple[str, ...]] = {
    "presence": ("label", "a_label", "labels"),
    "count": ("label", "labels"),
    "where": ("label", "a_label"),
    "at": ("place",),
}
_NOTHING = "nothing"
_FITTING_ROUNDS = 30


class _Pairs(Config):
    """What `questions` and `notes` have in common: which pairs are made."""

    kinds: dict[Kind, float] = Field(default={"presence": 2.0, "labels": 1.0, "count": 2.0, "where": 2.0, "at": 2.0, "ground": 0.5, "read": 2.0}, min_length=1)
    """Weight of each question kind: how often it is asked where it can be asked."""
    per_picture: int = Field(default=8, ge=1, le=100)
    """Questions per picture, fewer where annotations give fewer; none is asked twice."""
    labels: tuple[str, ...] = Field(default=(), strict=False)
    """Labels that `presence` asks about; empty = those found in the set."""
    ground: tuple[str, ...] = Field(default=("bare", "field", "forest", "grass"), strict=False)
    """Labels that are ground and not objects."""
    phrasings: dict[Kind, list[str]] = {}
    """Other wordings of a kind, drawn at random: `{label}` `{a_label}` `{labels}` stand for pond, a pond, ponds, `{place}` for northwest."""
    balance: bool = True
    """Draw rare answers more often, so that no answer is right most of the time."""
    most: int = Field(default=10, ge=1, le=10)
    """Labels with more objects than this are not counted."""
    margin: float = Field(default=0.05, ge=0.0, le=0.5)
    """An object whose centre is nearer to a midline than this share of the side has no quadrant."""
    least_share: float = Field(default=0.005, ge=0.0, le=1.0)
    """Areas below this share of the picture are neither present nor absent."""

    @model_validator(mode="after")
    def _phrasings_are_whole(self) -> Self:
        for kind, wordings in self.phrasings.items():
            slots = _SLOTS.get(kind, ())
            example = dict.fromkeys(slots, "x")
            for wording in wordings:
                try:
                    wording.format_map(example)
                except (KeyError, ValueError, IndexError):
                    raise ValueError(f"phrasing of {kind} {wording!r}: allowed are {', '.join('{' + slot + '}' for slot in slots) or 'no slots'}") from None
                if slots and not any("{" + slot + "}" in wording for slot in slots):
                    raise ValueError(
                        f"phrasing of {kind} {wording!r} does not say what it asks about: use one of {', '.join('{' + slot + '}' for slot in slots)}"
                    )
            if not wordings:
                raise ValueError(f"phrasings of {kind}: an empty list asks nothing; leave the kind out")
        return self

    @cached_property
    def wordings(self) -> dict[Kind, tuple[str, ...]]:
        """The phrasings in force."""
        return {kind: tuple(self.phrasings.get(kind, wordings)) for kind, wordings in _PHRASINGS.items()}

    def facts(self, sample: Sample) -> Facts:
        """What the sample's annotations say, under this Config."""
        return facts_of(sample, ground=self.ground, margin=self.margin, least_share=self.least_share)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a whole set holds: its labels, and how much each answer weighs when questions are drawn."""

    labels: tuple[str, ...]
    weights: Mapping[tuple[str, ...], float]

    def weight(self, kind: Kind, candidate: Candidate) -> float:
        """Weight of one candidate among those of its kind; 1 where nothing is known."""
        return self.weights.get(_key(kind, candidate), 1.0)


def _key(kind: Kind, candidate: Candidate) -> tuple[str, ...]:
    """What is balanced: yes and no for each label; `nothing` against the other places; elsewhere the answer."""
    if kind == "presence":
        return (kind, *candidate)
    return (kind, _NOTHING if candidate[1] == _NOTHING else "something") if kind == "at" else (kind, candidate[1])


def survey_of(samples: Iterable[Sample], config: _Pairs) -> Survey:
    """Look at the annotations of a whole set: its labels in alphabetical order, and weights by which each answer is about as frequent as the others."""
    facts = [config.facts(sample) for sample in samples]
    labels = config.labels or tuple(sorted(set().union(*(known.present for known in facts))))
    if not config.balance:
        return Survey(labels=labels, weights={})
    offers: Counter[tuple[str, ...]] = Counter()
    presence = np.zeros((len(facts), len(labels), 2), bool)
    for row, known in enumerate(facts):
        for kind, candidates in _candidates(known, labels, config).items():
            offers.update(_key(kind, candidate) for candidate in candidates if kind != "presence")
            if kind == "presence":
                for label, answer in candidates:
                    presence[row, labels.index(label), int(answer == "yes")] = True
    weights = {key: 1.0 / count for key, count in offers.items()}
    for label, (no, yes) in zip(labels, _presence_weights(presence).tolist()):
        weights |= {("presence", label, "no"): no, ("presence", label, "yes"): yes}
    return Survey(labels=labels, weights=weights)


def _presence_weights(offered: np.ndarray) -> np.ndarray:
    """(labels, 2) weights for no and yes, such that a label is asked about with either answer equally often.

    `offered` is (pictures, labels, 2) bool. Each picture draws one label per answer; the weights are scaled in turn until the expected draws of both answers agree
    (iterative proportional fitting). A label that is everywhere, or nowhere, is not asked about while others are.
    """
    table = offered[offered.any(axis=1).all(axis=-1)].astype(np.float64)
    weights = np.ones(offered.shape[1:])
    for _ in range(_FITTING_ROUNDS):
        drawn = table * weights
        expected = (drawn / drawn.sum(1, keepdims=True)).sum(0) + 1e-3
        weights = np.clip(weights * np.sqrt(expected[:, ::-1] / expected), 1e-6, 1e6)
    return weights


def _candidates(facts: Facts, labels: Sequence[str], config: _Pairs) -> dict[Kind, list[Candidate]]:
    """All that may be asked about one picture, by kind; kinds without weight or without anything to ask are left out."""
    found: dict[Kind, list[Candidate]] = {}
    places: dict[str, set[str]] = {place: set() for place in PLACES}
    number: Counter[str] = Counter()
    sure = not facts.uncounted and not facts.doubtful and not facts.partial
    for thing in facts.objects:
        number[thing.label] += 1
        if thing.place is None:
            sure = False
        else:
            places[thing.place].add(said(thing.label))
    single = [thing for thing in facts.objects if number[thing.label] == 1 and thing.place and thing.label not in facts.uncounted]
    presence = [
        (label, "yes" if label in facts.present else "no") for label in labels if label in facts.present or not (facts.partial or label in facts.doubtful)
    ]
    found["presence"] = presence if _both(presence) else []
    if not facts.doubtful and not facts.partial and (facts.present or facts.ground):
        found["labels"] = [("", ", ".join(sorted(map(said, facts.present))) or _NOTHING)]
    found["count"] = [(label, NUMBERS[count]) for label, count in number.items() if label not in facts.uncounted and count <= config.most]
    found["where"] = [(thing.label, thing.place) for thing in single if thing.place]
    if sure and facts.objects:
        found["at"] = [(place, ", ".join(sorted(there)) or _NOTHING) for place, there in places.items()]
    found["ground"] = [("", said(facts.ground))] if facts.ground else []
    found["read"] = [("", facts.text)] if facts.text else []
    return {kind: candidates for kind, candidates in found.items() if candidates and config.kinds.get(kind, 0.0) > 0}


def questions_of(sample: Sample, rng: np.random.Generator, config: _Pairs, survey: Survey | None = None) -> list[tuple[Kind, str, str]]:
    """(kind, question, answer) of one picture, at most `config.per_picture`, drawn by weight without repetition.

    Presence comes in pairs of yes and no. Without a survey the labels are `config.labels` and nothing is balanced.
    """
    survey = survey or Survey(labels=config.labels, weights={})
    return _draw(config.facts(sample), rng, config, survey)


def _draw(facts: Facts, rng: np.random.Generator, config: _Pairs, survey: Survey) -> list[tuple[Kind, str, str]]:
    left = _candidates(facts, survey.labels, config)
    chances = iter(rng.random(4 * config.per_picture).tolist())
    drawn: list[tuple[Kind, str, str]] = []
    owed = ""
    while left and len(drawn) < config.per_picture:
        kinds = list(left)
        kind = kinds[_pick([config.kinds[kind] for kind in kinds], next(chances))]
        offered = left[kind]
        if kind == "presence":
            side = owed or ("yes" if next(chances) < 0.5 else "no")
            owed = "" if owed else ("no" if side == "yes" else "yes")
            offered = [candidate for candidate in offered if candidate[1] == side]
        chosen = offered[_pick([survey.weight(kind, candidate) for candidate in offered], next(chances))]
        left[kind].remove(chosen)
        if not left[kind] or (kind == "presence" and not owed and not _both(left[kind])):
            del left[kind]
        wordings = config.wordings[kind]
        drawn.append((kind, _ask(wordings[int(next(chances) * len(wordings))], kind, chosen[0]), chosen[1]))
    return drawn


def _both(presence: list[Candidate]) -> bool:
    """Whether a pair of yes and no can still be asked."""
    return len({answer for _, answer in presence}) == 2


def _pick(weights: list[float], chance: float) -> int:
    """Index drawn by weight; `chance` is uniform in [0, 1)."""
    rest = chance * sum(weights)
    for index, weight in enumerate(weights):
        rest -= weight
        if rest < 0:
            return index
    return len(weights) - 1


def _ask(wording: str, kind: Kind, subject: str) -> str:
    if kind == "at":
        return wording.format(place=subject)
    words = said(subject)
    return wording.format(label=words, a_label=with_article(words), labels=plural(words)) if words else wording


def notes_of(facts: Facts, rng: np.random.Generator, joined: bool = False) -> str:
    """Facts as text, one item per object, place before label, in random order: `northwest pond . forest . southeast road .`; joined: `northwestpond . forest . southeastroad .`"""
    items = [
        ("" if joined else " ").join(word for word in (thing.place, said(thing.label)) if word) + (f" {thing.text}" if thing.text else "")
        for thing in facts.objects
    ]
    known = {thing.label for thing in facts.objects}
    items += [said(label) for label in sorted(facts.present - known)]
    items += [said(facts.ground)] if facts.ground else []
    return " ".join(f"{items[index]} ." for index in rng.permutation(len(items)))


class _PairOperator(_Pairs):
    """The row-wise half of `questions` and `notes`."""

    def learn(self, samples: Iterable[Sample]) -> _Surveyed:
        """The operator with the labels and the balance of its set. Raises Refused when there is no label to ask about."""
        survey = survey_of(samples, self)
        if "presence" in self.kinds and self.kinds["presence"] > 0 and not survey.labels:
            found = "no object label in the annotations of any sample"
            raise Refused(
                Problem(
                    code="data/no-labels",
                    place="questions",
                    found=found,
                    allowed="boxes, masks or classes",
                    fix="read annotations, or set the weight of `presence` to 0",
                )
            )
        return _Surveyed(config=self, survey=survey)


@OPERATOR.add
class Questions(_PairOperator):
    """One sample per picture whose turns are independent question-answer pairs, written from annotations."""

    kind: Literal["questions"] = "questions"


@OPERATOR.add
class Notes(_PairOperator):
    """The same questions without the picture: notes that say what is annotated stand before each question."""

    kind: Literal["notes"] = "notes"
    joined: bool = False
    """Write place and label of an object as one word: one token holds both, as a picture's token does, and nothing has to be bound over two tokens."""


@dataclass(frozen=True, kw_only=True)
class _Surveyed:
    """`questions` or `notes` that knows its set."""

    config: _PairOperator
    survey: Survey

    @property
    def kind(self) -> str:
        return "notes" if isinstance(self.config, Notes) else "questions"

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with its pairs as turns; a sample about which nothing can be asked is quarantined."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule=f"{self.kind}/no-picture")
        facts = self.config.facts(sample)
        pairs = _draw(facts, rng, self.config, self.survey)
        if not pairs:
            return Outcome(verdict="quarantined", rule=f"{self.kind}/nothing-to-ask")
        turns: list[Turn] = []
        notes = notes_of(facts, rng, self.config.joined) if isinstance(self.config, Notes) else ""
        for _, question, answer in pairs:
            # all pairs share the notes as they would share the picture: one trunk, computed once
            asked = (Text(text=f"{notes} {question}"),) if self.kind == "notes" else (_FIRST, Text(text=question))
            turns += (Turn(role="user", items=asked), Turn(role="assistant", items=(Text(text=answer),)))
        attributes = {**sample.attributes, "turns": "independent", "kind": ",".join(kind for kind, _, _ in pairs)}
        origin = replace(sample.origin, parents=(sample.id,), maker=f"template:{self.kind}")
        made = replace(sample, turns=tuple(turns), attributes=attributes, origin=origin)
        if self.kind == "notes":
            made = replace(made, pictures=(), annotations=())
        return Outcome(samples=(made,))


_FIRST = Show(picture=0)


@OPERATOR.add
class Captions(Config):
    """One picture with one caption and its alternatives: those it came with, or one written from its annotations."""

    kind: Literal["captions"] = "captions"
    per_picture: int = Field(default=5, ge=1)
    """Captions kept per picture; the first drawn is the answer, the others are alternatives."""
    prompt: str = ""
    """What the user says after showing the picture."""
    write: Literal["missing", "always", "never"] = "missing"
    """Whether a caption is written from annotations."""
    ground: tuple[str, ...] = Field(default=("bare", "field", "forest", "grass"), strict=False)
    """Labels that are ground and not objects."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as one caption turn; quarantined when it has no picture, or no caption and nothing to write one from."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="captions/no-picture")
        own = [] if self.write == "always" else captions_in(sample)
        template = not own and self.write != "never"
        captions = [written] if template and (written := _written(facts_of(sample, ground=self.ground, margin=0.0, least_share=0.005), rng)) else own
        if not captions:
            return Outcome(verdict="quarantined", rule="captions/no-caption")
        drawn = [(Text(text=captions[index]),) for index in rng.permutation(len(captions))[: self.per_picture]]
        asked = (_FIRST, Text(text=self.prompt)) if self.prompt else (_FIRST,)
        turns = (Turn(role="user", items=asked), Turn(role="assistant", items=drawn[0], alternatives=tuple(drawn[1:])))
        origin = replace(sample.origin, parents=(sample.id,), maker="template:captions" if template else sample.origin.maker)
        return Outcome(samples=(replace(sample, turns=turns, attributes={**sample.attributes, "kind": "caption"}, origin=origin),))


def captions_in(sample: Sample) -> list[str]:
    """Distinct texts of the assistant's turns and their alternatives, in order."""
    said_so = [items for turn in sample.turns if turn.role == "assistant" for items in (turn.items, *turn.alternatives)]
    texts = ("".join(item.text for item in items if isinstance(item, Text)) for items in said_so)
    return list(dict.fromkeys(text for text in texts if text.strip()))


def _written(facts: Facts, rng: np.random.Generator) -> str:
    """A caption of all that is known, in random order: `a pond, two roads and forest`; empty when nothing is known."""
    number = Counter(thing.label for thing in facts.objects)
    phrases = [said(label) if label in facts.uncounted else counted(said(label), number[label]) for label in sorted(facts.present)]
    phrases += [said(facts.ground)] if facts.ground else []
    return listed([phrases[index] for index in rng.permutation(len(phrases))]) if phrases else ""
