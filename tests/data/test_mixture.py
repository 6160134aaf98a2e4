"""Which rows an epoch visits: weights are visits per epoch, without replacement as far as they allow."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.data.mixture import Mixture, Share


def share(rows: list[int], weight: float = 1.0, cap: int | None = None) -> Share:
    store: Any = SimpleNamespace(kept=np.asarray(rows, dtype=np.int64))
    return Share(name="any", store=store, weight=weight, cap=cap)


@pytest.mark.parametrize(("weight", "rows", "visits"), [(1.0, 10, 10), (0.1, 30, 3), (0.7, 10, 7), (0.75, 10, 8), (2.5, 10, 25), (0.01, 5, 1), (1.0, 0, 0)])
def test_visits_per_epoch(weight: float, rows: int, visits: int) -> None:
    assert Mixture([share(list(range(rows)), weight)]).counts() == [visits]


def test_a_cap() -> None:
    assert Mixture([share(list(range(10)), 2.0, cap=7), share([3], cap=7)]).counts() == [7, 1]


@given(
    shares=st.lists(st.tuples(st.sets(st.integers(0, 99), min_size=1, max_size=12), st.floats(0.05, 3.0)), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=60)
def test_an_epoch(shares: list[tuple[set[int], float]], seed: int) -> None:
    mixture = Mixture([share(sorted(rows), weight) for rows, weight in shares])
    visits = mixture.rows(np.random.default_rng(seed))
    assert visits == mixture.rows(np.random.default_rng(seed)), "a pure function of the generator"
    assert len(visits) == len(mixture)
    for number, (rows, _) in enumerate(shares):
        times = Counter(row for which, row in visits if which == number)
        assert sum(times.values()) == mixture.counts()[number]
        assert times.keys() <= rows
        assert max(times[row] for row in rows) - min(times[row] for row in rows) <= 1, "no row a second time before every row was visited"


def test_stores_are_shuffled_together() -> None:
    visits = Mixture([share(list(range(50))), share(list(range(50)))]).rows(np.random.default_rng(0))
    assert 10 < sum(which for which, _ in visits[:50]) < 40
