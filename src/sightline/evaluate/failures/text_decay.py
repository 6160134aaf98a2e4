"""What training did to text without pictures: perplexity of held-out text and choice among options, before and after each stage."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate.failures.evidence import Evidence, TextScores
from sightline.evaluate.failures.finding import LEAST, Failure, resampled_by
from sightline.evaluate.metrics import Value, share
from sightline.kinds import Config

_NONE = "no held-out text was scored before and after: --text STORE asks the models of the stages"
_RISE = "perplexity, after over before"


class TextDecay(Config):
    """The last stage against the first one that has a language model."""

    kind: Literal["text-decay"] = "text-decay"
    perplexity: float = Field(default=0.1, ge=0)
    """Share by which the perplexity of held-out text may rise."""
    chosen: float = Field(default=0.05, ge=0, le=1)
    """Accuracy among options that may be lost."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. Rows are paired: the same texts before and after. The perplexity decides; where there is none, the choice."""
        rate, limit = Failure.rate, self.perplexity
        figures: dict[str, Value] = {}
        told = evidence.text
        for one in told:
            figures |= _levels(one)
        if len(told) > 1 and len(told[0].logps) >= LEAST:
            rate = _rise(told[0], told[-1])
            figures[_RISE] = Value(value=rate.value + 1, low=rate.low + 1, high=rate.high + 1, n=rate.n)
        if len(told) > 1 and len(told[0].chosen) >= LEAST:
            lost = np.array(told[0].chosen, float) - np.array(told[-1].chosen, float)
            loss = resampled_by([str(row) for row in range(len(lost))], lambda times: times @ lost / np.maximum(times.sum(axis=1), 1))
            figures["choices lost"] = loss
            if not rate.n or (loss.low > self.chosen and rate.low <= limit):
                rate, limit = loss, self.chosen
        return [
            Failure(
                code="failure/text-decay",
                title="Text without pictures has become worse",
                meaning="Rise of the perplexity of held-out text from before to after, or loss of right choices among options.",
                fix="mix text-only rows into the stage, or train adapters in place of the whole language model",
                count=0,
                rate=rate,
                limit=limit,
                figures=figures,
                units={name: "times" if name == _RISE else "" for name in figures if name.startswith("perplexity")},
                note="" if rate.n else f"fewer than {LEAST} rows of held-out text" if len(told) > 1 else _NONE,
            )
        ]


def _levels(one: TextScores) -> dict[str, Value]:
    """Perplexity and accuracy of one stage."""
    figures: dict[str, Value] = {}
    if one.logps:
        sums, counts = np.array(one.logps, float).T
        figures[f"perplexity: {one.stage}"] = resampled_by(
            [str(row) for row in range(len(sums))], lambda times: np.exp(np.minimum(-(times @ sums) / np.maximum(times @ counts, 1), math.log(1e12)))
        )
    if one.chosen:
        figures[f"right choices: {one.stage}"] = share(sum(one.chosen), len(one.chosen))
    return figures


def _rise(before: TextScores, after: TextScores) -> Value:
    """Perplexity after over perplexity before, minus 1, over resamples of the texts."""
    assert [count for _, count in before.logps] == [count for _, count in after.logps], "the same texts, by one tokenizer"
    sums, counts = np.array(before.logps, float).T
    later = np.array(after.logps, float).T[0]
    return resampled_by([str(row) for row in range(len(sums))], lambda times: np.exp((times @ (sums - later)) / np.maximum(times @ counts, 1)) - 1)
