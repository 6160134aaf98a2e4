"""DOTA: rotated boxes as four corners, one text file per picture.

    imagesource:GoogleEarth
    gsd:0.25
    x1 y1 x2 y2 x3 y3 x4 y4 class difficult

The two headers and `difficult` may be missing. A quadrangle is rarely a rectangle: the region is the rectangle of least area around it, and `quad` keeps the corners as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from sightline.data.readers.files import HEAD, PICTURE_SUFFIXES, files_below, folders, read_text, refuse
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.errors import Problem, Refused
from sightline.samples.geometry import convex_hull, min_area_rect
from sightline.samples.sample import Origin, Picture, Region, Sample

_HEADERS = ("imagesource", "gsd")
_CORNERS = 8


class Dota(Reader):
    """DOTA 1.0, 1.5, 2.0 and whatever uses its labelTxt files."""

    kind: Literal["dota"] = "dota"
    pictures: str = "images"
    """Folder of the pictures, beside that of the labels."""
    labels: str = "labelTxt"
    """Folder of the label files."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A folder labelTxt with a line of eight numbers and a class."""
        for base in self._bases(path):
            for name in files_below(base / self.labels, (".txt",))[:8]:
                with (base / self.labels / name).open("rb") as stream:
                    lines = stream.read(HEAD).decode("utf-8-sig", errors="replace").splitlines()
                if any(len(fields := line.split()) in (9, 10) and _number(fields[0]) is not None for line in lines[:4]):
                    return 0.9, f"{self.labels}/{name} has lines of eight numbers and a class"
        return None

    def _bases(self, path: Path) -> list[Path]:
        return [folder for folder in folders(path) if (folder / self.labels).is_dir()] if path.is_dir() else []

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture; a picture without labels, or labels without a picture, is a problem."""
        bases = self._bases(path)
        if not bases:
            raise Refused(
                refuse("no-labels", str(path), f"no folder {self.labels}", f"{self.pictures}/ and {self.labels}/", "correct the path, or pass `labels: FOLDER`")
            )
        for base in bases:
            folder = base / self.pictures
            if not folder.is_dir():
                raise Refused(refuse("no-picture-folder", str(folder), "no such folder", f"{self.pictures}/ beside {self.labels}/", "pass `pictures: FOLDER`"))
            prefix = base.relative_to(path)
            labels = {PurePosixPath(name).stem: base / self.labels / name for name in files_below(base / self.labels, (".txt",))}
            split = next((SPLITS[part.lower()] for part in prefix.parts if part.lower() in SPLITS), None)
            for name in files_below(folder, PICTURE_SUFFIXES):
                text = labels.pop(PurePosixPath(name).stem, None)
                if text is None:
                    yield refuse(
                        "missing-labels",
                        str(folder / name),
                        f"no {PurePosixPath(name).stem}.txt in {base / self.labels}",
                        "a label file for every picture",
                        "add it; it may be empty",
                    )
                    continue
                identity = (prefix / name).as_posix()
                yield Row(id=identity, place=str(text), number=identity, pictures=(str(folder / name),), data={"labels": str(text), "split": split})
            for text in labels.values():
                yield refuse(
                    "missing-picture",
                    str(text),
                    f"no picture of this name in {folder}",
                    "a picture for every label file",
                    "add the picture, or remove the labels",
                )

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per line."""
        try:
            regions, attributes = parse_labels(read_text(Path(row.data["labels"])), row.place)
        except Refused as refused:
            return list(refused.problems)
        if row.data["split"]:
            attributes["split"] = row.data["split"]
        return [Sample(id=row.id, pictures=pictures, annotations=tuple(regions), attributes=attributes, origin=origin)]


def parse_labels(text: str, place: str) -> tuple[list[Region], dict[str, Any]]:
    """Regions and header values of one label file. Refused with every line that is neither a header nor a box."""
    regions: list[Region] = []
    attributes: dict[str, Any] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), 1):
        key, colon, value = line.strip().partition(":")
        if colon and key in _HEADERS:
            attributes[key] = _number(value) if key == "gsd" else value
        elif line.strip():
            made = _region(line.split(), f"{place}:{number}")
            if isinstance(made, Problem):
                problems.append(made)
            else:
                regions.append(made)
    if problems:
        raise Refused(problems)
    return regions, attributes


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _region(fields: list[str], place: str) -> Region | Problem:
    form = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
    quad = [_number(field) for field in fields[:_CORNERS]]
    if len(fields) not in (9, 10) or None in quad or (len(fields) == 10 and not fields[9].isdecimal()):
        return refuse("box-line", place, " ".join(fields)[:120], form, "mend the line")
    corners = np.array(quad, np.float64).reshape(4, 2)
    if len(convex_hull(corners)) < 3:
        return refuse("degenerate-box", place, " ".join(fields)[:120], "four corners that enclose an area", "remove the line")
    return Region(label=fields[8], attributes={"quad": quad, "difficult": int(fields[9]) if len(fields) == 10 else 0}, shape=min_area_rect(corners))
