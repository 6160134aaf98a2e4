"""From published formats to a Store: which readers fit, all rows in parallel, what happens to rows that cannot be read, and several readers on the same pictures."""

from __future__ import annotations

import os
import pickle
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sightline.data.engine import Engine, Local
from sightline.data.joining import merge, summary, together
from sightline.data.operators import Judged
from sightline.data.parts import Entry, Part, Parts, digest, state, write
from sightline.data.reader_table import READER
from sightline.data.readers.files import listed_once
from sightline.data.readers.reader import Reader, Row, read_row
from sightline.errors import Problem, Refused, nearest
from sightline.lineage import sha256_bytes, sha256_file, sha256_json
from sightline.progress import Progress
from sightline.samples.sample import Picture, Sample
from sightline.samples.store import Store

CHUNK_ROWS = 128
"""Rows of a chunk at most: what is read again after a kill, per worker."""
CHUNK_BYTES = 32 << 20
"""Bytes of the pictures of a chunk at most (a larger picture is a chunk of its own): what bounds the memory of a worker."""
LISTED_BYTES = 64 << 20
"""Rows that are listed ahead of the workers, packed: up to here the total is known from the beginning."""
_LONGEST_PATH = 4096

OnProblem = Literal["refuse", "quarantine"]
Source = tuple[Reader, Path]
Unit = tuple[tuple[int, Row], ...]
"""Rows of the same pictures, each with the number of its source."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A format that a path may have."""

    kind: str
    confidence: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A format that is read, and why."""

    path: Path
    reader: Reader
    candidate: Candidate

    def record(self) -> dict[str, Any]:
        """The choice as plain JSON."""
        return {"path": str(self.path), "format": self.candidate.kind, "confidence": self.candidate.confidence, "reason": self.candidate.reason}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is read: one tuple of formats, which are joined on the same pictures, per data set."""

    sets: tuple[tuple[Choice, ...], ...]
    left_out: tuple[Path, ...] = ()
    """Folders beside the sets that have no known format."""

    @property
    def sources(self) -> list[list[Source]]:
        """Readers and paths of each set."""
        return [[(choice.reader, choice.path) for choice in one] for one in self.sets]

    def __str__(self) -> str:
        lines = [f"{choice.path}: {choice.candidate.kind} ({choice.candidate.reason})" for one in self.sets for choice in one]
        return "\n".join([*lines, *(f"{path}: left out, no known format" for path in self.left_out)])

    def record(self) -> dict[str, Any]:
        """The choice as plain JSON."""
        return {"formats": [choice.record() for one in self.sets for choice in one], "left_out": [str(path) for path in self.left_out]}


def recognise_all(path: Path) -> list[Candidate]:
    """Formats that recognise `path`, the most confident first."""
    found: list[Candidate] = []
    for kind in sorted(READER.table()):
        if known := named(kind).recognise(path):
            found.append(Candidate(kind=kind, confidence=known[0], reason=known[1]))
    return sorted(found, key=lambda candidate: (-candidate.confidence, candidate.kind))


def choose(path: Path, format: str = "auto") -> Chosen:
    """The formats in which `path` is read.

    `auto`: of formats that would read the same annotation files (or none), the most confident; formats that read different files of one folder are joined. Where the folder itself
    has no known format, the folders directly in it are data sets of their own. Refused with all candidates when nothing is recognised, or two equally well.
    """
    if format != "auto":
        named_by = Candidate(kind=format, confidence=1.0, reason="named")
        return Chosen(sets=((Choice(path=path, reader=named(format), candidate=named_by),),))
    with listed_once():
        return _chosen(path)


def _chosen(path: Path) -> Chosen:
    if found := _together(path):
        return Chosen(sets=(found,))
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")) if path.is_dir() else []
    sets = {folder: _together(folder) for folder in below}
    if not any(sets.values()):
        found_text = "no known format" if path.exists() else "no such file or folder"
        raise Refused(_unknown(str(path), found_text, "correct the path, or name the format to see why it does not fit"))
    return Chosen(sets=tuple(one for one in sets.values() if one), left_out=tuple(folder for folder, one in sets.items() if not one))


def _together(path: Path) -> tuple[Choice, ...]:
    """Formats of one path that are read together; none when none is recognised."""
    taken: list[tuple[Choice, frozenset[Path]]] = []
    rivals: list[Candidate] = []
    for candidate in recognise_all(path):
        reader = named(candidate.kind)
        files = reader.annotated(path)
        same = [choice.candidate for choice, others in taken if files & others or not (files or others)]
        rivals += [one for other in same if other.confidence == candidate.confidence for one in (other, candidate)]
        if not same:
            taken.append((Choice(path=path, reader=reader, candidate=candidate), files))
    if rivals:
        seen = "; ".join(f"{candidate.kind} ({candidate.confidence:g}: {candidate.reason})" for candidate in dict.fromkeys(rivals))
        raise Refused(_unknown(str(path), f"several formats fit the same files: {seen}", "name one of them"))
    choices = tuple(choice for choice, _ in taken)
    if len(choices) < 2:
        return choices
    # The ids of one format are unique in a source; those of two formats need not differ.
    return tuple(
        replace(choice, reader=choice.reader.model_copy(update={"source": f"{choice.reader.name(path)}/{choice.candidate.kind}"})) for choice in choices
    )


def _unknown(place: str, found: str, fix: str) -> Problem:
    return Problem(code="data/unknown-format", place=place, found=found, allowed=", ".join(sorted(READER.table())), fix=fix)


def named(format: str) -> Reader:
    """The reader of a format by its name with its usual options."""
    table = READER.table()
    if format not in table:
        raise Refused(_unknown("format", repr(format), nearest(format, sorted(table))))
    reader = table[format]()
    assert isinstance(reader, Reader), f"{type(reader).__name__} is no Reader"
    return reader


def sets_of(given: Sequence[tuple[Reader | None, Path]]) -> list[list[Source]]:
    """Sources of a data step: one path with nothing said is one set or several; several paths are joined."""
    chosen = [[[(reader, path)]] if reader is not None else choose(path).sources for reader, path in given]
    return chosen[0] if len(chosen) == 1 else [[source for sets in chosen for one in sets for source in one]]


def read_into(
    path: Path,
    reader: Reader | Sequence[Reader] | str,
    out: Path,
    *,
    on_problem: OnProblem = "refuse",
    workers: int | None = None,
    limit: int | None = None,
) -> Store:
    """Read the data set at `path` into a store at `out`: with one reader, with several that are joined, or with a format's name (`auto` recognises it). See `read_sets`."""
    readers = [reader] if isinstance(reader, Reader) else reader
    sets = choose(path, readers).sources if isinstance(readers, str) else [[(one, path) for one in readers]]
    return read_sets(sets, out, on_problem=on_problem, limit=limit, engine=None if workers is None else Local(workers=workers))


def read_sources(
    sources: Sequence[Source], out: Path, *, on_problem: OnProblem = "refuse", workers: int | None = None, limit: int | None = None, config: str | None = None
) -> Store:
    """Read one data set, or several that are joined, into a store at `out`. See `read_sets`."""
    return read_sets([sources], out, on_problem=on_problem, limit=limit, config=config, engine=None if workers is None else Local(workers=workers))


def read_sets(
    sets: Sequence[Sequence[Source]],
    out: Path,
    *,
    on_problem: OnProblem = "refuse",
    limit: int | None = None,
    config: str | None = None,
    engine: Engine | None = None,
    fresh: bool = False,
    keep_parts: bool = False,
) -> Store:
    """Read data sets, one after the other, into a store at `out`; the result depends neither on the engine (this machine) nor on its workers.

    Sources of one set are joined: rows with the same picture become one sample, or one for each that has turns (see `joining.together`). Pictures are the same when they are one file, or,
    over different paths, when their bytes are equal. `limit` takes the first rows only; `config` is the fingerprint for the lineage.
    `refuse` reads everything, then raises Refused with all problems of the pass (the first 20 in full, the others counted by code) and writes no store;
    `quarantine` leaves the rows out, counts them and lists them in problems.jsonl. Warnings are listed there in both cases.
    A pass that was killed or refused left its parts (`.parts-NAME` beside `out`): what has not changed since is not read again, unless `fresh`.
    """
    sources = tuple(source for one in sets for source in one)
    said = config or sha256_json({"sources": [reader.model_dump(mode="json") for reader, _ in sources], "limit": limit, "on_problem": on_problem})
    with Parts(out, fresh=fresh) as parts:
        _read(sets, sources, parts, out, said, on_problem, limit, engine or Local())
        if not keep_parts:
            parts.remove()
    return Store.open(out)


def _read(
    sets: Sequence[Sequence[Source]],
    sources: tuple[Source, ...],
    parts: Parts,
    out: Path,
    config: str,
    on_problem: OnProblem,
    limit: int | None,
    engine: Engine,
) -> None:
    listing = _Listing(sets=sets, parts=parts, limit=limit)
    refused: list[Problem] = []
    with Store.writer(out, config=config, maker={"step": "read"}) as writer:
        progress = Progress(f"read {' + '.join(dict.fromkeys(path.name for _, path in sources))}", 0, "rows")
        with closing(engine.map(_ReadChunk(sources), _ahead(listing.chunks(), progress))) as done:
            for path, rows in done:
                for problems in Part(path).write(writer, repeated="refuse"):
                    refused.extend(problems)
                progress.advance(rows, _note(listing.resumed, len(refused)))
        progress.close()
        for problem in listing.broken:
            writer.refuse(problem)
        if on_problem == "refuse" and (listing.broken or refused):
            raise Refused(summary([*listing.broken, *refused]))


def _note(resumed: int, problems: int) -> str:
    return ", ".join([f"{resumed} rows were done before"] * bool(resumed) + [f"{problems} problems"] * bool(problems))


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Rows that one worker reads."""

    path: Path
    rows: int
    work: bytes | None
    """The rows, packed to travel and to wait in little memory; None when their part is there."""


@dataclass(kw_only=True)
class _Listing:
    """The rows of all sources, cut into chunks, and what was in the way of listing them."""

    sets: Sequence[Sequence[Source]]
    parts: Parts
    limit: int | None
    broken: list[Problem] = field(default_factory=list)
    resumed: int = 0
    """Rows of parts that were there before."""

    def chunks(self) -> Iterator[_Chunk]:
        """Chunks in order: the same rows give the same chunks."""
        rows: list[Unit] = []
        files: dict[str, None] = {}
        size = number = 0
        for work in self._rows():
            named_here = [name for _, row in work for name in files_of(row)]
            facts = [fact for fact in state(name for name in named_here if name not in files) if not isinstance(fact, str)]
            grown = sum(length for _, length, _ in facts) + sum(len(picture) for _, row in work for picture in row.pictures if isinstance(picture, bytes))
            if rows and (len(rows) == CHUNK_ROWS or size + grown > CHUNK_BYTES):
                yield self._chunk(number, rows, files)
                rows, files, size, number = [], {}, 0, number + 1
            rows.append(work)
            files.update(dict.fromkeys(named_here))
            size += grown
        if rows:
            yield self._chunk(number, rows, files)

    def _chunk(self, number: int, rows: list[Unit], files: Iterable[str]) -> _Chunk:
        sources = [(reader, str(path)) for one in self.sets for reader, path in one]
        path = self.parts.path("read", number, digest(sources, rows, state(files)))
        done = path.is_file()
        self.resumed += len(rows) * done
        return _Chunk(path=path, rows=len(rows), work=None if done else pickle.dumps(rows))

    def _rows(self) -> Iterator[Unit]:
        first = count = 0
        for sources in self.sets:
            for found in grouped(sources, first):
                if count == self.limit:
                    return
                count += 1
                if isinstance(found, Problem):
                    self.broken.append(found)
                else:
                    yield found
            first += len(sources)


def files_of(row: Row) -> Iterator[str]:
    """Files that a row names: its pictures, and paths in its data."""
    yield from (picture for picture in row.pictures if isinstance(picture, str))
    yield from _paths(row.data)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        text = str(value)
        if os.sep in text and len(text) < _LONGEST_PATH and text.isprintable():
            yield text
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner)


def grouped(sources: Sequence[Source], first: int) -> Iterator[Unit | Problem]:
    """Rows of one source one by one; of several, those of the same pictures together, in the order of first appearance. `first` is the number of the first source."""
    if len(sources) == 1:
        reader, path = sources[0]
        yield from (row if isinstance(row, Problem) else ((first, row),) for row in reader.rows(path))
        return
    by_content = len({path.resolve() for _, path in sources}) > 1
    groups: dict[tuple[str, ...], list[tuple[int, Row]]] = {}
    for number, (reader, path) in enumerate(sources, first):
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
    return sha256_file(Path(picture)) if by_content and os.path.isfile(picture) else os.path.normpath(picture)


def _ahead(chunks: Iterator[_Chunk], progress: Progress) -> Iterator[_Chunk]:
    """The same chunks, listed ahead of those who work on them, so that `progress` knows the total."""
    waiting: deque[_Chunk] = deque()
    held = 0
    for chunk in chunks:
        waiting.append(chunk)
        progress.total += chunk.rows
        held += len(chunk.work or b"")
        while held > LISTED_BYTES:
            held -= len(waiting[0].work or b"")
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


@dataclass(frozen=True)
class _ReadChunk:
    """Reads the rows of a chunk and writes their part, in any process."""

    sources: tuple[Source, ...]

    def __call__(self, chunk: _Chunk) -> tuple[Path, int]:
        if chunk.work is not None:
            memo: dict[str, Picture] = {}
            write(chunk.path, (entry for group in pickle.loads(chunk.work) for entry in read_group(self.sources, group, memo)))
        return chunk.path, chunk.rows


def read_group(sources: Sequence[Source], group: Unit, memo: dict[str, Picture]) -> list[Entry]:
    """What became of the rows of one picture. A source with several of them (questions) has each stand for itself; what is wrong with another source is wrong with all of them."""
    read = [(number, read_row(*sources[number], row, memo)) for number, row in group]
    times = Counter(number for number, _ in group)
    shared = _problems(made for number, found in read if times[number] == 1 for made in found)
    broken = [shared] if any(problem.severity == "refuse" for problem in shared) else []
    samples: list[Sample] = []
    refused: list[Entry] = []
    for number, found in read:
        wrong = _problems(found) if times[number] > 1 else ()
        if times[number] > 1 and (broken or any(problem.severity == "refuse" for problem in wrong)):
            refused.append(Entry(row=None, problems=wrong or shared))
        elif not broken:
            samples.extend(made for made in found if isinstance(made, Sample))
            shared += wrong if times[number] > 1 else ()
    refused += [Entry(row=None, problems=problems) for problems in broken]
    made = [_merged(one) for one in together(samples)]
    if made and shared and not broken:
        made[0] = replace(made[0], problems=tuple(dict.fromkeys((*shared, *made[0].problems))))
    return [*made, *refused]


def _problems(found: Iterable[Sample | Problem]) -> tuple[Problem, ...]:
    return tuple(dict.fromkeys(made for made in found if isinstance(made, Problem)))


def _merged(samples: Sequence[Sample]) -> Entry:
    try:
        return Entry(row=Judged(sample=merge(samples)))
    except Refused as refused:
        return Entry(row=None, problems=tuple(refused.problems))
