"""What the annotations of a sample let us ask about its first picture, and what they do not.

Three sorts of source say different things. Boxes and instance masks know single objects. A class mask knows areas: its connected components stand for objects. A label of the
whole picture says that something is there, and nothing about what is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sightline.data.components import Component, components_of
from sightline.data.labels import NEVER_SAID, LabelTable
from sightline.samples.codecs import Codec, rotated, round_trip_iou
from sightline.samples.frames import frame_of
from sightline.samples.geometry import corners, decode_mask, mask_area, rotated_iou
from sightline.samples.sample import Mask, Picture, Region, Regions, RotatedBox, Sample

_UNIT = 50
"""Cell of the reading order, in thousandths of the longest side."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When something may be asked."""

    table: LabelTable
    codec: Codec
    never: Collection[str] = ()
    """Labels, beside background, clutter and unknown, that are never said."""
    least_share: float = 0.005
    """Share of the picture below which an area is neither present nor absent."""
    least_fill: float = 0.25
    """Share of its rotated box that a component must fill to be asked for by box."""
    least_iou: float = 0.8
    """Rotated IoU of a box with what the codec makes of it, below which it is not used."""

    def said(self, label: str) -> bool:
        """Whether the label may stand in a text."""
        return self.table.canonical(label) not in NEVER_SAID | {self.table.canonical(never) for never in self.never}

    def related(self, one: str, other: str) -> bool:
        """Whether one label is the other, or wider than it: a car is there, so no one may say that no vehicle is."""
        return self.table.within(one, other) or self.table.within(other, one)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: an annotated box, an instance, or a component of a class mask. `box` is None for a point."""

    number: int
    label: str
    box: RotatedBox | None
    area: float
    """Area in px: of the component or the mask, else of the box."""
    region: Region
    """The annotation it comes from."""
    component: Component | None = None
    fault: str = ""
    """Why no question may use its box: `point`, `sparse` (it fills too little of it) or `guard` (the codec does not keep it)."""

    def boxed(self) -> Region:
        """The region that stands in a question or answer."""
        assert self.box is not None and not self.fault
        return Region(picture=self.region.picture, label=self.label, shape=self.box)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of text."""

    number: int
    text: str
    region: Region
    box: RotatedBox
    kept: bool
    """Whether the codec keeps its box."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that may be asked about a picture."""

    source: str
    width: int
    height: int
    shares: dict[str, float]
    """Labels that are certainly there, by the share of the picture that they cover, largest first."""
    doubtful: frozenset[str]
    """Labels that are asked about neither way: too little area, or only objects that are hard to see."""
    things: tuple[Thing, ...]
    hard: frozenset[str]
    """Doubtful labels that are there, but only as objects that are hard to see or in crowds."""
    uncounted: frozenset[str]
    """Labels whose number is not known."""
    closed: bool
    """Whether what is not annotated is not there: not where a region hides objects, or with labels of the whole picture only."""
    lines: tuple[Line, ...]
    left_out: Counter[str] = field(default_factory=Counter)
    """Annotations that no question is about, by reason."""
    masks: tuple[tuple[str, Mask], ...] = ()
    """Class masks, whether their label may be said or not: what owns which pixel."""

    def of(self, label: str) -> list[Thing]:
        """Objects of a label in reading order: rows of 50 thousandths of the longest side, from left to right."""
        unit = max(self.width, self.height) * _UNIT / 1000
        return sorted((thing for thing in self.things if thing.label == label), key=lambda thing: (*_cell(thing.box, unit), thing.number))

    @cached_property
    def owners(self) -> NDArray[np.int32]:
        """(height, width) number of the class mask at each pixel, counted from 1; 0 = ignored."""
        owners = np.zeros((self.height, self.width), np.int32)
        for number, (_, mask) in enumerate(self.masks, 1):
            owners[decode_mask(mask)] = number
        return owners

    def owned(self, thing: Thing) -> float:
        """Share of the pixels in a thing's box, ignored ones apart, that its label has; where there are no class masks, what boxes of other labels leave of it."""
        assert thing.box is not None
        if self.masks:
            inside = self.owners[_inside(thing.box, self.width, self.height)]
            own = [number for number, (label, _) in enumerate(self.masks, 1) if label == thing.label]
            return float(np.isin(inside, own).sum() / max(np.count_nonzero(inside), 1))
        others = (other.box for other in self.things if other.label != thing.label and other.box is not None)
        return 1.0 - sum(_common(thing.box, other) for other in others) / (thing.box.w * thing.box.h)


def known_of(sample: Sample, rules: Rules, picture: int = 0) -> Known:
    """What is known of one picture of a sample. A label with boxes is known by them, else by its instances, else by the components of its mask."""
    shown = sample.pictures[picture]
    regions = [region for region in sample.annotations if region.picture == picture and not region.attributes.get("target")]
    left_out: Counter[str] = Counter()
    lines = tuple(line for number, region in enumerate(regions) if (line := _line(number, region, shown, rules)))
    labelled = [(rules.table.canonical(region.label), region) for region in regions if region.label is not None and "text" not in region.attributes]
    nameless = [region for region in regions if region.label is None and _crowd(region)]
    hidden = nameless + [region for label, region in labelled if not rules.said(label) and not _is_area(region)]
    left_out["ignored"] += len(hidden)
    sayable = [(label, region) for label, region in labelled if rules.said(label)]
    crowds = {label for label, region in sayable if _crowd(region)}
    clear = [(label, region) for label, region in sayable if _is_clear(region)]
    left_out["crowd"] += sum(_crowd(region) for _, region in sayable)
    left_out["difficult"] += len(sayable) - len(clear) - sum(_crowd(region) for _, region in sayable)
    difficult = {label for label, region in sayable if region.attributes.get("difficult")}
    things, touching = _things(clear, shown, rules)
    areas = _areas(clear, things, shown)
    alone = {label for label, region in clear if not _is_area(region) or region.shape is None}
    shares = {label: share for label, share in sorted(areas.items(), key=lambda item: (-item[1], item[0])) if share >= rules.least_share or label in alone}
    left_out["too small an area"] += sum(thing.label not in shares for thing in things)
    return Known(
        source=sample.origin.source,
        width=shown.width,
        height=shown.height,
        shares=shares,
        doubtful=frozenset(({label for label, _ in sayable} | crowds | difficult) - shares.keys()),
        things=tuple(thing for thing in things if thing.label in shares),
        hard=frozenset((crowds | difficult) - shares.keys()),
        uncounted=frozenset(crowds | difficult | touching) | (frozenset(shares) if hidden else frozenset()),
        closed=bool(labelled) and not hidden and any(region.shape is not None for _, region in labelled),
        lines=lines,
        left_out=+left_out,
        masks=tuple((label, region.shape) for label, region in labelled if _is_area(region) and isinstance(region.shape, Mask)),
    )


def present_in(sample: Sample, rules: Rules) -> set[str]:
    """Labels that are certainly in the first picture, without a look at single objects: what statistics count."""
    shown = sample.pictures[0]
    labelled = [(rules.table.canonical(region.label), region) for region in sample.annotations if region.label is not None and region.picture == 0]
    clear = [(label, region) for label, region in labelled if rules.said(label) and "text" not in region.attributes and _is_clear(region)]
    areas = _areas(clear, [], shown)
    return {label for label, region in clear if areas[label] >= rules.least_share or not _is_area(region)}


def _is_clear(region: Region) -> bool:
    return not _crowd(region) and not region.attributes.get("difficult")


def _is_area(region: Region) -> bool:
    """Whether a region says where a class is but not how many of it there are."""
    return region.shape is None or (isinstance(region.shape, Mask) and "instance" not in region.attributes)


def _crowd(region: Region) -> bool:
    return any(region.attributes.get(name) for name in ("crowd", "iscrowd", "ignore"))


def _areas(clear: list[tuple[str, Region]], things: list[Thing], shown: Picture) -> dict[str, float]:
    """Share of the picture by label: of its masks where it has any, else of its objects."""
    painted: Counter[str] = Counter()
    boxed: dict[str, float] = {}
    for label, region in clear:
        if _is_area(region):
            painted[label] += mask_area(region.shape) if isinstance(region.shape, Mask) else shown.width * shown.height
    for thing in things:
        boxed[thing.label] = boxed.get(thing.label, 0.0) + thing.area
    return {label: (painted[label] or boxed.get(label, 0.0)) / (shown.width * shown.height) for label in {label for label, _ in clear}}


def _things(clear: list[tuple[str, Region]], shown: Picture, rules: Rules) -> tuple[list[Thing], set[str]]:
    """Objects, and labels whose components cannot be told apart or go on outside the picture."""
    by_label: dict[str, list[Region]] = {}
    for label, region in clear:
        if region.shape is not None:
            by_label.setdefault(label, []).append(region)
    found: list[Thing] = []
    unsure: set[str] = set()
    for label, regions in by_label.items():
        boxes = [region for region in regions if not isinstance(region.shape, Mask)]
        single = boxes or [region for region in regions if not _is_area(region)]
        for region in single:
            found.append(_single(len(found), label, region))
        for region in regions if not single else ():
            assert isinstance(region.shape, Mask)
            components = components_of(decode_mask(region.shape))
            if components.touching or any(component.on_border for component in components.found):
                unsure.add(label)
            found += [
                Thing(number=len(found) + place, label=label, box=component.box, area=component.area, region=region, component=component)
                for place, component in enumerate(components.found)
            ]
    return [replace(thing, fault=_fault(thing, shown, rules)) for thing in found], unsure


def _single(number: int, label: str, region: Region) -> Thing:
    """A thing of a box, an outline, a point or an instance's mask."""
    box = rotated(region.shape)
    area = float(mask_area(region.shape)) if isinstance(region.shape, Mask) else box.w * box.h if box else 0.0
    return Thing(number=number, label=label, box=box, area=area, region=region)


def _fault(thing: Thing, shown: Picture, rules: Rules) -> str:
    if thing.box is None:
        return "point"
    if thing.component is not None and thing.area < rules.least_fill * thing.box.w * thing.box.h:
        return "sparse"
    return "" if _kept(thing.box, shown, rules) else "guard"


def _kept(box: RotatedBox, shown: Picture, rules: Rules) -> bool:
    frame = frame_of(rules.codec.frame, shown.width, shown.height)
    return round_trip_iou(rules.codec, Regions(regions=(Region(shape=box),)), frame)[0] >= rules.least_iou


def _line(number: int, region: Region, shown: Picture, rules: Rules) -> Line | None:
    text = region.attributes.get("text")
    if not isinstance(text, str) or not text.strip() or region.attributes.get("difficult") or (box := rotated(region.shape)) is None:
        return None
    return Line(number=number, text=text, region=region, box=box, kept=_kept(box, shown, rules))


def _cell(box: RotatedBox | None, unit: float) -> tuple[int, int]:
    return (int(box.cy // unit), int(box.cx // unit)) if box else (0, 0)


def _inside(box: RotatedBox, width: int, height: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the pixels whose centre lies in a box."""
    outline = corners(box)
    (left, top), (right, bottom) = outline.min(0), outline.max(0)
    rows = np.arange(max(int(top), 0), min(int(np.ceil(bottom)), height))
    columns = np.arange(max(int(left), 0), min(int(np.ceil(right)), width))
    angle = np.radians(box.theta)
    dx, dy = columns[None, :] + 0.5 - box.cx, rows[:, None] + 0.5 - box.cy
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    y, x = np.nonzero((np.abs(along) <= box.w / 2) & (np.abs(across) <= box.h / 2))
    return y + (rows[0] if len(rows) else 0), x + (columns[0] if len(columns) else 0)


def _common(a: RotatedBox, b: RotatedBox) -> float:
    """Area that two boxes share, px."""
    iou = rotated_iou(a, b)
    return iou * (a.w * a.h + b.w * b.h) / (1 + iou)
