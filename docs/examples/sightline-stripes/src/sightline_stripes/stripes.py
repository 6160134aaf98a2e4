"""A tiler: arithmetic on sizes, nothing else. Line scanners and panoramas are read as full-width stripes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sightline.kinds import Config
from sightline.model.tiling import Crop, Tiling, View
from sightline.samples.frames import Frame


class StripesTiler(Config):
    """`count` stripes of the whole width from top to bottom, each squeezed to size x size px."""

    kind: Literal["stripes"] = "stripes"
    size: int = Field(ge=1)
    """Side of a crop in px."""
    count: int = Field(default=3, ge=1)
    """Stripes of a picture."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Tiles alone."""
        return ("tile",)

    def twin(self) -> StripesTiler:
        """Same structure at toy size."""
        return self.model_copy(update={"size": min(self.size, 32)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """One view, `count` crops below each other."""
        side, tall = self.size, self.size * self.count
        view = View(resized=(side, tall), canvas=(side, tall))
        crops = tuple(
            Crop(view=0, window=(0, number * side, side, side), role="tile", place=(0, number), valid=(0, 0, side, side)) for number in range(self.count)
        )
        seen = Frame(width=side, height=tall, scale=(side / width, tall / height), offset=(0.0, 0.0))
        return Tiling(size=(width, height), grid=(1, self.count), views=(view,), crops=crops, seen=seen)
