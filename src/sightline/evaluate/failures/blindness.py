"""Answers that do not depend on the picture: the same questions asked about other pictures fare as well."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate.benchmarks import normalise
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import LEAST, Failure, Shown, resampled_by, shares, worst
from sightline.evaluate.metrics import Value
from sightline.kinds import Config

_NONE = "no answers about other pictures: leave `controls` of the evaluation on, or ask for them"


class Blindness(Config):
    """How much of the score is lost when the picture is another one."""

    kind: Literal["blindness"] = "blindness"
    least: float = Field(default=0.1, ge=0, le=1)
    """Part of what other pictures leave to be gained (1 - their score) that the right picture must gain."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. The rate is what the right picture does not gain, 0..1, so that it lies above its limit where the picture is not used."""
        cases = [case for case in evidence.written if case.shuffled is not None and case.score is not None and case.shuffled_score is not None]
        own = np.array([case.score for case in cases], float)
        other = np.array([case.shuffled_score for case in cases], float)
        groups = [case.picture for case in cases]

        def lost(times: np.ndarray) -> np.ndarray:
            """1 - (score - score of other pictures) / (1 - score of other pictures)."""
            counted = np.maximum(times.sum(axis=1), 1)
            floor = times @ other / counted
            return 1 - (times @ own / counted - floor) / np.maximum(1 - floor, 0.05)

        same = [(case, normalise(case.answer.text) == normalise(case.shuffled.text)) for case in cases if case.shuffled is not None]
        figures: dict[str, Value] = {}
        if cases:
            figures["score"] = resampled_by(groups, lambda times: times @ own / np.maximum(times.sum(axis=1), 1))
            figures["score with another picture"] = resampled_by(groups, lambda times: times @ other / np.maximum(times.sum(axis=1), 1))
            figures["gain"] = resampled_by(groups, lambda times: times @ (own - other) / np.maximum(times.sum(axis=1), 1))
            figures["same answer with another picture"] = shares(same)
        bad = [case for case, again in same if again and not case.score]
        return [
            Failure(
                code="failure/no-picture",
                title="Answers do not depend on the picture",
                meaning="What the right picture does not gain over another one, as a share of what could be gained: 1 means that any picture will do.",
                fix="look whether answers belong to their pictures (data show), and whether the connector learns (sightline report --watch)",
                count=len(bad),
                rate=resampled_by(groups, lost) if len(cases) >= LEAST else Failure.rate,
                limit=1 - self.least,
                figures=figures,
                worst=worst(Shown(case=case, badness=_logp(case), note="the same answer with another picture") for case in bad),
                note="" if len(cases) >= LEAST else _NONE if not cases else f"{len(cases)} answers about other pictures, at least {LEAST} are needed",
            )
        ]


def _logp(case: Case) -> float:
    return sum(case.answer.logps)
