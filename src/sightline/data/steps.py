"""One data step of a recipe: make a layout, read it (or take the rows of another store), apply operators, write a store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from sightline.data.captioning import Caption, Match, RankCaptions
from sightline.data.operators import OPERATOR, AnswererOf, Count, Operator, Take, apply
from sightline.data.questions import Captions, Notes, Questions
from sightline.data.readers.reader import Reader
from sightline.data.reading import OnProblem, read_sources, recognised
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.progress import Progress
from sightline.samples.sample import Sample
from sightline.samples.store import Store

for _operator in (Take, Questions, Notes, Captions, Caption, Match, RankCaptions):
    OPERATOR.add(_operator)


class Kept:
    """The kept samples of a store, readable again and again."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __iter__(self) -> Iterator[Sample]:
        return (self.store[int(row)] for row in self.store.kept)

    def __len__(self) -> int:
        return len(self.store.kept)


def make_layout(config: Config, out: Path) -> None:
    """Make data in a published layout; the kind of `config` says how."""
    config.make(out)  # pyright: ignore[reportAttributeAccessIssue]


def read_and_apply(
    reads: Sequence[tuple[Config | None, Path | None]],
    source: Store | None,
    operators: Sequence[Config],
    out: Path,
    *,
    on_problem: str,
    seed: int,
    config: str,
    answerers: AnswererOf | None = None,
) -> dict[str, Any]:
    """Write the store of one data step to `out`; returns the counts of reading and of each operator.

    `reads`: (reader or None to recognise it, path) pairs, joined on the same picture when there are several; or `source`, whose kept rows are taken. `config` is the
    fingerprint for the lineage, `answerers` who answers operators that ask. Raises Refused with every row that cannot be read (unless `on_problem` is quarantine), and when nothing is kept in the end.
    """
    policy = cast(OnProblem, on_problem)
    if source is not None:
        return _apply(source, operators, out, seed, config, answerers)
    sources = [(cast(Reader, reader) if reader is not None else recognised(path), path) for reader, path in reads if path is not None]
    if not operators:
        return {"read": read_sources(sources, out, on_problem=policy, config=config).counts(), "operators": []}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-read-", dir=out.parent) as scratch:
        read = read_sources(sources, Path(scratch) / "read", on_problem=policy)
        return {"read": read.counts(), **_apply(read, operators, out, seed, config, answerers)}


def _apply(source: Store, operators: Sequence[Config], out: Path, seed: int, config: str, answerers: AnswererOf | None) -> dict[str, Any]:
    """Kept rows of `source` through the operators into a store; what could not be read stays listed with it."""
    samples = Kept(source)
    applied = apply(cast(Sequence[Operator], operators), samples, seed, answerers)
    with Store.writer(out, config=config, inputs=[{"id": source.id, "kind": "store"}], maker={"step": "data"}, seed=seed) as writer:
        for problems in source.refusals():
            writer.refuse(*problems)
        for problem in source.warnings():
            writer.warn(problem)
        progress = Progress(f"data {out.name}", len(samples), "rows")
        kept = 0
        for sample, verdict, rule in applied:
            writer.add(sample, verdict=verdict, rule=rule)
            kept += verdict == "kept"
            progress.advance()
        progress.close()
        if not kept:
            raise Refused(_nothing_kept(out.name, applied.report))
    return {"operators": [asdict(count) for count in applied.report], "written": Store.open(out).counts()}


def _nothing_kept(name: str, report: Sequence[Count]) -> Problem:
    found = "; ".join(f"{count.operator}: {count.rows_in} in, {count.quarantined} quarantined" for count in report) or "no rows"
    return Problem(
        code="data/nothing-kept", place=f"data.{name}", found=found, allowed="at least one row in the end", fix="loosen the operators, or read other rows"
    )
