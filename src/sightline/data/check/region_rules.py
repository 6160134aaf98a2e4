"""Rules about regions: inside their picture, with an area, in the right convention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.outlines import TURNED, UPRIGHT, Reading, better
from sightline.data.check.row_facts import ASIDE, Finding, RowFacts, regions_of
from sightline.data.check.survey import Survey, distinct, listed, percent
from sightline.samples.sample import Box, Mask, Point, Polygon, Region, RotatedBox, Sample, Shape

_ROUNDED = 1e-6
_NOWHERE = (math.nan, math.nan, math.nan, math.nan)
Boxes = NDArray[np.float64]
"""(n, 4): x0, y0, x1, y1."""


@lru_cache(maxsize=1 << 12)
def extent(shape: Shape | None) -> tuple[float, float, float, float] | None:
    """Least x and y, largest x and y of the corners, px; not finite where a corner is not, None for what has no corners."""
    if isinstance(shape, Box):
        (left, right), (top, bottom) = sorted((shape.x0, shape.x1)), sorted((shape.y0, shape.y1))
        return left, top, right, bottom
    if isinstance(shape, RotatedBox):
        if not all(map(math.isfinite, (shape.cx, shape.cy, shape.w, shape.h, shape.theta))):
            return _NOWHERE
        c, s = abs(math.cos(math.radians(shape.theta))), abs(math.sin(math.radians(shape.theta)))
        across, down = (shape.w * c + shape.h * s) / 2, (shape.w * s + shape.h * c) / 2
        return shape.cx - across, shape.cy - down, shape.cx + across, shape.cy + down
    if isinstance(shape, Point):
        return shape.x, shape.y, shape.x, shape.y
    if not isinstance(shape, Polygon) or not shape.points:
        return None
    xs, ys = zip(*shape.points, strict=True)
    # No order holds among numbers that are none: least and largest would miss them.
    return (min(xs), min(ys), max(xs), max(ys)) if math.isfinite(sum(xs) + sum(ys)) else _NOWHERE


def _where(region: Region, sample: Sample, tolerance: float) -> str | None:
    """`outside`, `past` or None."""
    # The runs of a mask take long to hash, and cannot leave their picture.
    corners = None if isinstance(region.shape, Mask) else extent(region.shape)
    if corners is None:
        return None
    picture = sample.pictures[region.picture]
    left, top, right, bottom = corners
    if not all(map(math.isfinite, corners)) or right <= 0 or bottom <= 0 or left >= picture.width or top >= picture.height:
        return "outside"
    # Corners of quadrangles are numbers of pixels, the last of which is one less than the size.
    beyond = _ROUNDED - 1 if isinstance(region.shape, RotatedBox) else tolerance
    past = left < -tolerance or top < -tolerance or right > picture.width + beyond or bottom > picture.height + beyond
    return "past" if past else None


def region_outside(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Regions that lie wholly outside their picture, or nowhere."""
    yield from _located("region-outside", "outside", sample, row, config)


def region_past_edge(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Regions that reach past the edge of their picture; rotated boxes count as soon as a corner leaves the last pixel."""
    yield from _located("region-past-edge", "past", sample, row, config)


def _located(rule: str, where: str, sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    regions = regions_of(sample) if row.labels else []
    found = tuple(number for number, region in enumerate(regions) if _where(region, sample, config.tolerance) == where)
    if found:
        picture = sample.pictures[regions[found[0]].picture]
        said = listed((_said(regions[number]) for number in found), 3)
        yield Finding(
            rule=rule, found=f"{len(found)} of {len(regions)} in {picture.width}x{picture.height} px: {said}", regions=found, figures={"regions": len(found)}
        )


def _said(region: Region) -> str:
    corners = extent(region.shape)
    place = "" if corners is None else " ".join(f"{round(value, 1):g}" for value in corners)
    return f"{region.label or type(region.shape).__name__} {place}"


def region_degenerate(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Regions without an extent: less than a pixel wide or high, corners in the wrong order, empty masks, outlines of two points."""
    regions = regions_of(sample) if row.labels else []
    found = tuple(number for number, region in enumerate(regions) if _is_degenerate(region, row.areas[number], config.least_region))
    if found:
        said = listed((_said(regions[number]) for number in found), 3)
        yield Finding(rule="region-degenerate", found=f"{len(found)} of {len(regions)}: {said}", regions=found, figures={"regions": len(found)})


def _is_degenerate(region: Region, area: float, least: float) -> bool:
    shape = region.shape
    if isinstance(shape, Box):
        return not (shape.x1 - shape.x0 >= least and shape.y1 - shape.y0 >= least)
    if isinstance(shape, RotatedBox):
        return not (shape.w >= least and shape.h >= least)
    return isinstance(shape, Polygon | Mask) and not area > 0


def region_aside(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Regions marked as a crowd, difficult, truncated or to be ignored: no objects to count or to ask about."""
    found = tuple(number for number, aside in enumerate(row.aside) if aside)
    if found:
        regions = regions_of(sample)
        marks = [mark for number in found for mark in _marks(regions[number], config)]
        figures = {mark: float(marks.count(mark)) for mark in sorted(set(marks))}
        yield Finding(rule="region-aside", found=", ".join(f"{int(count)} {mark}" for mark, count in figures.items()), regions=found, figures=figures)


def _marks(region: Region, config: CheckConfig) -> list[str]:
    marks = [name.removeprefix("is") for name in ASIDE if region.attributes.get(name)]
    return marks or [region.label or ""]


def crowded_picture(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """More objects than a text can list."""
    if len(row.labels) > config.crowded:
        yield Finding(rule="crowded-picture", found=f"{len(row.labels)} regions, over {config.crowded}", figures={"regions": len(row.labels)})


def tiny_objects(survey: Survey) -> Iterator[Finding]:
    """Sources whose objects are mostly smaller than what encoders resolve."""
    for source, rows in survey.sources.items():
        areas = np.array([area for row in distinct(rows) for area in row.areas if area > 0])
        tiny = int((areas < survey.config.tiny_area).sum())
        if len(areas) >= survey.config.enough and tiny >= survey.config.tiny_share * len(areas):
            said = (
                f"{tiny} of {len(areas)} objects ({percent(tiny, len(areas))}) have under {survey.config.tiny_area:g} px; the median has {np.median(areas):.0f}"
            )
            yield Finding(rule="tiny-objects", found=said, source=source, figures={"tiny": tiny, "objects": len(areas)})


def _faults(boxes: Boxes, sizes: Boxes, config: CheckConfig) -> float:
    """Share of boxes that cannot be meant: corners in the wrong order, under a pixel, or outside the picture."""
    low, high = boxes[:, :2], boxes[:, 2:]
    broken = ((high - low) < config.least_region).any(1) | (low < -config.tolerance).any(1) | (high > sizes + config.tolerance).any(1)
    return float(broken.mean())


_READINGS: dict[str, Callable[[Boxes, Boxes], Boxes]] = {
    "x, y, width, height taken as corners": lambda box, size: np.hstack([box[:, :2], box[:, :2] + box[:, 2:]]),
    "corners taken as x, y, width, height": lambda box, size: np.hstack([box[:, :2], box[:, 2:] - box[:, :2]]),
    "y before x": lambda box, size: box[:, [1, 0, 3, 2]],
    "fractions 0..1 left as px": lambda box, size: box * np.hstack([size, size]),
    "0..1000 left as px": lambda box, size: box * np.hstack([size, size]) / 1000,
    "centre and size taken as corners": lambda box, size: np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2]),
}
"""What a source's four numbers may have meant, and the corners in px that they then are."""
_BETTER = 0.2
"""Share of the faults that may remain for another reading to be believed."""


def wrong_convention(survey: Survey) -> Iterator[Finding]:
    """Boxes that are impossible as they stand and possible in another convention; angles that are radians; outlines that lie on nothing, and on objects in another convention.

    Tested over all boxes of a source, never on one.
    """
    for source, rows in survey.sources.items():
        own = distinct(rows)
        upright = np.array([box for row in own for box in row.boxes], np.float64).reshape(-1, 6)
        angles = np.array([angle for row in own for angle in row.angles])
        enough, said = survey.config.enough, []
        if len(upright) >= enough:
            said.append(_outlined([row.upright for row in own], UPRIGHT, enough) or _meant(upright[:, :4], upright[:, 4:], survey.config))
        if len(angles) >= enough:
            radians = f"all {len(angles)} rotated boxes are within {np.pi:.2f} degrees of upright: the angles are radians"
            said.append(radians if _in_radians(angles) else _outlined([row.turned for row in own], TURNED, enough))
        for found in filter(None, said):
            yield Finding(rule="wrong-convention", found=found, source=source, figures={"boxes": len(upright) + len(angles)})


def _outlined(rows: Sequence[Sequence[Sequence[float]]], readings: Mapping[str, Reading], enough: int) -> str | None:
    """What the outlines of at least `enough` boxes say."""
    found = np.array([box for row in rows for box in row], np.float64).reshape(-1, len(readings) + 1)
    return better(found, readings) if len(found) >= enough else None


def _meant(boxes: Boxes, sizes: Boxes, config: CheckConfig) -> str | None:
    given = _faults(boxes, sizes, config)
    if given >= config.convention_share:
        faults = {name: _faults(read(boxes, sizes), sizes, config) for name, read in _READINGS.items()}
        name = min(faults, key=lambda name: faults[name])
        if faults[name] <= _BETTER * given:
            return f"{name}: {percent(given, 1)} of {len(boxes)} boxes are impossible as they stand, {percent(faults[name], 1)} read so"
    wide = sizes.max(1) > 1250
    if wide.sum() >= config.enough and 900 < boxes[wide].max() <= 1000:
        return f"0..1000 left as px: no number of {int(wide.sum())} boxes is over 1000 in pictures up to {int(sizes.max())} px"
    return None


def _in_radians(angles: NDArray[np.float64]) -> bool:
    """Angles of many boxes that all lie within 1.6 or 3.2 degrees of an axis, spread evenly, are radians."""
    apart = np.abs((angles + 45) % 90 - 45)
    turned = apart[apart > 1e-3]
    return len(turned) >= max(10, 0.2 * len(angles)) and bool(turned.max() <= np.pi + 0.01 and np.quantile(turned, 0.5) > 0.3 and turned.max() > 1.2)
