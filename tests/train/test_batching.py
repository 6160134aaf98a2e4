"""Micro-batches: every row once, balanced, within the budget, the largest first; and which models share bins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.fusion import CrossAttention, EncoderDecoder, GatedCrossAttention, SequenceFusion
from sightline.train.batching import Load, balanced, shares_bins, within_budget

LOADS = st.lists(st.builds(Load, tokens=st.integers(0, 500), crops=st.integers(0, 4)), min_size=1, max_size=24)


def tokens(loads: list[Load], rows: list[int]) -> int:
    return sum(loads[row].tokens for row in rows)


def test_by_hand() -> None:
    loads = [Load(tokens=length, crops=1) for length in (90, 80, 20, 10, 9, 8)]
    assert balanced(loads, 2) == [[0, 3, 4], [1, 2, 5]]
    assert within_budget(loads, 120) == [[0, 3, 4], [1, 2, 5]]
    assert within_budget(loads, 50) == [[0], [1], [2], [4, 5], [3]], "two rows are longer than the budget and stand alone"


def test_rows_without_pictures_are_spread() -> None:
    loads = [Load(tokens=100, crops=crops) for crops in (1, 1, 0, 0, 0, 0, 1, 1)]
    for rows in balanced(loads, 4):
        assert Counter(bool(loads[row].crops) for row in rows) == {True: 1, False: 1}


@given(LOADS, st.integers(1, 600), st.integers(1, 3))
def test_every_row_once_within_the_budget(loads: list[Load], budget: int, ranks: int) -> None:
    loads = loads * ranks
    found = within_budget(loads, budget, ranks)
    assert sorted(row for rows in found for row in rows) == list(range(len(loads)))
    assert len(found) % ranks == 0 and all(found)
    sums = [tokens(loads, rows) for rows in found]
    assert sums == sorted(sums, reverse=True), "the largest first"
    assert max(sums) <= max(budget, *(load.tokens for load in loads)) or len(found) >= len(loads)
    assert within_budget(loads, budget, ranks) == found


@given(LOADS, st.integers(1, 6))
def test_groups_are_about_equal(loads: list[Load], groups: int) -> None:
    sums = [tokens(loads, rows) for rows in balanced([Load(tokens=load.tokens, crops=1) for load in loads], groups)]
    assert sums[0] - sums[-1] <= max(load.tokens for load in loads) + len(loads)


@dataclass
class Language:
    attention: str = "sdpa"


@dataclass
class Config:
    fusion: object
    language_model: Language | None


@pytest.mark.parametrize(
    ("fusion", "attention", "shared"),
    [
        (SequenceFusion(), "sdpa", True),
        (SequenceFusion(), "eager", False),
        (GatedCrossAttention(every=1), "sdpa", False),
        (CrossAttention(), "sdpa", False),
        (EncoderDecoder(), "sdpa", False),
    ],
)
def test_samples_share_bins_where_it_pays(fusion, attention: str, shared: bool) -> None:
    config = Config(fusion, Language(attention))
    found, reason = shares_bins(config, None, "here")  # pyright: ignore[reportArgumentType]
    assert found == shared and bool(reason) != shared
    assert shares_bins(config, not shared, "here") == (not shared, "")  # pyright: ignore[reportArgumentType]


def test_a_fusion_that_keeps_samples_apart() -> None:
    class Apart(SequenceFusion):
        @property
        def packs(self) -> bool:
            return False

    config = Config(Apart(), Language())
    assert not shares_bins(config, None, "here")[0]  # pyright: ignore[reportArgumentType]
    with pytest.raises(Refused, match="train/cannot-pack"):
        shares_bins(config, True, "stages.a.pack")  # pyright: ignore[reportArgumentType]
    assert shares_bins(Config(Apart(), None), True, "here")[0] is False  # pyright: ignore[reportArgumentType]
