"""Options are found by the published rules, rotations turn back, and nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.evaluate import choices
from sightline.evaluate.circular import STRIDE, circular, rotations

OPTIONS = {"A": "river", "B": "harbor", "C": "DNA strand", "D": "road"}


@pytest.mark.parametrize(
    ("rule", "answer", "chosen"),
    [
        ("match", "B.", "B"),
        ("match", "A ship is in the harbor", "B"),
        ("match", "(A) or (B)", None),
        ("match", "harbor", "B"),
        ("match", "b", None),
        ("match", "Z", "Z"),
        ("match", "The answer is C, because it was asked about what stands in the middle of the picture", "C"),
        ("match", "a river and a road", None),
        ("match", "harbor " + "and so on " * 10, None),
        ("letter", "B", "B"),
        ("letter", "B. harbor", "B"),
        ("letter", "So. The answer is B.", "B"),
        ("letter", "harbor", None),
        ("letter", "E", None),
        ("letter", "(B)", None),
        ("last", "The answer is (A), not (C).", "C"),
        ("last", "I think A or B", "B"),
        ("last", "DNA shows", "A"),
        ("last", "harbor", None),
        ("last", "It is clearly the harbor in view", "B"),
        ("last", "B.", "B"),
    ],
)
def test_published_rules(rule: choices.Rule, answer: str, chosen: str | None) -> None:
    assert choices.RULES[rule](answer, OPTIONS) == chosen


@pytest.mark.parametrize(
    ("answer", "right", "is_right"),
    [
        ("The result is 1,234.5", ["1234.50"], True),
        ("x = 3", ["3"], True),
        ("so it could be 3.14159", ["3.14"], True),
        ("The answer is Baroque music.", ["baroque"], True),
        ("a", ["b"], False),
        ("The answer is 12", ["1"], False),
        ("$2e3$ is the result", ["2000"], False),
        ("The final answer is 2e3", ["2000"], True),
        ("", ["x"], False),
    ],
)
def test_open_answers(answer: str, right: list[str], is_right: bool) -> None:
    assert choices.open_right(answer, right) is is_right


def test_circular_needs_every_copy() -> None:
    right = [given == wanted for given, wanted in zip("ABCA", "ABCD", strict=True)]
    assert circular([7 + k * STRIDE for k in range(4)], right, [4] * 4) == {7: False} and sum(right) / 4 == 0.75
    assert circular([7 + k * STRIDE for k in range(4)], [True] * 4, [4] * 4) == {7: True}
    assert circular([1, 2], [True, False], [4, 4]) == {1: True, 2: False}
    with pytest.raises(Refused, match="missing-rotation"):
        circular([7, 7 + STRIDE, 7 + 2 * STRIDE], [True] * 3, [4] * 3)


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=6, unique=True), st.data())
def test_the_answer_moves_with_its_text(texts: list[str], data: st.DataObject) -> None:
    options = dict(zip("ABCDEF", texts, strict=False))
    answer = data.draw(st.sampled_from(sorted(options)))
    copies = rotations(options, answer)
    assert copies[0] == (options, answer) and len(copies) == len(options)
    assert {moved[letter] for moved, letter in copies} == {options[answer]} and len({letter for _, letter in copies}) == len(options)
