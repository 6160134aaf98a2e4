"""Two runs side by side: paired differences, answers that turned, and failures of both."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.errors import Refused
from sightline.evaluate.failures.comparison import Comparison, compare
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.failure_table import examine
from sightline.samples.exchange import Answer
from sightline.samples.sample import Origin, Picture, Sample, Text, Turn


def case(number: int, score: float, kind: str = "count", question: str = "how many?") -> Case:
    shown = Picture(hash=f"p{number // 2}", width=8, height=8, data=b"")
    asked = Sample(id=f"{number}", pictures=(shown,), turns=(Turn(role="user", items=(Text(text=question),)),), origin=Origin(source="made"))
    answer = Answer(key="", sample=asked.id, weights="", text="two" if score else "three")
    return Case(evaluation="test", name=asked.id, kind=kind, asked=asked, right=("two",), answer=answer, score=score)


def compared(first: list[Case], other: list[Case]) -> Comparison:
    evidence = Evidence(cases=tuple(first)), Evidence(cases=tuple(other))
    return compare(("new", "old"), evidence, (examine(evidence[0]), examine(evidence[1])))


def test_differences_are_paired_by_question() -> None:
    old = [case(n, float(n % 3 == 0), "count" if n < 60 else "what") for n in range(120)]
    new = [replace(one, score=1.0 if 20 <= n < 60 else one.score) for n, one in enumerate(old)]
    made = compared(new, old)
    rows = {row.kind: row for row in made.rows}
    assert rows["count"].verdict == "better" and rows["what"].verdict == "no clear difference"
    assert rows["what"].difference == (0.0, 0.0, 0.0, 60), "the same answers leave no doubt, however bad they are"
    gained = sum(n % 3 != 0 for n in range(20, 60))
    assert made.turned == (gained, 0) and rows["count"].difference.value == pytest.approx(gained / 60)
    assert len(made.gained) == 8 and not made.lost and all(a.score == 1 and b.score == 0 for a, b in made.gained)
    back = compared(old, new)
    assert {row.kind: row.verdict for row in back.rows}["count"] == "worse" and back.turned == (0, gained)
    assert set(made.record()["failures"]) == set(made.failures)


def test_other_questions_are_left_out_and_counted() -> None:
    old = [case(n, 1.0) for n in range(10)]
    new = [*old[:6], *(case(n, 1.0, question="what is it?") for n in range(6, 10)), case(99, 1.0)]
    assert compared(new, old).unpaired == (5, 4)
    with pytest.raises(Refused, match="none of them the same"):
        compared(new[6:], old)
