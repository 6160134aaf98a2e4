"""Frames: the coordinate systems in which a codec writes and a tiler sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sightline.errors import Problem, Refused

FrameName = Literal["source", "square", "seen"]
"""source: the picture as stored; square: its longest side both ways, the picture in the upper left; seen: what the tiler shows to the model, padding included."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Maps px of the source picture to px of the frame: frame = source * scale + offset, per axis."""

    width: float
    height: float
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def to(self, x: float, y: float) -> tuple[float, float]:
        """Source px to frame px."""
        return x * self.scale[0] + self.offset[0], y * self.scale[1] + self.offset[1]

    def back(self, x: float, y: float) -> tuple[float, float]:
        """Frame px to source px."""
        return (x - self.offset[0]) / self.scale[0], (y - self.offset[1]) / self.scale[1]


def frame_of(name: FrameName, width: int, height: int, seen: Frame | None = None) -> Frame:
    """The frame of that name for a picture of width x height px; `seen` is its tiling's, which only a model has. Refused where it is needed and not there."""
    if name == "source":
        return Frame(width=width, height=height)
    if name == "square":
        return Frame(width=max(width, height), height=max(width, height))
    if seen is None:
        raise Refused(
            Problem(
                code="samples/frame-unseen",
                place="codec.frame",
                found="seen, where no tiler says what is seen of a picture",
                allowed="source, square",
                fix="set `frame: square` (or source) in the codec",
            )
        )
    return seen
