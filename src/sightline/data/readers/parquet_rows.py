"""Rows of foreign Parquet files one at a time, from any process: footers are checked before anything is decoded, and one row group at a time is in memory."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sightline.data.readers.files import plain, refuse
from sightline.data.readers.reader import Row
from sightline.errors import Problem, Refused

LARGEST_GROUP = 1 << 30
"""Bytes of a row group once it is unpacked, as its footer states them."""
LARGEST_FOOTER = 64 << 20
"""Bytes of text in a footer."""
GROUP_ROWS = 64
"""Rows of a group that is written."""


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or all Parquet files below a folder, sorted; those of a store are none of these."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(file for file in path.rglob("*.parquet") if not any(part.startswith(".") for part in file.relative_to(path).parts)) if path.is_dir() else []


def schema(file: Path) -> pa.Schema | None:
    """Columns of a file, from its footer alone; None when it is no Parquet file."""
    try:
        return _open(file).schema_arrow
    except Refused:
        return None


def broken(path: Path) -> Iterator[Problem]:
    """The problem of every file below a folder that is named as Parquet and is none: what it held is not known, so it is not passed over."""
    for file in parquet_files(path):
        try:
            _open(file)
        except Refused as refused:
            yield from refused.problems


def rows_of(path: Path, files: Sequence[Path]) -> Iterator[Row | Problem]:
    """A row per row of the files, whose `data` says where `record` finds it, and the problems of files that cannot be read."""
    for file in files:
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            for row, group, place in places(file):
                yield Row(id=f"{name}:{row}", place=f"{file}:row {row}", number=f"{name}:{row}", data={"file": str(file), "group": group, "place": place})
        except Refused as refused:
            yield from refused.problems
    if path.is_dir():
        yield from broken(path)


def places(file: Path) -> Iterator[tuple[int, int, int]]:
    """(row, row group, place in it) of every row. Refused when the file is broken or a group is too large."""
    metadata = _open(file).metadata
    row = 0
    for group in range(metadata.num_row_groups):
        stated = metadata.row_group(group)
        if not 0 <= stated.total_byte_size <= LARGEST_GROUP:
            found = f"row group {group} unpacks to {stated.total_byte_size} bytes"
            raise Refused(refuse("row-group-too-large", str(file), found, f"at most {LARGEST_GROUP} bytes", "write the file again in smaller groups"))
        for place in range(stated.num_rows):
            yield row, group, place
            row += 1


def record(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """The named columns of one row of `rows_of`, without those that the file has not. Refused when they cannot be decoded."""
    file, group, place = (row.data[name] for name in ("file", "group", "place"))
    table = _group(file, group, tuple(columns), Path(file).stat().st_mtime_ns)
    if place >= table.num_rows:
        raise Refused(refuse("broken-parquet", f"{file}:group {group}", f"{table.num_rows} rows", "as many rows as the footer states", "fetch the file again"))
    try:
        return table.slice(place, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        raise Refused(refuse("not-utf-8", row.place, str(error)[:200], "columns of text in UTF-8", "write the file again")) from None


@lru_cache(maxsize=1)
def _group(file: str, group: int, columns: tuple[str, ...], changed: int) -> pa.Table:
    """One row group; `changed` is the file's time, so that a file written anew is read anew."""
    opened = _open(Path(file))
    known = [column for column in columns if column in opened.schema_arrow.names]
    try:
        return opened.read_row_group(group, columns=known, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise Refused(refuse("broken-parquet", f"{file}:group {group}", str(error)[:200], "a Parquet file that decodes", "fetch the file again")) from None


def _open(file: Path) -> pq.ParquetFile:
    plain(file, most=sys.maxsize)
    try:
        opened = pq.ParquetFile(file, memory_map=True, thrift_string_size_limit=LARGEST_FOOTER, thrift_container_size_limit=LARGEST_FOOTER)
        names = Counter(opened.schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Refused(refuse("broken-parquet", str(file), str(error)[:200], "a Parquet file", "fetch the file again, or correct the path")) from None
    if repeated := [name for name, times in names.items() if times > 1]:
        raise Refused(refuse("repeated-column", str(file), f"several columns {repeated[0][:60]!r}", "columns of different names", "write the file again"))
    return opened


class Rows:
    """Writes rows into one Parquet file, a group at a time."""

    def __init__(self, file: Path, columns: pa.Schema) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._columns = columns
        self._writer = pq.ParquetWriter(file, columns)
        self._waiting: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """One row; columns that it lacks are null."""
        self._waiting.append(row)
        if len(self._waiting) == GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, self._columns))
        self._waiting = []

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
