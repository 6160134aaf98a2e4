"""From published formats to a Store: which reader fits, all rows in parallel, what happens to rows that cannot be read, and several readers on the same pictures."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sightline.data.readers.class_folders import ClassFolders
from sightline.data.readers.dota import Dota
from sightline.data.readers.icdar import Icdar
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.label_masks import LabelMasks
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.openai_messages import OpenaiMessages
from sightline.data.readers.reader import Reader, Row, read_row
from sightline.data.workers import pool
from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Family
from sightline.lineage import sha256_bytes, sha256_file, sha256_json
from sightline.progress import Progress
from sightline.samples.records import Packed, pack
from sightline.samples.sample import Picture, Region, Sample
from sightline.samples.store import Store, Writer

READER = Family("reader")
"""Formats by kind. A kind of a third party is a subclass of `Reader`."""
for _reader in (KarpathyCaptions, LlavaJson, OpenaiMessages, ClassFolders, LabelMasks, Dota, Icdar):
    READER.add(_reader)

SHOWN = 20
"""Problems that a refusal lists in full; the rest is counted by code."""
POOL_ROWS = 500
"""Fewer rows are read faster in this process than it takes to start others."""
_CHUNK = 64


OnProblem = Literal["refuse", "quarantine"]
Source = tuple[Reader, Path]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A format that a path may have."""

    kind: str
    confidence: float
    reason: str


def recognise_all(path: Path) -> list[Candidate]:
    """Formats that recognise `path`, the most confident first."""
    found: list[Candidate] = []
    for kind, cls in sorted(READER.table().items()):
        reader = cls()
        assert isinstance(reader, Reader), f"{cls.__name__} is no Reader"
        if known := reader.recognise(path):
            found.append(Candidate(kind=kind, confidence=known[0], reason=known[1]))
    return sorted(found, key=lambda candidate: (-candidate.confidence, candidate.kind))


def recognised(path: Path) -> Reader:
    """The one reader that fits best. Refused with all candidates when none does, or when several do equally well."""
    found = recognise_all(path)
    best = [candidate for candidate in found if candidate.confidence == found[0].confidence]
    if len(best) == 1:
        return named(best[0].kind, path)
    seen = "; ".join(f"{candidate.kind} ({candidate.confidence:g}: {candidate.reason})" for candidate in best)
    found_text = f"several formats fit: {seen}" if best else ("no known format" if path.exists() else "no such file or folder")
    fix = "name one of them, or several to join them on the same pictures" if best else "correct the path, or name the format to see why it does not fit"
    raise Refused(Problem(code="data/unknown-format", place=str(path), found=found_text, allowed=", ".join(sorted(READER.table())), fix=fix))


def named(format: str, path: Path) -> Reader:
    """The reader of a format by its name with its usual options; `auto` recognises it."""
    if format == "auto":
        return recognised(path)
    table = READER.table()
    if format not in table:
        raise Refused(
            Problem(code="data/unknown-format", place="format", found=repr(format), allowed=", ".join(sorted(table)), fix=nearest(format, sorted(table)))
        )
    reader = table[format]()
    assert isinstance(reader, Reader)
    return reader


def read_into(
    path: Path,
    reader: Reader | Sequence[Reader] | str,
    out: Path,
    *,
    on_problem: OnProblem = "refuse",
    workers: int | None = None,
    limit: int | None = None,
) -> Store:
    """Read the data set at `path` into a store at `out`: with one reader, with several that are joined, or with a format's name (`auto` recognises it). See `read_sources`."""
    readers = [named(reader, path)] if isinstance(reader, str) else [reader] if isinstance(reader, Reader) else reader
    return read_sources([(one, path) for one in readers], out, on_problem=on_problem, workers=workers, limit=limit)


def read_sources(
    sources: Sequence[Source], out: Path, *, on_problem: OnProblem = "refuse", workers: int | None = None, limit: int | None = None, config: str | None = None
) -> Store:
    """Read one or several data sets into a store at `out`; the result does not depend on `workers`.

    Several are joined: rows with the same picture become one sample (see `merge`). Pictures are the same when they are one file, or, over different paths, when their bytes are equal.
    `limit` takes the first rows only; `config` is the fingerprint for the lineage.
    `refuse` reads everything, then raises Refused with all problems of the pass (the first 20 in full, the others counted by code) and writes nothing;
    `quarantine` leaves the rows out, counts them and lists them in problems.jsonl. Warnings are listed there in both cases.
    """
    broken: list[Problem] = []
    work: list[_Work] = []
    for found in _grouped(sources):
        if limit is not None and len(work) + len(broken) >= limit:
            break
        if isinstance(found, Problem):
            broken.append(found)
        else:
            work.append(found)
    said = config or sha256_json({"sources": [reader.model_dump(mode="json") for reader, _ in sources], "limit": limit, "on_problem": on_problem})
    refused = list(broken)
    with Store.writer(out, config=said, maker={"step": "read"}) as writer:
        for problem in broken:
            writer.refuse(problem)
        progress = Progress(f"read {' + '.join(dict.fromkeys(path.name for _, path in sources))}", len(work), "rows")
        for rows in _results(sources, work, workers):
            for row in rows:
                refused.extend(_take(writer, row))
            progress.advance(len(rows), f"{len(refused)} problems" if refused else "")
        progress.close()
        if refused and on_problem == "refuse":
            raise Refused(summary(refused))
    return Store.open(out)


def summary(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems in full, and one line per code for the others."""
    rest = Counter(problem.code for problem in problems[SHOWN:])
    fix = "read with `on_problem: quarantine` to list all of them in problems.jsonl"
    return [*problems[:SHOWN], *(Problem(code=code, place="further rows", found=f"{count} more of this kind", fix=fix) for code, count in sorted(rest.items()))]


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A row that was read: its sample, packed, if it became one, and what was found."""

    sample: Packed | None
    problems: tuple[Problem, ...]


_Work = tuple[tuple[int, Row], ...]
"""Rows of one picture, each with the number of its reader."""


def _grouped(sources: Sequence[Source]) -> Iterator[_Work | Problem]:
    """Rows of one source one by one; of several, those of the same pictures together, in the order of first appearance."""
    if len(sources) == 1:
        reader, path = sources[0]
        yield from (row if isinstance(row, Problem) else ((0, row),) for row in reader.rows(path))
        return
    by_content = len({path.resolve() for _, path in sources}) > 1
    groups: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
    for number, (reader, path) in enumerate(sources):
        for row in reader.rows(path):
            if isinstance(row, Problem):
                yield row
            else:
                key = tuple(_identity(picture, by_content) for picture in row.pictures) or (f"no picture {number} {row.place}",)
                groups.setdefault(key, []).append((number, row))
    yield from (tuple(group) for group in groups.values())


def _identity(picture: str | bytes, by_content: bool) -> str:
    if isinstance(picture, bytes):
        return sha256_bytes(picture)
    # A file that is not there keeps its path as name here and is refused when it is read.
    return sha256_file(Path(picture)) if by_content and os.path.isfile(picture) else picture


def _results(sources: Sequence[Source], work: Sequence[_Work], workers: int | None) -> Iterator[list[_Made]]:
    """What became of the rows, chunk by chunk in order."""
    chunks = [work[start : start + _CHUNK] for start in range(0, len(work), _CHUNK)]
    count = min(os.cpu_count() or 1, 8) if workers is None else workers
    if count < 2 or len(work) <= POOL_ROWS:
        yield from (_read_chunk(sources, chunk) for chunk in chunks)
        return
    with pool(count) as processes:
        # Bounded, so that a slow disk does not fill the memory with pictures that wait to be written.
        waiting: deque[Future[list[_Made]]] = deque()
        for chunk in chunks:
            waiting.append(processes.submit(_read_chunk, sources, chunk))
            if len(waiting) > 4 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read_chunk(sources: Sequence[Source], chunk: Sequence[_Work]) -> list[_Made]:
    return [_read_group(sources, group) for group in chunk]


def _read_group(sources: Sequence[Source], group: _Work) -> _Made:
    memo: dict[str, Picture] = {}
    found = [made for number, row in group for made in read_row(*sources[number], row, memo)]
    samples = [made for made in found if isinstance(made, Sample)]
    problems = list(dict.fromkeys(made for made in found if isinstance(made, Problem)))
    if not samples or any(problem.severity == "refuse" for problem in problems):
        return _Made(sample=None, problems=tuple(problems))
    try:
        return _Made(sample=pack(merge(samples)), problems=tuple(problems))
    except Refused as refused:
        return _Made(sample=None, problems=(*problems, *refused.problems))


def _take(writer: Writer, made: _Made) -> list[Problem]:
    """Write one row; gives the problems for which it was refused."""
    if made.sample is None:
        writer.refuse(*made.problems)
        return [problem for problem in made.problems if problem.severity == "refuse"]
    writer.warn(*made.problems)
    try:
        writer.add(made.sample)
    except Refused as refused:
        writer.refuse(*refused.problems)
        return refused.problems
    return []


def merge(samples: Sequence[Sample]) -> Sample:
    """Samples on the same pictures as one: id and origin of the first, turns of the one that has them, all annotations.

    Regions of equal label and shape become one with the attributes of both. Refused when two have turns, or when they disagree in an attribute.
    """
    first, *others = samples
    if not others:
        return first
    spoken = [sample for sample in samples if sample.turns]
    problems: list[Problem] = []
    if len(spoken) > 1:
        found = f"samples {', '.join(sample.id for sample in spoken)} all have turns"
        problems.append(_conflict("two-dialogues", first, found, "one sample with turns", "join only one set of dialogues or captions"))
    attributes: dict[str, Any] = {}
    for sample in samples:
        for key, value in sample.attributes.items():
            if attributes.setdefault(key, value) != value:
                problems.append(_conflict("join-conflict", first, f"{key} is {attributes[key]!r} and {value!r}", "equal values", "leave one of the sets out"))
    if problems:
        raise Refused(problems)
    parents = tuple(f"{sample.origin.source}:{sample.origin.row}" for sample in others if sample.origin != first.origin)
    origin = replace(first.origin, parents=(*first.origin.parents, *parents))
    annotations = _united([sample.annotations for sample in samples])
    return replace(first, turns=spoken[0].turns if spoken else (), annotations=annotations, attributes=attributes, origin=origin)


def _conflict(code: str, sample: Sample, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code=f"data/{code}", place=f"{sample.origin.source}:{sample.id}", found=found, allowed=allowed, fix=fix)


def _united(sets: Sequence[Sequence[Region]]) -> tuple[Region, ...]:
    """All regions; the k-th of equal label and shape in one set is the k-th in another."""
    united: dict[Any, Region] = {}
    for regions in sets:
        times: Counter[Any] = Counter()
        for region in regions:
            # A class mask and the mask of its only instance have equal shapes and are two facts.
            what = (region.picture, region.label, region.shape, region.attributes.get("instance"))
            key = (what, times[what])
            times[what] += 1
            same = united.get(key)
            united[key] = region if same is None else replace(same, attributes={**same.attributes, **region.attributes})
    return tuple(united.values())


def join(sets: Sequence[Iterable[Sample]]) -> Iterator[Sample]:
    """Samples of several sets (stores, iterators), those with the same pictures by hash merged, in the order of first appearance; samples without pictures pass as they are.

    Refused with all conflicts: a set that holds the same pictures twice, and what `merge` refuses.
    """
    groups: dict[tuple[str, ...], list[Sample]] = {}
    problems: list[Problem] = []
    for number, samples in enumerate(sets):
        seen: dict[tuple[str, ...], str] = {}
        for sample in samples:
            key = tuple(picture.hash for picture in sample.pictures) or (f"no picture {number} {sample.id}",)
            if key in seen:
                found = f"the same pictures as {seen[key]}: it is not clear which of them is meant"
                problems.append(_conflict("join-ambiguous", sample, found, "each picture once in a set", "remove the duplicate first"))
            seen[key] = sample.id
            groups.setdefault(key, []).append(sample)
    joined: list[Sample] = []
    for group in groups.values() if not problems else ():
        try:
            joined.append(merge(group))
        except Refused as refused:
            problems.extend(refused.problems)
    if problems:
        raise Refused(summary(problems))
    yield from joined
