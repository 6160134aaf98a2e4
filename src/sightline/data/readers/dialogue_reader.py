"""What dialogue formats share: their options, their files, and how rows are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import PARQUET, AnnotationReader, Table, first_record, read_records
from sightline.data.readers.files import picture_folder
from sightline.data.readers.reader import Row
from sightline.errors import Problem

USUAL = ("images", "imgs")
"""Folders beside a file from which its paths may start."""
_LOOKED_AT = 256
"""Rows of a Parquet file in which names of pictures are looked for."""


class DialogueReader(AnnotationReader):
    """Base of readers of dialogues: rows of a JSON array, JSON lines or a Parquet file. A subclass has `columns`, `fits` and `row`."""

    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl", ".parquet")
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that a row must have; of a Parquet file nothing more is looked at."""
    seen: ClassVar[str] = "the first row of {file} {reason}"
    pictures: str | None = None
    """Folder that paths of pictures start from, relative to the file; found beside it when absent."""
    ids: Literal["file", "row"] = "file"
    """`row` numbers the rows, for files that repeat their ids."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether the first row of a JSON file, which has all columns, is this format's."""
        return True

    def row(self, value: Any, identity: str, number: int, place: str, root: Path) -> Row | Problem:
        """One dialogue."""
        raise NotImplementedError

    def names(self, value: Any) -> Iterator[object]:
        """Pictures that a row names by path."""
        yield from ()

    def reason(self, file: Path) -> str | None:
        """A first row with the columns of this format."""
        first = first_record(file)
        known = set(self.columns) <= first.keys() and (file.suffix.lower() == PARQUET or self.fits(first))
        return f"has {', '.join(self.columns)}" if known else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per dialogue, over all files at `path`; where there are several, numbered rows carry the name of theirs."""
        files = self.chosen(path)
        for file in files:
            rows = Table(file) if file.suffix.lower() == PARQUET else read_records(file)
            # Pictures in columns have no names: a whole table would be read in search of one.
            first = islice(rows, _LOOKED_AT) if isinstance(rows, Table) else rows
            root = picture_folder(file.parent, self.pictures, (name for _, value in first for name in self.names(value)), USUAL)
            prefix = f"{file.relative_to(path).with_suffix('').as_posix()}/" if len(files) > 1 else ""
            for number, (place, value) in enumerate(rows):
                own = value.get("id") if self.ids == "file" and isinstance(value, dict) else None
                yield self.row(value, f"{prefix}{number}" if own is None else str(own), number, place, root)
