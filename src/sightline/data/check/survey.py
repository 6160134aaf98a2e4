"""All rows of a check, and the views of them that rules need."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.row_facts import Exchange, RowFacts
from sightline.data.hashing import Near, PictureHashes, near_pairs
from sightline.data.labels import singular, spelled


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What rules about whole sets look at."""

    config: CheckConfig
    rows: Sequence[RowFacts]
    """Every row of every set, at its number."""
    names: Sequence[str]
    """Name of each set."""
    roles: Sequence[str]
    """`own`, `generic` or `against` for each set."""

    @cached_property
    def read(self) -> list[RowFacts]:
        """Rows of the sets to be trained on that could be read."""
        return [row for row in self.rows if not row.refused and self.roles[row.data_set] != "against"]

    @cached_property
    def against(self) -> list[RowFacts]:
        """Rows of the benchmarks that could be read."""
        return [row for row in self.rows if not row.refused and self.roles[row.data_set] == "against"]

    @cached_property
    def sources(self) -> Mapping[str, list[RowFacts]]:
        """The read rows by the name of their set."""
        found: dict[str, list[RowFacts]] = {}
        for row in self.read:
            found.setdefault(self.names[row.data_set], []).append(row)
        return found

    @cached_property
    def first_rows(self) -> dict[str, tuple[RowFacts, int]]:
        """The first row of each different picture of all sets, by hash, and its number in that row."""
        return firsts(row for row in self.rows if not row.refused)

    @cached_property
    def near(self) -> list[tuple[str, str, Near]]:
        """Hashes of all pairs of different pictures that are nearly the same, the one of the earlier row first."""
        known = [(name, row.pictures[number].prints) for name, (row, number) in self.first_rows.items() if row.pictures[number].prints]
        pairs = near_pairs(PictureHashes.of_texts([prints for _, prints in known]), self.config.near, self.config.orientations)
        return [(known[pair.first][0], known[pair.second][0], pair) for pair in pairs]

    def source(self, row: RowFacts) -> str:
        """Name of a row's set."""
        return self.names[row.data_set]


def firsts(rows: Iterable[RowFacts]) -> dict[str, tuple[RowFacts, int]]:
    """The first row of each different picture, by hash, and its number in that row."""
    found: dict[str, tuple[RowFacts, int]] = {}
    for row in rows:
        for number, picture in enumerate(row.pictures):
            found.setdefault(picture.hash, (row, number))
    return found


def distinct(rows: Iterable[RowFacts]) -> list[RowFacts]:
    """Rows with regions, one for each picture and set of regions: every question about a picture repeats what is known about it."""
    found = {(tuple(picture.hash for picture in row.pictures), row.labels, row.areas, row.boxes, row.angles): row for row in rows if row.labels}
    return list(found.values())


def asked(rows: Iterable[RowFacts]) -> Iterator[tuple[RowFacts, Exchange]]:
    """All questions with their answers; captions are no questions."""
    return ((row, exchange) for row in rows for exchange in row.exchanges if exchange.question.strip())


@lru_cache(maxsize=1 << 14)
def same_name(label: str) -> str:
    """What all spellings of a label have in common, one or many."""
    return singular(spelled(label))


def stem(path: str) -> str:
    """`a/b_12.jpg` -> `b_12`."""
    return posixpath.splitext(posixpath.basename(path.replace("\\", "/")))[0]


def percent(part: float, whole: float) -> str:
    """`12.3 %`."""
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def shortened(text: str, most: int = 80) -> str:
    """A text that fits into a line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 2]}.."


def listed(things: Iterable[object], most: int = 6) -> str:
    """`a, b, c and 4 more`."""
    every = [str(thing) for thing in things]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
