"""Detections in DOTA's form of results: one file per class, one line per box.

    Task1_<class>.txt      image score x1 y1 x2 y2 x3 y3 x4 y4

A picture becomes a sample without turns; its regions have a `score`. Pictures that no line names are read without regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from sightline.data.readers.dota import coordinate, quad_of, quad_region, tile_of
from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, head_bytes, read_text, refuse
from sightline.data.readers.numbers import number
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.samples.sample import Origin, Picture, Region, Sample

_FILE = re.compile(r"Task1_(.+)\.txt")
_FIELDS = 10


class DotaResults(Reader):
    """Detections of rotated boxes as DOTA's server takes them."""

    kind: Literal["dota-results"] = "dota-results"
    pictures: str = "images"
    """Folder of the pictures, beside the Task1_*.txt files."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A Task1_<class>.txt with a line of a name and nine numbers."""
        for file in sorted(self.annotated(path)):
            fields = head_bytes(file).decode("utf-8-sig", errors="replace").partition("\n")[0].split()
            if len(fields) == _FIELDS and all(number(field) is not None for field in fields[1:]):
                return 0.9, f"{file.relative_to(path)} has lines of a name, a score and four corners"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The result files."""
        return frozenset(file for folder in self._folders(path) for file in folder.glob("Task1_*.txt"))

    def _folders(self, path: Path) -> list[Path]:
        return [folder for folder in folders(path) if any(folder.glob("Task1_*.txt"))] if path.is_dir() else []

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture; lines of a picture that is not there are one problem."""
        found = self._folders(path)
        if not found:
            raise Refused(refuse("no-labels", str(path), "no Task1_*.txt", f"Task1_<class>.txt beside {self.pictures}/", "correct the path"))
        for base in found:
            folder = base / self.pictures
            if not folder.is_dir():
                raise Refused(refuse("no-picture-folder", str(folder), "no such folder", f"{self.pictures}/ beside Task1_*.txt", "pass `pictures: FOLDER`"))
            boxes: dict[str, list[tuple[str, str, list[str]]]] = {}
            for file in sorted(base.glob("Task1_*.txt")):
                yield from _lines(file, boxes)
            for name in files_below(folder, PICTURE_SUFFIXES):
                identity = (base.relative_to(path) / name).as_posix()
                data = {"boxes": boxes.pop(PurePosixPath(name).stem, [])}
                yield Row(id=identity, place=str(folder / name), number=identity, pictures=(str(folder / name),), data=data)
            for stem, lines in boxes.items():
                found_text = f"{len(lines)} boxes on {stem}, which is not in {folder}"
                yield refuse("missing-picture", lines[0][1], found_text, "a picture for every name", "add the picture, or remove the lines")

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per line, class by class."""
        made = [_region(label, place, fields) for label, place, fields in row.data["boxes"]]
        if problems := [found for found in made if isinstance(found, Problem)]:
            return list(problems)
        regions = tuple(found for found in made if isinstance(found, Region))
        return [Sample(id=row.id, pictures=pictures, annotations=regions, attributes=tile_of(PurePosixPath(row.id).stem), origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/Task1_<class>.txt and the pictures. Only named boxes with a `score` can be held."""
        losses, folder = Losses("dota-results"), PictureFolder(path)
        lines: dict[str, list[str]] = {}
        taken: set[str] = set()
        for sample in samples:
            name = PurePosixPath(folder.add(sample.pictures[0], self.pictures)).stem if len(sample.pictures) == 1 else ""
            if not name or name.split() != [name] or name in taken:
                losses.refuse("a sample without one picture of a name of its own in one word", sample)
                continue
            taken.add(name)
            losses.of(sample, "turns", "origin")
            if set(sample.attributes) - set(tile_of(name)):
                losses.warn("attributes", sample)
            for region in sample.annotations:
                quad, score, label = quad_of(region), region.attributes.get("score"), region.label or ""
                if (
                    quad is None
                    or not isinstance(score, int | float)
                    or not label.isprintable()
                    or label != label.strip()
                    or set(label) & {"/", "\\"}
                    or not label
                ):
                    losses.warn("regions that are no named boxes with a score", sample)
                    continue
                if set(region.attributes) - {"quad", "score"}:
                    losses.warn("attributes of regions", sample)
                lines.setdefault(label, []).append(f"{name} {float(score)!r} {' '.join(map(coordinate, quad))}\n")
        for label, written in lines.items():
            (path / f"Task1_{label}.txt").write_text("".join(written), encoding="utf-8")
        return losses.problems()


def _lines(file: Path, boxes: dict[str, list[tuple[str, str, list[str]]]]) -> Iterator[Problem]:
    """Sort the lines of one file by picture; those without ten fields are problems."""
    known = _FILE.fullmatch(file.name)
    assert known is not None, file.name
    for row, line in enumerate(read_text(file).splitlines(), 1):
        fields = line.split()
        if len(fields) == _FIELDS:
            boxes.setdefault(fields[0], []).append((known[1], f"{file}:{row}", fields[1:]))
        elif fields:
            yield refuse("box-line", f"{file}:{row}", line.strip()[:120], "image score x1 y1 x2 y2 x3 y3 x4 y4", "mend the line")


def _region(label: str, place: str, fields: list[str]) -> Region | Problem:
    score = number(fields[0])
    if score is None:
        return refuse("box-line", place, fields[0][:60], "a number as score", "mend the line")
    return quad_region(fields[1:], label, {"score": score}, place)
