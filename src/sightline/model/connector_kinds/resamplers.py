"""Resamplers: learnt queries that lie on a grid and read a crop of any size (LLaVA-UHD, https://arxiv.org/abs/2403.11703, section 3.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.model.connectors import PictureConnector, needs_raster
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.resampler_modules import Resampler, SpatialResampler

_SAMPLES = ((4, 2), (3, 2), (4, 3), (3, 3), (2, 4), (2, 3), (3, 4))
"""Samples across and down in each box of the spatial resampler; the first of two equally good ones is taken."""
MOST_SAMPLES = max(across * down for across, down in _SAMPLES)
"""Samples of the largest box."""


class _QueryGrid(PictureConnector):
    """What both resamplers have: side x side queries, one attention layer."""

    side: int = Field(ge=1)
    """Queries a side: a crop becomes side x side tokens."""
    head_width: int = Field(default=128, ge=1)
    """Channels of an attention head; there are D / head_width heads."""

    def heads(self, width: int) -> int:
        """Attention heads for width D. Refused where the heads or the position table (4 waves) do not fill D."""
        if width % self.head_width or width % 4:
            raise Refused(
                Problem(
                    code="model/head-width",
                    place="connector.head_width",
                    found=f"heads of {self.head_width} in a language model of width {width}",
                    allowed=f"a divisor of {width}, and a width divisible by 4",
                    fix="change connector.head_width",
                )
            )
        return width // self.head_width


class ResamplerConnector(_QueryGrid):
    """Every query reads the whole crop; positions are sines and cosines of the query grid, resized to the crop's (the paper's connector)."""

    kind: Literal["resampler"] = "resampler"
    side: int = Field(default=8, ge=1)
    """Queries a side: a crop becomes side x side tokens."""

    def twin(self) -> ResamplerConnector:
        """2 x 2 queries, heads of 16."""
        return self.model_copy(update={"side": min(self.side, 2), "head_width": 16})

    def grid(self, grid: Grid) -> Grid:
        """side x side, whatever the crop."""
        needs_raster(grid, self.kind)
        return Grid(columns=self.side, rows=self.side)

    def build(self, channels: int, width: int) -> Resampler:
        """The module for C channels in, width D out."""
        from sightline.model.connector_kinds.resampler_modules import Resampler

        return Resampler(self, channels, width)


class SpatialResamplerConnector(_QueryGrid):
    """Every query reads its own box of the crop, sampled at up to 12 places (the released connector)."""

    kind: Literal["spatial-resampler"] = "spatial-resampler"
    side: int = Field(default=12, ge=1)
    """Queries a side: a crop becomes side x side tokens."""

    def twin(self) -> SpatialResamplerConnector:
        """2 x 2 queries, heads of 16."""
        return self.model_copy(update={"side": min(self.side, 2), "head_width": 16})

    def samples(self, grid: Grid) -> tuple[int, int]:
        """Samples across and down in each box: the shape that is nearest the crop's, by the difference of logarithms."""
        ratio = math.log(grid.columns / grid.rows)
        return min(_SAMPLES, key=lambda samples: abs(ratio - math.log(samples[0] / samples[1])))

    def grid(self, grid: Grid) -> Grid:
        """side x side, whatever the crop."""
        needs_raster(grid, self.kind)
        return Grid(columns=self.side, rows=self.side)

    def build(self, channels: int, width: int) -> SpatialResampler:
        """The module for C channels in, width D out."""
        from sightline.model.connector_kinds.resampler_modules import SpatialResampler

        return SpatialResampler(self, channels, width)
