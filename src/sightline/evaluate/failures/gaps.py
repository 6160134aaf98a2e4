"""Gaps between what should fare alike: general pictures and those of the domain, sets that were trained on and others, kinds of question that were trained on and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import Failure, Shown, resampled_by, worst
from sightline.kinds import Config

_LEAST = 20
"""Scored answers on either side from which on a gap is told."""


_RIGHT = 0.5
"""Score from which an answer is no example of a gap."""
_RATIO = "the second over the first"


class Gaps(Config):
    """Differences of scores between two groups, over the kinds of question that both have."""

    kind: Literal["gaps"] = "gaps"
    most: float = Field(default=0.1, ge=0, le=1)
    """Score, 0..1, that may be lost from one group to the other."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner."""
        scored = [case for case in evidence.written if case.score is not None]
        domains, sources, kinds = evidence.domains, evidence.seen_sources, evidence.seen_kinds
        return [
            self._gap(
                "failure/generic-domain-gap",
                "Pictures of the domain fare worse than general ones",
                ("general", lambda case: domains.get(case.evaluation) == "generic"),
                ("domain", lambda case: domains.get(case.evaluation) == "domain"),
                scored if domains else [],
                "give pictures of the domain a larger share of the mixture; general pictures look from the side, and teach details",
                "say which evaluations are general and which are of the domain: --generic NAME --domain NAME",
            ),
            self._gap(
                "failure/seen-unseen",
                "Sets that were not trained on fare worse",
                ("trained on", lambda case: sources is not None and case.asked.origin.source in sources),
                ("not trained on", lambda case: sources is not None and case.asked.origin.source not in sources),
                scored if sources is not None else [],
                "add sets from other sensors and places, and fewer rows of each",
                "what was trained on is not known: the run has no data of its stages",
            ),
            self._gap(
                "failure/seen-unseen-task",
                "Kinds of question that were not trained on fare worse",
                ("trained on", lambda case: kinds is not None and case.kind in kinds),
                ("not trained on", lambda case: kinds is not None and case.kind not in kinds),
                scored if kinds is not None else [],
                "add kinds of question, and several wordings of each",
                "what was trained on is not known: the run has no data of its stages",
                within_kinds=False,
            ),
        ]

    def _gap(
        self,
        code: str,
        title: str,
        high: tuple[str, Callable[[Case], bool]],
        low: tuple[str, Callable[[Case], bool]],
        cases: Sequence[Case],
        fix: str,
        unknown: str,
        within_kinds: bool = True,
    ) -> Failure:
        """The mean score of one group minus that of the other; within each kind that both have, then over kinds, so that a harder mixture is no gap.
        Both sides are resampled together, by picture. `unknown`: why there is no case at all.
        """
        sides = [[case for case in cases if belongs(case)] for _, belongs in (high, low)]
        common = {case.kind for case in sides[0]} & {case.kind for case in sides[1]} if within_kinds else {""}
        chosen = [[case for case in side if not within_kinds or case.kind in common] for side in sides]
        meaning = f"Mean score of what is {high[0]} minus that of what is {low[0]}" + (
            ", within the kinds of question that both have." if within_kinds else "."
        )
        if min(map(len, chosen)) < _LEAST:
            told = " and ".join(f"{len(side):,} of what is {name}" for side, (name, _) in zip(sides, (high, low)))
            among = f", {min(map(len, chosen))} on one side in kinds of question that both have" if within_kinds and min(map(len, sides)) else ""
            note = f"scored answers: {told}{among}; at least {_LEAST} of each are needed" if cases else unknown
            return Failure(code=code, title=title, meaning=meaning, fix=fix, limit=self.most, note=note)
        every = [*chosen[0], *chosen[1]]
        groups, scores = [case.picture for case in every], np.array([case.score for case in every], float)
        first = np.arange(len(every)) < len(chosen[0])
        masks = [np.array([not within_kinds or case.kind == kind for case in every]) for kind in sorted(common)]

        def means(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """The means of both groups, (R,) each, over the kinds of which a resample holds both."""
            counts = np.array([[times @ (mask & side).astype(float) for mask in masks] for side in (first, ~first)])  # (2, K, R)
            sums = np.array([[times @ (scores * (mask & side)) for mask in masks] for side in (first, ~first)])
            both = (counts > 0).all(axis=0)
            high, low = (sums / np.maximum(counts, 1) * both).sum(axis=1) / np.maximum(both.sum(axis=0), 1)
            return high, low

        wrong = [case for case in chosen[1] if case.score is not None and case.score < _RIGHT]
        return Failure(
            code=code,
            title=title,
            meaning=meaning,
            fix=fix,
            count=len(wrong),
            rate=resampled_by(groups, lambda times: means(times)[0] - means(times)[1]),
            limit=self.most,
            figures={
                high[0]: resampled_by(groups, lambda times: means(times)[0])._replace(n=len(chosen[0])),
                low[0]: resampled_by(groups, lambda times: means(times)[1])._replace(n=len(chosen[1])),
                _RATIO: resampled_by(groups, lambda times: means(times)[1] / np.maximum(means(times)[0], 1e-9)),
            },
            units={_RATIO: "times"},
            worst=worst(Shown(case=case, badness=1 - (case.score or 0.0), note=low[0]) for case in wrong),
        )
