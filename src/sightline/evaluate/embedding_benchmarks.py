"""What benchmarks of dual towers share: pictures and texts are asked for their vectors, and the figures follow from all products of two of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sightline.evaluate.asking import Judged, Question, Scores, paired
from sightline.evaluate.metrics import Value
from sightline.evaluate.published import PublishedRow, Verdict, refused
from sightline.evaluate.read_sets import SetKind, kept_answers
from sightline.samples.exchange import Answer, Answerer, Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

Vectors = NDArray[np.float64]
"""(n, E) of unit length."""


class EmbeddingKind(SetKind):
    """Base of these kinds."""

    needs: ClassVar[tuple[str, ...]] = ("embed",)
    """Abilities of the model that is asked."""

    @abstractmethod
    def prepared(self, samples: Sequence[Sample]) -> EmbeddingBenchmark:
        """The benchmark of samples of one picture each."""
        raise NotImplementedError

    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """None: nothing is answered in words."""
        return iter(())

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Never: vectors are compared, not words."""
        raise AssertionError("vectors are compared, not words")

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """Never: see EmbeddingBenchmark."""
        raise AssertionError("vectors are compared, not words")

    def build(self, samples: Iterable[Sample] = (), seen: bool = True) -> EmbeddingBenchmark:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The benchmark of the samples of `data`, or of the set at `path`. Refused for a sample with no or several pictures."""
        found = self.asked_samples(samples)[: self.limit]
        if odd := [sample for sample in found if len(sample.pictures) != 1]:
            said = f"{len(odd)} samples with no or several pictures, {odd[0].id} first"
            raise refused("one-picture", self.asked_of, said, "one picture in each sample", "leave them out")
        return self.prepared(found)


class EmbeddingBenchmark:
    """Pictures and texts, and the scorer of their vectors."""

    needs = ("embed",)
    headline: tuple[str, ...] = ()

    def __init__(self, pictures: Sequence[Picture], texts: Sequence[str], kinds: Sequence[str], right: Sequence[tuple[str, ...]]) -> None:
        self.pictures, self.texts = list(pictures), list(texts)
        seen = [asked_alone(f"picture {number}", picture, None, "benchmark", kind) for number, (picture, kind) in enumerate(zip(pictures, kinds, strict=True))]
        said = [asked_alone(f"text {number}", None, text, "benchmark", "text") for number, text in enumerate(texts)]
        rights = [*right, *((text,) for text in texts)]
        samples = [*seen, *said]
        self.questions = tuple(
            Question(request=Request(sample=sample, ask="embed"), kind=str(sample.attributes["kind"]), right=own, source=sample)
            for sample, own in zip(samples, rights, strict=True)
        )

    def requests(self) -> Iterable[Request]:
        """One for each picture, then one for each different text."""
        return [question.request for question in self.questions]

    def vectors(self, answers: Iterable[Answer]) -> tuple[Vectors, Vectors]:
        """Unit vectors of pictures and of texts. Refused where an answer has none."""
        matched = paired(self.questions, answers)
        bare = [answer for answer in matched if answer.vector is None]
        if bare:
            said = f"{len(bare)} answers without a vector, that to {bare[0].sample} first"
            raise refused("no-vector", "benchmark", said, "a vector for each picture and text", "ask a model with a text encoder: --model")
        table = np.array([answer.vector for answer in matched], float)
        table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        return table[: len(self.pictures)], table[len(self.pictures) :]

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """The figures of the kind. No judge is asked."""
        raise NotImplementedError

    def rows(self, given: Sequence[str], scores: Sequence[float]) -> tuple[Judged, ...]:
        """What was found for each picture beside what is right."""
        return tuple(
            Judged(request=question.request.sample.id, kind=question.kind, expected=question.right, given=text, score=score)
            for question, text, score in zip(self.questions, given, scores)
        )

    def read_answers(self, path: Path) -> list[Answer]:
        """Vectors that were kept: answers.jsonl of an evaluation."""
        return kept_answers(path)


def asked_alone(name: str, picture: Picture | None, text: str | None, source: str, kind: str = "") -> Sample:
    """A picture alone, or a text alone, as one asks for its vector."""
    asked = Turn(role="user", items=(Show(picture=0),) if picture is not None else ())
    turns = (asked,) if text is None else (asked, Turn(role="assistant", items=(Text(text=text),)))
    return Sample(id=name, pictures=() if picture is None else (picture,), turns=turns, attributes={"kind": kind}, origin=Origin(source=source))
