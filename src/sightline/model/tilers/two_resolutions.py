"""One square picture at two resolutions, for two encoders (Mini-Gemini, https://arxiv.org/abs/2403.18814, section 3.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.tilers.windows import raster, scaled, window
from sightline.model.tiling import Filter, Tiling, View, WholeTiler


class DualResolutionTiler(Config):
    """An overview, then tiles where `cells` is above 1, then the detail: all from one square, padded as `whole` pads it, at the detail's resolution.

    The tiles and the overview are the detail resampled, so that both encoders see the same picture. Frame "seen": the detail with its padding.
    """

    kind: Literal["dual-resolution"] = "dual-resolution"
    size: int = Field(default=336, ge=1)
    """Side of the overview and of a tile in px."""
    detail: int = Field(default=768, ge=1)
    """Side of the detail in px (1536 with cells 2)."""
    cells: int = Field(default=1, ge=1)
    """Tiles a side; 1: none beside the overview."""
    filter: Filter = "bicubic"
    """Resampling filter from the picture to the detail; from the detail it is bilinear."""
    fill: tuple[int, int, int] = (122, 116, 104)
    """Colour of the padding, 0..255 (CLIP's mean colour)."""

    @model_validator(mode="after")
    def _detailed(self) -> DualResolutionTiler:
        if self.detail < self.size * self.cells:
            raise ValueError(f"detail {self.detail} is less than size {self.size} x cells {self.cells}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """An overview, perhaps tiles, a detail."""
        return ("overview", "tile", "detail") if self.cells > 1 else ("overview", "detail")

    def twin(self) -> DualResolutionTiler:
        """Same structure at toy size."""
        size = min(self.size, 32)
        return self.model_copy(update={"size": size, "detail": min(self.detail, 2 * size * self.cells)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Overview, tiles, detail."""
        square = WholeTiler(size=self.detail, filter=self.filter, fill=self.fill).tile(width, height)
        detail = replace(square.crops[0], role="detail")
        sides = [self.size * self.cells, self.size] if self.cells > 1 else [self.size]
        smaller = [View(resized=(side, side), filter="bilinear", canvas=(side, side), of=detail.view + number) for number, side in enumerate(sides)]
        pictures = [scaled(detail.valid, side / self.detail) for side in sides]
        grid, size = (self.cells, self.cells), (self.size, self.size)
        overview = window(detail.view + len(sides), 0, 0, size, "overview", pictures[-1])
        tiles = raster(detail.view + 1, grid, size, pictures[0]) if self.cells > 1 else []
        return replace(square, grid=grid, views=(*square.views, *smaller), crops=(overview, *tiles, detail))
