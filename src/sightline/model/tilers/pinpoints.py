"""Tiles on the best of a few listed canvases (LLaVA-NeXT, "anyres")."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.tilers.windows import made, raster, shown, whole
from sightline.model.tiling import Filter, Tiling, View

Side = Annotated[int, Field(ge=1)]


class LlavaNextTiler(Config):
    """The picture keeps its shape on the listed canvas that shows most of it and wastes least; an overview squeezed to one tile stands before the tiles.

    Frame "seen": the chosen canvas, padding included. `valid` of the tiles leaves the padding out, which a layout drops by whole tokens.
    """

    kind: Literal["llava-next"] = "llava-next"
    size: int = Field(default=336, ge=1)
    """Side of a tile and of the overview in px."""
    pinpoints: tuple[tuple[Side, Side], ...] = Field(default=((672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336)), min_length=1)
    """Canvases (width, height) in px, multiples of `size`; the first of equally good ones is taken. Published lists are (height, width)."""
    filter: Filter = "bicubic"
    """Resampling filter."""
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour of the padding, 0..255."""

    @model_validator(mode="after")
    def _in_tiles(self) -> LlavaNextTiler:
        odd = [f"{width}x{height}" for width, height in self.pinpoints if width % self.size or height % self.size]
        if odd:
            raise ValueError(f"pinpoints must be multiples of size {self.size}, found {', '.join(odd)}")
        return self

    @property
    def roles(self) -> tuple[str, ...]:
        """An overview, then tiles."""
        return ("overview", "tile")

    def twin(self) -> LlavaNextTiler:
        """Same grids at toy size."""
        toy = min(self.size, 32)
        return self.model_copy(update={"size": toy, "pinpoints": tuple((w // self.size * toy, h // self.size * toy) for w, h in self.pinpoints)})

    def tile(self, width: int, height: int, among: int = 1) -> Tiling:
        """Overview and tiles of the best canvas."""
        canvas = self._best(width, height)
        w, h = canvas
        resized = (w, min(math.ceil(height * (w / width)), h)) if w / width < h / height else (min(math.ceil(width * (h / height)), w), h)
        offset = ((w - resized[0]) // 2, (h - resized[1]) // 2)
        main = View(resized=resized, filter=self.filter, offset=offset, canvas=canvas, fill=self.fill)
        overview = View(resized=(self.size, self.size), filter=self.filter, canvas=(self.size, self.size))
        grid = (w // self.size, h // self.size)
        crops = [whole(1, overview), *raster(0, grid, (self.size, self.size), shown(main))]
        return made((width, height), grid, (main, overview), crops)

    def _best(self, width: int, height: int) -> tuple[int, int]:
        """Most effective px, then fewest wasted px; `max` keeps the first of equals."""

        def worth(canvas: tuple[int, int]) -> tuple[int, int]:
            scale = min(canvas[0] / width, canvas[1] / height)
            effective = min(int(width * scale) * int(height * scale), width * height)
            return effective, effective - canvas[0] * canvas[1]

        return max(self.pinpoints, key=worth)
