"""What the annotations of a sample say about its first picture, in the form that questions are made from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sightline.samples.sample import Box, Mask, Picture, Point, Polygon, Region, RotatedBox, Sample, Shape

PLACES = ("northwest", "northeast", "southwest", "southeast")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One object: its label, the quadrant of its centre (None: too near a midline to say), what is written on it."""

    label: str
    place: str | None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that may be asked about a picture."""

    ground: str | None
    """Ground label with the largest area."""
    objects: tuple[Fact, ...]
    """Objects known one by one."""
    present: frozenset[str]
    """Labels that are certainly there, countable or not; grounds apart."""
    uncounted: frozenset[str]
    """Labels that are there, but whose objects cannot be counted: known as an area only, or with difficult objects."""
    doubtful: frozenset[str]
    """Labels with too little area to be asked about either way."""
    text: str | None
    """What is written in the picture, if it is exactly one text."""
    partial: bool = False
    """A region is to be ignored (`DontCare`, a crowd): whatever lies there is not annotated, so nothing can be counted or denied."""


def facts_of(sample: Sample, *, ground: Collection[str], margin: float, least_share: float) -> Facts:
    """Facts about picture 0 of a sample.

    Objects are boxes, rotated boxes, polygons, points, and masks with the attribute `instance`; where a label has both boxes and masks, its boxes are counted. A mask
    without that attribute, or a label of the whole picture, says that something is there but not how many. `margin` is the share of the picture's side on either side of a
    midline in which a centre has no quadrant; `least_share` is the share of the picture below which an area is doubtful.
    """
    grounds: dict[str, float] = {}
    boxes: dict[str, list[Region]] = {}
    masks: dict[str, list[Region]] = {}
    areas: dict[str, float] = {}
    texts = set()
    partial = False
    for region in sample.annotations:
        if region.picture != 0:
            continue
        if region.attributes.get("ignore"):
            partial = True
            continue
        if "text" in region.attributes:
            texts.add(str(region.attributes["text"]))
        if region.label is None:
            continue
        if region.label in ground:
            grounds[region.label] = grounds.get(region.label, 0.0) + _share(region.shape, sample.pictures[0])
        elif isinstance(region.shape, Box | RotatedBox | Polygon | Point):
            boxes.setdefault(region.label, []).append(region)
        elif isinstance(region.shape, Mask) and "instance" in region.attributes:
            masks.setdefault(region.label, []).append(region)
        else:
            areas[region.label] = areas.get(region.label, 0.0) + _share(region.shape, sample.pictures[0])
    own = {**masks, **boxes}
    large = {label for label, share in areas.items() if share >= least_share}
    objects = tuple(_fact(region, label, sample.pictures[0], margin) for label, regions in own.items() for region in regions)
    difficult = {label for label, regions in own.items() if any(region.attributes.get("difficult") for region in regions)}
    return Facts(
        ground=max(grounds, key=lambda label: grounds[label]) if grounds else None,
        objects=objects,
        present=frozenset(own) | large,
        uncounted=frozenset(large - own.keys()) | (own.keys() if partial else difficult),
        doubtful=frozenset(areas.keys() - large - own.keys()),
        text=texts.pop() if len(texts) == 1 else None,
        partial=partial,
    )


def _share(shape: Shape | None, picture: Picture) -> float:
    """Share of the picture that an area covers; 1 for a label of the whole picture."""
    return sum(shape.runs[1::2]) / (shape.width * shape.height) if isinstance(shape, Mask) else 1.0


def _fact(region: Region, label: str, picture: Picture, margin: float) -> Fact:
    x, y = _centre(region.shape)
    across, down = x / picture.width - 0.5, y / picture.height - 0.5
    clear = abs(across) >= margin and abs(down) >= margin
    return Fact(label=label, place=PLACES[2 * (down > 0) + (across > 0)] if clear else None, text=str(region.attributes.get("text", "")))


def _centre(shape: Shape | None) -> tuple[float, float]:
    """Centre of a box, mean of a polygon's upright bounds or of a mask's pixels; px."""
    if isinstance(shape, RotatedBox):
        return shape.cx, shape.cy
    if isinstance(shape, Point):
        return shape.x, shape.y
    if isinstance(shape, Box):
        return (shape.x0 + shape.x1) / 2, (shape.y0 + shape.y1) / 2
    if isinstance(shape, Polygon):
        points = np.array(shape.points)
        x, y = (points.min(0) + points.max(0)) / 2
        return float(x), float(y)
    assert isinstance(shape, Mask)
    flat = np.flatnonzero(np.repeat(np.arange(len(shape.runs)) % 2, shape.runs))
    return float((flat // shape.height).mean()) + 0.5, float((flat % shape.height).mean()) + 0.5
