"""Ways in which boxes are misread: what an answer's boxes become when its numbers meant something else than the codec takes them for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sightline.samples.geometry import canonical
from sightline.samples.sample import RotatedBox

Reading = Callable[[RotatedBox, float, float], RotatedBox]
"""(box as read, width and height of the picture in px) -> box as it may have been meant."""


def _extent(box: RotatedBox) -> tuple[float, float]:
    """Width and height as written: a box that le90 has stood upright is laid down again."""
    return (box.h, box.w) if abs(box.theta) > 45 else (box.w, box.h)


def _transposed(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return canonical(box.cy, box.cx, box.w, box.h, 90 - box.theta)


def _centre_transposed(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return canonical(box.cy, box.cx, box.w, box.h, box.theta)


def _sides_swapped(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return canonical(box.cx, box.cy, box.h, box.w, box.theta)


def _mirrored(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return canonical(box.cx, box.cy, box.w, box.h, -box.theta)


def _from_bottom(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return canonical(box.cx, height - box.cy, box.w, box.h, -box.theta)


def _from_corner(box: RotatedBox, width: float, height: float) -> RotatedBox:
    across, down = _extent(box)
    return canonical(box.cx + across / 2, box.cy + down / 2, box.w, box.h, box.theta)


def _corners(box: RotatedBox, far: tuple[float, float]) -> RotatedBox:
    x, y = far
    return canonical((box.cx + x) / 2, (box.cy + y) / 2, abs(x - box.cx), abs(y - box.cy), 0.0)


def _two_corners(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return _corners(box, _extent(box))


def _two_corners_y_first(box: RotatedBox, width: float, height: float) -> RotatedBox:
    across, down = _extent(box)
    return _corners(box, (down, across))


def _scaled(factor: float) -> Reading:
    return lambda box, width, height: canonical(box.cx * factor, box.cy * factor, box.w * factor, box.h * factor, box.theta)


def _in_px(box: RotatedBox, width: float, height: float) -> RotatedBox:
    return _scaled(1000 / max(width, height))(box, width, height)


def _axes(box: RotatedBox, across: float, down: float) -> RotatedBox:
    x, y = _extent(box)
    turned = box.theta - (90 if box.theta > 45 else -90 if box.theta < -45 else 0)
    return canonical(box.cx * across, box.cy * down, x * across, y * down, turned)


def _per_axis(box: RotatedBox, width: float, height: float) -> RotatedBox:
    longest = max(width, height)
    return _axes(box, width / longest, height / longest)


def _padded(box: RotatedBox, width: float, height: float) -> RotatedBox:
    longest = max(width, height)
    return _axes(box, longest / width, longest / height)


CONVENTIONS: Mapping[str, Reading] = {
    "x and y swapped": _transposed,
    "x and y of the centre swapped": _centre_transposed,
    "width and height swapped": _sides_swapped,
    "angle turned the other way": _mirrored,
    "y counted from the bottom": _from_bottom,
    "corner in place of the centre": _from_corner,
    "two corners (x, y, y, x) in place of centre and sides": _two_corners_y_first,
    "two corners (x, y, x, y) in place of centre and sides": _two_corners,
    "grid of 100, read as 1000": _scaled(10.0),
    "grid of 1000, read as 100": _scaled(0.1),
    "px, read as a grid of 1000": _in_px,
    "scaled by each axis, read as padded to a square": _per_axis,
    "padded to a square, read as scaled by each axis": _padded,
}
"""What the numbers may have meant, in words -> the boxes that this makes."""
