"""Rotated boxes and masks: exact arithmetic in pixels, x right, y down, origin at the outer corner of the top-left pixel; degrees, clockwise on screen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sightline.samples.sample import Mask, RotatedBox

Points = NDArray[np.float64]
"""(n, 2): x, y."""

_SQUARE = 1e-6
"""Relative difference of the sides below which a box is a square, whose angle is only known modulo 90."""
_TIE = 1e-9
_UNIT = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])


def corners(box: RotatedBox) -> Points:
    """The four corners, (4, 2), in the order top-left, top-right, bottom-right, bottom-left of the unrotated box."""
    angle = math.radians(box.theta)
    cosine, sine = math.cos(angle), math.sin(angle)
    dx = np.array([-box.w, box.w, box.w, -box.w]) / 2
    dy = np.array([-box.h, -box.h, box.h, box.h]) / 2
    return np.stack([box.cx + cosine * dx - sine * dy, box.cy + sine * dx + cosine * dy], axis=1)


def canonical(cx: float, cy: float, w: float, h: float, theta: float) -> RotatedBox:
    """The same rectangle in le90: w >= h and -90 <= theta < 90; a square has -45 <= theta < 45."""
    if w < h:
        w, h, theta = h, w, theta + 90.0
    theta = (theta + 90.0) % 180.0 - 90.0
    if abs(w - h) < _SQUARE * w:
        theta = (theta + 45.0) % 90.0 - 45.0
    # A tiny negative angle rounds up to the excluded end of its range in the modulo above.
    theta = theta if theta < 90.0 else -90.0
    return RotatedBox(cx=float(cx), cy=float(cy), w=float(w), h=float(h), theta=float(theta))


def convex_hull(points: Points) -> Points:
    """Corners of the convex hull in order of rising angle on screen, without collinear ones (Andrew's monotone chain, 1979)."""
    ordered: list[tuple[float, float]] = sorted({(x, y) for x, y in points.tolist()})
    if len(ordered) < 3:
        return np.array(ordered, dtype=np.float64)

    def half(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for x, y in sequence:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        return chain[:-1]

    return np.array(half(ordered) + half(ordered[::-1]), dtype=np.float64)


def min_area_rect(points: Points) -> RotatedBox:
    """The rectangle of least area around the points, le90 (rotating calipers: one of its sides lies on a side of the hull).

    Among rectangles whose areas agree to 1e-9 the one of smallest |theta| is taken. Points on one line, or a single point, are first widened to pixels of half a px each way.
    """
    hull = convex_hull(points)
    if len(hull) < 3:
        hull = convex_hull(np.concatenate([hull + step for step in _UNIT - 0.5]))
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.arctan2(edges[:, 1], edges[:, 0])
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    along, across = cosine * hull[:, 0] + sine * hull[:, 1], cosine * hull[:, 1] - sine * hull[:, 0]
    x0, x1, y0, y1 = along.min(1), along.max(1), across.min(1), across.max(1)
    areas = (x1 - x0) * (y1 - y0)
    best: RotatedBox | None = None
    for i in np.flatnonzero(areas <= areas.min() + _TIE):
        x, y, c, s = (x0[i] + x1[i]) / 2, (y0[i] + y1[i]) / 2, cosine[i, 0], sine[i, 0]
        box = canonical(c * x - s * y, s * x + c * y, x1[i] - x0[i], y1[i] - y0[i], math.degrees(angles[i]))
        if best is None or abs(box.theta) < abs(best.theta):
            best = box
    assert best is not None
    return best


def pixel_corners(pixels: NDArray[np.bool_]) -> Points:
    """Corner points of the boundary pixels of a (height, width) mask: centres would shrink every box by a pixel."""
    padded = np.pad(pixels, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    y, x = np.nonzero(pixels & ~inside)
    low = np.stack([x, y], axis=1).astype(np.float64)
    return np.concatenate([low + step for step in _UNIT])


def shoelace(points: Points) -> float:
    """Signed area of a polygon; positive when its corners run clockwise on screen."""
    x, y = points[:, 0], points[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def rotated_iou(a: RotatedBox, b: RotatedBox) -> float:
    """Intersection over union of two rotated boxes, 0..1, by clipping one by the other (Sutherland and Hodgman, 1974)."""
    clipped = [(float(x), float(y)) for x, y in corners(a)]
    sides = corners(b)
    for (px, py), (qx, qy) in zip(sides.tolist(), np.roll(sides, -1, axis=0).tolist(), strict=True):
        inside = [(qx - px) * (y - py) - (qy - py) * (x - px) for x, y in clipped]
        kept: list[tuple[float, float]] = []
        for i, (x, y) in enumerate(clipped):
            (ux, uy), before = clipped[i - 1], inside[i - 1]
            if (before >= 0) != (inside[i] >= 0):
                t = before / (before - inside[i])
                kept.append((ux + t * (x - ux), uy + t * (y - uy)))
            if inside[i] >= 0:
                kept.append((x, y))
        clipped = kept
        if not clipped:
            return 0.0
    common = abs(shoelace(np.array(clipped)))
    union = a.w * a.h + b.w * b.h - common
    return common / union if union > 0 else 0.0


def encode_mask(pixels: NDArray[np.bool_]) -> Mask:
    """Column-major runs of a (height, width) mask, zero run first: the uncompressed form of COCO."""
    height, width = pixels.shape
    masks = encode_labels(pixels.astype(np.uint8))
    return masks.get(1) or Mask(width=width, height=height, runs=(width * height,) if width * height else ())


def decode_mask(mask: Mask) -> NDArray[np.bool_]:
    """The (height, width) pixels of a mask. ValueError when its runs do not fill it."""
    if sum(mask.runs) != mask.width * mask.height or any(run < 0 for run in mask.runs):
        raise ValueError(f"runs of sum {sum(mask.runs)} for a mask of {mask.width}x{mask.height} px")
    values = np.arange(len(mask.runs)) % 2 == 1
    return np.repeat(values, mask.runs).reshape(mask.width, mask.height).T


def mask_area(mask: Mask) -> int:
    """Pixels that are set."""
    return sum(mask.runs[1::2])


def encode_labels(ids: NDArray[np.integer]) -> dict[int, Mask]:
    """One mask per value of a (height, width) label picture, in rising order of value, from a single pass over its runs."""
    height, width = ids.shape
    flat = ids.ravel(order="F")
    if not flat.size:
        return {}
    cuts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.empty((len(cuts) + 1, 2), np.int64)
    bounds[0, 0], bounds[1:, 0], bounds[:-1, 1], bounds[-1, 1] = 0, cuts, cuts, flat.size
    values = flat[bounds[:, 0]]
    masks: dict[int, Mask] = {}
    for value in np.unique(values).tolist():
        edges = bounds[values == value].ravel()
        runs = [int(edges[0]), *(edges[1:] - edges[:-1]).tolist()]
        if edges[-1] < flat.size:
            runs.append(flat.size - int(edges[-1]))
        masks[value] = Mask(width=width, height=height, runs=tuple(runs))
    return masks
