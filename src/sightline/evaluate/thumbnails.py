"""What a model without understanding reaches: ridge regression on tiny pictures, and captions written without looking.

A score that these controls reach too says nothing about seeing. Each states answers to a benchmark's own requests, so that the benchmark's own scorer judges it.

The probe takes the standardised pixels of 32x32 thumbnails, their 256 main directions (randomised PCA, Halko et al. 2011) found once for the whole set, and one ridge
regression per question text, all its answers at once. Texts are asked about different pictures, so each needs normal equations of its own: of 256 unknowns in place of
3072, which makes 8000 pictures with dozens of texts a matter of seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sightline.errors import Problem, Refused
from sightline.evaluate.asking import Question, stated
from sightline.evaluate.benchmarks import CaptionBenchmark, QuestionBenchmark
from sightline.evaluate.metrics import commonest, tokenize
from sightline.samples.exchange import Answer

SIDE = 32
COMPONENTS = 256
PENALTIES = np.geomspace(1e3, 1e-2, 11)
"""Ridge penalties tried, each times the number of rows; the strongest of equally good ones is taken."""
FEWEST = 20
"""Training rows below which a question text is not learnt: a fifth of them could not choose a penalty."""
_PROBE = "thumbnail-probe"


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 pixels as (32, 32, 3) uint8: each cell the mean of what it covers, the aspect given up."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Answers of the probe to a benchmark."""

    answers: tuple[Answer, ...]
    unlearnt: int
    """Questions whose text stood in fewer than 20 training rows: they got the commonest training answer of the text, else of the kind."""


@dataclass(frozen=True, kw_only=True)
class _Eye:
    mean: np.ndarray
    spread: np.ndarray
    directions: np.ndarray
    """(3072, C) orthonormal, float32."""

    def look(self, pictures: np.ndarray) -> np.ndarray:
        """(P, 32, 32, 3) uint8 as (P, C) float64."""
        flat = pictures.reshape(len(pictures), -1).astype(np.float32)
        return (((flat - self.mean) / self.spread) @ self.directions).astype(np.float64)


def _eye(pictures: np.ndarray, rng: np.random.Generator) -> _Eye:
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    mean, spread = flat.mean(axis=0), np.maximum(flat.std(axis=0), 1.0)
    flat = (flat - mean) / spread
    rank = min(COMPONENTS, *flat.shape)
    basis = flat.T @ rng.standard_normal((len(flat), min(rank + 32, *flat.shape)), dtype=np.float32)
    for _ in range(2):
        basis = flat.T @ np.linalg.qr(flat @ np.linalg.qr(basis)[0])[0]
    basis = np.linalg.qr(basis)[0]
    _, _, turned = np.linalg.svd(np.linalg.qr(flat @ basis, mode="r"), full_matrices=False)
    return _Eye(mean=mean, spread=spread, directions=basis @ turned[:rank].T)


def _ridge(features: np.ndarray, targets: np.ndarray, penalties: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Predictions (penalties, rows of `seen`, targets) of ridge regressions with a free intercept, all from one eigendecomposition."""
    centre, level = features.mean(axis=0), targets.mean(axis=0)
    values, vectors = np.linalg.eigh((features - centre).T @ (features - centre))
    rotated = vectors.T @ ((features - centre).T @ (targets - level))
    turned = (seen - centre) @ vectors
    shrunk = rotated / (np.maximum(values, 0.0) + penalties[:, None] * len(features))[:, :, None]
    return turned @ shrunk + level


def _chosen(predicted: np.ndarray, sets: bool) -> np.ndarray:
    """Boolean choices from (.., targets) predictions: the best one, or for sets all above a half and at least the best one."""
    best = predicted.argmax(axis=-1)[..., None] == np.arange(predicted.shape[-1])
    return best | (predicted > 0.5) if sets else best


def _learn(features: np.ndarray, targets: np.ndarray, tune: np.ndarray, seen: np.ndarray, sets: bool) -> np.ndarray:
    """Choices (rows of `seen`, targets). The penalty is the one that is most often wholly right on the `tune` rows after a fit to the others."""
    trial = _chosen(_ridge(features[~tune], targets[~tune], PENALTIES, features[tune]), sets)
    right = (trial == targets[tune].astype(bool)).all(axis=2).sum(axis=1)
    return _chosen(_ridge(features, targets, PENALTIES[[right.argmax()]], seen)[0], sets)


def _picture(question: Question) -> str | None:
    return question.request.sample.pictures[0].hash if question.request.sample.pictures else None


def _hot(rows: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All labels in order, and (rows, labels) with 1 where a row has the label."""
    labels = sorted({label for row in rows for label in row})
    places = {label: place for place, label in enumerate(labels)}
    hot = np.zeros((len(rows), len(labels)))
    for number, row in enumerate(rows):
        hot[number, [places[label] for label in row]] = 1.0
    return labels, hot


class ThumbnailProbe:
    """Ridge regression from thumbnails to answers, trained on questions of training pictures.

    `thumbnails` maps the hash of every training picture to its (32, 32, 3) uint8 thumbnail. A fifth of the pictures chooses the penalty of each regression.
    """

    def __init__(self, thumbnails: Mapping[str, np.ndarray], rng: np.random.Generator) -> None:
        hashes = sorted(thumbnails)
        pictures = np.stack([thumbnails[name] for name in hashes])
        self._eye = _eye(pictures, rng)
        self._features = self._eye.look(pictures)
        self._places = {name: place for place, name in enumerate(hashes)}
        self._tune = rng.permutation(len(hashes)) < max(1, len(hashes) // 5)

    def _predict(self, rows: Sequence[tuple[str, Sequence[str]]], seen: np.ndarray, sets: bool) -> list[str] | None:
        """Answers to the (P, 32, 32, 3) thumbnails `seen` after training on rows of (picture hash, labels); None where there is too little to learn."""
        places = np.array([self._places[name] for name, _ in rows], int)
        tune = self._tune[places]
        if len(rows) < FEWEST or tune.all() or not tune.any():
            return None
        labels, hot = _hot([answer for _, answer in rows])
        choices = _learn(self._features[places], hot, tune, self._eye.look(seen), sets)
        return [", ".join(label for label, chosen in zip(labels, row) if chosen) for row in choices]

    def answer(self, train: Sequence[Question], benchmark: QuestionBenchmark, thumbnails: Mapping[str, np.ndarray]) -> Probed:
        """Answers to every question of the benchmark, learnt from `train` (its first picture, its text, its first right answer); `thumbnails` are those of the benchmark's pictures."""
        known, asked = _by_text(train), _by_text(benchmark.questions)
        stand_in = {kind: commonest(question.right[0] for question in train if question.kind == kind)[0] for kind in {question.kind for question in train}}
        answers: list[Answer] = []
        unlearnt = 0
        for (kind, text), questions in asked.items():
            sets = kind in benchmark.config.sets
            rows = known.get((kind, text), [])
            pairs = [(name, sorted(benchmark.labels(kind, question.right[0]))) for question in rows if (name := _picture(question)) is not None]
            names = [_picture(question) for question in questions]
            seen = np.stack([thumbnails[name] for name in names if name is not None]) if all(names) else None
            texts = None if seen is None else self._predict(pairs, seen, sets)
            if texts is None:
                unlearnt += len(questions)
                texts = [commonest(question.right[0] for question in rows)[0] or stand_in.get(kind, "")] * len(questions)
            answers.extend(stated(question, given, _PROBE) for question, given in zip(questions, texts))
        return Probed(answers=tuple(answers), unlearnt=unlearnt)

    def name_classes(self, train: Sequence[Question], benchmark: CaptionBenchmark, thumbnails: Mapping[str, np.ndarray]) -> Probed:
        """The predicted class (attribute `class`) of each picture as its whole caption: comparable in the metric `class`, hopeless by design in the others.

        Raises Refused when a training sample has no class.
        """
        nameless = [question.source.id for question in train if "class" not in question.source.attributes]
        if nameless:
            found = f"{len(nameless)} of {len(train)} training samples have no attribute `class`"
            fix = "train the probe on a set with classes, or leave `classes` out of the benchmark"
            raise Refused(Problem(code="evaluate/no-class", place=nameless[0], found=found, allowed="a class for each", fix=fix))
        pairs = [(name, [str(question.source.attributes["class"])]) for question in train if (name := _picture(question)) is not None]
        texts = self._predict(pairs, np.stack([thumbnails[str(_picture(question))] for question in benchmark.questions]), sets=False)
        given = texts or [commonest(labels[0] for _, labels in pairs)[0]] * len(benchmark.questions)
        answers = tuple(stated(question, text, _PROBE) for question, text in zip(benchmark.questions, given))
        return Probed(answers=answers, unlearnt=0 if texts else len(answers))


def _by_text(questions: Sequence[Question]) -> dict[tuple[str, str], list[Question]]:
    found: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        found.setdefault((question.kind, question.request.sample.text(-1)), []).append(question)
    return found


def commonest_caption(train: Sequence[Question], benchmark: CaptionBenchmark) -> list[Answer]:
    """The caption that training pictures have most often, said of every picture."""
    text = commonest(" ".join(tokenize(right)) for question in train for right in question.right)[0]
    return [stated(question, text, "commonest-caption") for question in benchmark.questions]


def captions_of_others(train: Sequence[Question], benchmark: CaptionBenchmark, rng: np.random.Generator) -> list[Answer]:
    """A caption of a training picture drawn at random, never of the same picture, for every picture."""
    said: dict[str | None, list[str]] = {}
    for question in train:
        said.setdefault(_picture(question), []).extend(question.right)
    answers: list[Answer] = []
    for question in benchmark.questions:
        others = [picture for picture in said if picture != _picture(question)]
        assert others, "captions of others need training captions of another picture"
        captions = said[others[rng.integers(len(others))]]
        answers.append(stated(question, captions[rng.integers(len(captions))], "caption-of-another"))
    return answers
