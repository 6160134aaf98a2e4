"""Label masks on disk: numbers of one band, the list of their names, and a picture of instance numbers beside."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from sightline.data.readers.reader import SPLITS
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.geometry import decode_mask
from sightline.samples.sample import Mask, Region, Sample

LARGEST_NUMBER = 65535
IGNORE = {"id": 0, "name": "ignore"}


def write_masks(samples: Iterable[Sample], path: Path) -> list[Problem]:
    """Write PATH/[SPLIT/]images, masks, classes.json and, where there are instances, instances; 0 is no label. Masks that overlap cannot be held."""
    losses, folder = Losses("label-masks"), PictureFolder(path)
    classes: dict[str, int] = {}
    bases: set[str] = set()
    taken: set[str] = set()
    for sample in samples:
        if len(sample.pictures) != 1:
            losses.refuse("a sample with no or several pictures", sample)
            continue
        losses.of(sample, "turns", "attributes", "origin")
        split = sample.attributes.get("split")
        base = f"{split}/" if split in SPLITS.values() else ""
        named = [region for region in sample.annotations if isinstance(region.shape, Mask) and region.label not in (None, "", "ignore")]
        if len(named) < len(sample.annotations):
            losses.warn("regions that are no named masks", sample)
        single = [region for region in named if "instance" in region.attributes]
        whole = [region for region in named if "instance" not in region.attributes]
        whole += [region for region in single if region.label not in {other.label for other in whole}]
        if not all(_fits(region.attributes["instance"]) for region in single):
            losses.warn(f"instance numbers outside 1 to {LARGEST_NUMBER}, counted anew", sample)
            single = [replace(region, attributes={"instance": number}) for number, region in enumerate(single, 1)]
        ids = _numbers(sample, [(region, _number(region, classes)) for region in whole])
        instances = _numbers(sample, [(region, region.attributes["instance"]) for region in single])
        if ids is None or instances is None:
            losses.refuse("regions that overlap", sample)
            continue
        stem = PurePosixPath(folder.add(sample.pictures[0], f"{base}images")).stem
        if base + stem in taken:
            losses.refuse(f"a second sample on a picture named {stem}", sample)
            continue
        taken.add(base + stem)
        bases.add(base)
        _save(ids, path / base / "masks" / f"{stem}.png")
        if instances.any():
            _save(instances, path / base / "instances" / f"{stem}.png")
    listed = [IGNORE, *({"id": number, "name": name} for name, number in sorted(classes.items(), key=lambda entry: entry[1]))]
    for base in sorted(bases):
        write_text(path / base / "classes.json", json.dumps(listed, ensure_ascii=False, indent=1) + "\n")
    return losses.problems()


def _number(region: Region, classes: dict[str, int]) -> int:
    """The number of a region's class: the one it was read with where that is free, else the next."""
    label, given = region.label or "", region.attributes.get("class_id", 0)
    if label not in classes:
        taken = set(classes.values())
        free = _fits(given) and given not in taken
        classes[label] = int(given) if free else max(taken, default=0) + 1
    return classes[label]


def _fits(number: object) -> bool:
    return isinstance(number, int) and 0 < number <= LARGEST_NUMBER


def _numbers(sample: Sample, regions: Iterable[tuple[Region, int]]) -> np.ndarray | None:
    """(height, width) numbers of masks, 0 elsewhere; None when two of them overlap or one is not of the picture's size."""
    numbers = np.zeros((sample.pictures[0].height, sample.pictures[0].width), np.uint16)
    for region, number in regions:
        assert isinstance(region.shape, Mask)
        pixels = decode_mask(region.shape)
        if pixels.shape != numbers.shape or numbers[pixels].any():
            return None
        numbers[pixels] = number
    return numbers


def _save(numbers: np.ndarray, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers.astype(np.uint8) if numbers.max() < 256 else numbers).save(target)
