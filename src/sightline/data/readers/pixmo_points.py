"""PixMo-Points: places of things that people pointed at.

    Parquet or JSON rows: {"image_url", "image_sha256", "label", "points": [{"x", "y"}], "count", "collection_method"}

`x` and `y` are percentages of width and height. The published rows hold no pictures: one is found below the folder by its sha256, else by the file name of its address; rows may also carry `image`,
a path or {"bytes"}. Rows of one picture become one sample without turns: every point is a region with its label, and labels without a point are listed in `absent`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from sightline.data.readers.annotation_reader import AnnotationReader, first_record, json_text, read_records
from sightline.data.readers.entries import Entry, each
from sightline.data.readers.files import refuse
from sightline.data.readers.question_sets import PicturesBelow
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Origin, Picture, Point, Region, Sample

_WHOLE = 100.0
FILE = "points.json"


class PixmoPoints(AnnotationReader):
    """PixMo points."""

    kind: Literal["pixmo-points"] = "pixmo-points"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".json", ".jsonl")
    wanted: ClassVar[str] = "rows of label and points, with image_url, image_sha256 or image"

    def reason(self, file: Path) -> str | None:
        """See AnnotationReader."""
        row = first_record(file)
        known = {"label", "points"} <= set(row) and {"image_url", "image_sha256", "image"} & set(row)
        return "has rows of label and points" if known else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture, in the order of first appearance."""
        pictures = PicturesBelow(path if path.is_dir() else path.parent)
        groups: dict[str | bytes, tuple[str, str, list[_Pointed]]] = {}
        for file in self.chosen(path):
            for found in each(read_records(file), lambda entry, _: [(_picture(entry, pictures), entry.place, _pointed(entry))]):
                if isinstance(found, Problem):
                    yield found
                else:
                    picture, place, pointed = found
                    groups.setdefault(picture, (place, str(len(groups)), []))[2].append(pointed)
        for picture, (place, number, pointed) in groups.items():
            name = PurePosixPath(picture).name if isinstance(picture, str) else number
            yield Row(id=f"{number}/{name}", place=place, number=number, pictures=(picture,), data={"pointed": pointed})

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and its points in px."""
        (picture,) = pictures
        across, down = picture.width / _WHOLE, picture.height / _WHOLE
        regions = tuple(Region(label=label, shape=Point(x=x * across, y=y * down)) for label, points in row.data["pointed"] for x, y in points)
        absent = [label for label, points in row.data["pointed"] if not points]
        return [Sample(id=row.id, pictures=pictures, annotations=regions, attributes={"absent": absent} if absent else {}, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/points.json, a row per label of a picture, and the pictures under images/."""
        losses, folder = Losses("pixmo-points"), PictureFolder(path)
        rows: list[dict[str, Any]] = []
        for sample in samples:
            if len(sample.pictures) != 1 or any(not region.label or not isinstance(region.shape, Point) for region in sample.annotations):
                losses.refuse("no single picture, or a region that is no point with a label", sample)
                continue
            losses.of(sample, "turns", "origin")
            (picture,) = sample.pictures
            name = folder.add(picture, "images")
            labels: dict[str, list[dict[str, float]]] = {label: [] for label in sample.attributes.get("absent", [])}
            for region in sample.annotations:
                assert isinstance(region.shape, Point) and region.label
                point = {"x": region.shape.x * _WHOLE / picture.width, "y": region.shape.y * _WHOLE / picture.height}
                labels.setdefault(region.label, []).append(point)
            rows += [{"image": name, "image_sha256": picture.hash, "label": label, "points": points, "count": len(points)} for label, points in labels.items()]
        write_text(path / FILE, json_text(rows))
        return losses.problems()


_Pointed = tuple[str, list[tuple[float, float]]]


def _pointed(entry: Entry) -> _Pointed:
    points = [(point.number("x"), point.number("y")) for point in entry.entries("points")] if entry.value.get("points") is not None else []
    if isinstance(entry.value.get("count"), int) and entry.whole("count") != len(points):
        raise Refused(refuse("wrong-count", entry.place, f"{len(points)} points and a count of {entry.value['count']}", "as many points", "mend the row"))
    return entry.text("label"), points


def _picture(entry: Entry, pictures: PicturesBelow) -> str | bytes:
    """Path or bytes of a row's picture; the path where it is missed when it is nowhere."""
    image = entry.value.get("image")
    if isinstance(image, dict) and isinstance(image.get("bytes"), bytes):
        return image["bytes"]
    if image is not None:
        return str(pictures.find(entry.text("image"), entry.place))
    digest, address = entry.optional("image_sha256"), entry.optional("image_url")
    names = [name for name in (digest, address and PurePosixPath(urlsplit(address).path).name) if name]
    if not names:
        raise entry.wrong("image_sha256", "text, or an address in `image_url`")
    return str(pictures.find(next((name for name in names if name in pictures), names[0]), entry.place))
