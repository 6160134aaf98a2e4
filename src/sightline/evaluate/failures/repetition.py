"""Answers that repeat themselves, answers that never end, and one answer to everything."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate.benchmarks import normalise
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import Failure, Shown, mean_of, resampled_by, shares, worst
from sightline.evaluate.metrics import Value, distinct, diversity, repetition, tokenize
from sightline.kinds import Config

_LEAST_TOKENS = 8
"""Shorter answers are not called repetitive: there is not enough of them."""
_TIMES = 3
"""A piece that stands so often at the end of an answer, one after the other, is a loop."""
_LEAST_LOOP = 12
"""Characters that a loop must cover."""
_LEAST_OF_KIND = 20
"""Questions of a kind from which on its commonest answer means something."""


def loop(text: str) -> tuple[str, int]:
    """The piece that the end of a text repeats and how often it stands there, at least three times over twelve characters; ("", 0) where there is no such piece.

    The prefix function of the reversed text (Knuth, Morris, Pratt 1977) gives the period of every suffix in one pass.
    """
    back = text.rstrip()[::-1]
    borders = [0] * len(back)
    best, period = 0, 0
    for place in range(1, len(back)):
        border = borders[place - 1]
        while border and back[place] != back[border]:
            border = borders[border - 1]
        borders[place] = border + (back[place] == back[border])
        covered, own = place + 1, place + 1 - borders[place]
        if covered >= max(_LEAST_LOOP, _TIMES * own):
            best, period = covered, own
    return (back[best - period : best][::-1] if period else "", best // period if period else 0)


class Repetition(Config):
    """Repeated pieces, answers without an end, and the commonest answer of each kind."""

    kind: Literal["repetition"] = "repetition"
    rep_4: float = Field(default=0.3, ge=0, le=1)
    """An answer repeats when so large a share of its 4-grams stood in it before, and in no right answer as large a share."""
    most: float = Field(default=0.05, ge=0, le=1)
    """Share of answers that may repeat."""
    endless: float = Field(default=0.05, ge=0, le=1)
    """Share of answers that may go on until they are cut off."""
    same: float = Field(default=0.3, ge=0, le=1)
    """By how much the commonest answer of a kind may be more frequent than the commonest right one."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner."""
        return [self._repeats(evidence), self._endless(evidence), self._same(evidence)]

    def _repeats(self, evidence: Evidence) -> Failure:
        cases = evidence.written
        tokens = [tokenize(case.said) for case in cases]
        rep = [repetition(each, 4) for each in tokens]
        usual = [max((repetition(tokenize(text), 4) for text in case.right), default=0.0) for case in cases]
        loops = [loop(case.said) for case in cases]
        bad = [
            bool(times) or (len(each) >= _LEAST_TOKENS and share >= self.rep_4 and share > own)
            for each, share, own, (_, times) in zip(tokens, rep, usual, loops)
        ]
        groups = [case.picture for case in cases]
        figures = {f"rep-{n}": mean_of([repetition(each, n) for each in tokens], groups) for n in (2, 3, 4)} if cases else {}
        if cases:
            figures["diversity"] = mean_of([diversity(each) for each in tokens], groups)
            for n in (1, 2, 3, 4):
                one = distinct(tokens, n)
                figures[f"distinct-{n}"] = Value(value=one, low=one, high=one, n=len(cases))
            figures["loops"] = shares((case, bool(times)) for case, (_, times) in zip(cases, loops))
        shown = [
            Shown(case=case, badness=share + times, note=f"{times} times at the end: {piece.strip()[:60]!r}" if times else f"rep-4 {share:.2f}")
            for case, share, (piece, times), flag in zip(cases, rep, loops, bad)
            if flag
        ]
        return Failure(
            code="failure/repetition",
            title="Answers repeat themselves",
            meaning=f"Answers that end in a loop, or of whose 4-grams a share of {self.rep_4:g} stood in them before, and in no right answer.",
            fix="look for rows whose answers repeat (data check, dedup), and for one template behind many answers",
            count=sum(bad),
            rate=shares(zip(cases, bad)),
            limit=self.most,
            figures=figures,
            worst=worst(shown),
        )

    def _endless(self, evidence: Evidence) -> Failure:
        cases = evidence.written
        cut = [case.answer.finish == "length" for case in cases]
        longest = [max((len(text) for text in case.right), default=0) for case in cases]
        bad = [flag and (not case.right or len(case.answer.text) > most) for case, flag, most in zip(cases, cut, longest)]
        shown = [Shown(case=case, badness=len(case.answer.text) / max(1, most), note="cut off") for case, flag, most in zip(cases, bad, longest) if flag]
        return Failure(
            code="failure/endless",
            title="Answers do not end",
            meaning="Answers that were cut off, and were already longer than every right answer. What was cut off before is counted apart: there `max_tokens` is too small.",
            fix="look whether the end token of answers is learnt (sightline plan shows a row with what is learnt), and is the one that decoding stops at",
            count=sum(bad),
            rate=shares(zip(cases, bad)),
            limit=self.endless,
            figures={
                "cut off": shares(zip(cases, cut)),
                "cut off before the length of a right answer": shares((case, a and not b) for case, a, b in zip(cases, cut, bad)),
            },
            worst=worst(shown),
        )

    def _same(self, evidence: Evidence) -> Failure:
        by_kind: dict[str, list[Case]] = {}
        for case in evidence.written:
            if case.right:
                by_kind.setdefault(f"{case.evaluation}: {case.kind}", []).append(case)
        measured: dict[str, tuple[Value, str, list[Case]]] = {}
        figures: dict[str, Value] = {}
        for name, cases in by_kind.items():
            if len(cases) < _LEAST_OF_KIND:
                continue
            given, right = [normalise(case.answer.text) for case in cases], [normalise(case.right[0]) for case in cases]
            most, usual = Counter(given).most_common(1)[0][0], Counter(right).most_common(1)[0][0]
            one, other = np.array([text == most for text in given], float), np.array([text == usual for text in right], float)
            groups = [case.picture for case in cases]
            excess = resampled_by(groups, lambda times, one=one, other=other: times @ (one - other) / np.maximum(times.sum(axis=1), 1))
            measured[name] = excess, most, [case for case, text, wanted in zip(cases, given, right) if text == most != wanted]
            figures[f"{name}: {most[:40]!r}"] = shares((case, text == most) for case, text in zip(cases, given))
        top = max(measured, key=lambda name: measured[name][0].low, default=None)
        rate, most, cases = measured[top] if top is not None else (Failure.rate, "", [])
        return Failure(
            code="failure/same-answer",
            title="One answer to everything",
            meaning="How much more frequent the commonest answer of a kind is than the commonest right one; the kind where it is most so.",
            fix="balance the answers of this kind (the operators `questions` and `synthesize` do), and look whether the picture is seen at all (failure/no-picture)",
            count=len(cases),
            rate=rate,
            limit=self.same,
            figures=figures,
            worst=worst(Shown(case=case, badness=case.answer.logps[0] if case.answer.logps else 0.0, note=f"{top}: {most[:60]!r} again") for case in cases),
            note="" if top is not None else f"no kind with {_LEAST_OF_KIND} answers to questions whose right answer is a text",
        )
