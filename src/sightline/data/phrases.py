"""The noun-phrase rule that thinned CC3M to 595,000 pairs (Liu et al. 2023, appendix D): every phrase that is not too rare keeps some captions, no phrase keeps too many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from sightline.data.operators import Decision, Outcome
from sightline.data.questions import captions_in
from sightline.kinds import Config, Family
from sightline.samples.exchange import Answer
from sightline.samples.sample import Sample

CHUNKER = Family("chunker", default="closed-class")
"""How noun phrases are found. A kind of a third party has `phrases(text) -> list[str]`."""
_WORDS = """a an the this that these those my your his her its our their some any each every no another other such both all few many much more most several
    i you he she it we they me him us them who whom whose which what where when why how there here
    of in on at by for with from to into onto over under above below between among through across along around near beside behind before after during against about
    inside outside within without toward towards off out up down upon beneath past next
    and or but nor so yet as than if while because although though until since not very too also just only then
    is are was were be been being am has have had having do does did can could will would shall should may might must
    seen seem seems appear appears show shows showing shown see look looks looking make makes made take takes taken
    stand stands standing sit sits sitting lie lies lying walk walks walking run runs running ride rides riding hold holds holding wear wears wearing
    park parked parks surround surrounds surrounded surrounding fly flies flying play plays playing eat eats eating drive drives driving go goes going
    cover covers covered covering fill filled contain contains containing use uses using used hang hangs hanging carry carries carrying jump jumps jumping
    located situated placed set sits crossing crosses cross passes passing pass"""
_CLOSED = frozenset(_WORDS.split())
"""Words of closed classes and the verbs of captions: what stands between noun phrases."""
_DETERMINED = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[.,;:!?]")


@CHUNKER.add
class ClosedClass(Config):
    """Noun phrases of English without a tagger: the runs of words between words of closed classes, verbs of captions and punctuation."""

    kind: Literal["closed-class"] = "closed-class"
    longest: int = Field(default=4, ge=1)
    """Words of a phrase; longer runs keep their last ones, where the noun stands."""

    def phrases(self, text: str) -> list[str]:
        """Distinct phrases in lower case, without leading determiners, in order."""
        found: list[list[str]] = [[]]
        for word in _DETERMINED.findall(text.lower()):
            if word in _CLOSED or not word[0].isalpha():
                found.append([])
            else:
                found[-1].append(word)
        return list(dict.fromkeys(" ".join(run[-self.longest :]) for run in found if run))


class NounPhrases(Config):
    """Keeps, for each noun phrase that is frequent enough, all of its captions, or a random part of them where there are many."""

    kind: Literal["noun-phrases"] = "noun-phrases"
    least: int = Field(default=3, ge=1)
    """Captions in which a phrase must occur to keep any."""
    inclusive: bool = True
    """Whether a phrase in exactly `least` captions counts."""
    most: int = Field(default=100, ge=1)
    """A phrase in more captions keeps this many of them, drawn at random."""
    seed: int = 0
    """Seed of the draw."""
    chunker: Annotated[Config, CHUNKER] = ClosedClass()
    """How noun phrases are found."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, with the phrases of its captions as a column."""
        found = [phrase for text in captions_in(sample) for phrase in self.chunker.phrases(text)]  # pyright: ignore[reportAttributeAccessIssue]
        return Outcome(samples=(sample,), columns={"phrases": list(dict.fromkeys(found))})

    def decide(self, index: pa.Table) -> list[Decision]:
        """Rule noun-phrases/common for rows that no phrase keeps."""
        rows = {number: phrases or [] for number, phrases in enumerate(index["phrases"].to_pylist())}
        kept = phrase_rule(rows, least=self.least, inclusive=self.inclusive, most=self.most, seed=self.seed)
        return [Decision() if number in kept else Decision(verdict="quarantined", rule="noun-phrases/common") for number in rows]


def phrase_rule(rows: Mapping[int, Sequence[str]], *, least: int, inclusive: bool, most: int, seed: int) -> set[int]:
    """Rows that stay. Phrases are taken by rising frequency (number of rows that have them), ties by name; each adds its rows, or `most` random ones."""
    frequency = Counter(phrase for phrases in rows.values() for phrase in set(phrases))
    members: dict[str, list[int]] = {}
    for number, phrases in rows.items():
        for phrase in set(phrases):
            members.setdefault(phrase, []).append(number)
    rng = np.random.default_rng(seed)
    kept: set[int] = set()
    for phrase, count in sorted(frequency.items(), key=lambda pair: (pair[1], pair[0])):
        if count < least or (count == least and not inclusive):
            continue
        within = members[phrase]
        kept.update(within if count <= most else (within[place] for place in rng.permutation(count)[:most].tolist()))
    return kept
