"""COCO: captions, instances and keypoints, one file per task and split, joined on their pictures.

    annotations/captions_train2017.json          {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"id", "image_id", "caption"}]}
    annotations/instances_train2017.json         annotations {"id", "image_id", "category_id", "bbox": [x, y, w, h], "area", "iscrowd", "segmentation"}, and "categories"
    annotations/person_keypoints_train2017.json  the same with "keypoints": [x, y, visible, ..] and "num_keypoints"

Files of one folder whose names differ in the task only belong together. A picture becomes one sample: its captions as turns, its instances as regions; an annotation that stands in two files
under one id is one region. An outline becomes a Polygon; several outlines, or runs, become a Mask; a box alone stays a Box. `bbox`, `area`, `crowd`, `instance` (the published id) and keypoints
are attributes of the region.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import AnnotationReader
from sightline.data.readers.caption_reader import caption_turns
from sightline.data.readers.coco_masks import are_numbers, fill, is_number, read_outline, read_runs
from sightline.data.readers.coco_writing import split_of_tag, write_coco
from sightline.data.readers.files import HEAD, picture_folder, read_json, refuse, within
from sightline.data.readers.reader import Row
from sightline.errors import Problem, Refused
from sightline.samples.sample import Box, Origin, Picture, Polygon, Region, Sample, Shape

_TASK = re.compile(r"(captions|instances|person_keypoints|stuff)_(.+)")
_FOLDER = "annotations"
_WHOLE = '{"images": [{"id", "file_name"}], "annotations": [{"id", "image_id"}]}'


class Coco(AnnotationReader):
    """COCO and every data set in its form."""

    kind: Literal["coco"] = "coco"
    split: list[str] | None = None
    """Splits to read, all when absent; told from the names of the files (train2017 is `train`) or of their folder."""
    pictures: str | None = None
    """Folder of the pictures, relative to the folder that holds the annotations; found from the name of the file when absent."""
    wanted: ClassVar[str] = _WHOLE

    def reason(self, file: Path) -> str | None:
        """Images with file names, and annotations or categories, at the ends of the file."""
        ends = both_ends(file)
        known = b'"images"' in ends and b'"file_name"' in ends and any(key in ends for key in (b'"annotations"', b'"image_id"', b'"categories"'))
        return "has images with file names, and annotations" if known and b'"segments_info"' not in ends else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture of the wanted splits, over all groups of files at `path`."""
        groups: dict[tuple[Path, str], list[Path]] = {}
        for file in self.chosen(path):
            groups.setdefault((file.parent, tag_of(file)), []).append(file)
        for (_, tag), files in groups.items():
            split = split_of(tag, files[0].parent)
            if self.split is None or split in self.split:
                yield from _rows(files, tag, split, self.pictures)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture with its captions and regions. Refused with every annotation that is no region of it."""
        annotations = row.data["annotations"]
        size = row.data["size"]
        if annotations and size is not None and size != (pictures[0].width, pictures[0].height):
            found = f"{pictures[0].width}x{pictures[0].height} px upright, annotated as {size[0]}x{size[1]}"
            return [refuse("size-mismatch", row.place, found, "regions in the px of the picture", "take the picture that was annotated, upright")]
        regions: list[Region] = []
        problems: list[Sample | Problem] = []
        for annotation in annotations:
            try:
                regions.append(_region(annotation, row.data["labels"], pictures[0]))
            except ValueError as error:
                place = f"{row.place} annotation {str(annotation.get('id'))[:20]}"
                problems.append(refuse("bad-annotation", place, str(error), "an outline, runs or a box on the picture", "mend the annotation, or remove it"))
        references = row.data["references"]
        split = {"split": row.data["split"]} if row.data["split"] else {}
        attributes = {**split, **({"references": references} if references else {})}
        sample = Sample(id=row.id, pictures=pictures, turns=caption_turns(references), annotations=tuple(regions), attributes=attributes, origin=origin)
        return problems or [sample]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/annotations/captions_SPLIT.json and instances_SPLIT.json, and the pictures in PATH/SPLIT; samples without a split go to `all`."""
        return write_coco(samples, path)


def both_ends(file: Path) -> bytes:
    """The first and the last bytes of a file: the keys of a JSON object stand at either end when its lists are long."""
    with file.open("rb") as stream:
        head = stream.read(HEAD)
        stream.seek(max(HEAD, file.stat().st_size - HEAD))
        return head + b"\n" + stream.read(HEAD)


def tag_of(file: Path) -> str:
    """The name of a file without its task: train2017 for captions_train2017.json. A file that is named otherwise has the name of its folder where that is a split."""
    match = _TASK.fullmatch(file.stem)
    return match[2] if match else file.parent.name if split_of_tag(file.parent.name) else file.stem


def pictures_of(file: Path, tag: str, given: str | None, names: Iterable[object]) -> Path:
    """The folder of the pictures: `given`, or one that is named by the tag, beside the annotations."""
    base = file.parent.parent if file.parent.name == _FOLDER else file.parent
    return picture_folder(base, given, names, (tag, f"images/{tag}", "images", "JPEGImages", "data"))


def split_of(tag: str, folder: Path) -> str | None:
    """The split that a tag, or else the folder of the file, begins with."""
    return split_of_tag(tag) or split_of_tag(folder.name)


@dataclass
class _Listed:
    """What the files of one group say of one picture."""

    name: str
    size: tuple[int, int] | None
    captions: list[str] = field(default_factory=list)
    annotations: dict[Any, dict[str, Any]] = field(default_factory=dict)


def _rows(files: Sequence[Path], tag: str, split: str | None, pictures: str | None) -> Iterator[Row | Problem]:
    listed: dict[Any, _Listed] = {}
    labels: dict[Any, str] = {}
    for file in files:
        value = read_whole(file, _WHOLE)
        yield from _images(value["images"], listed, file)
        for identity, name in read_categories(value, file).items():
            if labels.setdefault(identity, name) != name:
                found = f"category {identity} is {name!r} here and {labels[identity]!r} before"
                yield refuse("id-conflict", str(file), found, "one name for each id", "read the files one by one")
        yield from _annotations(value["annotations"], listed, labels, file)
    root = pictures_of(files[0], tag, pictures, (one.name for one in listed.values()))
    for identity, one in listed.items():
        place = f"{files[0]}:image {identity}"
        picture = within(root, one.name, place)
        if isinstance(picture, Problem):
            yield picture
            continue
        data = {
            "split": split,
            "references": one.captions,
            "annotations": list(one.annotations.values()),
            "labels": {annotation["category_id"]: labels[annotation["category_id"]] for annotation in one.annotations.values()},
            "size": one.size,
        }
        yield Row(id=f"{tag}/{one.name}", place=place, number=str(identity), pictures=(str(picture),), data=data)


def read_whole(file: Path, form: str) -> dict[str, Any]:
    """A JSON object with the lists `images` and `annotations`. Refused otherwise."""
    value = read_json(file)
    lists = [value.get(key) for key in ("images", "annotations")] if isinstance(value, dict) else []
    if len(lists) != 2 or not all(isinstance(one, list) for one in lists):
        raise Refused(refuse("wrong-shape", str(file), f"a JSON {type(value).__name__} without the lists images and annotations", form, "name another file"))
    return value


def read_categories(value: Mapping[str, Any], file: Path) -> dict[Any, str]:
    """Names of the categories by id: ids have holes. Refused with each entry that is none."""
    listed = value.get("categories", [])
    rows = listed if isinstance(listed, list) else [listed]
    broken = [row for row in rows if not isinstance(row, dict) or not is_id(row.get("id")) or not isinstance(row.get("name"), str)]
    if broken:
        raise Refused(refuse("bad-category", str(file), f"{str(row)[:80]} among the categories", '{"id", "name"}', "mend the entry") for row in broken)
    return {row["id"]: row["name"] for row in rows}


def is_id(value: object) -> bool:
    """Whether a JSON value can be an id."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def _images(rows: Sequence[Any], listed: dict[Any, _Listed], file: Path) -> Iterator[Problem]:
    for number, row in enumerate(rows):
        place = f"{file}:images row {number}"
        if not isinstance(row, dict) or not is_id(row.get("id")) or not isinstance(row.get("file_name"), str):
            yield refuse("wrong-shape", place, str(row)[:80], '{"id", "file_name", "width", "height"}', "mend the row")
            continue
        width, height = row.get("width"), row.get("height")
        one = _Listed(name=row["file_name"], size=(width, height) if isinstance(width, int) and isinstance(height, int) else None)
        before = listed.setdefault(row["id"], one)
        if (before.name, before.size) != (one.name, one.size):
            found = f"image {row['id']} is {one.name!r} here and {before.name!r} before, of sizes {one.size} and {before.size}"
            yield refuse("id-conflict", place, found[:300], "one picture for each id", "read the files one by one")


def _annotations(rows: Sequence[Any], listed: Mapping[Any, _Listed], labels: Mapping[Any, str], file: Path) -> Iterator[Problem]:
    seen: set[Any] = set()
    for number, row in enumerate(rows):
        place = f"{file}:annotations row {number}"
        one = listed.get(row["image_id"]) if isinstance(row, dict) and is_id(row.get("image_id")) else None
        if one is None:
            image = row.get("image_id") if isinstance(row, dict) else row
            yield refuse("unknown-picture", place, f"image_id {str(image)[:60]}", "the id of a row in `images`", "mend the row")
        elif "caption" in row:
            if isinstance(row["caption"], str) and row["caption"].strip():
                one.captions.append(row["caption"])
            else:
                yield refuse("empty-caption", place, f"{str(row['caption'])[:60]!r} as caption", "a caption with text", "remove the caption")
        elif not is_id(row.get("category_id")) or row["category_id"] not in labels:
            yield refuse("unknown-category", place, f"category_id {str(row.get('category_id'))[:60]}", "the id of a row in `categories`", "mend the row")
        else:
            identity = row["id"] if is_id(row.get("id")) else (file, number)
            before = one.annotations.setdefault(identity, {})
            differ = [key for key in ("category_id", "bbox") if key in before and before[key] != row.get(key)]
            if differ or identity in seen:
                found = f"annotation {identity} a second time" if identity in seen else f"annotation {identity} with another {' and '.join(differ)} than before"
                yield refuse(
                    "id-conflict", place, found, "one annotation for each id, the same in all files of a split", "mend the ids, or read the files one by one"
                )
            seen.add(identity)
            before.update(row)


def _region(annotation: Mapping[str, Any], labels: Mapping[Any, str], picture: Picture) -> Region:
    """ValueError when the annotation has no shape on the picture."""
    attributes: dict[str, Any] = {"crowd": bool(annotation.get("iscrowd", 0))}
    if is_id(annotation.get("id")):
        attributes["instance"] = annotation["id"]
    for key, known in (("area", is_number), ("bbox", are_numbers), ("keypoints", are_numbers), ("num_keypoints", is_number)):
        if (value := annotation.get(key)) is not None:
            if not known(value):
                raise ValueError(f"{key} {str(value)[:60]}")
            attributes[key] = value
    return Region(label=labels[annotation["category_id"]], attributes=attributes, shape=_shape(annotation, picture))


def _shape(annotation: Mapping[str, Any], picture: Picture) -> Shape:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return read_runs(segmentation, picture.width, picture.height)
    outlines = [read_outline(outline) for outline in segmentation or []] if isinstance(segmentation, list | None) else [read_outline(segmentation)]
    if len(outlines) > 1:
        return fill(outlines, picture.width, picture.height)
    if outlines:
        return Polygon(points=tuple((x, y) for x, y in outlines[0].tolist()))
    return box_of(annotation.get("bbox"))


def box_of(bbox: Any) -> Box:
    """The box of [x, y, w, h]. ValueError when it is none or encloses nothing."""
    if not are_numbers(bbox) or len(bbox) != 4 or min(bbox[2:]) <= 0:
        raise ValueError(f"bbox {str(bbox)[:60]}, which is no box")
    x, y, w, h = (float(number) for number in bbox)
    return Box(x0=x, y0=y, x1=x + w, y1=y + h)
