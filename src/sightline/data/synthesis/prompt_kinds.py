"""Prompts around what is known already: captions, a set's own questions, and questions to be found for answers."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sightline.data.questions import captions_in
from sightline.data.synthesis.asked import Asked, Subject, exchange
from sightline.data.synthesis.region_kinds import countable
from sightline.samples.sample import Sample, Show, Text, Turn


def caption(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """A caption under one of many prompts: the row's own where it is a caption row, else one written from its annotations."""
    own = captions_in(subject.sample) if subject.sample.turns and not _pairs(subject.sample) else []
    shares = list(subject.known.shares)[: subject.limits.most_labels]
    if not most or not (own or shares):
        return []
    asking = subject.asking("caption", rng)
    number = Counter(thing.label for thing in subject.known.things)
    sure = {label: count for label, count in number.items() if label not in subject.known.uncounted and countable(subject, label)}
    question = asking.say("ask", {})
    answers = [(Text(text=text),) for text in own] or [asking.say("say", {"things": asking.words.things(shares, sure)})]
    asked, answered = exchange(subject, question, answers[0])
    turns = (asked, Turn(role="assistant", items=answered.items, alternatives=tuple(answers[1:])))
    return [Asked(kind="caption", language=asking.words.language, template=asking.template, turns=turns)]


def vqa(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """A set's own questions with their own answers, under one of many prompts."""
    asked: list[Asked] = []
    for question, answer in _pairs(subject.sample)[:most]:
        asking = subject.asking("vqa", rng)
        user, _ = exchange(subject, asking.say("ask", {"question": question}), answer.items)
        asked.append(Asked(kind="vqa", language=asking.words.language, template=asking.template, turns=(user, answer), answers=(_words(answer),)))
    return asked


def question(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """The question for an answer: a set's own pairs turned round."""
    asked: list[Asked] = []
    for own, answer in _pairs(subject.sample)[:most]:
        asking = subject.asking("question", rng)
        turns = exchange(subject, asking.say("ask", {"answer": _words(answer).rstrip(".")}), (Text(text=own),))
        asked.append(Asked(kind="question", language=asking.words.language, template=asking.template, turns=turns))
    return asked


def _pairs(sample: Sample) -> list[tuple[str, Turn]]:
    """Questions in words with their answers; a user turn that only shows a picture asks nothing."""
    pairs = zip(sample.turns, sample.turns[1:], strict=False)
    return [
        (_words(user), answer)
        for user, answer in pairs
        if user.role == "user" and _words(user) and _plain(user) and answer.role == "assistant" and _plain(answer)
    ]


def _words(turn: Turn) -> str:
    return "".join(item.text for item in turn.items if isinstance(item, Text)).strip()


def _plain(turn: Turn) -> bool:
    return all(isinstance(item, Text | Show) for item in turn.items)
