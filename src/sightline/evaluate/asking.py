"""What is asked and what came back: questions made from samples, answers paired with them, and the same questions with other pictures or none.

The controls show whether a score comes from the picture: they are judged by the same scorer, because the names of the requests stay.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.metrics import Value
from sightline.samples.exchange import Answer, Answerer, Decoding, Request
from sightline.samples.sample import Item, Picture, Sample, Text, Turn


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One answer beside what was expected."""

    request: str
    """Id of the request's sample."""
    kind: str
    expected: tuple[str, ...]
    """Every right answer, the first one first."""
    given: str
    score: float
    """0..1. Questions: right or wrong. Captions: ROUGE-L."""
    probability: float | None = None
    """What the model gave to its whole answer, 0..1; None when it did not say."""

    def record(self) -> dict[str, Any]:
        """The judgement as JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one set of answers is worth."""

    metrics: Mapping[str, Value]
    habits: Mapping[str, Value] = field(default_factory=dict)
    """How the answers look whatever was asked: repetition, the share of the commonest answer, answers cut off. High is not good."""
    per_request: tuple[Judged, ...] = ()

    def record(self) -> dict[str, Any]:
        """The content of `scores.json`."""
        values = lambda table: {name: value._asdict() for name, value in table.items()}  # noqa: E731
        return {"metrics": values(self.metrics), "habits": values(self.habits), "per_request": [judged.record() for judged in self.per_request]}


def scores_of(record: Mapping[str, Any]) -> Scores:
    """The scores of `Scores.record`, read back from JSON."""
    values = lambda table: {name: Value(**value) for name, value in table.items()}  # noqa: E731
    rows = tuple(Judged(**{**row, "expected": tuple(row["expected"])}) for row in record["per_request"])
    return Scores(metrics=values(record["metrics"]), habits=values(record["habits"]), per_request=rows)


class Benchmark(Protocol):
    """What every kind of benchmark builds."""

    needs: tuple[str, ...]
    """Abilities of the model that is asked."""
    headline: tuple[str, ...]
    """Metrics that stand first in a report; the first one is what a gate looks at."""

    def requests(self) -> Iterable[Request]:
        """What is asked; the id of each request's sample is its own."""
        ...

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """Scores of one answer to each request. A missing answer is refused, not counted as wrong."""
        ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request with what counts as right."""

    request: Request
    kind: str
    right: tuple[str, ...]
    source: Sample
    """The sample it was made from: what the model must not see stays here."""


_RULES = {
    "no-questions": ("pairs of a user turn and an assistant turn", "ask with samples that hold questions and answers"),
    "dependent-turns": ('one pair, or attributes.turns = "independent"', "split the conversation, or state that its turns are independent"),
    "kind-count": ("one kind, or one for each pair", "correct attributes.kind"),
    "not-text": ("answers of text", "take regions out of the answers, or leave the sample out"),
    "picture-not-shown": ("a user turn that shows what it asks about", "show the picture in the turn, or drop it from the sample"),
    "repeated-id": ("one id per sample", "read the set into a store, which refuses repeats"),
    "nothing-to-ask": ("at least one sample", "check `data` and `limit`"),
    "missing-answer": ("one answer to each request", "ask again: only what is missing is asked"),
    "strange-answer": ("one answer to each request", "score the answers of this benchmark"),
    "repeated-answer": ("one answer to each request", "score the answers of one model"),
    "too-few-pictures": ("at least two", "ask about more pictures, or leave this control out"),
}
"""What is allowed, and how to mend what is not, by code."""


def _refusal(code: str, place: str, found: str) -> Problem:
    allowed, fix = _RULES[code]
    return Problem(code=f"evaluate/{code}", place=place, found=found, allowed=allowed, fix=fix)


def _plain(items: Sequence[Item]) -> str | None:
    return "".join(item.text for item in items if isinstance(item, Text)) if all(isinstance(item, Text) for item in items) else None


def _broken(sample: Sample, pairs: Sequence[tuple[Turn, Turn]], body: Sequence[Turn], kinds: Sequence[str]) -> Problem | None:
    if not pairs or len(body) % 2 or any(user.role != "user" or reply.role != "assistant" for user, reply in pairs):
        return _refusal("no-questions", sample.id, f"roles {[turn.role for turn in sample.turns]}")
    if len(pairs) > 1 and sample.attributes.get("turns") != "independent":
        return _refusal("dependent-turns", sample.id, f"{len(pairs)} pairs that build on each other")
    if len(kinds) not in (1, len(pairs)):
        return _refusal("kind-count", sample.id, f"{len(kinds)} kinds for {len(pairs)} pairs")
    return None


def _questions_of(sample: Sample, decoding: Decoding) -> Iterator[Question | Problem]:
    lead = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    body = sample.turns[len(lead) :]
    pairs = list(zip(body[::2], body[1::2]))
    kinds = str(sample.attributes.get("kind", "question")).split(",")
    if (problem := _broken(sample, pairs, body, kinds)) is not None:
        yield problem
        return
    for number, (user, reply) in enumerate(pairs):
        right = tuple(text for text in map(_plain, (reply.items, *reply.alternatives)) if text is not None)
        if len(right) <= len(reply.alternatives):
            yield _refusal("not-text", sample.id, f"the answer of pair {number} holds a picture or a region")
        elif sample.pictures and _plain(user.items) is not None:
            yield _refusal("picture-not-shown", sample.id, f"pair {number} shows none of {len(sample.pictures)} pictures")
        else:
            kind = kinds[number % len(kinds)]
            asked = replace(sample, id=f"{sample.id}#{number}", turns=(*lead, user), annotations=(), attributes={"kind": kind})
            yield Question(request=Request(sample=asked, decoding=decoding), kind=kind, right=right, source=sample)


def questions_of(samples: Iterable[Sample], decoding: Decoding) -> tuple[Question, ...]:
    """One question per user/assistant pair, named `SAMPLE#PAIR`. The request holds the pictures and its own user turn: no annotation, no answer.

    Raises Refused with every sample that cannot be asked so.
    """
    made = [made for sample in samples for made in _questions_of(sample, decoding)]
    problems = [problem for problem in made if isinstance(problem, Problem)]
    found = tuple(question for question in made if isinstance(question, Question))
    times = Counter(question.request.sample.id for question in found)
    problems += [_refusal("repeated-id", name, f"{count} questions of this name") for name, count in times.items() if count > 1]
    if not made:
        problems.append(_refusal("nothing-to-ask", "benchmark", "no sample"))
    if problems:
        raise Refused(problems)
    return found


def paired(questions: Sequence[Question], answers: Iterable[Answer]) -> list[Answer]:
    """The answer to each question, in their order. Missing, strange and repeated answers are refused together."""
    wanted = {question.request.sample.id for question in questions}
    by_name: dict[str, Answer] = {}
    repeated: list[str] = []
    for answer in answers:
        if answer.sample in by_name:
            repeated.append(answer.sample)
        by_name[answer.sample] = answer
    findings = {
        "missing-answer": [question.request.sample.id for question in questions if question.request.sample.id not in by_name],
        "strange-answer": [name for name in by_name if name not in wanted],
        "repeated-answer": repeated,
    }
    problems = [
        _refusal(code, names[0], f"{len(names)} such {'answer' if len(names) == 1 else 'answers'} to {len(wanted)} requests, this one first")
        for code, names in findings.items()
        if names
    ]
    if problems:
        raise Refused(problems)
    return [by_name[question.request.sample.id] for question in questions]


def stated(question: Question, text: str, by: str) -> Answer:
    """An answer that no model gave: a control's, named by `by`."""
    return Answer(key=f"{by}:{question.request.sample.id}", sample=question.request.sample.id, weights=by, text=text)


def judged(question: Question, answer: Answer, score: float) -> Judged:
    """An answer beside its question; the probability is that of all its tokens together."""
    probability = math.exp(min(0.0, sum(answer.logps))) if answer.logps else None
    return Judged(request=answer.sample, kind=question.kind, expected=question.right, given=answer.text, score=score, probability=probability)


def without_pictures(requests: Iterable[Request]) -> list[Request]:
    """The same requests blind: pictures, and every item that points at one, are taken away; text stays."""
    keep = lambda turn: replace(turn, items=tuple(item for item in turn.items if isinstance(item, Text)))  # noqa: E731
    return [replace(request, sample=replace(request.sample, pictures=(), turns=tuple(map(keep, request.sample.turns)))) for request in requests]


def shuffled_pictures(requests: Sequence[Request], seed: int) -> list[Request]:
    """The same requests about wrong pictures: a derangement over the pictures, so that all requests about one picture get the same other one.

    One random cycle through all pictures, whatever the order of the requests. Raises Refused when there are fewer than two different pictures.
    """
    pictures: dict[str, Picture] = {picture.hash: picture for request in requests for picture in request.sample.pictures}
    if len(pictures) < 2:
        raise Refused(_refusal("too-few-pictures", "benchmark", f"{len(pictures)} different pictures"))
    order = np.random.default_rng(seed).permutation(sorted(pictures)).tolist()
    other = {name: pictures[following] for name, following in zip(order, order[1:] + order[:1])}
    wrong = lambda sample: replace(sample, pictures=tuple(other[picture.hash] for picture in sample.pictures))  # noqa: E731
    return [replace(request, sample=wrong(request.sample)) for request in requests]
