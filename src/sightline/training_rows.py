"""The rows that a model was trained on, as far as they resemble a question: same kind, like words, a picture that looks alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sightline.data.hashing import distance, picture_hashes
from sightline.evaluate.failures.evidence import Case
from sightline.evaluate.metrics import tokenize
from sightline.samples.pictures import rgb_pixels
from sightline.samples.records import turn_of
from sightline.samples.sample import Picture, Regions, Text, Turn
from sightline.samples.store import Store

MOST = 200_000
"""Question-answer pairs that are looked through, the first of each store; `TrainingRows.cut` says what is left out."""
_NEAR = 3
"""Rows that are named for one question."""
_LOOKED = 24
"""Rows of like words whose pictures are looked at."""
_TEXTS = 6
"""Wordings among which they are."""
_BITS = 64


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question-answer pair of a store."""

    store: str
    row: int
    id: str
    kind: str
    source: str
    maker: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Near:
    """A training row and how alike it is: `words` 0..1 (Jaccard), `looks` 0..1 (share of equal bits of dHash; None without pictures)."""

    row: Row
    words: float
    looks: float | None
    picture: Picture | None


class TrainingRows:
    """What a stage was trained on, by name of its stores."""

    def __init__(self, stores: Mapping[str, Store], most: int = MOST) -> None:
        self.stores = dict(stores)
        self.most = most

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every pair of the kept rows, without pictures; at most `most`, shared out evenly over the stores."""
        room = self.most // max(1, len(self.stores))
        return tuple(row for name, store in self.stores.items() for row in islice(_pairs(name, store), room))

    @cached_property
    def cut(self) -> dict[str, int]:
        """Stores that hold more than was looked through -> rows of theirs that were not reached."""
        last: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for row in self.rows:
            last[row.store] = max(last.get(row.store, -1), row.row)
            counts[row.store] += 1
        room = self.most // max(1, len(self.stores))
        left = {name: int((store.kept > last.get(name, -1)).sum()) for name, store in self.stores.items() if counts[name] >= room}
        return {name: rows for name, rows in left.items() if rows}

    @cached_property
    def sources(self) -> frozenset[str]:
        """Data sets that the rows come from."""
        return frozenset(source for store in self.stores.values() for source in store.index["source"].unique().to_pylist() if source)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """Kinds of question."""
        return frozenset(row.kind for row in self.rows)

    @cached_property
    def _by_kind(self) -> dict[str, dict[tuple[str, str], list[Row]]]:
        """Kind -> (question, answer) -> rows: templates say the same words over and over."""
        found: dict[str, dict[tuple[str, str], list[Row]]] = {}
        for row in self.rows:
            found.setdefault(row.kind, {}).setdefault((row.question, row.answer), []).append(row)
        return found

    @cached_property
    def _words(self) -> dict[tuple[str, str], frozenset[str]]:
        return {key: _said(*key) for texts in self._by_kind.values() for key in texts}

    @cached_property
    def _hashes(self) -> dict[str, np.uint64]:
        return {}

    def near(self, cases: Iterable[Case]) -> dict[tuple[str, str], tuple[Near, ...]]:
        """For each case, by evaluation and name, the training rows most like it, the most alike first: of its kind where that was trained on, else of any."""
        return {(case.evaluation, case.name): self._near(case) for case in cases}

    def _near(self, case: Case) -> tuple[Near, ...]:
        kinds = [case.kind] if case.kind in self._by_kind else list(self._by_kind)
        wanted = _said(case.question, case.right[0] if case.right else case.answer.text)
        texts = sorted(((_alike(wanted, self._words[key]), key, kind) for kind in kinds for key in self._by_kind[kind]), key=lambda one: (-one[0], one[1]))
        looked: list[tuple[float, Row]] = []
        for words, key, kind in texts[:_TEXTS]:
            rows = self._by_kind[kind][key]
            step = max(1, len(rows) // _LOOKED)
            looked += [(words, row) for row in rows[::step][: _LOOKED - len(looked)]]
        own = self._hash(case.asked.pictures[0]) if case.asked.pictures else None
        found = [self._weighed(words, row, own) for words, row in looked]
        return tuple(sorted(found, key=lambda near: (-(near.words + (near.looks or 0.0)), near.row.store, near.row.row))[:_NEAR])

    def _weighed(self, words: float, row: Row, own: np.uint64 | None) -> Near:
        sample = self.stores[row.store][row.row]
        picture = sample.pictures[0] if sample.pictures else None
        looks = None
        if own is not None and picture is not None:
            looks = 1 - int(distance(np.array([own]), np.array([self._hash(picture)]))[0]) / _BITS
        return Near(row=row, words=words, looks=looks, picture=picture)

    def _hash(self, picture: Picture) -> np.uint64:
        if picture.hash not in self._hashes:
            self._hashes[picture.hash] = picture_hashes(rgb_pixels(picture)).gradient[0]
        return self._hashes[picture.hash]


def _pairs(name: str, store: Store) -> Iterator[Row]:
    """Pairs of the kept rows of a store, read without its pictures."""
    index = store.index.select(["shard", "offset"]).to_pydict()
    places = {(shard, offset): row for row, (shard, offset) in enumerate(zip(index["shard"], index["offset"], strict=True))}
    kept = set(store.kept.tolist())
    for number in sorted(set(index["shard"])):
        offset = 0
        for batch in pq.ParquetFile(_shard(store.path, number)).iter_batches(columns=["id", "messages", "attributes", "origin"]):
            for record in batch.to_pylist():
                row = places.get((number, offset), -1)
                offset += 1
                if row in kept:
                    yield from _of_record(name, row, record)


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.parquet"


def _of_record(name: str, row: int, record: Mapping[str, str]) -> Iterator[Row]:
    turns = [turn_of(turn) for turn in json.loads(record["messages"])]
    attributes, origin = json.loads(record["attributes"]), json.loads(record["origin"])
    body = turns[1:] if turns and turns[0].role == "system" else turns
    kinds = str(attributes.get("kind", "question")).split(",")
    for number, (user, reply) in enumerate(zip(body[::2], body[1::2])):
        yield Row(
            store=name,
            row=row,
            id=record["id"],
            kind=kinds[number % len(kinds)],
            source=origin["source"],
            maker=origin.get("maker", "human"),
            question=told(user),
            answer=told(reply),
        )


def told(turn: Turn) -> str:
    """A turn as text for people: regions by their label and number."""
    parts = []
    for item in turn.items:
        if isinstance(item, Text):
            parts.append(item.text)
        elif isinstance(item, Regions):
            parts.append(f"[{item.label or 'region'} x {len(item.regions)}]")
    return "".join(parts)


def _said(question: str, answer: str) -> frozenset[str]:
    """Words of a question, and those of an answer told apart from them."""
    return frozenset([*tokenize(question), *(f"={word}" for word in tokenize(answer))])


def _alike(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def stores_of(folder: Path, names: Sequence[str]) -> dict[str, Store]:
    """The stores of a run's data sets that are there."""
    return {name: Store.open(folder / "data" / name) for name in dict.fromkeys(names) if (folder / "data" / name / "index.parquet").is_file()}
