"""Boxes in PASCAL VOC's XML, one file per picture: VOC itself, DIOR and DIOR-R, HIT-UAV, and whatever labelImg and roLabelImg write.

    <annotation> <size> <width/> <height/> <depth/> </size>
      <object> <name/> <pose/> <truncated/> <difficult/>
        <bndbox> <xmin/> <ymin/> <xmax/> <ymax/> </bndbox>                      an upright box
        <robndbox> <x_left_top/> <y_left_top/> .. <y_left_bottom/> </robndbox>  four corners (DIOR-R)
        <robndbox> <cx/> <cy/> <w/> <h/> <angle/> </robndbox>                   roLabelImg: radians, clockwise on screen

The children say which of the three it is. Four corners become the rectangle of least area around them; `quad` keeps them as published. The name of the XML file joins it to its picture:
`filename` and `path` inside it are often those of its author's machine. A name in `ignored` marks a crowd or a doubt: its region has no label, the attribute `ignore`, and
the name as `class`, so that it is never an object, a count or an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from sightline.data.readers.dota import quad_of
from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, has_pictures, head_bytes, read_text, refuse
from sightline.data.readers.numbers import number
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder, flag_of
from sightline.data.readers.xml_tree import read_xml
from sightline.errors import Problem, Refused
from sightline.samples.geometry import canonical, convex_hull, min_area_rect
from sightline.samples.sample import Box, Origin, Picture, Region, RotatedBox, Sample, Shape

FOLDER = "Annotations"
ORIENTED = "Oriented Bounding Boxes"
"""DIOR-R's folder below `Annotations`, beside that of the upright boxes of the same objects."""
PICTURES = ("JPEGImages*", "images", "imgs")
LISTS = "ImageSets/Main"
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_CORNERS = tuple(f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in "xy")
_CENTRED = ("cx", "cy", "w", "h", "angle")
_FLAGS = ("truncated", "difficult")


@dataclass(frozen=True)
class _Set:
    """Annotation files by stem, pictures by stem, splits by stem."""

    base: Path
    annotations: dict[str, Path]
    pictures: dict[str, Path]


class VocXml(Reader):
    """PASCAL VOC, DIOR, DIOR-R, HIT-UAV, labelImg and roLabelImg."""

    kind: Literal["voc-xml"] = "voc-xml"
    annotations: str | None = None
    """Folder of the XML files below `Annotations`, where there are several; `Oriented Bounding Boxes` when absent."""
    pictures: str | None = None
    """Folder of the pictures beside `Annotations`; found when absent (JPEGImages*, images, imgs, or beside the XML files)."""
    ignored: list[str] = ["DontCare"]
    """Names that mark a region as no object."""
    first_pixel: Literal[0, 1] = 0
    """Number of the first pixel in `bndbox`. 1 is for PASCAL VOC itself, whose `xmax` and `ymax` are pixels inside the box."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """XML files with an `annotation` and its `object`s, in a folder Annotations or beside pictures."""
        for folder in self._folders(path):
            for file in sorted(folder.glob("*.xml"))[:4]:
                begin = head_bytes(file)
                if b"<annotation" in begin and (b"<object>" in begin or b"<size>" in begin):
                    shape = "rotated boxes" if b"<robndbox>" in begin else "upright boxes"
                    return 0.9, f"{file.relative_to(path)} is an annotation in VOC's XML with {shape}"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The XML files."""
        return frozenset(file for folder in self._folders(path) for file in folder.glob("*.xml"))

    def _folders(self, path: Path) -> list[Path]:
        """Folders of XML files; below one `Annotations` those that are wanted, or all where nothing says which."""
        if not path.is_dir():
            return []
        found: list[Path] = []
        for folder in folders(path):
            if folder.name == FOLDER and not any(folder.glob("*.xml")):
                below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and any(entry.glob("*.xml")))
                wanted = [entry for entry in below if entry.name == (self.annotations or ORIENTED)]
                found += wanted if wanted or self.annotations else below
            elif folder.parent.name != FOLDER and any(folder.glob("*.xml")) and (folder.name == FOLDER or has_pictures(folder)):
                found.append(folder)
        return found

    def _set(self, folder: Path) -> _Set:
        """The files that belong to one folder of XML files."""
        beside = folder.parent if folder.parent.name == FOLDER else folder
        base = beside.parent if beside.name == FOLDER else folder
        usual = [root for pattern in PICTURES for root in sorted(base.glob(pattern)) if root.is_dir()] or [folder]
        roots = usual if self.pictures is None else [base / self.pictures]
        if not roots[0].is_dir():
            raise Refused(refuse("no-picture-folder", str(roots[0]), "no such folder", f"a folder beside {FOLDER}", "correct `pictures`"))
        pictures = {PurePosixPath(name).stem: root / name for root in roots for name in files_below(root, PICTURE_SUFFIXES)}
        return _Set(base=base, annotations={file.stem: file for file in sorted(folder.glob("*.xml"))}, pictures=pictures)

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per XML file; a picture without one, or one without a picture, is a problem."""
        found = self._folders(path)
        if not found:
            allowed = f"{FOLDER}/*.xml beside {', '.join(PICTURES)}"
            raise Refused(refuse("no-labels", str(path), "no folder of XML annotations", allowed, "correct the path"))
        for parent in dict.fromkeys(folder.parent for folder in found if folder.parent.name == FOLDER):
            if len(names := [folder.name for folder in found if folder.parent == parent]) > 1:
                raise Refused(refuse("several-annotations", str(parent), ", ".join(names), "one folder of XML files", "pass `annotations: FOLDER`"))
        for part in map(self._set, found):
            splits = _splits(part.base)
            for stem, file in part.annotations.items():
                picture = part.pictures.get(stem)
                said = splits.get(stem, [])
                if picture is None:
                    yield refuse("missing-picture", str(file), f"no picture {stem}", "a picture for every XML file", "add the picture, or remove the file")
                elif len(said) > 1:
                    yield refuse("split-conflict", str(file), f"listed in {' and '.join(said)}", "one split", f"correct the lists in {LISTS}")
                else:
                    identity = picture.relative_to(path).as_posix() if picture.is_relative_to(path) else picture.name
                    data = {"xml": str(file), "split": said[0] if said else None}
                    yield Row(id=identity, place=str(file), number=identity, pictures=(str(picture),), data=data)
            for stem in sorted(part.pictures.keys() - part.annotations.keys()):
                yield refuse("missing-labels", str(part.pictures[stem]), f"no {stem}.xml", "an XML file for every picture", "add it; it may have no object")

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per object."""
        try:
            root = read_xml(Path(row.data["xml"]))
        except Refused as refused:
            return list(refused.problems)
        made = [self._region(element, f"{row.place}:object {number}") for number, element in enumerate(root.iter("object"), 1)]
        problems = [found for found in made if isinstance(found, Problem)]
        width, height = (number(root.findtext(f"size/{name}")) for name in ("width", "height"))
        if width and height and (width, height) != (pictures[0].width, pictures[0].height):
            allowed = f"{pictures[0].width}x{pictures[0].height} px, the size of the upright picture"
            problems.append(refuse("picture-size", row.place, f"{width:g}x{height:g} px in `size`", allowed, "the boxes are of another copy of the picture"))
        if problems:
            return list(problems)
        attributes: dict[str, Any] = {"split": row.data["split"]} if row.data["split"] else {}
        if number(root.findtext("size/depth")) == 1:
            attributes["channels"] = 1
        regions = tuple(found for found in made if isinstance(found, Region))
        return [Sample(id=row.id, pictures=pictures, annotations=regions, attributes=attributes, origin=origin)]

    def _region(self, element: Element, place: str) -> Region | Problem:
        name = (element.findtext("name") or "").strip()
        if not name:
            return refuse("label-missing", place, "no `name`", "<name>class</name>", "name the object")
        attributes: dict[str, Any] = {}
        for flag in _FLAGS:
            value = number(element.findtext(flag) or "0")
            if value is None or value != int(value) or value < 0:
                return refuse("object-flag", place, f"{flag}: {(element.findtext(flag) or '')[:40]!r}", "0 or 1", "correct it")
            attributes[flag] = int(value)
        shape = self._shape(element, place, attributes)
        if isinstance(shape, Problem):
            return shape
        if name in self.ignored:
            return Region(label=None, attributes={**attributes, "ignore": True, "class": name}, shape=shape)
        return Region(label=name, attributes=attributes, shape=shape)

    def _shape(self, element: Element, place: str, attributes: dict[str, Any]) -> Shape | Problem:
        for tag, names in (("robndbox", _CENTRED), ("robndbox", _CORNERS), ("bndbox", _EDGES)):
            box = element.find(tag)
            if box is None or box.find(names[0]) is None:
                continue
            numbers = [number(box.findtext(name)) for name in names]
            if None in numbers:
                wrong = ", ".join(f"{name} {(box.findtext(name) or 'absent')[:40]!r}" for name, number in zip(names, numbers, strict=True) if number is None)
                return refuse("box-numbers", place, wrong, f"numbers {', '.join(names)}", "mend the object")
            shape = _SHAPES[names]([number for number in numbers if number is not None], self.first_pixel, attributes)
            return shape or refuse("degenerate-box", place, f"{tag} {numbers}", "a box that encloses an area", "remove the object")
        return refuse("box-missing", place, "neither `bndbox` nor `robndbox`", "one of them, with the children of VOC, DIOR-R or roLabelImg", "mend the object")

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/JPEGImages, PATH/Annotations and a list per split: Box as `bndbox`, RotatedBox as roLabelImg's `robndbox`, or as the four corners it was read from."""
        losses, folder = Losses("voc-xml"), PictureFolder(path)
        splits: dict[str, list[str]] = {}
        for sample in samples:
            if len(sample.pictures) != 1:
                losses.refuse("a sample with no or several pictures", sample)
                continue
            losses.of(sample, "turns", "origin")
            name = PurePosixPath(folder.add(sample.pictures[0], "JPEGImages"))
            if sample.attributes.get("split") in SPLITS.values():
                splits.setdefault(sample.attributes["split"], []).append(name.stem)
            if set(sample.attributes) - {"split", "channels"}:
                losses.warn("attributes", sample)
            target = path / FOLDER / f"{name.stem}.xml"
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                losses.refuse(f"a second sample on a picture named {name.stem}", sample)
                continue
            ElementTree(self._tree(sample, name.name, losses)).write(target, encoding="utf-8", xml_declaration=True)
        for split, stems in splits.items():
            (path / LISTS).mkdir(parents=True, exist_ok=True)
            (path / LISTS / f"{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
        return losses.problems()

    def _tree(self, sample: Sample, name: str, losses: Losses) -> Element:
        root = Element("annotation")
        SubElement(root, "filename").text = name
        depth = sample.attributes.get("channels", len(sample.pictures[0].bands))
        _children(SubElement(root, "size"), ("width", "height", "depth"), (sample.pictures[0].width, sample.pictures[0].height, depth))
        for region in sample.annotations:
            label = region.label or region.attributes.get("class")
            box = _published(region, self.first_pixel)
            if box is None or not label or label != label.strip() or not label.isprintable():
                losses.warn("regions that are no named boxes", sample)
                continue
            flags = [flag_of(region, flag) for flag in _FLAGS]
            if set(region.attributes) - {*_FLAGS, "quad", "ignore", "class"} or None in flags:
                losses.warn("attributes of regions", sample)
            tag, names, numbers = box
            element = SubElement(root, "object")
            _children(element, ("type", "name", *_FLAGS), (tag, label, *(flag or 0 for flag in flags)))
            _children(SubElement(element, tag), names, numbers)
        indent(root)
        return root


def _upright(numbers: list[float], first_pixel: int, _: dict[str, Any]) -> Shape | None:
    x0, y0, x1, y1 = numbers
    box = Box(x0=x0 - first_pixel, y0=y0 - first_pixel, x1=x1, y1=y1)
    return box if box.x1 > box.x0 and box.y1 > box.y0 else None


def _centred(numbers: list[float], _: int, __: dict[str, Any]) -> Shape | None:
    cx, cy, w, h, angle = numbers
    return canonical(cx, cy, w, h, math.degrees(angle)) if w > 0 and h > 0 else None


def _cornered(numbers: list[float], _: int, attributes: dict[str, Any]) -> Shape | None:
    quad = np.array(numbers).reshape(4, 2)
    attributes["quad"] = numbers
    return min_area_rect(quad) if len(convex_hull(quad)) > 2 else None


_SHAPES = {_EDGES: _upright, _CENTRED: _centred, _CORNERS: _cornered}


def _published(region: Region, first_pixel: int) -> tuple[str, tuple[str, ...], list[float]] | None:
    """Element, children and numbers that are read back as this shape; None for shapes that are no boxes."""
    shape, quad = region.shape, region.attributes.get("quad")
    if isinstance(shape, Box):
        return "bndbox", _EDGES, [shape.x0 + first_pixel, shape.y0 + first_pixel, shape.x1, shape.y1]
    if not isinstance(shape, RotatedBox):
        return None
    if isinstance(quad, list) and quad_of(region) == quad:
        return "robndbox", _CORNERS, quad
    return "robndbox", _CENTRED, [shape.cx, shape.cy, shape.w, shape.h, math.radians(shape.theta % 180.0)]


def _children(parent: Element, names: Iterable[str], values: Iterable[object]) -> None:
    for name, value in zip(names, values, strict=True):
        SubElement(parent, name).text = str(value)


def _splits(base: Path) -> dict[str, list[str]]:
    """Splits of each stem, from the lists that bear the name of one."""
    found: dict[str, list[str]] = {}
    for name, split in SPLITS.items():
        file = base / LISTS / f"{name}.txt"
        for line in read_text(file).splitlines() if file.is_file() else ():
            # VOC's lists of one class add 1 or -1 to each name.
            if line.strip() and split not in found.setdefault(line.split()[0], []):
                found[line.split()[0]].append(split)
    return found
