"""Frames: the coordinate systems in which a codec writes and a tiler sees."""

from __future__ import annotations

from dataclasses import dataclass


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
