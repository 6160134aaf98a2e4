"""A connector: the Config says what it costs, the module holds the weights and is imported when it is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sightline.model.connectors import PictureConnector
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline_stripes.gate_modules import GatedLinear


class GatedLinearConnector(PictureConnector):
    """Channels times a learnt gate, then one linear layer."""

    kind: Literal["gated-linear"] = "gated-linear"
    bias: bool = True
    """Whether the linear layer has a bias."""

    def grid(self, grid: Grid) -> Grid:
        """As many tokens as before."""
        return grid

    def twin(self) -> GatedLinearConnector:
        """Itself: its sizes follow from its neighbours."""
        return self

    def build(self, channels: int, width: int) -> GatedLinear:
        """The module for C channels in, width D out."""
        from sightline_stripes.gate_modules import GatedLinear

        return GatedLinear(channels, width, self.bias)
