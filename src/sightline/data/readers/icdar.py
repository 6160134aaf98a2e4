"""Text in pictures: a quadrangle and what is written in it, one text file per picture (ICDAR 2015, SROIE).

    x1,y1,x2,y2,x3,y3,x4,y4,transcription

The transcription may hold commas. `###` means that the text cannot be read: the region has no `text` then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, read_text, refuse
from sightline.data.readers.reader import Reader, Row
from sightline.errors import Problem, Refused
from sightline.samples.geometry import convex_hull, min_area_rect
from sightline.samples.sample import Origin, Picture, Region, Sample

_UNREADABLE = "###"


class Icdar(Reader):
    """ICDAR 2015 and SROIE text lines."""

    kind: Literal["icdar"] = "icdar"
    pictures: str = "images"
    """Folder of the pictures."""
    texts: str = "texts"
    """Folder of the text files; a picture without one has no text. `gt_` before the name of a picture is allowed."""
    label: str = "text"
    """Label of every region."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """The two folders, and a first line of eight numbers and a text."""
        folder = path / self.texts
        names = files_below(folder, (".txt",))[:1] if folder.is_dir() and (path / self.pictures).is_dir() else []
        for name in names:
            lines = read_text(folder / name).splitlines()
            if lines and isinstance(text_line(lines[0], "", self.label), Region):
                return 0.9, f"{self.texts}/{name} has lines of eight numbers and a text"
        return None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture; texts without a picture are a problem."""
        folder, texts = path / self.pictures, path / self.texts
        if not folder.is_dir() or not texts.is_dir():
            raise Refused(
                refuse("no-texts", str(path), f"no {self.pictures}/ with {self.texts}/", "a folder of pictures and one of texts", "pass `pictures` and `texts`")
            )
        files = {PurePosixPath(name).stem.removeprefix("gt_"): texts / name for name in files_below(texts, (".txt",))}
        for name in files_below(folder, PICTURE_SUFFIXES):
            file = files.pop(PurePosixPath(name).stem, None)
            place = str(folder / name) if file is None else str(file)
            yield Row(id=name, place=place, number=name, pictures=(str(folder / name),), data={"texts": None if file is None else str(file)})
        for file in files.values():
            yield refuse(
                "missing-picture", str(file), f"no picture of this name in {folder}", "a picture for every text file", "add the picture, or remove the texts"
            )

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per line of text."""
        if row.data["texts"] is None:
            return [Sample(id=row.id, pictures=pictures, origin=origin)]
        try:
            regions = text_lines(Path(row.data["texts"]), self.label)
        except Refused as refused:
            return list(refused.problems)
        return [Sample(id=row.id, pictures=pictures, annotations=regions, origin=origin)]

    def annotated(self, path: Path) -> frozenset[Path]:
        """The text files."""
        folder = path / self.texts
        return frozenset(folder / name for name in files_below(folder, (".txt",))) if folder.is_dir() else frozenset()


def text_lines(file: Path, label: str) -> tuple[Region, ...]:
    """A region per line of a text file, in its order; `quad` and `text` are attributes. Refused with every line that is none."""
    made = [text_line(line, f"{file}:{number}", label) for number, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]
    if problems := [problem for problem in made if isinstance(problem, Problem)]:
        raise Refused(problems)
    return tuple(region for region in made if isinstance(region, Region))


def text_line(line: str, place: str, label: str) -> Region | Problem:
    """The region of one line `x1,y1,x2,y2,x3,y3,x4,y4,text`, which may hold further commas."""
    fields = line.strip().split(",", 8)
    try:
        quad = [float(field) for field in fields[:8]]
    except ValueError:
        quad = []
    if len(fields) != 9 or not all(map(math.isfinite, quad)) or not quad:
        return refuse("text-line", place, line[:120], "x1,y1,x2,y2,x3,y3,x4,y4,text", "mend the line")
    corners = np.array(quad, np.float64).reshape(4, 2)
    if len(convex_hull(corners)) < 3:
        return refuse("degenerate-box", place, line[:120], "four corners that enclose an area", "remove the line")
    attributes = {"quad": quad} if fields[8] == _UNREADABLE else {"quad": quad, "text": fields[8]}
    return Region(label=label, attributes=attributes, shape=min_area_rect(corners))
