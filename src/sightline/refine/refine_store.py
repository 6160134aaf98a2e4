"""A store whose boxes have become masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from sightline.progress import track
from sightline.refine.box_masks import Refiner
from sightline.samples.sample import Box, Region, RotatedBox, Sample
from sightline.samples.store import Store
from sightline.samples.upright_crops import box_around


def refine_store(refiner: Refiner, source: Path, out: Path) -> dict[str, int]:
    """Write the kept rows of `source` to `out` with a mask in place of every box and rotated box of their annotations; all else stays. Returns how many regions became masks, stayed, or have no area.

    Quarantined rows are not taken over: they are counted as such.
    """
    store = Store.open(source)
    counts: Counter[str] = Counter({"rows": 0, "masks": 0, "regions as they were": 0, "boxes without an area": 0})
    inputs = [{"id": store.lineage.id, "kind": "store"}]
    with Store.writer(out, config=refiner.id, inputs=inputs, maker={"refiner": refiner.id}) as writer:
        for sample in track((store[int(row)] for row in store.kept), "refine apply", len(store.kept), "rows"):
            writer.add(_refined(refiner, sample, counts))
            counts["rows"] += 1
    counts["quarantined rows left out"] = len(store) - len(store.kept)
    return dict(counts)


def _refined(refiner: Refiner, sample: Sample, counts: Counter[str]) -> Sample:
    found: list[Region] = list(sample.annotations)
    for number, picture in enumerate(sample.pictures):
        boxes = [place for place, one in enumerate(found) if one.picture == number and isinstance(one.shape, Box | RotatedBox)]
        own = [place for place in boxes if box_around(found[place].shape) is not None]
        counts["boxes without an area"] += len(boxes) - len(own)
        for place, region in zip(own, refiner.refine(picture, [found[place] for place in own]), strict=True):
            found[place] = region
        counts["masks"] += len(own)
        counts["regions as they were"] += sum(one.picture == number for one in sample.annotations) - len(boxes)
    return replace(sample, annotations=tuple(found))
