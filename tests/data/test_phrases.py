"""The noun-phrase rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.data.operators import apply
from sightline.data.phrases import ClosedClass, NounPhrases, phrase_rule
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

ROWS = {
    0: ["red car"],
    1: ["red car", "street"],
    2: ["street"],
    3: ["street"],
    4: ["dog"],
    5: ["dog", "street"],
    6: ["dog"],
    7: ["zebra"],
    8: ["street"],
    9: ["red car", "dog"],
}


def test_the_rule_of_the_specification() -> None:
    assert phrase_rule(ROWS, least=3, inclusive=True, most=100, seed=0) == {0, 1, 2, 3, 4, 5, 6, 8, 9}
    assert phrase_rule(ROWS, least=3, inclusive=False, most=100, seed=0) == {1, 2, 3, 4, 5, 6, 8, 9}


@given(st.dictionaries(st.integers(0, 60), st.lists(st.sampled_from("abcde"), max_size=3), max_size=60), st.integers(1, 4), st.integers(1, 6))
def test_no_phrase_keeps_too_few_and_rare_ones_keep_nothing(rows: dict[int, list[str]], least: int, most: int) -> None:
    kept = phrase_rule(rows, least=least, inclusive=True, most=most, seed=1)
    for phrase in "abcde":
        having = {number for number, phrases in rows.items() if phrase in phrases}
        assert len(having) < least or len(having & kept) >= min(most, len(having))
    frequent = {phrase for phrase in "abcde" if sum(phrase in phrases for phrases in rows.values()) >= least}
    assert all(frequent & set(rows[number]) for number in kept)
    assert kept == phrase_rule(rows, least=least, inclusive=True, most=most, seed=1)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A red car is parked on the street.", ["red car", "street"]),
        ("two white boats and some dogs near a wooden pier", ["two white boats", "dogs", "wooden pier"]),
        ("The man, wearing a hat, rides the horse", ["man", "hat", "horse"]),
        ("very old red brick railway station", ["red brick railway station"]),
        ("", []),
    ],
)
def test_phrases_of_captions(text: str, phrases: list[str]) -> None:
    assert ClosedClass().phrases(text) == phrases


def test_rows_that_no_phrase_keeps_are_set_aside() -> None:
    texts = ["a red car", "the red car", "one red car here", "a zebra"]
    turns = [(Turn(role="user", items=(Text(text="?"), Show())), Turn(role="assistant", items=(Text(text=text),))) for text in texts]
    samples = [Sample(id=str(number), turns=said, origin=Origin(source="set")) for number, said in enumerate(turns)]
    rows = list(apply([NounPhrases(least=2)], samples, 0))
    assert [one[2] for one in rows] == [None, None, "noun-phrases/common", "noun-phrases/common"]
    assert [one[2] for one in apply([NounPhrases(least=2, most=1)], samples, 0)].count(None) == 1
