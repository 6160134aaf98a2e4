"""Readers of annotation files: which files at a path are theirs, told from names and heads, in a folder or else one level below."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sightline.data.readers.files import first_row, folders, names_in, read_json_rows, refuse
from sightline.data.readers.parquet_rows import record, rows_of, schema
from sightline.data.readers.reader import Reader
from sightline.errors import Problem, Refused

PARQUET = ".parquet"


class AnnotationReader(Reader):
    """Base of readers whose data set is one or several files of annotations. A subclass has `suffixes` and `reason`."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    """Ends of the names of its files."""
    wanted: ClassVar[str] = ""
    """What its files look like, for refusals."""

    seen: ClassVar[str] = "{file} {reason}"
    """How `recognise` says what it saw."""

    def reason(self, file: Path) -> str | None:
        """What in the head of `file` is this format's, or None."""
        raise NotImplementedError

    def files(self, path: Path) -> list[Path]:
        """The file itself, or the files of this format in the folder, sorted; where it has none, those in the folders directly below it."""
        if path.is_file():
            return [path] if path.name.lower().endswith(self.suffixes) and self.reason(path) else []
        if not path.is_dir():
            return []
        here, *below = folders(path, 1)
        found = [file for file in _directly(here, self.suffixes) if self.reason(file)]
        return found or [file for folder in below for file in _directly(folder, self.suffixes) if self.reason(file)]

    def annotated(self, path: Path) -> frozenset[Path]:
        """The annotation files that would be read at `path`."""
        return frozenset(self.files(path))

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """The first file of this format."""
        found = self.files(path)
        return (0.9, self.seen.format(file=found[0].name, reason=self.reason(found[0]))) if found else None

    def chosen(self, path: Path) -> list[Path]:
        """The files to read: a file that is named is taken as it is. Refused when there is none."""
        found = [path] if path.is_file() else self.files(path)
        if not found:
            raise Refused(refuse("no-annotations", str(path), f"no file of {type(self).__name__}", self.wanted, "correct the path, or name the file"))
        return found


def _directly(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [file for name in names_in(folder) if name.lower().endswith(suffixes) and (file := folder / name).is_file()]


def first_record(file: Path) -> Mapping[str, Any]:
    """The first row of a JSON file; of a Parquet file the names of its columns, each with None. Empty when there is none."""
    if file.suffix.lower() != PARQUET:
        return first_row(file) or {}
    columns = schema(file)
    return dict.fromkeys(columns.names if columns is not None else ())


def read_records(file: Path) -> list[tuple[str, Any]]:
    """(place, value) of every row of a JSON array, JSON lines or Parquet file. Refused when it cannot be read."""
    return list(Table(file)) if file.suffix.lower() == PARQUET else read_json_rows(file)


class Table:
    """(place, value) of the rows of a Parquet file, as often as wanted, of which one row group at a time is in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        columns = tuple(first_record(self._file))
        for row in rows_of(self._file, [self._file]):
            if isinstance(row, Problem):
                raise Refused(row)
            yield row.place, record(row, columns)


def json_text(value: Any) -> str:
    """A value as the text of a JSON file that people can read."""
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def json_lines(rows: Iterable[Any]) -> str:
    """Rows as JSON, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
