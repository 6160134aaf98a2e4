"""Where the outlines of boxes lie on the picture, as they stand and as other conventions would have them.

Boxes of a wrong convention are often possible ones: an angle of the other sign leaves every box in its picture. The picture knows better: along the outline of an object colours change, and
elsewhere they do not. One box proves nothing; over all boxes of a source the right reading stands out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.samples.sample import Box, Region, RotatedBox

Numbers = NDArray[np.float64]
"""(n, 5) centre, width, height and degrees in px of the picture, or (n, 2) sizes of pictures."""
Reading = Callable[[Numbers, Numbers], Numbers]
EACH = 4
"""One row of so many is looked at: a picture is decoded whole for it."""
MOST_PIXELS = 1 << 22
"""Larger pictures are not decoded for this."""
_MOST_BOXES = 32
"""Of a row."""
_POINTS = np.linspace(0.08, 0.92, 24)
_BESIDE = 1.5
"""Px between an outline and the places inside and outside that are compared."""


def _scaled(boxes: Numbers, across: Numbers | float, down: Numbers | float) -> Numbers:
    """Numbers of x and width times one factor, those of y and height times another."""
    return np.stack([boxes[:, 0] * across, boxes[:, 1] * down, boxes[:, 2] * across, boxes[:, 3] * down, boxes[:, 4]], axis=1)


def _padded(boxes: Numbers, sizes: Numbers) -> Numbers:
    return _scaled(boxes, sizes[:, 0] / sizes.max(1), sizes[:, 1] / sizes.max(1))


def _per_axis(boxes: Numbers, sizes: Numbers) -> Numbers:
    return _scaled(boxes, sizes.max(1) / sizes[:, 0], sizes.max(1) / sizes[:, 1])


def _upright_y(boxes: Numbers, sizes: Numbers) -> Numbers:
    return boxes[:, [1, 0, 3, 2, 4]]


def _in_shares(swapped: Reading) -> Reading:
    """The same mistake made with shares of the sides instead of px."""
    return lambda boxes, sizes: _scaled(swapped(_scaled(boxes, 1 / sizes[:, 0], 1 / sizes[:, 1]), sizes), sizes[:, 0], sizes[:, 1])


_BOTH: dict[str, Reading] = {
    "0..100 read as 0..1000": lambda boxes, sizes: _scaled(boxes, 10, 10),
    "0..1000 read as 0..100": lambda boxes, sizes: _scaled(boxes, 0.1, 0.1),
    "fractions 0..1 read as 0..1000": lambda boxes, sizes: _scaled(boxes, 1000, 1000),
    "numbers per axis read as of the padded square": _padded,
    "numbers of the padded square read as per axis": _per_axis,
}
_WIDTH_FIRST: Reading = lambda boxes, sizes: boxes[:, [0, 1, 3, 2, 4]]  # noqa: E731
_Y_FIRST: Reading = lambda boxes, sizes: boxes[:, [1, 0, 2, 3, 4]]  # noqa: E731
TURNED: Mapping[str, Reading] = {
    "width and height swapped": _WIDTH_FIRST,
    "width and height swapped, per axis": _in_shares(_WIDTH_FIRST),
    "angles counter-clockwise": lambda boxes, sizes: boxes * (1, 1, 1, 1, -1),
    "angles in radians": lambda boxes, sizes: boxes * (1, 1, 1, 1, 180 / np.pi),
    "y before x": _Y_FIRST,
    "y before x, per axis": _in_shares(_Y_FIRST),
    "corner taken as the centre": lambda boxes, sizes: boxes + np.pad(boxes[:, 2:4] / 2, ((0, 0), (0, 3))),
    **_BOTH,
}
"""What the numbers of a source's rotated boxes may have meant, and the boxes that they then are."""
UPRIGHT: Mapping[str, Reading] = {"y before x": _upright_y, "y before x, per axis": _in_shares(_upright_y), **_BOTH}
"""The same of upright boxes. Corners taken as sizes and the like make impossible boxes, which need no picture."""


def contrasts(picture: NDArray[np.uint8], boxes: Numbers) -> Numbers:
    """(n,) change of colour across the outlines of boxes (n, 5), 0..255: of each side the mean over its length, so that texture cancels out, and the mean of the four.

    0 where less than half of an outline lies in the picture.
    """
    height, width = picture.shape[:2]
    angles = np.radians(boxes[:, 4])
    along = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across = np.stack([-np.sin(angles), np.cos(angles)], axis=1)
    sides = [(across, 3, along, 2), (across, 3, -along, 2), (along, 2, across, 3), (along, 2, -across, 3)]
    found, inside = [], []
    for run, length, out, reach in sides:
        middle = boxes[:, :2] + out * boxes[:, reach, None] / 2
        places = middle[:, None] + run[:, None] * (boxes[:, length, None] * (_POINTS - 0.5))[:, :, None]
        pair = [np.floor(places + sign * _BESIDE * out[:, None]) for sign in (-1, 1)]
        valid = np.logical_and.reduce([(one >= 0).all(2) & (one[..., 0] < width) & (one[..., 1] < height) for one in pair])
        x, y = (np.stack([np.where(valid, one[..., axis], 0) for one in pair]).astype(np.int64) for axis in (0, 1))
        colours = picture[y, x].astype(np.float64)
        change = ((colours[1] - colours[0]) * valid[..., None]).sum(1) / np.maximum(valid.sum(1), 1)[:, None]
        found.append(np.abs(change).max(1) * valid.any(1))
        inside.append(valid.mean(1))
    return np.mean(found, axis=0) * (np.mean(inside, axis=0) >= 0.5)


def looked(pictures: Sequence[NDArray[np.uint8] | None], regions: Sequence[Region]) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    """For each upright box and for each rotated one the change of colour across its outline: as it stands, then in the order of UPRIGHT or TURNED.

    `pictures`: upright pixels (height, width, 3) of a row's pictures; None for those that are not looked at.
    """
    found: list[tuple[tuple[float, ...], ...]] = []
    for kind, readings in ((Box, UPRIGHT), (RotatedBox, TURNED)):
        rows: list[tuple[float, ...]] = []
        for number, picture in enumerate(pictures):
            boxes = [_five(shape) for region in regions if region.picture == number and isinstance(shape := region.shape, kind)][:_MOST_BOXES]
            known = np.array([box for box in boxes if np.isfinite(box).all()], np.float64).reshape(-1, 5)
            if picture is None or not len(known):
                continue
            size = np.tile(np.array([[picture.shape[1], picture.shape[0]]], np.float64), (len(known), 1))
            read = [contrasts(picture, known), *(contrasts(picture, reading(known, size)) for reading in readings.values())]
            rows += [tuple(round(value, 1) for value in row) for row in np.stack(read, axis=1).tolist()]
        found.append(tuple(rows))
    return found[0], found[1]


def _five(shape: Box | RotatedBox) -> tuple[float, ...]:
    if isinstance(shape, RotatedBox):
        return shape.cx, shape.cy, shape.w, shape.h, shape.theta
    return (shape.x0 + shape.x1) / 2, (shape.y0 + shape.y1) / 2, shape.x1 - shape.x0, shape.y1 - shape.y0, 0.0


_LEAST = 6.0
"""Change of colour across outlines below which nothing is said."""
_TIMES = 1.5
"""How much larger it must be in another reading, on the mean."""
_SHARE = 0.6
"""Share of the boxes of which it must be larger."""


def better(rows: Numbers, readings: Mapping[str, Reading]) -> str | None:
    """The reading that outlines of (boxes, readings + 1) speak for, with the figures; None where they stand right, or nothing can be told."""
    given, others = rows[:, 0], rows[:, 1:]
    place = int(others.mean(0).argmax())
    best = others[:, place]
    if best.mean() < max(_LEAST, _TIMES * given.mean()) or (best > given).mean() < _SHARE:
        return None
    said = f"colours change by {best.mean():.0f} of 255 across the outlines of {len(rows)} boxes read so, and by {given.mean():.0f} as they stand"
    return f"{list(readings)[place]}: {said}"
