"""What a reader is: a Config that lists the rows of a data set cheaply and makes the sample of each row on its own, in any process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.pictures import describe, read_picture
from sightline.samples.sample import Origin, Picture, Sample

SHORTEST_SIDE = 10
LARGEST_ASPECT = 20.0
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"}
"""Folder names that say a split."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a data set before its pictures are read: small, and able to travel to another process."""

    id: str
    place: str
    """File and row, for people."""
    number: str
    """The row in its source, for `origin.row`."""
    pictures: tuple[str | bytes, ...] = ()
    """Paths, or encoded bytes where a format carries them."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What `make` of the same reader needs."""


class Reader(Config):
    """Base of all readers. A subclass has a `kind`, defaults for all its fields, and the three methods below; `write` where the format can be written."""

    source: str = ""
    """Name of the source in `origin`; the name of the folder or file when empty."""
    licence: str = ""
    """Licence of the rows, as stated by the publisher."""
    bands: tuple[str, ...] = Field(default=(), strict=False)
    """Names of the bands of its pictures, in the order of their files: `[red, green, blue, nir]`; empty: as the files say."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """(confidence 0..1, reason) if `path` looks like this format; reads names and the head of files, never pictures."""
        raise NotImplementedError

    def annotated(self, path: Path) -> frozenset[Path]:
        """Annotation files (no pictures) that this reader would read at `path`: two formats that share one of them are two readings of the same rows. None where pictures say all."""
        return frozenset()

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """All rows in a fixed order, without reading pictures. Refused when the data set as a whole cannot be read."""
        raise NotImplementedError

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The sample of one row and what was lost of it (problems of severity `warn`), or only problems."""
        raise NotImplementedError

    def origin(self, row: Row, path: Path) -> Origin:
        """Where the sample of `row` comes from."""
        return Origin(source=self.name(path), row=row.number, licence=self.licence)

    def name(self, path: Path) -> str:
        """Name of the source that is read at `path`."""
        return self.source or (path.stem if path.is_file() else path.name or path.resolve().name)

    def read(self, path: Path) -> Iterator[Sample | Problem]:
        """All samples in order, each after the problems of its row."""
        for row in self.rows(path):
            if isinstance(row, Problem):
                yield row
            else:
                yield from read_row(self, path, row, {})

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write samples in this format; the problems name what it cannot hold. Refused where a format is only read."""
        raise Refused(
            Problem(
                code="data/read-only-format",
                place=type(self).__name__,
                found="a format that is only read",
                fix="write llava-json, openai-messages or class-folders",
            )
        )


def read_row(reader: Reader, path: Path, row: Row, memo: dict[str, Picture]) -> list[Sample | Problem]:
    """Read the pictures of a row and make its sample; `memo` holds pictures by path while several readers look at the same one."""
    if not _storable(row.id + row.number):
        return [_unstorable(row)]
    pictures: list[Picture] = []
    problems: list[Problem] = []
    for given in row.pictures:
        try:
            pictures.append(_picture(given, row.place, memo, reader.bands))
        except Refused as refused:
            problems.extend(refused.problems)
    if problems:
        return list(problems)
    made: list[Sample | Problem] = []
    for found in reader.make(row, tuple(pictures), reader.origin(row, path)):
        broken = found.problems(row.place) if isinstance(found, Sample) else []
        made.extend(broken or [found])
    return made


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unstorable(row: Row) -> Problem:
    """The problem of a row that takes its id from the name of a file which is no UTF-8."""
    return Problem(code="data/not-utf-8-name", place=row.place, found=f"{row.id!r} as an id", allowed="names in UTF-8", fix="rename the file")


def _picture(given: str | bytes, place: str, memo: dict[str, Picture], bands: tuple[str, ...]) -> Picture:
    if isinstance(given, bytes):
        return shaped(describe(given, "", place, bands), place)
    key = memo_key(given, bands)
    if key not in memo:
        memo[key] = shaped(read_picture(Path(given), place, bands), f"{place} ({given})")
    return memo[key]


def memo_key(path: str, bands: tuple[str, ...]) -> str:
    """Name of a picture among those that several readers look at: its path, and the bands that a reader names in it."""
    return f"{path}\0{','.join(bands)}" if bands else path


def shaped(picture: Picture, place: str) -> Picture:
    """The picture itself. Refused when it is too small or too long to learn from."""
    short, long = sorted((picture.width, picture.height))
    if short < SHORTEST_SIDE or long > LARGEST_ASPECT * short:
        allowed = f"a shortest side of {SHORTEST_SIDE} px or more and an aspect of {LARGEST_ASPECT:g}:1 or less"
        raise Refused(
            Problem(
                code="data/picture-shape",
                place=place,
                found=f"{picture.width}x{picture.height} px",
                allowed=allowed,
                fix="remove the row, or cut the picture into tiles",
            )
        )
    return picture
