"""Samples as COCO's files. What has no place there is named: other dialogues than captions, regions without a label, rotated boxes, points, and all attributes but COCO's own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sightline.data.readers.caption_reader import captions_of
from sightline.data.readers.coco_masks import write_runs
from sightline.data.readers.files import within
from sightline.data.readers.reader import SPLITS
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_json
from sightline.samples.geometry import decode_mask, mask_area, shoelace
from sightline.samples.sample import Box, Mask, Polygon, Region, Sample

_TAG = re.compile(r"\w[\w.-]*")
_KEYS = {"crowd", "instance", "area", "bbox", "keypoints", "num_keypoints"}
"""Attributes of a region that COCO holds."""
_ALL = "all"
"""Tag of samples without a split."""


def write_coco(samples: Iterable[Sample], root: Path) -> list[Problem]:
    """Write annotations/captions_TAG.json and instances_TAG.json below `root` and the pictures in TAG/; the tag is the split, or the folder in the sample's id where that says the split."""
    losses, folder, categories = Losses("coco"), PictureFolder(root), dict[str, int]()
    files: dict[str, _Files] = {}
    for sample in samples:
        references = captions_of(sample)
        if references is None:
            losses.refuse("more than captions of one picture", sample)
            continue
        losses.of(sample, "weights", "origin")
        tag, inner = placed(sample)
        name = folder.add(sample.pictures[0], posixpath.normpath(f"{tag}/{inner}")).removeprefix(f"{tag}/")
        expected = {**({"split": split} if (split := split_of_tag(tag)) else {}), **({"references": references} if references else {})}
        if expected != sample.attributes:
            losses.warn("attributes", sample)
        if sample.id != f"{tag}/{name}":
            losses.warn("ids", sample)
        files.setdefault(tag, _Files()).add(sample, name, references, categories, losses)
    listed = [{"id": number, "name": label} for label, number in categories.items()]
    for tag, written in files.items():
        instances = {"images": written.images, "annotations": written.instances, "categories": listed}
        write_json(root / "annotations" / f"instances_{tag}.json", instances)
        if written.captions:
            write_json(root / "annotations" / f"captions_{tag}.json", {"images": written.images, "annotations": written.captions})
    return losses.problems()


def split_of_tag(tag: str) -> str | None:
    """The split that a name such as train2017 begins with."""
    word = re.match(r"[a-z]*", tag.lower())
    return SPLITS.get(word[0]) if word else None


def placed(sample: Sample) -> tuple[str, str]:
    """Tag, and folder below it: from the id where that is the path of the picture and agrees with the split, else the split alone."""
    split = sample.attributes.get("split")
    tag, _, rest = sample.id.partition("/")
    path = PurePosixPath(rest)
    usable = path.name == sample.pictures[0].name and _TAG.fullmatch(tag) and isinstance(within(Path(), rest, ""), Path)
    if usable and split_of_tag(tag) == split:
        return tag, path.parent.as_posix()
    return (split if isinstance(split, str) and split_of_tag(split) == split else _ALL), "."


class _Files:
    """Rows of the two files of one tag."""

    def __init__(self) -> None:
        self.images: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []
        self.instances: list[dict[str, Any]] = []
        self._taken: set[int] = set()

    def add(self, sample: Sample, name: str, references: list[str], categories: dict[str, int], losses: Losses) -> None:
        """Rows of one sample; what of it has no place is counted in `losses`."""
        number = len(self.images) + 1
        picture = sample.pictures[0]
        self.images.append({"id": number, "file_name": name, "width": picture.width, "height": picture.height})
        self.captions += [{"id": len(self.captions) + k, "image_id": number, "caption": text} for k, text in enumerate(references)]
        for region in sample.annotations:
            shape = written_shape(region)
            if shape is None or region.label is None:
                losses.warn("regions that are no outline, mask or box, or have no label", sample)
                continue
            if set(region.attributes) - _KEYS:
                losses.warn("attributes of regions", sample)
            category = categories.setdefault(region.label, len(categories) + 1)
            known = {key: region.attributes[key] for key in ("keypoints", "num_keypoints") if key in region.attributes}
            row = {"id": self._id(region), "image_id": number, "category_id": category, "iscrowd": int(bool(region.attributes.get("crowd"))), **shape, **known}
            self.instances.append(row)

    def _id(self, region: Region) -> int:
        wanted = region.attributes.get("instance")
        number = wanted if type(wanted) is int and wanted not in self._taken else max(self._taken, default=0) + 1
        self._taken.add(number)
        return number


def written_shape(region: Region) -> dict[str, Any] | None:
    """`segmentation`, `bbox` [x, y, w, h] and `area` in px of a region, the last two as published where it says them; None for shapes that COCO does not have."""
    shape = region.shape
    if isinstance(shape, Box):
        bounds, area, segmentation = (shape.x0, shape.y0, shape.x1, shape.y1), (shape.x1 - shape.x0) * (shape.y1 - shape.y0), []
    elif isinstance(shape, Polygon):
        points = np.array(shape.points, np.float64)
        bounds, area = (*points.min(0).tolist(), *points.max(0).tolist()), abs(shoelace(points))
        segmentation = [points.ravel().tolist()]
    elif isinstance(shape, Mask):
        bounds, area, segmentation = mask_bounds(shape), mask_area(shape), write_runs(shape)
    else:
        return None
    x0, y0, x1, y1 = bounds
    said = region.attributes
    return {"segmentation": segmentation, "bbox": said.get("bbox", [x0, y0, x1 - x0, y1 - y0]), "area": said.get("area", area)}


def mask_bounds(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that are set; zeros when there are none."""
    pixels = decode_mask(mask)
    columns, rows = np.flatnonzero(pixels.any(0)), np.flatnonzero(pixels.any(1))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if columns.size else (0, 0, 0, 0)
