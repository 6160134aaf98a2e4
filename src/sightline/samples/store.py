"""A set of samples on disk: Parquet shards with pictures inside, an index without them, and the list of what was refused.

    shard-00000.parquet   id, images list<{bytes, path}>, pictures, messages, annotations, attributes, origin (JSON text, see records.py); at most 64 rows a group
    index.parquet         row, id, hash, shard, offset, pictures list<{hash, width, height, bands}>, source, licence, verdict, rule, group, scores
    problems.jsonl        one line per finding about rows that could not become samples, or that were read with a loss
    lineage.json

A picture is stored once: where its hash repeats, `images` holds no bytes and the path `row:ROW:NUMBER` of the picture that has them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sightline.errors import Problem, Refused
from sightline.lineage import Lineage, artifact, sha256_json
from sightline.samples.records import Packed, pack, unpack
from sightline.samples.sample import Sample

GROUP_ROWS = 64
GROUP_BYTES = 16 << 20
"""Bytes of pictures from which a row group is full, however few its rows: what a writer and a reader hold at once."""
SHARD_BYTES = 256 << 20
CACHE_BYTES = 1 << 30
STREAM_BYTES = 64 << 20
"""Row groups that a stream keeps for pictures that earlier rows hold."""
INDEX_ROWS = 4096
"""Rows of the index that a writer keeps as Python objects."""
TEXTS = ("id", "pictures", "messages", "annotations", "attributes", "origin")
_DECODED = 8
"""Bytes that one byte of JSON text takes once it is Python objects, roughly: what the cache budget counts."""

Verdict = Literal["kept", "quarantined"]

_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_SHARD = pa.schema([("id", pa.string()), ("images", _IMAGES), *((name, pa.string()) for name in TEXTS[1:])])
_PICTURES = pa.list_(pa.struct([("hash", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("bands", pa.list_(pa.string()))]))
_SCORES = pa.map_(pa.string(), pa.float64())
_JUDGED = [("verdict", pa.string()), ("rule", pa.string()), ("group", pa.string()), ("scores", _SCORES)]
_PLACES = [("row", pa.int64()), ("id", pa.string()), ("hash", pa.string()), ("shard", pa.int32()), ("offset", pa.int32()), ("pictures", _PICTURES)]
_INDEX = pa.schema([*_PLACES, ("source", pa.string()), ("licence", pa.string()), *_JUDGED])


def _content(index: pa.Table) -> str:
    """Content id: rows in order, with all that was judged of them."""
    digest = hashlib.sha256()
    for number, batch in enumerate(index.select(["hash", "verdict", "rule", "group", "scores"]).to_batches(max_chunksize=INDEX_ROWS)):
        lines = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        digest.update(("\n" * bool(number) + "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)).encode())
    return digest.hexdigest()


def _lineage(index: pa.Table, config: str, inputs: Sequence[Mapping[str, str]], maker: Mapping[str, str], seed: int) -> Lineage:
    content = _content(index)
    parents = [dict(parent) for parent in inputs]
    identity = sha256_json({"config": config, "inputs": parents, "seed": seed, "rows": content})
    return Lineage(id=identity, kind="store", config=config, inputs=parents, rows=content, maker=dict(maker), seed=seed)


@dataclass(kw_only=True)
class _Group:
    """One row group in memory; samples are made from its columns when first asked for."""

    texts: dict[str, list[str]]
    images: list[list[tuple[bytes | None, str]]]
    made: list[Sample | None]
    size: int


class Store:
    """Samples by row number. Open it with `Store.open`, write one with `Store.writer`."""

    def __init__(self, path: Path, cache: int) -> None:
        self.path = path
        self._cache = cache
        self._groups: OrderedDict[tuple[int, int], _Group] = OrderedDict()
        self._held = 0
        self._files: dict[int, pq.ParquetFile] = {}
        self._starts: dict[int, np.ndarray] = {}
        self._lock = threading.RLock()
        self.lineage = Lineage.read(path)
        self.index: pa.Table = pq.read_table(path / "index.parquet")
        """One line per row, without pictures: what plans, mixtures and whole-set operators read."""
        self._shard: np.ndarray = self.index["shard"].to_numpy()
        self._offset: np.ndarray = self.index["offset"].to_numpy()

    @classmethod
    def open(cls, path: Path | str, cache: int = CACHE_BYTES) -> Store:
        """Open a store for reading; `cache` bytes of row groups are kept in memory. Refused when a file of it is missing."""
        path = Path(path)
        _require(path, ["index.parquet", "lineage.json", "problems.jsonl"], "make it with `sightline data read`, or correct the path")
        store = cls(path, cache)
        _require(path, [_shard_name(shard) for shard in np.unique(store._shard).tolist()], "copy the whole folder again")
        return store

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens its own files and has its own cache."""
        return (Store.open, (self.path, self._cache))

    def __len__(self) -> int:
        """All rows, kept and quarantined."""
        return len(self._shard)

    def __getitem__(self, row: int) -> Sample:
        """The sample of one row; IndexError outside 0..len-1."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} rows")
        with self._lock:
            group, place = self._group(row)
            sample = group.made[place]
            if sample is None:
                data = [self._bytes(encoded, path) for encoded, path in group.images[place]]
                sample = unpack({name: column[place] for name, column in group.texts.items()}, data)
                group.made[place] = sample
            return sample

    def __iter__(self) -> Iterator[Sample]:
        """All rows in order, whatever their verdict; for the kept ones go through `kept`."""
        return (self[row] for row in range(len(self)))

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[Sample]:
        """Samples of rows start..stop-1 in order, read group by group beside the cache; to begin at a late row costs what it costs at row 0."""
        aside = self.aside()
        return (aside[row] for row in range(start, len(self) if stop is None else stop))

    def aside(self, cache: int = STREAM_BYTES) -> Store:
        """The same store with a small cache of its own: for passes in order, which would push out of the cache what others want."""
        store = copy.copy(self)
        store._cache, store._held, store._groups, store._files, store._starts, store._lock = cache, 0, OrderedDict(), {}, {}, threading.RLock()
        return store

    def picture(self, row: int, number: int) -> bytes:
        """Encoded bytes of one picture of a row."""
        with self._lock:
            group, place = self._group(row)
            return self._bytes(*group.images[place][number])

    @property
    def id(self) -> str:
        """Content id: hash over all rows and their verdicts."""
        assert self.lineage.rows is not None, f"{self.path} has a lineage without rows"
        return self.lineage.rows

    @cached_property
    def kept(self) -> np.ndarray:
        """Numbers of the kept rows, ascending, int64."""
        return np.flatnonzero(np.array(self.index["verdict"].to_pylist(), dtype=object) == "kept")

    def quarantined(self) -> list[tuple[int, str]]:
        """(row, rule) of every quarantined row."""
        columns = (self.index[name].to_pylist() for name in ("row", "verdict", "rule"))
        return [(row, rule or "") for row, verdict, rule in zip(*columns, strict=True) if verdict == "quarantined"]

    def refused(self) -> list[Problem]:
        """What stood in the way of rows that did not become samples."""
        return [problem for problem, _ in self._findings() if problem.severity == "refuse"]

    def refusals(self) -> list[list[Problem]]:
        """The same row by row: all that stood in the way of each row that did not become a sample."""
        rows: dict[int, list[Problem]] = {}
        for problem, refusal in self._findings():
            if refusal is not None:
                rows.setdefault(refusal, []).append(problem)
        return list(rows.values())

    def warnings(self) -> list[Problem]:
        """What was lost of rows that did become samples."""
        return [problem for problem, _ in self._findings() if problem.severity == "warn"]

    def counts(self) -> dict[str, int]:
        """Rows in = kept + quarantined + refused."""
        lost = {refusal for _, refusal in self._findings() if refusal is not None}
        return {"kept": len(self.kept), "quarantined": len(self) - len(self.kept), "refused": len(lost)}

    def _findings(self) -> list[tuple[Problem, int | None]]:
        """Problems, each with the number of the refused row, or None."""
        lines = [json.loads(line) for line in filter(None, (self.path / "problems.jsonl").read_text(encoding="utf-8").split("\n"))]
        return [(Problem(**{key: value for key, value in line.items() if key != "refusal"}), line["refusal"]) for line in lines]

    def _group(self, row: int) -> tuple[_Group, int]:
        shard, offset = int(self._shard[row]), int(self._offset[row])
        starts = self._starts_of(shard)
        number = int(np.searchsorted(starts, offset, side="right")) - 1
        key = (shard, number)
        group = self._groups.get(key)
        if group is None:
            group = self._load(*key)
            self._groups[key] = group
            self._held += group.size
            while self._held > self._cache and len(self._groups) > 1:
                self._held -= self._groups.popitem(last=False)[1].size
        else:
            self._groups.move_to_end(key)
        return group, offset - int(starts[number])

    def _starts_of(self, shard: int) -> np.ndarray:
        """First row of each row group of a shard."""
        if shard not in self._files:
            self._files[shard] = pq.ParquetFile(self.path / _shard_name(shard), memory_map=True)
            metadata = self._files[shard].metadata
            self._starts[shard] = np.cumsum([0, *(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups - 1))])
        return self._starts[shard]

    def _load(self, shard: int, number: int) -> _Group:
        table = self._files[shard].read_row_group(number, use_threads=False)
        texts = {name: table[name].to_pylist() for name in TEXTS}
        images = table["images"].combine_chunks()
        pairs = list(zip(images.flatten().field("bytes").to_pylist(), images.flatten().field("path").to_pylist(), strict=True))
        ends = np.cumsum(images.value_lengths().to_numpy()).tolist()
        rows = [pairs[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        size = sum(len(encoded or b"") for encoded, _ in pairs) + _DECODED * sum(len(text) for column in texts.values() for text in column)
        return _Group(texts=texts, images=rows, made=[None] * table.num_rows, size=size)

    def _bytes(self, encoded: bytes | None, path: str) -> bytes:
        if encoded is not None:
            return encoded
        _, row, number = path.split(":")
        group, place = self._group(int(row))
        found = group.images[place][int(number)][0]
        assert found is not None, f"{self.path}: {path} refers to a reference"
        return found

    @staticmethod
    @contextmanager
    def writer(
        path: Path | str, *, source: str = "", config: str = "", inputs: Sequence[Mapping[str, str]] = (), maker: Mapping[str, str] | None = None, seed: int = 0
    ) -> Iterator[Writer]:
        """Write a store that appears at `path` whole, or not at all.

        `source` names the rows whose origin names none. `config` (hash of the recipe's part), `inputs` ({id, kind} of the parents), `maker` and `seed` go to the lineage.
        """
        with artifact(Path(path)) as folder:
            writer = Writer(folder, source)
            try:
                yield writer
            finally:
                writer.close()
            index = writer.table()
            pq.write_table(index, folder / "index.parquet", compression="zstd")
            _lineage(index, config, inputs, maker or {}, seed).write(folder)

    def with_verdicts(self, table: pa.Table, out: Path | str, *, config: str = "", maker: Mapping[str, str] | None = None, seed: int = 0) -> Store:
        """A store with the same rows and other verdicts, rules, groups or scores: a new index beside hard-linked shards.

        `table` has the column `row` = 0..len-1 and any of verdict, rule, group, scores; its other columns are not read.
        """
        assert table["row"].to_pylist() == list(range(len(self))), "a verdict for every row, in order"
        index = self.index
        for name, kind in _JUDGED:
            if name in table.column_names:
                index = index.set_column(index.column_names.index(name), name, table[name].cast(kind))
        unknown = sorted(set(index["verdict"].to_pylist()) - {"kept", "quarantined"})
        assert not unknown, f"verdicts {unknown}"
        with artifact(Path(out)) as folder:
            for file in [*sorted(self.path.glob("shard-*.parquet")), self.path / "problems.jsonl"]:
                _link(file, folder / file.name)
            pq.write_table(index, folder / "index.parquet", compression="zstd")
            _lineage(index, config, [{"id": self.lineage.id, "kind": "store"}], maker or {}, seed).write(folder)
        return Store.open(out, self._cache)


def _shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.parquet"


def _require(path: Path, names: Sequence[str], fix: str) -> None:
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise Refused(
            Problem(code="samples/not-a-store", place=str(path), found=f"no {' and no '.join(missing)}", allowed="the folder of a store, whole", fix=fix)
        )


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:
        # Another file system, or one without hard links: the bytes are the same, they only take room twice.
        shutil.copy2(file, target)


class Writer:
    """Takes samples row by row; made by `Store.writer`."""

    def __init__(self, folder: Path, source: str) -> None:
        self._folder, self._source = folder, source
        self.kept = 0
        """Rows added so far that are kept."""
        self._count = 0
        self._rows: list[dict[str, Any]] = []
        self._index: list[pa.Table] = []
        self._ids: set[tuple[str, str]] = set()
        self._where: dict[str, str] = {}
        """Picture hash -> `row:ROW:NUMBER` of its bytes."""
        self._pending: list[dict[str, Any]] = []
        self._shard, self._offset, self._filled, self._waiting = 0, 0, 0, 0
        self._parquet: pq.ParquetWriter | None = None
        self._problems = (folder / "problems.jsonl").open("w", encoding="utf-8")
        self._refusals = 0

    def add(
        self, sample: Sample | Packed, verdict: Verdict = "kept", rule: str | None = None, scores: Mapping[str, float] | None = None, group: str | None = None
    ) -> int:
        """Append one row and return its number. Refused when the id was already given by the same source; the writer stays usable."""
        row = sample if isinstance(sample, Packed) else pack(sample)
        source = row.source or self._source
        if (source, row.id) in self._ids:
            fix = "give the rows different ids, or remove one of them"
            raise Refused(
                Problem(
                    code="samples/duplicate-id", place=f"{source}:{row.id}", found=f"id {row.id!r} a second time", allowed="each id once in a source", fix=fix
                )
            )
        self._ids.add((source, row.id))
        number = self._count
        self._count += 1
        self.kept += verdict == "kept"
        images = []
        for k, (known, data) in enumerate(zip(row.known, row.data, strict=True)):
            first = self._where.setdefault(known["hash"], f"row:{number}:{k}")
            if first == f"row:{number}:{k}":
                assert data is not None, f"{row.id}: no bytes of a picture that is not here yet"
                images.append({"bytes": data, "path": known.get("name", "")})
                self._filled += len(data)
                self._waiting += len(data)
            else:
                images.append({"bytes": None, "path": first})
        self._pending.append({"images": images, **{name: getattr(row, name) for name in TEXTS}})
        self._filled += len(row.messages) + len(row.annotations)
        pictures = [{"hash": k["hash"], "width": k["width"], "height": k["height"], "bands": k.get("bands", ("red", "green", "blue"))} for k in row.known]
        self._rows.append(
            {"row": number, "id": row.id, "hash": row.hash, "shard": self._shard, "offset": self._offset, "pictures": pictures}
            | {"source": source, "licence": row.licence, "verdict": verdict, "rule": rule, "group": group, "scores": dict(scores or {})}
        )
        if len(self._rows) == INDEX_ROWS:
            self._index_rows()
        self._offset += 1
        if len(self._pending) == GROUP_ROWS or self._waiting >= GROUP_BYTES:
            self._flush()
        return number

    def holds(self, picture: str) -> bool:
        """Whether the picture of this hash is here: rows may then name it without its bytes."""
        return picture in self._where

    def refuse(self, *problems: Problem) -> None:
        """Count one row that could not become a sample, and list why."""
        assert problems, "a row is refused for a reason"
        self._list(problems, self._refusals)
        self._refusals += 1

    def warn(self, *problems: Problem) -> None:
        """List what was lost of a row that did become a sample."""
        self._list(problems, None)

    def _list(self, problems: Sequence[Problem], refusal: int | None) -> None:
        self._problems.writelines(json.dumps({**problem.record(), "refusal": refusal}, ensure_ascii=False) + "\n" for problem in problems)

    def _flush(self) -> None:
        if not self._pending:
            return
        parquet = self._parquet = self._parquet or self._new_shard()
        parquet.write_table(pa.Table.from_pylist(self._pending, schema=_SHARD), row_group_size=GROUP_ROWS)
        self._pending.clear()
        self._waiting = 0
        if self._filled >= SHARD_BYTES:
            parquet.close()
            self._parquet = None
            self._shard, self._offset, self._filled = self._shard + 1, 0, 0

    def _new_shard(self) -> pq.ParquetWriter:
        # Pictures are compressed already; statistics of a bytes column would repeat whole pictures in the footer.
        compression = {"images.list.element.bytes": "NONE", "images.list.element.path": "ZSTD", **dict.fromkeys(TEXTS, "ZSTD")}
        options: dict[str, Any] = {"compression": compression, "use_dictionary": False, "write_statistics": ["id"]}
        return pq.ParquetWriter(self._folder / _shard_name(self._shard), _SHARD, **options)

    def table(self) -> pa.Table:
        """The index of all rows written."""
        self._index_rows()
        return pa.concat_tables(self._index).combine_chunks()

    def _index_rows(self) -> None:
        self._index.append(pa.Table.from_pylist(self._rows, schema=_INDEX))
        self._rows = []

    def close(self) -> None:
        """Write what is pending and close the files."""
        self._flush()
        if self._parquet is not None:
            self._parquet.close()
        self._problems.close()
