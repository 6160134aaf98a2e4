"""COCO panoptic: every pixel belongs to one segment, thing or stuff; segments are the colours of a PNG.

    annotations/panoptic_val2017.json            {"images", "categories": [{"id", "name", "isthing"}],
                                                  "annotations": [{"image_id", "file_name": "1.png", "segments_info": [{"id", "category_id", "area", "bbox", "iscrowd"}]}]}
    annotations/panoptic_val2017/1.png           id of a pixel = red + 256 green + 65536 blue, 0 = no segment

A segment becomes one region with its mask; `instance` (the id), `thing`, `crowd`, `area` and `bbox` are its attributes.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from sightline.data.readers.annotation_reader import AnnotationReader
from sightline.data.readers.coco import both_ends, is_id, pictures_of, read_categories, read_whole
from sightline.data.readers.coco_writing import mask_bounds, placed, split_of_tag
from sightline.data.readers.files import refuse, within
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_json
from sightline.samples.geometry import decode_mask, encode_labels, mask_area
from sightline.samples.pictures import decode_labels, picture_bytes
from sightline.samples.sample import Mask, Origin, Picture, Region, Sample

_PREFIX = "panoptic_"
_COLOURS = 1 << 24
_WEIGHTS = np.array([1, 1 << 8, 1 << 16], np.int64)
"""Of red, green and blue in an id."""
_KEYS = {"instance", "thing", "crowd", "area", "bbox"}


class CocoPanoptic(AnnotationReader):
    """COCO panoptic segmentation."""

    kind: Literal["coco-panoptic"] = "coco-panoptic"
    split: list[str] | None = None
    """Splits to read, all when absent; told from the names of the files."""
    pictures: str | None = None
    """Folder of the pictures, relative to the folder that holds the annotations; found from the name of the file when absent."""
    wanted: ClassVar[str] = '{"images": [..], "annotations": [{"image_id", "file_name", "segments_info": [..]}], "categories": [..]}'

    def reason(self, file: Path) -> str | None:
        """Segments at one end of the file."""
        return "has segments_info" if b'"segments_info"' in both_ends(file) else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per annotated picture of the wanted splits."""
        for file in self.chosen(path):
            split = split_of_tag(file.stem.removeprefix(_PREFIX))
            if self.split is None or split in self.split:
                yield from self._rows(file, split)

    def _rows(self, file: Path, split: str | None) -> Iterator[Row | Problem]:
        value = read_whole(file, self.wanted)
        labels = read_categories(value, file)
        things = {row["id"]: bool(row.get("isthing", 1)) for row in value.get("categories", [])}
        tag = file.stem.removeprefix(_PREFIX)
        masks = next((folder for folder in (file.with_suffix(""), file.parent.parent / file.stem) if folder.is_dir()), file.with_suffix(""))
        names = {row["id"]: row.get("file_name") for row in value["images"] if isinstance(row, dict) and is_id(row.get("id"))}
        root = pictures_of(file, tag, self.pictures, names.values())
        for number, row in enumerate(value["annotations"]):
            place = f"{file}:annotations row {number}"
            if not isinstance(row, dict) or not is_id(row.get("image_id")) or row["image_id"] not in names:
                yield refuse("unknown-picture", place, str(row)[:80], "the image_id of a row in `images`", "mend the row")
                continue
            picture, mask = within(root, names[row["image_id"]], place), within(masks, row.get("file_name"), place)
            if isinstance(picture, Problem) or isinstance(mask, Problem):
                yield from (one for one in (picture, mask) if isinstance(one, Problem))
                continue
            segments = row.get("segments_info")
            used = (
                {one.get("category_id") for one in segments if isinstance(one, dict) and is_id(one.get("category_id"))} if isinstance(segments, list) else set()
            )
            known = {number: (name, things[number]) for number, name in labels.items() if number in used}
            data = {"split": split, "mask": str(mask), "segments": segments, "categories": known}
            yield Row(id=f"{tag}/{names[row['image_id']]}", place=place, number=str(row["image_id"]), pictures=(str(picture),), data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per segment."""
        try:
            ids = _read_ids(Path(row.data["mask"]), pictures[0], row.place)
            regions = _regions(ids, row.data["segments"], row.data["categories"], row.place)
        except Refused as refused:
            return list(refused.problems)
        attributes = {"split": row.data["split"]} if row.data["split"] else {}
        return [Sample(id=row.id, pictures=pictures, annotations=tuple(regions), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/annotations/panoptic_TAG.json, its PNG files beside it, and the pictures in PATH/TAG. Regions must be masks that do not overlap."""
        losses, folder = Losses("coco-panoptic"), PictureFolder(path)
        files: dict[str, dict[str, list[dict[str, Any]]]] = {}
        categories: dict[str, dict[str, Any]] = {}
        for sample in samples:
            if what := _unwritable(sample):
                losses.refuse(what, sample)
                continue
            losses.of(sample, "turns", "weights", "origin")
            if set(sample.attributes) - {"split"}:
                losses.warn("attributes", sample)
            if any(set(region.attributes) - _KEYS for region in sample.annotations):
                losses.warn("attributes of regions", sample)
            tag, inner = placed(sample)
            name = folder.add(sample.pictures[0], posixpath.normpath(f"{tag}/{inner}")).removeprefix(f"{tag}/")
            if sample.id != f"{tag}/{name}":
                losses.warn("ids", sample)
            value = files.setdefault(tag, {"images": [], "annotations": []})
            number = len(value["images"]) + 1
            picture = sample.pictures[0]
            value["images"].append({"id": number, "file_name": name, "width": picture.width, "height": picture.height})
            ids, segments = _painted(sample, categories)
            target = path / "annotations" / f"{_PREFIX}{tag}" / f"{number:012d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_png(ids))
            value["annotations"].append({"image_id": number, "file_name": target.name, "segments_info": segments})
        for tag, value in files.items():
            write_json(path / "annotations" / f"{_PREFIX}{tag}.json", {**value, "categories": list(categories.values())})
        return losses.problems()


def _read_ids(file: Path, picture: Picture, place: str) -> np.ndarray:
    """Ids (height, width) of a PNG's colours. Refused when it is not there, is no RGB picture, or has another size than the picture."""
    if not file.is_file():
        raise Refused(refuse("missing-mask", place, f"{file} is no file", "a PNG of segments for every picture", "add it"))
    values = decode_labels(picture_bytes(file, place), f"{place} ({file})")
    if values.ndim != 3 or values.shape[:2] != (picture.height, picture.width):
        found = f"{file.name} of shape {values.shape} for a picture of height {picture.height} and width {picture.width}"
        raise Refused(refuse("mask-size", place, found, "an RGB picture of equal size", "fetch the PNG again"))
    return values.astype(np.int64) @ _WEIGHTS


def _regions(ids: np.ndarray, segments: Any, categories: Mapping[Any, tuple[str, bool]], place: str) -> list[Region]:
    """Refused with every segment that is none, has no pixels, or stands in the PNG alone."""
    masks = encode_labels(ids)
    masks.pop(0, None)
    regions: list[Region] = []
    problems: list[Problem] = []
    for segment in segments if isinstance(segments, list) else [segments]:
        known = isinstance(segment, dict) and is_id(segment.get("category_id")) and segment["category_id"] in categories and is_id(segment.get("id"))
        mask = masks.pop(segment["id"], None) if known else None
        if mask is None:
            fix = "a segment with a known category, whose id is a colour of the PNG"
            problems.append(refuse("bad-annotation", place, f"segment {str(segment)[:80]}", fix, "mend the segment"))
            continue
        label, thing = categories[segment["category_id"]]
        attributes = {"instance": segment["id"], "thing": thing, "crowd": bool(segment.get("iscrowd", 0))}
        attributes.update({key: segment[key] for key in ("area", "bbox") if key in segment})
        regions.append(Region(label=label, attributes=attributes, shape=mask))
    problems += [
        refuse("unknown-label", place, f"colour {number} of {mask_area(mask)} px", "ids of segments_info", "mend the row") for number, mask in masks.items()
    ]
    if problems:
        raise Refused(problems)
    return regions


def _unwritable(sample: Sample) -> str:
    if len(sample.pictures) != 1:
        return "other than one picture"
    masks = [region.shape for region in sample.annotations if isinstance(region.shape, Mask) and region.label is not None]
    if len(masks) < len(sample.annotations):
        return "regions that are no mask or have no label"
    picture = sample.pictures[0]
    covered = np.zeros((picture.height, picture.width), np.int64)
    for mask in masks:
        covered += decode_mask(mask)
    return "masks that overlap" if covered.max(initial=0) > 1 else "masks without pixels" if any(not mask_area(mask) for mask in masks) else ""


def _painted(sample: Sample, categories: dict[str, dict[str, Any]]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Ids (height, width) and the segments of a sample; new labels join `categories`."""
    picture = sample.pictures[0]
    ids = np.zeros((picture.height, picture.width), np.int64)
    segments: list[dict[str, Any]] = []
    taken: set[int] = set()
    for region in sample.annotations:
        assert isinstance(region.shape, Mask) and region.label is not None
        said = region.attributes
        wanted = said.get("instance")
        number = wanted if type(wanted) is int and 0 < wanted < _COLOURS and wanted not in taken else next(free for free in count(1) if free not in taken)
        taken.add(number)
        ids[decode_mask(region.shape)] = number
        thing = int(bool(said.get("thing", True)))
        category = categories.setdefault(region.label, {"id": len(categories) + 1, "name": region.label, "isthing": thing})
        x0, y0, x1, y1 = mask_bounds(region.shape)
        bbox, area = said.get("bbox", [x0, y0, x1 - x0, y1 - y0]), said.get("area", mask_area(region.shape))
        segments.append({"id": number, "category_id": category["id"], "iscrowd": int(bool(said.get("crowd"))), "bbox": bbox, "area": area})
    return ids, segments


def _png(ids: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((ids[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
