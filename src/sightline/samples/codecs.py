"""Region codecs: regions of a sample to text and back.

    Regions --converted--> shapes the codec holds --Frame--> numbers of its grid --render--> text, control tokens, marks
    text of a model --parse--> Text and Regions in px of the source picture, and a problem for each place that is not well formed

Law: parse(render(regions)) is the same regions within the codec's quantum. Numbers are rounded half up and kept within the grid, a side is never shorter than one
step. What a format cannot hold, a shape that leaves its grid for instance, is seen by `round_trip_iou`, always computed in px of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from sightline.errors import Problem, Refused
from sightline.kinds import Family
from sightline.samples.frames import Frame, FrameName
from sightline.samples.geometry import Points, canonical, corners, decode_mask, min_area_rect, pixel_corners, rotated_iou
from sightline.samples.grammar import Grammar, GrammarName
from sightline.samples.sample import Box, Item, Mask, Point, Polygon, Region, Regions, RotatedBox, Shape, Tap

CODEC = Family("codec")

FORMAT_ERROR = "samples/format-error"
"""Code of every problem that `parse` finds: its share among answers is the metric `format_error`."""
_SLACK = 1.001
"""For rounding of the arithmetic itself."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What stands in a rendering and is no text: the feature vector, or the tap, of region number `index` of the item."""

    kind: Literal["feature", "tap"]
    index: int


@dataclass(frozen=True, kw_only=True)
class ControlToken:
    """A control token of the codec. It is no text, so that a label that looks like one stays a label."""

    token: str


Part = str | ControlToken | Mark
Parsed = tuple[tuple[Item, ...], tuple[Problem, ...]]


class Codec(Protocol):
    """What every kind of codec offers."""

    @property
    def frame(self) -> FrameName:
        """The frame that its numbers are of."""
        ...

    @property
    def control(self) -> tuple[str, ...]:
        """Control tokens that it adds to the tokenizer."""
        ...

    @property
    def holds(self) -> tuple[type[Shape], ...]:
        """Types of shape that come back as the same place."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Kinds of Mark that it writes: `feature` into questions, `tap` into answers."""
        ...

    @property
    def quantum(self) -> float:
        """Largest error of a coordinate, as a share of the frame's side."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Its fields, as pydantic gives them."""
        ...

    def render(self, regions: Regions, frame: Frame) -> tuple[Part, ...]:
        """What is written for one phrase with its shapes. Refused lists every shape and label that cannot be written."""
        ...

    def parse(self, text: str, frame: Frame) -> Parsed:
        """Text and Regions (in source px, of picture 0) of any text whatever, in order, and what was not well formed. Never raises."""
        ...

    def grammar(self, said: GrammarName = "regions") -> Grammar | None:
        """The texts of one rendering, and of nothing else; every one of them is read without a problem. None where a codec has none."""
        ...


def converted(shape: Shape | None, holds: Sequence[type[Any]], convert: bool) -> Shape:
    """The shape itself where its type is among `holds`; with `convert`, else what the table makes of it. Refused where neither is so, or the shape is unsound."""
    held = isinstance(shape, tuple(holds))
    after = _ORDER[_ORDER.index(type(shape)) + 1 :] if type(shape) in _ORDER else ()
    target = next((kind for kind in after if kind in holds), None)
    if not held and (target is None or not convert):
        said = "the whole picture" if shape is None else type(shape).__name__
        fix = "set `convert: true` in the codec" if target is not None else "choose a codec that holds it, or drop the region"
        raise Refused(refusal("shape-not-held", said, ", ".join(kind.__name__ for kind in holds), fix))
    points = _outline(shape)
    if not len(points) or not np.isfinite(points).all() or not _sound(shape):
        raise Refused(
            refusal("shape-unsound", str(shape)[:120], "a shape with finite coordinates and no negative side, which holds something", "drop the region")
        )
    if held or target is None:
        assert shape is not None
        return shape
    return _MADE[target](points)


def rotated(shape: Shape | None) -> RotatedBox | None:
    """The rectangle of a shape with an area, le90; None for points, taps, the whole picture and masks without a pixel."""
    if isinstance(shape, RotatedBox):
        return canonical(shape.cx, shape.cy, shape.w, shape.h, shape.theta)
    if isinstance(shape, Box):
        return canonical((shape.x0 + shape.x1) / 2, (shape.y0 + shape.y1) / 2, shape.x1 - shape.x0, shape.y1 - shape.y0, 0.0)
    points = _outline(shape)
    return min_area_rect(points) if isinstance(shape, Mask | Polygon) and len(points) else None


def round_trip_iou(codec: Codec, regions: Regions, frame: Frame) -> list[float]:
    """For each region, how much of it is left after render and parse: rotated IoU in px of the source, 0..1.

    A point counts 1 within the quantum, else 0; a tap counts 1: what it loses is the head's affair. All are 0 where another number of regions comes back. Refused as `render` is.
    """
    text = text_of(codec.render(regions, frame))
    found = [region.shape for region in regions_in(codec.parse(text, frame)[0])]
    if len(found) != len(regions.regions):
        return [0.0] * len(regions.regions)
    wanted = [converted(region.shape, codec.holds, True) for region in regions.regions]
    points = [shape for shape in found if isinstance(shape, Point)]
    return [
        1.0 if isinstance(other, Tap) else _kept(codec, shape, points, frame) if isinstance(shape, Point) else _overlap(rotated(shape), rotated(other))
        for shape, other in zip(wanted, found, strict=True)
    ]


def regions_in(items: Iterable[Item]) -> list[Region]:
    """All regions that items name, in order."""
    return [region for item in items if isinstance(item, Regions) for region in item.regions]


def text_of(parts: Sequence[Part]) -> str:
    """A rendering as one text: control tokens by their names, marks left out."""
    return "".join(part if isinstance(part, str) else part.token for part in parts if not isinstance(part, Mark))


def _kept(codec: Codec, point: Point, found: Sequence[Point], frame: Frame) -> float:
    """Whether a point came back: any place will do, because a format may order points."""
    across, down = codec.quantum * frame.width / frame.scale[0] * _SLACK, codec.quantum * frame.height / frame.scale[1] * _SLACK
    return float(any(abs(point.x - one.x) <= across and abs(point.y - one.y) <= down for one in found))


def _overlap(a: RotatedBox | None, b: RotatedBox | None) -> float:
    return rotated_iou(a, b) if a is not None and b is not None and min(a.w, a.h, b.w, b.h) > 0 else 0.0


def _outline(shape: Shape | None) -> Points:
    """Points (n, 2) whose hull is the shape's; none where it holds nothing."""
    if isinstance(shape, RotatedBox):
        return corners(shape)
    if isinstance(shape, Mask):
        whole = sum(shape.runs) == shape.width * shape.height and min(shape.runs, default=-1) >= 0
        return pixel_corners(decode_mask(shape)) if whole else np.zeros((0, 2))
    if isinstance(shape, Box | Point):
        return np.array(astuple(shape), dtype=np.float64).reshape(-1, 2)
    return np.array(shape.points if isinstance(shape, Polygon) else (), dtype=np.float64).reshape(-1, 2)


def _sound(shape: Shape | None) -> bool:
    """Without negative sides."""
    if isinstance(shape, Box):
        return shape.x0 <= shape.x1 and shape.y0 <= shape.y1
    return not isinstance(shape, RotatedBox) or min(shape.w, shape.h) >= 0


def _upright(points: Points) -> Box:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


def _middle(points: Points) -> Point:
    x, y = ((points.min(0) + points.max(0)) / 2).tolist()
    return Point(x=x, y=y)


_ORDER: tuple[type[Any], ...] = (Mask, Polygon, RotatedBox, Box, Point)
"""A shape becomes the next type of these that is held."""
_MADE: Mapping[type[Any], Callable[[Points], Shape]] = {RotatedBox: min_area_rect, Box: _upright, Point: _middle}
"""What is made of the outline of a shape: each as tight as it can be."""


def refusal(code: str, found: str, allowed: str, fix: str) -> Problem:
    """A problem of regions that cannot be written."""
    return Problem(code=f"samples/{code}", place="regions", found=found, allowed=allowed, fix=fix)
