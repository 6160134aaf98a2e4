"""Operators over a whole store: in chunks, by any engine, durable part by part; the same rows as `operators.apply` gives.

The operators are cut into runs. In a run every row stands for itself, so the chunks go to the engine. A run ends where all rows must be seen: before an operator that learns, after
one that decides. An operator that asks is done in this process, which knows who answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np

from sightline.data.engine import Engine
from sightline.data.operators import (
    AnswererOf,
    Asks,
    Count,
    Decides,
    Decision,
    Judged,
    Learns,
    Operator,
    blocks,
    counted,
    decided,
    decisions_on,
    through,
)
from sightline.data.parts import Entry, Part, Parts, counts_of, digest, index_of, write
from sightline.errors import Problem, Refused
from sightline.progress import Progress
from sightline.samples.store import Store

CHUNK_ROWS = 128
"""Rows of a chunk at most: what is done again after a kill, per worker."""
CHUNK_PIXELS = 1 << 26
"""Pixels of the pictures of a chunk at most (a larger picture is a chunk of its own): what bounds the memory of a worker."""

Origin = Path | tuple[int, ...]
"""Where the rows of a chunk are: in a part, or in the store under these numbers."""
Numbered = tuple[int, str, Operator]
"""Number, name and operator of a step."""


def apply_into(
    source: Store,
    steps: Sequence[Operator | Learns],
    out: Path,
    *,
    engine: Engine,
    seed: int = 0,
    config: str = "",
    answerers: AnswererOf | None = None,
    fresh: bool = False,
) -> list[Count]:
    """Kept rows of `source` through operators (Configs) into a store at `out`; returns the rows of each. What could not be read into `source` stays listed.

    The result depends neither on the engine nor on chunks. A killed pass goes on when it is called again with the same source, operators, seed and `config` (which must say who
    answers), unless `fresh`. Raises Refused when nothing is kept in the end, a model is missing, or two rows come out under one id.
    """
    said = digest(source.id, source.lineage.id, seed, config, list(steps), CHUNK_ROWS, CHUNK_PIXELS)
    with Parts(out, fresh=fresh) as parts:
        work = _Pass(source, parts, out.name, engine, seed, answerers, said)
        counts = work.run(steps)
        maker = {"step": "data", "rows": json.dumps([asdict(count) for count in counts])}
        with Store.writer(out, config=config, inputs=[{"id": source.id, "kind": "store"}], maker=maker, seed=seed) as writer:
            for problems in source.refusals():
                writer.refuse(*problems)
            writer.warn(*source.warnings())
            for path in work.paths:
                for _ in Part(path, work.store).write(writer, repeated="raise"):
                    pass
            if not writer.kept:
                raise Refused(_nothing_kept(out.name, counts))
        parts.remove()
    return counts


def _nothing_kept(name: str, report: Sequence[Count]) -> Problem:
    found = "; ".join(f"{count.operator}: {count.rows_in} in, {count.quarantined} quarantined" for count in report) or "no rows"
    return Problem(
        code="data/nothing-kept", place=f"data.{name}", found=found, allowed="at least one row in the end", fix="loosen the operators, or read other rows"
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One chunk of a run."""

    path: Path
    """Part to write."""
    origin: Origin
    decisions: tuple[Decision, ...] = ()
    """What was decided on its kept rows before the run."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What is done with each chunk, in any process."""

    store: Path
    seed: int
    decider: tuple[int, str] | None
    """Number and name of the operator whose decisions come first."""
    operators: tuple[Numbered, ...]
    index: bool

    def __call__(self, task: _Task) -> Path:
        if task.path.is_file():
            return task.path
        held: dict[str, str] = {}
        rows = _rows(task.origin, opened(self.store), held)
        counts: list[Count] = []
        if self.decider is not None:
            counts.append(Count(operator=self.decider[1]))
            rows = decided(rows, task.decisions, counts[-1])
        for number, name, operator in self.operators:
            counts.append(Count(operator=name))
            rows = through(number, operator, rows, self.seed, counts[-1])
        write(task.path, (Entry(row=row) for row in rows), counts=counts, held=held, index=self.index)
        return task.path

    @property
    def numbers(self) -> list[int]:
        """Steps that the counts of a part are of, in order."""
        return [*([] if self.decider is None else [self.decider[0]]), *(number for number, _, _ in self.operators)]


class _Pass:
    """The state between runs: where the rows are, and what was decided on them."""

    def __init__(self, source: Store, parts: Parts, name: str, engine: Engine, seed: int, answerers: AnswererOf | None, said: str) -> None:
        self.store = source.aside()
        self.counts: list[Count] = []
        self._parts, self._name, self._engine, self._seed, self._answerers, self._said = parts, name, engine, seed, answerers, said
        self._origins: list[Origin] = list(chunks(source))
        self._sizes = [len(cast(tuple[int, ...], origin)) for origin in self._origins]
        self._done = 0
        self._decider: tuple[int, str] | None = None
        self._decisions: list[tuple[Decision, ...]] = []
        self._operators: list[Numbered] = []

    @property
    def paths(self) -> list[Path]:
        """All parts of the last run, in order."""
        return [cast(Path, origin) for origin in self._origins]

    def run(self, steps: Sequence[Operator | Learns]) -> list[Count]:
        """Do all steps."""
        self.counts = [counted(step) for step in steps]
        for number, step in enumerate(steps):
            name = self.counts[number].operator
            if isinstance(step, Learns):
                self._flush()
                step = step.learn(row.sample for origin in self._origins for row in _rows(origin, self.store, {}) if row.verdict == "kept")
            if isinstance(step, Asks):
                self._flush()
                self._ask((number, name, step))
            else:
                self._operators.append((number, name, step))
            if isinstance(step, Decides):
                self._flush(index=True)
                self._decide(number, name, step)
        self._flush(last=True)
        for count in self.counts:
            count.check()
        return self.counts

    def _flush(self, *, index: bool = False, last: bool = False) -> None:
        """Do what waits to be done; afterwards all rows are in parts. `last`: also when nothing waits."""
        if not (self._operators or self._decider or (last and not all(isinstance(origin, Path) for origin in self._origins))):
            return
        run = _Run(store=self.store.path.resolve(), seed=self._seed, decider=self._decider, operators=tuple(self._operators), index=index)
        decisions = self._decisions or [()] * len(self._origins)
        paths = [self._path(number) for number in range(len(self._origins))]
        tasks = (_Task(path=path, origin=origin, decisions=said) for path, origin, said in zip(paths, self._origins, decisions, strict=True))
        progress = self._progress(sum(size for path, size in zip(paths, self._sizes, strict=True) if path.is_file()))
        with closing(self._engine.map(run, tasks)) as results:
            for path, size in zip(results, self._sizes, strict=True):
                self._count(path, run.numbers)
                progress.advance(size)
        progress.close()
        self._next(paths)
        self._decider, self._decisions, self._operators = None, [], []

    def _ask(self, step: Numbered) -> None:
        """An operator that asks: block by block, here."""
        number, name, operator = step
        held: dict[str, str] = {}
        rows = (row for origin in self._origins for row in _rows(origin, self.store, held))
        paths: list[Path] = []
        sizes: list[int] = []
        progress = self._progress(0)
        for block in blocks(rows):
            path = self._path(len(paths))
            if not path.is_file():
                count = Count(operator=name)
                made = through(number, operator, block, self._seed, count, self._answerers)
                write(path, (Entry(row=row) for row in made), counts=[count], held=dict(held), index=isinstance(operator, Decides))
            held.clear()
            self._count(path, [number])
            paths.append(path)
            sizes.append(len(block))
            progress.advance(len(block))
        progress.close()
        self._sizes = sizes
        self._next(paths)

    def _decide(self, number: int, name: str, operator: Decides) -> None:
        indexes = [index_of(path) for path in self.paths]
        decisions = iter(decisions_on(operator, indexes) if indexes else ())
        self._decisions = [tuple(islice(decisions, len(index))) for index in indexes]
        self._decider = (number, name)

    def _path(self, number: int) -> Path:
        return self._parts.path(f"run{self._done}", number, digest(self._said, self._done, number))

    def _count(self, path: Path, numbers: Sequence[int]) -> None:
        for number, count in zip(numbers, counts_of(path), strict=True):
            self.counts[number].add(count)

    def _next(self, paths: list[Path]) -> None:
        self._origins = list(paths)
        self._done += 1

    def _progress(self, done: int) -> Progress:
        progress = Progress(f"data {self._name}", sum(self._sizes), "rows")
        progress.note = f"{done} rows were done before" if done else ""
        return progress


def chunks(store: Store) -> Iterator[tuple[int, ...]]:
    """Kept rows in chunks that a worker can hold."""
    areas = _areas(store)[store.kept]
    chunk: list[int] = []
    area = 0
    for row, size in zip(store.kept.tolist(), areas.tolist(), strict=True):
        if chunk and (len(chunk) == CHUNK_ROWS or area + size > CHUNK_PIXELS):
            yield tuple(chunk)
            chunk, area = [], 0
        chunk.append(row)
        area += size
    if chunk:
        yield tuple(chunk)


def _areas(store: Store) -> np.ndarray:
    """Pixels of the pictures of each row, int64."""
    pictures = store.index["pictures"].combine_chunks()
    flat = pictures.flatten()
    sums = np.concatenate([[0], np.cumsum(flat.field("width").to_numpy().astype(np.int64) * flat.field("height").to_numpy())])
    ends = np.cumsum(pictures.value_lengths().to_numpy())
    return sums[ends] - sums[np.concatenate([[0], ends[:-1]])]


def opened(path: Path) -> Store:
    """The store at `path`, opened once in a process."""
    return _opened(path, (path / "index.parquet").stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _opened(path: Path, _changed: int) -> Store:
    return Store.open(path).aside()


def _rows(origin: Origin, store: Store, held: dict[str, str]) -> Iterator[Judged]:
    """Rows of a chunk; the pictures that the store has for them are entered into `held`."""
    if isinstance(origin, Path):
        yield from Part(origin, store).judged(held)
        return
    judged = store.index.select(["group", "scores"]).take(list(origin)).to_pylist()
    for row, said in zip(origin, judged, strict=True):
        sample = store[row]
        held.update({picture.hash: f"row:{row}:{number}" for number, picture in enumerate(sample.pictures)})
        yield Judged(sample=sample, group=said["group"], scores=dict(said["scores"]))
