"""Answers that are not in the form that was asked for: boxes that cannot be read, no box where one was asked for, neither yes nor no."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from sightline.evaluate import yes_no
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import Failure, Shown, shares, worst
from sightline.evaluate.failures.hallucination import stated
from sightline.evaluate.metrics import Value, share
from sightline.kinds import Config


class FormatErrors(Config):
    """Problems of answers, where their form is known."""

    kind: Literal["format-errors"] = "format-errors"
    most: float = Field(default=0.05, ge=0, le=1)
    """Share of answers whose form may be wrong."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. Counted over questions that ask for boxes, for yes or no, and answers that hold boxes or problems."""
        asked = [case for case in evidence.written if case.wanted_boxes or case.answer.problems or case.found_boxes or stated(case) is not None]
        faults = [_fault(case) for case in asked]
        codes = Counter(code for case in asked for code in {problem.code for problem in case.answer.problems})
        figures: dict[str, Value] = {f"answers with {code}": share(times, len(asked)) for code, times in sorted(codes.items())}
        return [
            Failure(
                code="failure/format",
                title="Answers are not in the form asked for",
                meaning="Share of the answers whose form is known that cannot be read: broken boxes, no box where one was asked for, neither yes nor no.",
                fix="let answers be drawn by the codec's grammar, or look for rows that write boxes in another form",
                count=sum(map(bool, faults)),
                rate=shares((case, bool(fault)) for case, fault in zip(asked, faults)) if asked else Failure.rate,
                limit=self.most,
                figures=figures,
                worst=worst(Shown(case=case, badness=float(len(case.answer.problems)), note=fault) for case, fault in zip(asked, faults) if fault),
                note="" if asked else "no question asks for boxes, or for yes or no",
            )
        ]


def _fault(case: Case) -> str:
    """What is wrong with the form of an answer; empty where nothing is."""
    if case.answer.problems:
        return "; ".join(problem.found for problem in case.answer.problems[:3])
    if case.wanted_boxes and not case.found_boxes:
        return "no box"
    return "neither yes nor no" if stated(case) is not None and yes_no.tolerant(case.answer.text) is None else ""
