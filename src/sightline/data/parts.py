"""Durable parts of a pass: a killed pass goes on after the parts that it had finished, and ends with the same store.

A pass over many rows is cut into chunks. Whoever computes a chunk writes its part, a Parquet file that appears whole or not at all, into a work folder `.parts-NAME` beside the
store NAME to come. A part is named after everything that decides its content (`digest`), so a part of other sources, options or code is never taken for one of this pass.
The store is written from all parts in order; then the work folder goes. Columns of a part:

    id .. origin, hash, source, licence   the row packed as in a store; all null where no sample was made
    images                                bytes, or a path: `row:ROW:NUMBER` in the store that the pass reads, `part:ROW:NUMBER` in this part
    verdict, rule, group, scores          what was judged
    problems                              JSON list of findings
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from sightline import __version__
from sightline.data.operators import Count, Judged, index_part
from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes, sweep
from sightline.samples.records import Packed, pack, unpack
from sightline.samples.store import TEXTS, Store, Writer

VERSION = 1
"""Raised when the same input would give other parts."""
_FACTS = (*TEXTS, "hash", "source", "licence", "verdict", "rule", "group", "problems")
_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_SCHEMA = pa.schema([*((name, pa.string()) for name in _FACTS), ("images", _IMAGES), ("scores", pa.map_(pa.string(), pa.float64()))])
_BATCH = 64
PATIENCE = 10.0
"""Seconds to wait for the workers of a killed process to end."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of one row: a judged sample, or None when none could be made, and what was found."""

    row: Judged | None
    problems: tuple[Problem, ...] = ()


def work_folder(out: Path) -> Path:
    """Where the parts of the store `out` are."""
    return out.parent / f".parts-{out.name}"


class Parts:
    """The work folder of the store `out`, as a context: one process at a time works in it. What a killed one left half written is removed; its parts stay, unless `fresh`."""

    def __init__(self, out: Path, *, fresh: bool = False) -> None:
        self.folder = work_folder(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        self._wait(out)
        for stale in out.parent.glob(f".tmp-{glob.escape(out.name)}-*"):
            shutil.rmtree(stale)
        sweep(self.folder)
        if fresh:
            for part in self.folder.glob("*.parquet"):
                part.unlink()

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def _wait(self, out: Path) -> None:
        """Take the lock; workers of a killed process hold it for a moment."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    self._lock.close()
                    found = "another process writes this store"
                    raise Refused(
                        Problem(code="data/busy", place=str(out), found=found, allowed="one at a time", fix="wait, or end the other process")
                    ) from None
                time.sleep(0.05)

    def path(self, step: str, number: int, digest: str) -> Path:
        """File of part `number` of a step, named after what decides its content."""
        return self.folder / f"{step}-{number:06d}-{digest[:32]}.parquet"

    def remove(self) -> None:
        """Remove the folder, when the store is there."""
        shutil.rmtree(self.folder)


def digest(*said: Any) -> str:
    """Hex digest of values (plain ones, containers, paths, Configs, dataclasses) and of the version of the code."""
    text = json.dumps([VERSION, __version__, *map(_plain, said)], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return {"bytes": sha256_bytes(value)}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(inner)] for key, inner in value.items()]}
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, BaseModel):
        return {name: value.model_dump(mode="json")}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: [_plain(getattr(value, known.name)) for known in fields(value)]}
    # What has no stable text (an object of a program's own) is never found again: its parts are made anew.
    return {name: repr(value)}


def state(files: Iterable[str]) -> list[tuple[str, int, int] | str]:
    """(path, size, time of the last change in ns) of files; the bare path of one that is not there."""
    found: list[tuple[str, int, int] | str] = []
    for file in files:
        try:
            facts = os.stat(file)
        except (OSError, ValueError):
            found.append(file)
        else:
            found.append((file, facts.st_size, facts.st_mtime_ns))
    return found


def write(path: Path, entries: Iterable[Entry], *, counts: Sequence[Count] = (), held: dict[str, str] | None = None, index: bool = False) -> None:
    """Write a part. `held` names the pictures, by hash, that the store has from which the pass reads (`row:ROW:NUMBER`), and may grow while `entries` are taken; `index` adds what `decide` wants to see, as a file beside it."""
    where = {} if held is None else held
    rows: list[Judged] = []
    lines = [_line(number, entry, where, rows) for number, entry in enumerate(entries)]
    if index:
        _durable(_index_path(path), index_part(rows))
    table = pa.Table.from_pylist(lines, schema=_SCHEMA)
    _durable(path, table.replace_schema_metadata({"counts": json.dumps([asdict(count) for count in counts])}))


def _line(number: int, entry: Entry, where: dict[str, str], rows: list[Judged]) -> dict[str, Any]:
    line: dict[str, Any] = {"problems": json.dumps([problem.record() for problem in entry.problems], ensure_ascii=False)}
    if entry.row is None:
        return line
    rows.append(entry.row)
    packed = pack(entry.row.sample)
    images = []
    for k, (known, data) in enumerate(zip(packed.known, packed.data, strict=True)):
        path = where.get(known["hash"])
        images.append({"bytes": data if path is None else None, "path": path})
        where.setdefault(known["hash"], f"part:{number}:{k}")
    line |= {name: getattr(packed, name) for name in (*TEXTS, "hash", "source", "licence")}
    return line | {"images": images, "verdict": entry.row.verdict, "rule": entry.row.rule, "group": entry.row.group, "scores": dict(entry.row.scores)}


def _durable(path: Path, table: pa.Table) -> None:
    temporary = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    with temporary.open("wb") as stream:
        pq.write_table(table, stream, compression="lz4", use_dictionary=False, write_statistics=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.parquet")


def index_of(path: Path) -> pa.Table:
    """What `decide` sees of the rows of a part that was written with its index."""
    return pq.read_table(_index_path(path))


def counts_of(path: Path) -> list[Count]:
    """The counts that a part was written with."""
    return [Count(**count) for count in json.loads(pq.read_schema(path).metadata[b"counts"])]


class Part:
    """A finished part, read row by row; `store` is the one that the pass reads."""

    def __init__(self, path: Path, store: Store | None = None) -> None:
        self._store = store
        self._table = pq.read_table(path, use_threads=False)

    def judged(self, held: dict[str, str]) -> Iterator[Judged]:
        """Rows as they were written. Pictures that the store holds are entered into `held`."""
        for line in self._lines():
            held.update({known["hash"]: image["path"] for known, image in _pictures(line) if (image["path"] or "").startswith("row:")})
            sample = unpack({name: line[name] for name in TEXTS}, [self._bytes(image) for image in line["images"]])
            yield Judged(sample=sample, verdict=line["verdict"], rule=line["rule"], group=line["group"], scores=dict(line["scores"]))

    def write(self, writer: Writer, *, repeated: Literal["refuse", "raise"]) -> Iterator[list[Problem]]:
        """Put all rows into a store; gives for each the problems for which it is not there. What the writer refuses (a repeated id) is counted as a row refused, or raised."""
        for line in self._lines():
            problems = [Problem(**record) for record in json.loads(line["problems"])]
            if line["id"] is None:
                writer.refuse(*problems)
                yield [problem for problem in problems if problem.severity == "refuse"]
                continue
            writer.warn(*problems)
            try:
                writer.add(self._packed(line, writer), line["verdict"], line["rule"], dict(line["scores"]), line["group"])
            except Refused as refused:
                if repeated == "raise":
                    raise
                writer.refuse(*refused.problems)
                yield refused.problems
            else:
                yield []

    def _packed(self, line: dict[str, Any], writer: Writer) -> Packed:
        pairs = _pictures(line)
        data = tuple(None if writer.holds(known["hash"]) else self._bytes(image) for known, image in pairs)
        return Packed(known=tuple(known for known, _ in pairs), data=data, **{name: line[name] for name in (*TEXTS, "hash", "source", "licence")})

    def _lines(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self._table), _BATCH):
            yield from self._table.slice(start, _BATCH).to_pylist()

    def _bytes(self, image: dict[str, Any]) -> bytes:
        if image["bytes"] is not None:
            return image["bytes"]
        where, row, number = image["path"].split(":")
        if where == "part":
            return self._table["images"][int(row)][int(number)]["bytes"].as_py()
        assert self._store is not None, "pictures of a store, and no store"
        return self._store.picture(int(row), int(number))


def _pictures(line: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(json.loads(line["pictures"]), line["images"], strict=True))
