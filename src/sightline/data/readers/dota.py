"""DOTA: rotated boxes as four corners, one text file per picture.

    imagesource:GoogleEarth
    gsd:0.25
    x1 y1 x2 y2 x3 y3 x4 y4 class difficult

The two headers and `difficult` may be missing; `difficult` 2 is a fragment that a tiling cut off. A quadrangle is rarely a rectangle: the region is the rectangle of least area
around it, and `quad` keeps the corners as published. A picture whose name is that of a tile, `<picture>__<rate>__<left>___<up>`, has these four in its attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, head_bytes, read_text, refuse
from sightline.data.readers.numbers import number
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder, flag_of
from sightline.errors import Problem, Refused
from sightline.samples.geometry import convex_hull, corners, min_area_rect
from sightline.samples.sample import Box, Origin, Picture, Polygon, Region, RotatedBox, Sample

_HEADERS = ("imagesource", "gsd")
_CORNERS = 8
_FORM = "x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
_TILE = re.compile(r"(.+)__(\d+(?:\.\d+)?)__(\d+)___(\d+)")


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
                lines = head_bytes(base / self.labels / name).decode("utf-8-sig", errors="replace").splitlines()
                if any(len(fields := line.split()) in (9, 10) and number(fields[0]) is not None for line in lines[:4]):
                    return 0.9, f"{self.labels}/{name} has lines of eight numbers and a class"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The label files."""
        return frozenset(base / self.labels / name for base in self._bases(path) for name in files_below(base / self.labels, (".txt",)))

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
        attributes |= tile_of(PurePosixPath(row.id).stem)
        return [Sample(id=row.id, pictures=pictures, annotations=tuple(regions), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/[SPLIT/]images and labelTxt: boxes and quadrangles as four corners; a space in a label becomes a hyphen, as in DOTA's own names."""
        losses, folder = Losses("dota"), PictureFolder(path)
        taken: set[Path] = set()
        for sample in samples:
            if len(sample.pictures) != 1:
                losses.refuse("a sample with no or several pictures", sample)
                continue
            losses.of(sample, "turns", "origin")
            split = sample.attributes.get("split")
            place = f"{split}/" if split in SPLITS.values() else ""
            name = PurePosixPath(folder.add(sample.pictures[0], f"{place}{self.pictures}"))
            file = path / place / self.labels / f"{name.stem}.txt"
            if file in taken:
                losses.refuse(f"a second sample on a picture named {name.stem}", sample)
                continue
            taken.add(file)
            if set(sample.attributes) - {"split", *_HEADERS, *tile_of(name.stem)}:
                losses.warn("attributes", sample)
            headers = [f"{key}:{'null' if sample.attributes[key] is None else sample.attributes[key]}" for key in _HEADERS if key in sample.attributes]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in (*headers, *_lines(sample, losses))), encoding="utf-8")
        return losses.problems()


def tile_of(stem: str) -> dict[str, Any]:
    """`tile_of`, `rate`, `left` and `up` (px of the picture scaled by `rate`) of a tile by its name; nothing for other names."""
    known = _TILE.fullmatch(stem)
    return {"tile_of": known[1], "rate": float(known[2]), "left": int(known[3]), "up": int(known[4])} if known else {}


def quad_of(region: Region) -> list[float] | None:
    """Four corners as x, y, x, y, ..: those that were published where they still are the region's, else those of its box; None where it has none."""
    shape, quad = region.shape, region.attributes.get("quad")
    if isinstance(shape, RotatedBox):
        kept = isinstance(quad, list) and len(quad) == _CORNERS and min_area_rect(np.array(quad, np.float64).reshape(4, 2)) == shape
        return quad if kept else corners(shape).ravel().tolist()
    if isinstance(shape, Box):
        return [shape.x0, shape.y0, shape.x1, shape.y0, shape.x1, shape.y1, shape.x0, shape.y1]
    return [value for point in shape.points for value in point] if isinstance(shape, Polygon) and len(shape.points) == 4 else None


def _lines(sample: Sample, losses: Losses) -> Iterator[str]:
    for region in sample.annotations:
        quad = quad_of(region)
        label = "-".join((region.label or "").split())
        if quad is None or not label:
            losses.warn("regions that are no named boxes", sample)
            continue
        if label != region.label:
            losses.warn("spaces in labels", sample)
        difficult = flag_of(region, "difficult")
        if set(region.attributes) - {"quad", "difficult"} or difficult is None:
            losses.warn("attributes of regions", sample)
        yield f"{' '.join(map(coordinate, quad))} {label} {difficult or 0}"


def coordinate(value: float) -> str:
    """A coordinate that reads back as the same number, whole ones without a point."""
    return str(int(value)) if value == int(value) else repr(float(value))


def parse_labels(text: str, place: str) -> tuple[list[Region], dict[str, Any]]:
    """Regions and header values of one label file. Refused with every line that is neither a header nor a box."""
    regions: list[Region] = []
    attributes: dict[str, Any] = {}
    problems: list[Problem] = []
    for row, line in enumerate(text.splitlines(), 1):
        key, colon, value = line.strip().partition(":")
        if colon and key in _HEADERS:
            attributes[key] = number(value) if key == "gsd" else value
        elif line.strip():
            made = _region(line.split(), f"{place}:{row}")
            if isinstance(made, Problem):
                problems.append(made)
            else:
                regions.append(made)
    if problems:
        raise Refused(problems)
    return regions, attributes


def _region(fields: list[str], place: str) -> Region | Problem:
    shown = " ".join(fields)[:120]
    if len(fields) not in (9, 10) or (len(fields) == 10 and fields[9] not in ("0", "1", "2")):
        return refuse("box-line", place, shown, _FORM, "mend the line")
    return quad_region(fields[:_CORNERS], fields[8], {"difficult": int(fields[9]) if len(fields) == 10 else 0}, place)


def quad_region(texts: list[str], label: str, attributes: dict[str, Any], place: str) -> Region | Problem:
    """A region from the texts of its four corners, kept as `quad`; a Problem where they are no numbers or enclose no area."""
    quad = [value for text in texts if (value := number(text)) is not None]
    if len(quad) != _CORNERS:
        return refuse("box-line", place, " ".join((*texts, label))[:120], _FORM, "mend the line")
    points = np.array(quad, np.float64).reshape(4, 2)
    if len(convex_hull(points)) < 3:
        return refuse("degenerate-box", place, " ".join((*texts, label))[:120], "four corners that enclose an area", "remove the line")
    return Region(label=label, attributes={"quad": quad, **attributes}, shape=min_area_rect(points))
