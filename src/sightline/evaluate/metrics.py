"""Scores of text: shares with intervals, the caption metrics of the COCO evaluation without Java, and signs of repetition.

Caption metrics take tokens, so that a published figure made with another tokeniser can be checked against the same lists.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Tokens = Sequence[str]
ORDERS = 4
"""Longest n-gram of BLEU and CIDEr."""

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CONTRACTION = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))(?![^\W_])")
_TOKEN = re.compile(rf"[{_IDEOGRAPH}]|n't|'(?:s|re|ve|ll|d|m)(?![^\W_])|\d+(?:[.,]\d+)+|[^\W_{_IDEOGRAPH}]+(?:-[^\W_{_IDEOGRAPH}]+)*")


class Value(NamedTuple):
    """A score with its 95 % interval and the number of things it was counted over."""

    value: float
    low: float
    high: float
    n: int


_FULL_SCALE = {"cider": 10.0, "perception score": 2000.0, "cognition score": 800.0}
"""Metrics that are no share: the largest value they can have. They are printed as they are, shares as percentages."""
_POINTS = 200.0
"""Full scale of any other metric whose name ends in ` score`: points of a subtask."""


def full_scale(name: str) -> float:
    """The largest value of a metric; 1 for shares."""
    return _FULL_SCALE.get(name, _POINTS if name.endswith(" score") else 1.0)


def tokenize(caption: str) -> list[str]:
    """Words in lower case without punctuation; English contractions are split as in the Penn Treebank, Chinese and kana stand character by character."""
    text = unicodedata.normalize("NFKC", caption).replace("\u2019", "'").lower()
    return _TOKEN.findall(_CONTRACTION.sub(r" \1", text))


def wilson(successes: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927), inside 0..1; nothing counted gives (0, 1)."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def share(successes: float, n: int) -> Value:
    """`successes` of `n` with its Wilson interval; the value of nothing counted is 0."""
    low, high = wilson(successes, n)
    return Value(value=successes / n if n else 0.0, low=low, high=high, n=n)


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of one text."""
    return Counter(zip(*(tokens[i:] for i in range(n))))


def repetition(tokens: Tokens, n: int) -> float:
    """rep-n of one answer: 1 - different / all n-grams; 0 when it is shorter than n."""
    counts = ngrams(tokens, n)
    return 1 - len(counts) / counts.total() if counts else 0.0


def diversity(tokens: Tokens) -> float:
    """Product of 1 - rep-n for n = 2, 3, 4 (Su et al. 2022, contrastive search)."""
    return math.prod(1 - repetition(tokens, n) for n in (2, 3, 4))


def distinct(corpus: Iterable[Tokens], n: int) -> float:
    """distinct-n of all answers together: different / all n-grams (Li et al. 2016); 0 for an empty corpus."""
    counts: Counter[tuple[str, ...]] = Counter()
    for tokens in corpus:
        counts.update(ngrams(tokens, n))
    return len(counts) / counts.total() if counts else 0.0


def commonest(answers: Iterable[str]) -> tuple[str, int]:
    """The most common answer and how often it stands; the first in the alphabet of those equally common. No answer gives ("", 0)."""
    counts = Counter(answers)
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


def _common_subsequence(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence, one bit per token of `a` (Hyyro 2004)."""
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for token in b:
        match = row & places.get(token, 0)
        row = (row + match | row - match) & full
    return len(a) - row.bit_count()


def rouge_l(hypothesis: Tokens, references: Sequence[Tokens], beta: float = 1.2) -> float:
    """ROUGE-L of one caption (Lin 2004), precision and recall each the largest over the references."""
    common = [_common_subsequence(hypothesis, reference) for reference in references]
    precision = max((c / len(hypothesis) for c in common), default=0.0) if hypothesis else 0.0
    recall = max((c / len(reference) for c, reference in zip(common, references) if reference), default=0.0)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision and recall else 0.0


def cider(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], sigma: float = 6.0) -> np.ndarray:
    """CIDEr-D of each caption, (N,), times 10 as published (Vedantam et al. 2015, equations 2-6).

    Document frequency is over the reference sets of these captions, so a corpus of one picture scores 0.
    """
    frequency: Counter[tuple[str, ...]] = Counter()
    for several in references:
        frequency.update({gram for reference in several for n in range(1, ORDERS + 1) for gram in ngrams(reference, n)})
    log_corpus = math.log(max(1, len(references)))

    def vectors(tokens: Tokens) -> list[dict[tuple[str, ...], float]]:
        return [{gram: count * (log_corpus - math.log(max(1, frequency[gram]))) for gram, count in ngrams(tokens, n).items()} for n in range(1, ORDERS + 1)]

    def length(vector: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(weight * weight for weight in vector.values()))

    scores = np.zeros(len(hypotheses))
    for i, (hypothesis, several) in enumerate(zip(hypotheses, references, strict=True)):
        mine = vectors(hypothesis)
        norms = [length(vector) for vector in mine]
        for reference in several:
            alike = 0.0
            for vector, norm, other in zip(mine, norms, vectors(reference)):
                scale = norm * length(other)
                alike += sum(min(weight, other[gram]) * other[gram] for gram, weight in vector.items() if gram in other) / scale if scale else 0.0
            scores[i] += 10 * alike / ORDERS * math.exp(-((len(hypothesis) - len(reference)) ** 2) / (2 * sigma**2)) / len(several)
    return scores


@dataclass(frozen=True, kw_only=True)
class CaptionCounts:
    """What the corpus metrics need of each caption, so that a resample costs one matrix product. N captions."""

    matched: np.ndarray
    """(N, 4) n-grams that a reference has too, clipped."""
    proposed: np.ndarray
    """(N, 4) n-grams of the caption."""
    length: np.ndarray
    """(N,) tokens of the caption."""
    closest: np.ndarray
    """(N,) tokens of the reference whose length is closest, the shorter of two."""
    rouge: np.ndarray
    cider: np.ndarray

    def metrics(self, times: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """BLEU-1..4, ROUGE-L and CIDEr, each (R,), when caption i counts `times[r, i]` times; by default once, R = 1.

        BLEU is of the corpus, without smoothing (Papineni et al. 2002). CIDEr keeps the document frequencies of the whole corpus in every resample.
        """
        times = np.ones((1, len(self.length))) if times is None else times.astype(float)
        matched, proposed, length, closest = times @ self.matched, times @ self.proposed, times @ self.length, times @ self.closest
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(proposed > 0, matched / proposed, 0.0)
            means = np.exp(np.cumsum(np.log(precision), axis=1) / np.arange(1, ORDERS + 1))
            brevity = np.where(length > 0, np.exp(np.minimum(0.0, 1 - closest / length)), 0.0)
        found = {f"bleu-{n + 1}": means[:, n] * brevity for n in range(ORDERS)}
        counted = np.maximum(times.sum(axis=1), 1)
        return found | {"rouge-l": times @ self.rouge / counted, "cider": times @ self.cider / counted}


def caption_counts(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> CaptionCounts:
    """Counts of N captions against their references (at least one each)."""
    assert len(hypotheses) == len(references) and all(references), "every caption needs at least one reference"
    matched, proposed = np.zeros((len(hypotheses), ORDERS)), np.zeros((len(hypotheses), ORDERS))
    for i, (hypothesis, several) in enumerate(zip(hypotheses, references)):
        for n in range(1, ORDERS + 1):
            mine, most = ngrams(hypothesis, n), Counter[tuple[str, ...]]()
            for reference in several:
                most |= ngrams(reference, n)
            matched[i, n - 1], proposed[i, n - 1] = (mine & most).total(), mine.total()
    return CaptionCounts(
        matched=matched,
        proposed=proposed,
        length=np.array([len(tokens) for tokens in hypotheses], float),
        closest=np.array([min((len(r) for r in several), key=lambda n: (abs(n - len(tokens)), n)) for tokens, several in zip(hypotheses, references)], float),
        rouge=np.array([rouge_l(tokens, several) for tokens, several in zip(hypotheses, references)]),
        cider=cider(hypotheses, references),
    )


def resamples(groups: Sequence[Hashable], rng: np.random.Generator, count: int = 200) -> np.ndarray:
    """How often each item counts in each bootstrap resample of the groups (pictures), (count, items): items of one picture stay together."""
    names = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / max(1, len(names))), size=count) if names else np.zeros((count, 0), int)
    return drawn[:, [names[group] for group in groups]]


def caption_metrics(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], pictures: Sequence[Hashable], rng: np.random.Generator
) -> dict[str, Value]:
    """BLEU-1..4, ROUGE-L (0..1) and CIDEr (0..10) with the middle 95 % of 200 resamples of the pictures (Efron 1979)."""
    counts = caption_counts(hypotheses, references)
    again = counts.metrics(resamples(pictures, rng))
    found: dict[str, Value] = {}
    for name, value in counts.metrics().items():
        low, high = np.percentile(again[name], (2.5, 97.5)) if len(hypotheses) else (0.0, 0.0)
        found[name] = Value(value=float(value[0]), low=float(low), high=float(high), n=len(hypotheses))
    return found
