"""Dual towers: finding the text of a picture and the picture of a text, and naming the class of a picture without having been trained to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sightline.data.questions import captions_in
from sightline.errors import Problem, Refused
from sightline.evaluate.asking import Scores
from sightline.evaluate.embedding_benchmarks import EmbeddingBenchmark, EmbeddingKind, Vectors
from sightline.evaluate.metrics import Value, commonest, share
from sightline.evaluate.published import by_group, resampled
from sightline.samples.exchange import Answer, Answerer
from sightline.samples.sample import Picture, Sample

DEPTHS = (1, 5, 10)
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an aerial image of a {}.", "a satellite image of a {}.")


class Retrieval(EmbeddingKind):
    """Texts of pictures and pictures of texts among all of a set: RSICD, Flickr, COCO, or a store with captions."""

    files: ClassVar[str] = "a store, or captions in a layout that is read"
    kind: Literal["retrieval"] = "retrieval"
    split: str | None = "test"
    """Split of `path` that is asked; all when null."""

    def prepared(self, samples: Sequence[Sample]) -> RetrievalBenchmark:
        """See EmbeddingKind. Refused for a sample without a caption. One picture in several samples is one; a caption of several pictures is one text."""
        captions: dict[str, list[str]] = {}
        pictures = {}
        for sample in samples:
            [picture] = sample.pictures
            told = sample.attributes.get("references")
            found = [str(one) for one in told] if isinstance(told, list | tuple) else captions_in(sample)
            if not found:
                place = f"{sample.origin.source}:{sample.id}"
                raise Refused(Problem(code="evaluate/no-answer", place=place, found="no caption", allowed="one for each picture", fix="leave the picture out"))
            pictures.setdefault(picture.hash, picture)
            captions.setdefault(picture.hash, []).extend(found)
        texts = list(dict.fromkeys(text for several in captions.values() for text in several))
        return RetrievalBenchmark(list(pictures.values()), texts, [tuple(dict.fromkeys(captions[name])) for name in pictures])


class RetrievalBenchmark(EmbeddingBenchmark):
    """Metrics: `text R@K`, the share of pictures one of whose texts is among the K nearest; `picture R@K`, the share of texts one of whose pictures is; `mean R`, of all six."""

    headline = ("mean R",)

    def __init__(self, pictures: Sequence[Picture], texts: Sequence[str], captions: Sequence[tuple[str, ...]]) -> None:
        super().__init__(pictures, texts, ["picture"] * len(pictures), captions)
        places = {text: number for number, text in enumerate(texts)}
        self.own = np.zeros((len(pictures), len(texts)), bool)
        for number, several in enumerate(captions):
            self.own[number, [places[text] for text in several]] = True

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """Recalls with resamples of pictures and of texts. A wrong candidate that is as near as the right one stands before it: equal vectors find nothing."""
        seen, said = self.vectors(answers)
        near = seen @ said.T
        texts, pictures = ranks(near, self.own), ranks(near.T, self.own.T)
        metrics = {f"text R@{depth}": share(int((texts < depth).sum()), len(texts)) for depth in DEPTHS}
        metrics |= {f"picture R@{depth}": share(int((pictures < depth).sum()), len(pictures)) for depth in DEPTHS}
        every = np.mean([texts[:, None] < np.array(DEPTHS)], axis=(0, 2))
        other = float(np.mean([(pictures < depth).mean() for depth in DEPTHS]))
        mean = resampled(range(len(texts)), lambda times: (times @ every / times.sum(axis=1) + other) / 2)
        given = [self.texts[best] for best in near.argmax(axis=1)]
        metrics["mean R"] = mean
        habits = {"same-answer": share(commonest(given)[1], len(given))}
        return Scores(metrics=metrics, habits=habits, per_request=self.rows(given, (texts < 1).astype(float).tolist()))


def ranks(near: NDArray[np.float64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(Q,) wrong candidates that are at least as near as the nearest right one, of similarities (Q, C) and which candidates are right (Q, C)."""
    best = np.where(own, near, -np.inf).max(axis=1)
    return ((near >= best[:, None]) & ~own).sum(axis=1)


class ZeroShot(EmbeddingKind):
    """Classes of pictures by the nearest text: AID, UC Merced, EuroSAT in folders of classes, or a store whose pictures have one label as a whole."""

    files: ClassVar[str] = "a store, or a folder with a folder of pictures for each class"
    kind: Literal["zero-shot"] = "zero-shot"
    templates: tuple[str, ...] = Field(default=TEMPLATES, min_length=1)
    """Sentences with `{}` for the class; the vector of a class is the mean of theirs (Radford et al. 2021, section 3.1.4)."""
    names: dict[str, str] = Field(default_factory=dict)
    """Class -> the words that are said for it; default is the label."""

    def prepared(self, samples: Sequence[Sample]) -> ZeroShotBenchmark:
        """See EmbeddingKind. Refused for a sample that has no label, or several, as a whole, and for fewer than two classes."""
        labels = [_class(sample) for sample in samples]
        classes = sorted(set(labels))
        unknown = sorted(set(self.names) - set(classes))
        broken = [template for template in self.templates if template.count("{}") != 1]
        if len(classes) < 2 or unknown or broken:
            found = f"template {broken[0]!r}" if broken else f"names of {', '.join(unknown)}" if unknown else f"{len(classes)} classes"
            allowed = "one {} in a template" if broken else ", ".join(classes) if unknown else "two classes or more"
            raise Refused(Problem(code="evaluate/classes", place=self.asked_of, found=found, allowed=allowed, fix="correct it"))
        texts = [template.replace("{}", self.names.get(name, name)) for name in classes for template in self.templates]
        return ZeroShotBenchmark([sample.pictures[0] for sample in samples], texts, labels, classes)


def _class(sample: Sample) -> str:
    labels = {region.label for region in sample.annotations if region.shape is None and region.label is not None}
    told = sample.attributes.get("class")
    if len(labels) != 1 and not isinstance(told, str):
        found = f"labels of the whole picture: {', '.join(sorted(labels)) or 'none'}"
        place = f"{sample.origin.source}:{sample.id}"
        raise Refused(Problem(code="evaluate/no-class", place=place, found=found, allowed="exactly one, or the attribute `class`", fix="leave the picture out"))
    return labels.pop() if len(labels) == 1 else str(told)


class ZeroShotBenchmark(EmbeddingBenchmark):
    """Metrics: `top-1`, `top-5`, `macro` (mean over classes of top-1), then top-1 of each class."""

    headline = ("top-1", "top-5")

    def __init__(self, pictures: Sequence[Picture], texts: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> None:
        self.labels, self.classes = list(labels), list(classes)
        self.each = len(texts) // len(classes)
        distinct = list(dict.fromkeys(texts))
        self.places = [distinct.index(text) for text in texts]
        super().__init__(pictures, distinct, labels, [(label,) for label in labels])

    def class_vectors(self, said: Vectors) -> Vectors:
        """(classes, E): means over the templates, of unit length."""
        means = said[self.places].reshape(len(self.classes), self.each, -1).mean(axis=1)
        return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """Accuracies with Wilson's intervals. A wrong class that is as near as the right one stands before it."""
        seen, said = self.vectors(answers)
        near = seen @ self.class_vectors(said).T
        own = np.array([[label == name for name in self.classes] for label in self.labels])
        rank = ranks(near, own)
        hit = (rank < 1).astype(float)
        given = [self.classes[best] for best in near.argmax(axis=1)]
        metrics: dict[str, Value] = {"top-1": share(float(hit.sum()), len(hit))}
        if len(self.classes) > 5:
            metrics["top-5"] = share(int((rank < 5).sum()), len(rank))
        counts = own.astype(float)
        metrics["macro"] = resampled(range(len(hit)), lambda times: _macro(times, counts, hit))
        habits = {"same-answer": share(commonest(given)[1], len(given))}
        return Scores(metrics=metrics | by_group(self.labels, hit.tolist()), habits=habits, per_request=self.rows(given, hit.tolist()))


def _macro(times: NDArray[np.float64], counts: NDArray[np.float64], hit: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes that a resample holds."""
    each = times @ counts
    means = np.where(each > 0, times @ (counts * hit[:, None]) / np.maximum(each, 1), 0.0)
    return means.sum(axis=1) / np.maximum((each > 0).sum(axis=1), 1)
