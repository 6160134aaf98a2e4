"""Codecs of rotated boxes: centre, height, width, angle; and the corners of the box before it is turned."""

from __future__ import annotations

import math
import re
from typing import ClassVar, Literal

from sightline.samples.codecs import rotated
from sightline.samples.frames import Frame, FrameName
from sightline.samples.geometry import canonical
from sightline.samples.grammar import Node, Number, form
from sightline.samples.sample import Box, RotatedBox, Shape
from sightline.samples.text_codecs import CHARACTERS, PhrasedCodec, Reading, bracketed, corner_numbers, listed, numbers


def _turned(box: RotatedBox, least: float) -> tuple[float, float, float]:
    """Width, height and whole degrees (rounded half up) of the same rectangle with the angle in [least, 90) or, where the range is 90 wide, in [least, least + 90)."""
    span = 180 if least == -90 else 90
    degrees = math.floor(box.theta + 0.5)
    turns = (degrees - least) // span
    width, height = (box.h, box.w) if span == 90 and turns % 2 else (box.w, box.h)
    return width, height, degrees - turns * span


def _size(width: float, height: float, frame: Frame) -> tuple[float, float]:
    """Sides in px of the source as shares of the frame's sides: of its width and of its height, whatever the angle."""
    return width * frame.scale[0] / frame.width, height * frame.scale[1] / frame.height


def _box(x: float, y: float, width: float, height: float, theta: float, frame: Frame) -> RotatedBox:
    """The rectangle of shares of the frame, in source px: made there first and turned then, so that its corners stay square."""
    cx, cy = frame.back(x * frame.width, y * frame.height)
    return canonical(cx, cy, width * frame.width / frame.scale[0], height * frame.height / frame.scale[1], theta)


def _angle(degrees: float) -> tuple[str, ...]:
    return () if -180 <= degrees <= 180 else (f"{degrees:g} outside -180..180 degrees",)


class XyhwtCodec(PhrasedCodec):
    """`{x,y,h,w,theta}`: centre, height and width on a grid of 1000, whole degrees clockwise on screen.

    Frame `square` scales all lengths alike, so that angles are true in the text too; with `source` x and w are parts of the width, y and h of the height, and theta stays
    that of the picture in px. Both are undone before anything is turned. A box without theta is upright.
    """

    kind: Literal["xyhwt"] = "xyhwt"
    frame: FrameName = "square"
    """The frame whose sides are 1000. `square`: lengths x 1000 / longest side; `source`: per axis."""
    angle: Literal["le90", "le45"] = "le90"
    """le90: w is the longer side, theta in -90..89; le45: w is the side nearest the x axis, theta in -45..44."""

    holds: ClassVar[tuple[type[Shape], ...]] = (RotatedBox, Box)
    top: ClassVar[float] = 1000
    limit: ClassVar[float] = 1000
    pattern: ClassVar[re.Pattern[str]] = re.compile(rf"\{{(?P<body>{CHARACTERS}{{1,160}})(?P<close>\}}|\Z)")

    def write(self, shape: Shape, frame: Frame) -> str:
        """See PhrasedCodec."""
        box = rotated(shape)
        assert box is not None
        width, height, degrees = _turned(box, -90 if self.angle == "le90" else -45)
        cx, cy = frame.to(box.cx, box.cy)
        across, down = _size(width, height, frame)
        sides = [max(self.step, self.number(side)) for side in (down, across)]
        return "{" + ",".join(f"{value:.0f}" for value in (self.number(cx / frame.width), self.number(cy / frame.height), *sides, degrees)) + "}"

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See PhrasedCodec."""
        found = listed(match, (5, 4))
        if isinstance(found, Reading):
            return found
        theta = found[4] if len(found) == 5 else 0.0
        (x, y, height, width), faults = self.within(found[:4])
        if min(width, height) <= 0:
            return Reading(faults=(*faults, "a side of nothing"))
        return Reading(shapes=(_box(x, y, width, height, theta, frame),), faults=(*faults, *_angle(theta)))

    def one(self) -> Node:
        """See PhrasedCodec. Either side may be the longer one, which is read as the same rectangle turned."""
        turn = Number(-90, 89) if self.angle == "le90" else Number(-45, 44)
        return form("{#,#,#,#,#}", (*(Number(low, int(self.limit)) for low in (0, 0, 1, 1)), turn))


class GeoChatCodec(PhrasedCodec):
    """`<p>phrase</p> {<x1><y1><x2><y2>|<theta>}`: corners of the box before it is turned about its centre, on a grid of 100, whole degrees in 0..89.

    The published code turns boxes two ways, one the mirror of the other; the one that its demo draws with is clockwise on screen. A missing theta is 0.
    """

    kind: Literal["geochat"] = "geochat"
    turn: Literal["clockwise", "counter-clockwise"] = "clockwise"
    """Which way a positive angle turns on screen."""

    holds: ClassVar[tuple[type[Shape], ...]] = (RotatedBox, Box)
    joint: ClassVar[str] = "<delim>"
    corners: ClassVar[bool] = True
    top: ClassVar[float] = 100
    limit: ClassVar[float] = 100
    pattern: ClassVar[re.Pattern[str]] = re.compile(
        rf"\{{(?P<body>\s*<{CHARACTERS}{{1,40}}>(?:\s*<{CHARACTERS}{{1,40}}>){{0,7}})(?P<turn>\s*\|\s*<(?P<theta>{CHARACTERS}{{1,40}})>\s*)?(?P<close>\}}|\Z)?"
    )

    def write(self, shape: Shape, frame: Frame) -> str:
        """See PhrasedCodec."""
        box = rotated(shape)
        assert box is not None
        box = canonical(box.cx, box.cy, box.w, box.h, box.theta if self.turn == "clockwise" else -box.theta)
        width, height, degrees = _turned(box, 0)
        cx, cy = frame.to(box.cx, box.cy)
        across, down = _size(width, height, frame)
        (x0, x1), (y0, y1) = self._ends(cx / frame.width, across), self._ends(cy / frame.height, down)
        return f"{{<{x0:.0f}><{y0:.0f}><{x1:.0f}><{y1:.0f}>|<{degrees:.0f}>}}"

    def _ends(self, centre: float, side: float) -> tuple[float, float]:
        """Both ends of a side: its length is rounded first, because the size of a small box matters more than its place."""
        length = max(self.step, self.number(side))
        low = math.floor(min(max(centre, -1.0), 2.0) * self.top - length / 2 + 0.5)
        return min(max(low, 0.0), self.limit - self.step), max(min(low + length, self.limit), self.step)

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See PhrasedCodec."""
        found = bracketed(match, 4)
        theta = [0.0] if match["turn"] is None else numbers(match["theta"])
        if isinstance(found, Reading):
            return found
        if theta is None or len(theta) != 1:
            return Reading(faults=("one number is an angle",))
        (x0, y0, x1, y1), faults = self.within(found)
        if x0 == x1 or y0 == y1:
            return Reading(faults=(*faults, "a side of nothing"))
        if x0 > x1 or y0 > y1:
            faults = (*faults, "corners in the wrong order")
        degrees = theta[0] if self.turn == "clockwise" else -theta[0]
        return Reading(shapes=(_box((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0), abs(y1 - y0), degrees, frame),), faults=(*faults, *_angle(theta[0])))

    def one(self) -> Node:
        """See PhrasedCodec."""
        return form("{<#><#><#><#>|<#>}", (*corner_numbers(int(self.limit)), Number(0, 89)))
