"""Objects with known masks: what a refiner learns from and is judged on. They are the regions of a store that are masks or outlines; a mask of a class is cut into its connected pieces. Torch-free."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sightline.data.components import components_of
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.progress import Progress
from sightline.samples.geometry import canonical, decode_mask, mask_area
from sightline.samples.painting import painted
from sightline.samples.pictures import band_pixels
from sightline.samples.sample import Box, Mask, Polygon, Region, RotatedBox, Sample
from sightline.samples.store import Store
from sightline.samples.upright_crops import TurnedBox, Window, box_around

_WHOLE = -1
_NOT_LEARNT = ("crowd", "iscrowd", "ignore")


class ObjectChoice(Config):
    """Which regions are objects."""

    labels: tuple[str, ...] | None = Field(default=None, strict=False)
    """Labels of objects; null = all."""
    leave_out: tuple[str, ...] = Field(default=(), strict=False)
    """Labels that are no objects, such as the ground that everything lies on."""
    least_pixels: int = Field(default=16, ge=1)
    """Smallest object."""
    most_share: float = Field(default=1.0, gt=0, le=1)
    """Largest share of its picture that an object's box may cover."""
    split: str | None = None
    """Only samples whose attribute `split` is this; null = all."""
    unlabelled: Literal["background", "ignore"] = "background"
    """What pixels without any label are: background, or pixels that are neither learnt from nor counted."""


class Jitter(Config):
    """How far a box is off, as far as a language model errs: uniform within these bounds."""

    centre: float = Field(default=0.1, ge=0, le=1)
    """By the length of each side."""
    size: float = Field(default=0.1, ge=0, lt=1)
    """Of each side, as a share."""
    angle: float = Field(default=5.0, ge=0, le=45)
    """Degrees; only boxes that are turned at all."""


@dataclass(frozen=True, kw_only=True)
class KnownObject:
    """Object of row `row` of store number `store`: region `region` of its annotations, or piece `piece` of it. `box`: the rectangle of least area around it."""

    store: int
    row: int
    region: int
    piece: int
    label: str
    box: TurnedBox


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of several stores in order, and why regions are not among them."""

    found: tuple[KnownObject, ...]
    left: dict[str, int]
    """Reason -> regions, or pieces of them."""

    def labels(self) -> tuple[str, ...]:
        """Labels in order of their first object."""
        return tuple(dict.fromkeys(one.label for one in self.found))


def find_objects(stores: Sequence[Store], choice: ObjectChoice) -> Objects:
    """Look through the annotations of all kept rows; no picture is decoded. Refused where nothing is found."""
    found: list[KnownObject] = []
    left: Counter[str] = Counter()
    progress = Progress("objects", sum(len(store.kept) for store in stores), "rows")
    for number, store in enumerate(stores):
        aside = store.aside()
        for row in store.kept.tolist():
            sample = aside[row]
            if choice.split is not None and sample.attributes.get("split") != choice.split:
                left["another split"] += len(sample.annotations)
            else:
                found += _objects_of(sample, number, row, choice, left)
            progress.advance()
    progress.close()
    if not found:
        said = ", ".join(f"{count} {reason}" for reason, count in left.items()) or "no regions at all"
        allowed, fix = "regions that are masks or polygons", "read a set with masks, or change what is left out"
        raise Refused(Problem(code="refine/no-objects", place=", ".join(str(store.path) for store in stores), found=said, allowed=allowed, fix=fix))
    return Objects(found=tuple(found), left=dict(left))


def _objects_of(sample: Sample, store: int, row: int, choice: ObjectChoice, left: Counter[str]) -> list[KnownObject]:
    known: list[KnownObject] = []
    single = {region.label for region in sample.annotations if _is_single(region)}
    for number, region in enumerate(sample.annotations):
        why = _why_not(region, choice, single)
        if why:
            left[why] += 1
            continue
        for piece, box, area in _pieces(region, sample, left):
            picture = sample.pictures[region.picture]
            if area < choice.least_pixels:
                left["too small"] += 1
            elif box.w * box.h > choice.most_share * picture.width * picture.height:
                left["too large"] += 1
            else:
                known.append(KnownObject(store=store, row=row, region=number, piece=piece, label=region.label or "", box=box))
    return known


def _is_single(region: Region) -> bool:
    """Whether a region is one object, rather than all pixels of a class."""
    return isinstance(region.shape, Polygon) or "instance" in region.attributes


def _why_not(region: Region, choice: ObjectChoice, single: set[str | None]) -> str:
    if not isinstance(region.shape, Mask | Polygon):
        return "without a mask"
    if any(region.attributes.get(name) for name in _NOT_LEARNT):
        return "crowds"
    if (choice.labels is not None and region.label not in choice.labels) or region.label in choice.leave_out:
        return "of other labels"
    return "masks of a class whose objects are known singly" if region.label in single and not _is_single(region) else ""


def _pieces(region: Region, sample: Sample, left: Counter[str]) -> list[tuple[int, TurnedBox, int]]:
    """(number, box, pixels) of the objects of a region."""
    if _is_single(region) or not isinstance(region.shape, Mask):
        box = box_around(region.shape)
        if box is None:
            left["without an area"] += 1
            return []
        return [(_WHOLE, box, mask_area(region.shape) if isinstance(region.shape, Mask) else round(box.w * box.h))]
    pieces = components_of(decode_mask(region.shape))
    left["specks"] += pieces.dropped
    return [(number, _turned(one.box), one.area) for number, one in enumerate(pieces.found)]


def _turned(box: RotatedBox) -> TurnedBox:
    return TurnedBox(cx=box.cx, cy=box.cy, w=box.w, h=box.h, theta=box.theta)


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One sample made ready: pixels by picture number and bands, and what of them is not known."""

    sample: Sample
    pixels: NDArray[np.uint8]
    """(H, W, B)."""
    ignored: NDArray[np.bool_]
    """(H, W): pixels that count nowhere."""


class Looking:
    """Samples of the stores, decoded when they are asked for; the last few are kept. Without `bands` no picture is decoded."""

    def __init__(self, stores: Sequence[Store], bands: Sequence[str], choice: ObjectChoice, keep: int = 32) -> None:
        self.stores, self.bands, self.choice, self.keep = list(stores), tuple(bands), choice, keep
        self._kept: OrderedDict[tuple[int, int, int], Looked] = OrderedDict()

    def at(self, known: KnownObject) -> Looked:
        """The sample of an object, and the picture that it lies on."""
        sample = self.stores[known.store][known.row]
        number = sample.annotations[known.region].picture
        key = (known.store, known.row, number)
        if key not in self._kept:
            picture = sample.pictures[number]
            own = [region for region in sample.annotations if region.picture == number]
            ignored = painted([one for one in own if any(one.attributes.get(name) for name in _NOT_LEARNT)], picture.width, picture.height)
            if self.choice.unlabelled == "ignore":
                ignored |= ~painted([one for one in own if isinstance(one.shape, Mask | Polygon)], picture.width, picture.height)
            blank = np.zeros((picture.height, picture.width, 0), np.uint8)
            pixels = band_pixels(picture, self.bands, self.stores[known.store].path) if self.bands else blank
            self._kept[key] = Looked(sample=sample, pixels=pixels, ignored=ignored)
        self._kept.move_to_end(key)
        while len(self._kept) > self.keep:
            self._kept.popitem(last=False)
        return self._kept[key]

    def mask(self, known: KnownObject) -> NDArray[np.bool_]:
        """(H, W): the object's pixels."""
        looked = self.at(known)
        height, width = looked.ignored.shape
        region = looked.sample.annotations[known.region]
        if known.piece == _WHOLE or not isinstance(region.shape, Mask):
            return painted([region], width, height)
        piece = components_of(decode_mask(region.shape)).found[known.piece]
        found = np.zeros((height, width), bool)
        found[piece.top : piece.top + piece.window.shape[0], piece.left : piece.left + piece.window.shape[1]] = piece.window
        return found

    def classes(self, known: KnownObject, names: Sequence[str]) -> NDArray[np.int16]:
        """(H, W): number of the label of each pixel among `names`, -1 where it has none of them or is not known. Single objects lie over masks of classes."""
        looked = self.at(known)
        height, width = looked.ignored.shape
        found = np.full((height, width), -1, np.int16)
        picture = looked.sample.annotations[known.region].picture
        own = [one for one in looked.sample.annotations if one.picture == picture and isinstance(one.shape, Mask | Polygon)]
        for region in sorted(own, key=_is_single):
            if (label := region.label) is not None and label in names:
                found[painted([region], width, height)] = list(names).index(label)
        found[looked.ignored] = -1
        return found


def upright(known: KnownObject, mask: NDArray[np.bool_]) -> TurnedBox:
    """The upright box around an object's pixels (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):  # an outline between centres of pixels
        return TurnedBox(cx=known.box.cx, cy=known.box.cy, w=known.box.w, h=known.box.h)
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return TurnedBox(cx=(x0 + x1) / 2, cy=(y0 + y1) / 2, w=float(x1 - x0), h=float(y1 - y0))


def jittered(box: TurnedBox, jitter: Jitter, rng: np.random.Generator) -> TurnedBox:
    """A box that is off by what `jitter` allows."""
    dx, dy, dw, dh, turn = rng.uniform(-1, 1, 5)
    frame = Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=1.0, width=0, height=0)
    [[x, y]] = frame.to_source(np.array([[dx * jitter.centre * box.w, dy * jitter.centre * box.h]])).tolist()
    angle = box.theta + turn * jitter.angle if box.theta else 0.0
    return TurnedBox(cx=x, cy=y, w=box.w * (1 + dw * jitter.size), h=box.h * (1 + dh * jitter.size), theta=angle)


def shape_of(box: TurnedBox) -> Box | RotatedBox:
    """The box as a region's shape: upright where it is not turned."""
    if box.theta == 0:
        return Box(x0=box.cx - box.w / 2, y0=box.cy - box.h / 2, x1=box.cx + box.w / 2, y1=box.cy + box.h / 2)
    return canonical(box.cx, box.cy, box.w, box.h, box.theta)


def counts_by_label(objects: Objects) -> dict[str, Any]:
    """Objects of each label, and what was left out, for reports."""
    return {"objects": dict(Counter(one.label for one in objects.found)), "left out": objects.left}
