"""Benchmarks made from samples: questions with short answers, and captions. They state requests and score answers; they never meet a model."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import Field

from sightline.errors import Problem, Refused, nearest
from sightline.evaluate.asking import Question, Scores, judged, paired, questions_of, stated
from sightline.evaluate.meteor import Synonyms, meteor
from sightline.evaluate.metrics import Tokens, Value, caption_metrics, commonest, distinct, repetition, resamples, rouge_l, share, tokenize
from sightline.kinds import Config, Family
from sightline.samples.exchange import Answer, Answerer, Decoding, Request
from sightline.samples.sample import Sample

BENCHMARK = Family("benchmark")
_BOOTSTRAP_SEED = 20
"""Intervals of the same answers are the same in every run."""


def cut_off(answers: Sequence[Answer]) -> Value:
    """Share of answers that ended because they were too long."""
    return share(sum(answer.finish == "length" for answer in answers), len(answers))


def normalise(answer: str) -> str:
    """The form in which answers are compared: NFKC, no case, single spaces, no final period."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    return text.rstrip(".\u3002").rstrip()


def labels_of(answer: str) -> frozenset[str]:
    """The labels of a list written with commas, normalised; order and repeats mean nothing."""
    return frozenset(filter(None, (normalise(part) for part in normalise(answer).replace("\u3001", ",").split(","))))


@BENCHMARK.add
class Questions(Config):
    """Questions with short answers, scored by exact match after normalisation, by kind of question."""

    kind: Literal["questions"] = "questions"
    data: str
    """Data set whose samples are asked."""
    limit: int | None = Field(default=None, ge=1)
    """Ask about the first so many samples only."""
    sets: list[str] = ["labels", "at"]
    """Question kinds whose answers are lists: compared as sets, split at commas."""
    besides: dict[str, str] = {"count": "one"}
    """Kinds to report once more without the questions that have this answer, as `count-not-one`: what is left when the easy answer is taken away."""
    max_tokens: int = Field(default=32, ge=1)
    """Longest answer."""

    def build(self, samples: Iterable[Sample]) -> QuestionBenchmark:
        """The benchmark over `samples` (those of `data`); raises Refused when one cannot be asked."""
        return QuestionBenchmark(self, questions_of(islice(samples, self.limit), Decoding(max_tokens=self.max_tokens)))


class QuestionBenchmark:
    """Questions and the scorer of their answers. Metrics: `all`, each kind, and each kind of `besides`."""

    needs = ("write",)
    headline = ("all",)

    def __init__(self, config: Questions, questions: Sequence[Question]) -> None:
        self.config = config
        self.questions = tuple(questions)

    def requests(self) -> Iterable[Request]:
        """One request per question."""
        return [question.request for question in self.questions]

    def labels(self, kind: str, answer: str) -> frozenset[str]:
        """The form in which answers of a kind are compared: the labels of a list, or the whole answer as one label."""
        return labels_of(answer) if kind in self.config.sets else frozenset((normalise(answer),))

    def right(self, question: Question, answer: str) -> bool:
        """Whether `answer` is one of the right ones."""
        return self.labels(question.kind, answer) in [self.labels(question.kind, right) for right in question.right]

    def majority(self) -> Scores:
        """Scores of giving every question of a kind the answer that is most often right in that kind, in this very set."""
        by_kind: dict[str, list[str]] = {}
        for question in self.questions:
            by_kind.setdefault(question.kind, []).append(normalise(question.right[0]))
        most = {kind: commonest(answers)[0] for kind, answers in by_kind.items()}
        return self.score([stated(question, most[question.kind], "majority") for question in self.questions])

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """Accuracy, 0..1, with Wilson intervals. No judge is asked: answers are compared."""
        matched = paired(self.questions, answers)
        rows = tuple(judged(question, answer, float(self.right(question, answer.text))) for question, answer in zip(self.questions, matched))
        scores: dict[str, list[float]] = {"all": []}
        given: dict[str, list[str]] = {}
        for question, row in zip(self.questions, rows):
            scores["all"].append(row.score)
            scores.setdefault(row.kind, []).append(row.score)
            given.setdefault(row.kind, []).append(normalise(row.given))
            easy = self.config.besides.get(row.kind)
            if easy is not None and self.labels(row.kind, easy) != self.labels(row.kind, question.right[0]):
                scores.setdefault(f"{row.kind}-not-{easy}", []).append(row.score)
        habits = {f"same-answer {kind}": share(commonest(texts)[1], len(texts)) for kind, texts in given.items()} | {"cut-off": cut_off(matched)}
        return Scores(metrics={name: share(sum(several), len(several)) for name, several in scores.items()}, habits=habits, per_request=rows)


@BENCHMARK.add
class Captions(Config):
    """Captions scored against references: BLEU-1..4, ROUGE-L, CIDEr, repetition, and whether the class is named."""

    kind: Literal["captions"] = "captions"
    data: str
    """Data set whose pictures are described."""
    limit: int | None = Field(default=None, ge=1)
    """Describe the first so many pictures only."""
    classes: str | None = None
    """YAML file `class: [other names]`. With it, a caption is also asked to name the class of its picture (attribute `class`)."""
    meteor: Synonyms | None = None
    """none or wordnet: also METEOR as nltk computes it, without or with WordNet's synonyms. Needs the extra `meteor`."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest caption."""

    def build(self, samples: Iterable[Sample]) -> CaptionBenchmark:
        """The benchmark over `samples` (those of `data`); raises Refused when one holds no caption, or a class that the table lacks."""
        questions = questions_of(islice(samples, self.limit), Decoding(max_tokens=self.max_tokens))
        names = None if self.classes is None else class_names(Path(self.classes))
        return CaptionBenchmark(tuple(_with_references(question) for question in questions), names, self.meteor)


def _with_references(question: Question) -> Question:
    references = question.source.attributes.get("references")
    return replace(question, kind="caption", right=tuple(map(str, references)) if references else question.right)


def class_names(path: Path) -> dict[str, list[list[str]]]:
    """Tokens of every name of each class, from a YAML table `class: [other names]`."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        broken = "" if isinstance(table, dict) else type(table).__name__
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        table, broken = {}, str(error)
    broken = broken or "; ".join(f"{name!r}: {others!r}" for name, others in table.items() if not isinstance(others, list))
    if broken:
        allowed, fix = "a mapping `class: [other names]`", "write one line per class, `pond: [ponds, lake]`"
        raise Refused(Problem(code="evaluate/class-table", place=str(path), found=broken, allowed=allowed, fix=fix))
    return {str(name): [tokens for tokens in (tokenize(str(text)) for text in (name, *others)) if tokens] for name, others in table.items()}


def _says(tokens: Tokens, names: Sequence[Tokens]) -> bool:
    return any(list(tokens[i : i + len(name)]) == list(name) for name in names for i in range(len(tokens) - len(name) + 1))


class CaptionBenchmark:
    """Pictures to describe and the scorer of the captions. Metrics: `bleu-1` .. `bleu-4`, `rouge-l`, `cider`, METEOR where it is asked for, and `class` when a table of classes is given."""

    needs = ("write",)

    def __init__(self, questions: Sequence[Question], names: Mapping[str, Sequence[Tokens]] | None = None, synonyms: Synonyms | None = None) -> None:
        self.questions = tuple(questions)
        self.names = names
        self.synonyms: Synonyms | None = synonyms
        self.headline = ("bleu-4", "class") if names else ("bleu-4",)
        if names is not None:
            self._check_classes(names)

    def _check_classes(self, names: Mapping[str, Sequence[Tokens]]) -> None:
        problems: dict[str, Problem] = {}
        for question in self.questions:
            found = question.source.attributes.get("class")
            if found not in names:
                what = "no attribute `class`" if found is None else f"class {found!r}"
                fix = nearest(str(found), list(names)) or "add the class to the table, or leave its pictures out"
                problems.setdefault(what, Problem(code="evaluate/unknown-class", place=question.source.id, found=what, allowed=", ".join(names), fix=fix))
        if problems:
            raise Refused(problems.values())

    def requests(self) -> Iterable[Request]:
        """One request per picture."""
        return [question.request for question in self.questions]

    def names_class(self, question: Question, caption: str) -> bool:
        """Whether the caption holds a name of its picture's class as words."""
        assert self.names is not None, "this benchmark has no table of classes"
        return _says(tokenize(caption), self.names[question.source.attributes["class"]])

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """Corpus metrics with bootstrap intervals over pictures, `class` with Wilson's. No judge is asked."""
        matched = paired(self.questions, answers)
        captions, references = [tokenize(answer.text) for answer in matched], [[tokenize(text) for text in question.right] for question in self.questions]
        pictures = [tuple(picture.hash for picture in question.request.sample.pictures) or question.request.sample.id for question in self.questions]
        metrics = caption_metrics(captions, references, pictures, np.random.default_rng(_BOOTSTRAP_SEED))
        if self.synonyms is not None:
            metrics |= meteor(captions, references, pictures, self.synonyms)
        if self.names is not None:
            metrics["class"] = share(sum(self.names_class(question, answer.text) for question, answer in zip(self.questions, matched)), len(matched))
        rows = tuple(
            judged(question, answer, rouge_l(caption, several)) for question, answer, caption, several in zip(self.questions, matched, captions, references)
        )
        return Scores(metrics=metrics, habits=caption_habits(captions, pictures, matched), per_request=rows)


def caption_habits(captions: Sequence[Tokens], pictures: Sequence[object], answers: Sequence[Answer]) -> dict[str, Value]:
    """Mean rep-n with bootstrap intervals, the commonest caption, distinct-n, which has no interval, since drawing twice makes any corpus look repetitive, and captions that were cut off."""
    times = resamples([str(picture) for picture in pictures], np.random.default_rng(_BOOTSTRAP_SEED))
    found: dict[str, Value] = {"same-answer": share(commonest(" ".join(tokens) for tokens in captions)[1], len(captions))}
    for n in (2, 3, 4):
        each = np.array([repetition(tokens, n) for tokens in captions])
        low, high = np.percentile(times @ each / times.sum(axis=1), (2.5, 97.5))
        found[f"rep-{n}"] = Value(value=float(each.mean()), low=float(low), high=float(high), n=len(captions))
    for n in (1, 2):
        value = distinct(captions, n)
        found[f"distinct-{n}"] = Value(value=value, low=value, high=value, n=len(captions))
    return found | {"cut-off": cut_off(answers)}
