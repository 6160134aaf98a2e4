"""Operators that find rows which say the same about the same pictures: by bytes, by pixels, by perceptual hash in eight orientations, by embedding, by text.

Two rows are duplicates when their pictures are the same and what the user says is the same: several questions on one picture are no duplicates, a caption and its copy are. Rows without pictures are
compared by all of their text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sightline.data.captioning import Asking
from sightline.data.hashing import NEAR, PictureHashes, alike_texts, groups, near_pairs, picture_hashes, text_key
from sightline.data.operators import Decision, Outcome
from sightline.kinds import Config
from sightline.lineage import sha256_bytes
from sightline.samples.exchange import Answer, Request
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Sample, Show, Turn

Level = Literal["bytes", "pixels", "near"]
_ROUNDS = 20
"""Rounds of k-means; centres of so coarse a partition move little after the first few."""


class Dedup(Config):
    """Sets aside every row but one of those that say the same about the same pictures."""

    kind: Literal["dedup"] = "dedup"
    pictures: Level = "near"
    """When two pictures are the same: their files are equal (`bytes`), their decoded pixels are (`pixels`: other metadata, other container), or their perceptual hashes are close (`near`)."""
    within: int = Field(default=NEAR, ge=0, le=16)
    """Bits of 64 by which both perceptual hashes may differ."""
    orientations: bool = True
    """Whether quarter turns and mirror images are near, too: aerial pictures have no up."""
    texts: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of 5-character pieces from which rows without pictures are the same; 1 = equal texts only."""
    conflicts: Literal["first", "none"] = "none"
    """What stays of equal questions about the same pictures with different answers: the first, or none of them, because one of them is wrong."""
    prefer: tuple[str, ...] = Field(default=(), strict=False)
    """Sources whose rows are kept before others, the most trusted first."""
    protect: tuple[str, ...] = Field(default=("test", "val"), strict=False)
    """Splits whose rows are kept before others: what training shares with them is a leak, and goes from training."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, with hashes of its pictures and texts as columns."""
        asked = text_key(" ".join(sample.text(number) for number, turn in enumerate(sample.turns) if turn.role == "user"))
        said = "\n".join(sorted(text_key(sample.text(number)) for number, turn in enumerate(sample.turns) if turn.role == "assistant"))
        columns: dict[str, Any] = {"asked": asked, "said": said, "looks": [picture.hash for picture in sample.pictures], "near": []}
        if self.pictures != "bytes" and sample.pictures:
            decoded = [rgb_pixels(picture) for picture in sample.pictures]
            columns["looks"] = [sha256_bytes(repr(array.shape).encode() + array.tobytes()) for array in decoded]
            if self.pictures == "near":
                columns["near"] = [picture_hashes(array).text() for array in decoded]
        return Outcome(samples=(sample,), columns=columns)

    def decide(self, index: pa.Table) -> list[Decision]:
        """Keeps the first of each group in the order of `protect`, `prefer`, row; rules `dedup/same`, `dedup/near`, `dedup/text`, `dedup/leak` (the kept one is of a protected split), `dedup/conflict`."""
        rows = [_Row(number, record, self.prefer, self.protect) for number, record in enumerate(index.to_pylist())]
        looks = _looks(rows, self.within, self.orientations)
        same: dict[tuple[Any, ...], list[_Row]] = defaultdict(list)
        for row in rows:
            if row.looks:
                same[(tuple(looks[name] for name in row.looks), row.asked)].append(row)
        for group, number in _alike(rows, self.texts).items():
            same[("text", number)].append(rows[group])
        decisions = [Decision() for _ in rows]
        for group in same.values():
            if len(group) > 1:
                self._judge(group, decisions)
        return decisions

    def _judge(self, group: list[_Row], decisions: list[Decision]) -> None:
        ordered = sorted(group, key=lambda row: row.rank)
        first, name = ordered[0], f"same-as-{ordered[0].id}"
        decisions[first.number] = Decision(group=name)
        # Captions of a picture may differ; answers to one question may not.
        if first.looks and first.asked and len({row.said for row in ordered}) > 1 and self.conflicts == "none":
            for row in ordered:
                decisions[row.number] = Decision(verdict="quarantined", rule="dedup/conflict", group=name)
            return
        for row in ordered[1:]:
            decisions[row.number] = Decision(verdict="quarantined", rule=row.rule(first), group=name)


class _Row:
    """What `decide` knows of a row."""

    def __init__(self, number: int, record: dict[str, Any], prefer: Sequence[str], protect: Sequence[str]) -> None:
        self.number, self.id, self.split = number, record["id"], record["split"]
        self.asked, self.said, self.looks, self.near = record["asked"], record["said"], tuple(record["looks"]), tuple(record["near"])
        self.protected = self.split in protect
        source = record["source"]
        self.rank = (not self.protected, prefer.index(source) if source in prefer else len(prefer), number)

    def rule(self, first: _Row) -> str:
        """Under which rule this row goes when `first` stays."""
        if first.protected and not self.protected:
            return "dedup/leak"
        if not self.looks:
            return "dedup/text"
        return "dedup/same" if self.looks == first.looks else "dedup/near"


def _looks(rows: Sequence[_Row], within: int, orientations: bool) -> dict[str, int]:
    """Group number of every picture, by its exact hash."""
    hashes: dict[str, str] = {}
    for row in rows:
        hashes.update(zip(row.looks, row.near or ("",) * len(row.looks), strict=True))
    names = list(hashes)
    known = [place for place, name in enumerate(names) if hashes[name]]
    pairs = near_pairs([PictureHashes.of_text(hashes[names[place]]) for place in known], within, orientations)
    found = groups(len(names), ((known[pair.first], known[pair.second]) for pair in pairs))
    return dict(zip(names, found.tolist(), strict=True))


def _alike(rows: Sequence[_Row], at_least: float) -> dict[int, int]:
    """Group number of every row without pictures, by row number."""
    bare = [row for row in rows if not row.looks]
    texts = [f"{row.asked}\n{row.said}" for row in bare]
    first = {text: place for place, text in reversed(list(enumerate(texts)))}
    pairs = [(first[text], place) for place, text in enumerate(texts) if first[text] != place]
    if at_least < 1:
        distinct = sorted(first.values())
        pairs += [(distinct[a], distinct[b]) for a, b, _ in alike_texts([texts[place] for place in distinct], at_least)]
    found = groups(len(bare), pairs)
    return {row.number: int(number) for row, number in zip(bare, found, strict=True)}


class SemanticDedup(Asking):
    """Sets aside rows whose first picture an embedder finds almost equal to that of another (SemDeDup, Abbas et al. 2023, section 3)."""

    kind: Literal["semantic-dedup"] = "semantic-dedup"
    epsilon: float = Field(default=0.05, gt=0, lt=1)
    """A row goes when its cosine with an earlier row of its cluster exceeds 1 - epsilon."""
    clusters: int | None = Field(default=None, ge=1)
    """Clusters of k-means; the square root of the number of rows when absent."""
    seed: int = 0
    """Seed of k-means."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """The vector of the first picture; nothing of a row without one."""
        if not sample.pictures:
            return []
        shown = replace(
            sample, id=f"{sample.id}#look", pictures=sample.pictures[:1], annotations=(), attributes={}, turns=(Turn(role="user", items=(Show(),)),)
        )
        return [Request(sample=shown, ask="embed")]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, with its vector as a column."""
        assert all(answer.vector for answer in answers), f"the answer to {sample.id} has no vector"
        return Outcome(samples=(sample,), columns={"vector": list(answers[0].vector or ()) if answers else []})

    def decide(self, index: pa.Table) -> list[Decision]:
        """Rule `semantic-dedup/near`; the row that is farthest from the centre of its cluster is kept first."""
        vectors = [row["vector"] for row in index.to_pylist()]
        seen = [number for number, vector in enumerate(vectors) if vector]
        decisions = [Decision() for _ in vectors]
        if not seen:
            return decisions
        array = np.array([vectors[number] for number in seen], np.float64)
        clusters = self.clusters or max(1, round(len(seen) ** 0.5))
        for place, kept in semantic_duplicates(array, clusters, self.epsilon, self.seed).items():
            row = index["id"][seen[kept]].as_py()
            decisions[seen[place]] = Decision(verdict="quarantined", rule="semantic-dedup/near", group=f"same-as-{row}")
        return decisions


def semantic_duplicates(vectors: NDArray[np.float64], clusters: int, epsilon: float, seed: int = 0) -> dict[int, int]:
    """Rows (n, width) that go, each with the earlier row that it repeats.

    Rows are scaled to unit length and clustered by k-means; inside a cluster they are taken by falling distance to its centre, and one goes when its cosine with any earlier one exceeds 1 - epsilon
    (SemDeDup: keeping what is hardest, i.e. least like the centre).
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    member, centres = _k_means(unit, min(clusters, len(unit)), np.random.default_rng(seed))
    gone: dict[int, int] = {}
    for cluster in range(len(centres)):
        inside = np.flatnonzero(member == cluster)
        if len(inside) < 2:
            continue
        # cosine with the centre; equal distances in the order of the rows
        order = inside[np.argsort(unit[inside] @ centres[cluster], kind="stable")]
        cosines = np.tril(unit[order] @ unit[order].T, -1)
        cosines[np.triu_indices(len(order))] = -np.inf
        best = cosines.argmax(axis=1)
        close = cosines[np.arange(len(order)), best] > 1 - epsilon
        gone.update({int(order[place]): int(order[best[place]]) for place in np.flatnonzero(close)})
    return gone


def _k_means(unit: NDArray[np.float64], clusters: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cluster of each row and the unit centres (spherical k-means, centres drawn from the rows)."""
    centres = unit[rng.choice(len(unit), clusters, replace=False)]
    member = np.zeros(len(unit), np.int64)
    for _ in range(_ROUNDS):
        nearest = (unit @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, unit)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, np.finfo(np.float64).tiny), centres)
        if (nearest == member).all():
            break
        member = nearest
    return (unit @ centres.T).argmax(axis=1), centres
