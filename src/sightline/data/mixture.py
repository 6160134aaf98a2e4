"""Mixture: which rows of which stores an epoch visits, and in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sightline.samples.store import Store


@dataclass(frozen=True, kw_only=True)
class Share:
    """One store of a mixture. `weight` = times that each kept row is visited per epoch: 1.0 once, 0.1 a tenth of the rows, 2.0 twice."""

    name: str
    store: Store
    weight: float = 1.0
    cap: int | None = None
    """Largest number of visits per epoch."""


class Mixture:
    """Rows of several stores, drawn without replacement inside an epoch as far as the weight allows."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self.shares = list(shares)

    def counts(self) -> list[int]:
        """Visits per epoch, by share."""
        # rounded first: 0.7 x 10 is 7.000000000000001
        return [min(math.ceil(round(share.weight * len(share.store.kept), 6)), share.cap if share.cap is not None else 2**62) for share in self.shares]

    def __len__(self) -> int:
        return sum(self.counts())

    def rows(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(share, row) of every visit of an epoch, shuffled."""
        visits: list[tuple[int, int]] = []
        for number, (share, count) in enumerate(zip(self.shares, self.counts())):
            kept = np.asarray(share.store.kept)
            rounds = [rng.permutation(kept) for _ in range(math.ceil(count / max(1, len(kept))))]
            visits += [(number, int(row)) for row in np.concatenate([*rounds, kept[:0]])[:count]]
        return [visits[i] for i in rng.permutation(len(visits))]
