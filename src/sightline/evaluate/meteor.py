"""METEOR as nltk computes it, which is not the METEOR 1.5 of published caption scores: its figures are named `meteor-nltk`, so that nobody sets one beside the other."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.metrics import Tokens, Value, resamples

Synonyms = Literal["none", "wordnet"]
NAMES: dict[Synonyms, str] = {"none": "meteor-nltk", "wordnet": "meteor-nltk-wordnet"}
"""Name of the figure by what counts as the same word beside equal words and equal stems."""

_SEED = 20


class _NoSynonyms:
    """Stands where a WordNet is asked for synonyms: there are none."""

    def synsets(self, word: str) -> list[Any]:
        """No sense of the word."""
        del word
        return []


def meteor_scores(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]], synonyms: Synonyms = "none") -> list[float]:
    """METEOR of each caption, 0..1, the best of its references: exact words, then stems (Porter), then synonyms where there is a WordNet; alpha .9, beta 3, gamma .5 (Banerjee and Lavie 2005).

    Chinese is compared by character, as `tokenize` cuts it. Raises Refused where nltk, or the WordNet that is asked for, is not there.
    """
    nltk = _nltk()
    words: Any = _NoSynonyms() if synonyms == "none" else _wordnet(nltk)
    return [nltk.meteor_score([list(one) for one in several], list(caption), wordnet=words) for caption, several in zip(captions, references, strict=True)]


def meteor(captions: Sequence[Tokens], references: Sequence[Sequence[Tokens]], pictures: Sequence[Hashable], synonyms: Synonyms = "none") -> dict[str, Value]:
    """The mean METEOR under its name, with resamples of the pictures."""
    scores = np.array(meteor_scores(captions, references, synonyms))
    times = resamples(pictures, np.random.default_rng(_SEED)).astype(float)
    low, high = np.percentile(times @ scores / times.sum(axis=1), (2.5, 97.5))
    return {NAMES[synonyms]: Value(value=float(scores.mean()), low=float(low), high=float(high), n=len(scores))}


def _nltk() -> Any:
    try:
        from nltk.translate import meteor_score  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise Refused(
            Problem(
                code="evaluate/no-nltk",
                place="meteor",
                found="nltk is not installed",
                allowed="an installed nltk, the extra [meteor] of sightline",
                fix=f"{sys.executable} -m pip install nltk, or leave `meteor` out",
            )
        ) from None
    return meteor_score


def _wordnet(module: Any) -> Any:
    """The WordNet that nltk finds in its folders of data."""
    try:
        module.wordnet.ensure_loaded()
    except (LookupError, OSError) as error:
        found = next((line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))), type(error).__name__)
        allowed = "WordNet in a folder that NLTK_DATA names"
        raise Refused(Problem(code="evaluate/no-wordnet", place="meteor", found=found, allowed=allowed, fix="put it there, or `meteor: none`")) from None
    return module.wordnet
