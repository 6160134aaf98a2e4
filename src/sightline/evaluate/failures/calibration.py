"""Whether a model that is sure is right: expected calibration error of yes and no (Guo et al. 2017), from the likelihood of the first token of the answer."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate import yes_no
from sightline.evaluate.failures.evidence import Evidence
from sightline.evaluate.failures.finding import Failure, Shown, resampled_by, worst
from sightline.evaluate.failures.hallucination import stated
from sightline.evaluate.metrics import Value, share
from sightline.kinds import Config

BINS = 10
_CHANCES = 200
_SEED = 21


class Calibration(Config):
    """Confidence against correctness, in ten bins."""

    kind: Literal["calibration"] = "calibration"
    most: float = Field(default=0.1, ge=0, le=1)
    """Expected calibration error that is let pass."""
    least: int = Field(default=50, ge=1)
    """Questions from which on it is told."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. An error of as much as chance alone gives to so few answers is not found."""
        told = []
        for case in evidence.written:
            truth, said = stated(case), yes_no.tolerant(case.answer.text)
            if truth is not None and said is not None and case.answer.logps:
                told.append((case, min(1.0, float(np.exp(case.answer.logps[0]))), said == truth))
        sure, right = np.array([one[1] for one in told], float), np.array([one[2] for one in told], float)
        enough = len(told) >= self.least
        groups = [case.picture for case, *_ in told] if enough else []
        rate = resampled_by(groups, lambda times: ece(sure, right, times))
        figures: dict[str, Value] = {}
        if enough:
            drawn = np.random.default_rng(_SEED).random((_CHANCES, len(told))) < sure
            chance = np.array([ece(sure, each.astype(float))[0] for each in drawn])
            figures["error of a calibrated model, by chance"] = Value(value=float(chance.mean()), low=0.0, high=float(np.percentile(chance, 97.5)), n=len(told))
            figures["mean confidence"] = resampled_by(groups, lambda times: times @ sure / np.maximum(times.sum(axis=1), 1))
            figures["right"] = share(float(right.sum()), len(told))
            if rate.value <= figures["error of a calibrated model, by chance"].high:
                rate = rate._replace(low=0.0)
        shown = [Shown(case=case, badness=confidence, note=f"sure by {confidence:.2f}, and wrong") for case, confidence, ok in told if not ok]
        return [
            Failure(
                code="failure/calibration",
                title="Yes and no are surer than they are right",
                meaning="Expected calibration error in ten bins: mean distance of the likelihood of the first token and the share of right answers.",
                fix="use more or balanced yes/no questions, or take the likelihoods for ranks only",
                count=len(shown),
                rate=rate,
                limit=self.most,
                figures=figures,
                worst=worst(shown),
                note="" if enough else f"{len(told)} yes/no answers with likelihoods, at least {self.least} are needed",
            )
        ]


def ece(sure: np.ndarray, right: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """Expected calibration error, (R,), when answer i counts `times[r, i]` times (by default once): |mean confidence - share right| of ten equal bins, weighted by their answers."""
    times = np.ones((1, len(sure))) if times is None else times
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [np.abs((times * (bins == number)) @ (sure - right)) for number in range(BINS)]
    return np.sum(gaps, axis=0) / np.maximum(times.sum(axis=1), 1)
