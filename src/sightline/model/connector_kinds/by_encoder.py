"""One connector for each encoder (Ferret-v2, https://arxiv.org/abs/2404.07973, section 3.2: CLIP for the overview, DINOv2 for the tiles)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused, nearest
from sightline.model.connectors import CONNECTOR, Connector, PictureConnector
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.by_encoder_modules import ByEncoder


class ByEncoderConnector(PictureConnector):
    """A connector of its own for each encoder: `connectors: {clip: {kind: mlp}, dino: {kind: mlp}}`. Their paths are `connector.NAME`."""

    kind: Literal["by-encoder"] = "by-encoder"
    connectors: dict[str, Annotated[Connector, CONNECTOR]] = Field(min_length=1)
    """Encoder name -> connector."""

    @model_validator(mode="after")
    def _flat(self) -> ByEncoderConnector:
        nested = [name for name, connector in self.connectors.items() if isinstance(connector, ByEncoderConnector)]
        if nested:
            raise ValueError(f"connectors.{nested[0]} is by-encoder again: name the connector of that encoder")
        reading = [name for name, connector in self.connectors.items() if connector.reads_text]
        if reading:
            raise ValueError(f"connectors.{reading[0]} reads text: only a connector that serves all encoders can")
        return self

    def check(self, names: Sequence[str]) -> None:
        """Refused with model/connector-encoders unless each encoder of these names has a connector, and each connector an encoder."""
        problems = [
            Problem(
                code="model/connector-encoders",
                place=f"connector.connectors.{name}",
                found="no such encoder" if name in self.connectors else "an encoder without a connector",
                allowed=", ".join(names),
                fix=(nearest(name, list(names)) or f"remove {name}") if name in self.connectors else f"add {name}: {{kind: mlp}}",
            )
            for name in dict.fromkeys((*names, *self.connectors))
            if (name in names) != (name in self.connectors)
        ]
        if problems:
            raise Refused(problems)

    def grid(self, grid: Grid) -> Grid:
        """The grid after the only connector; with several, refused: `grid_of` tells."""
        return self._only().grid(grid)

    def grid_of(self, encoder: str, grid: Grid) -> Grid:
        """The grid after the connector of an encoder."""
        if encoder not in self.connectors:
            self.check([*self.connectors, encoder])
        return self.connectors[encoder].grid(grid)

    def twin(self) -> ByEncoderConnector:
        """Same structure at toy size."""
        return self.model_copy(update={"connectors": {name: connector.twin() for name, connector in self.connectors.items()}})

    def build(self, channels: int, width: int) -> ByEncoder:
        """The module for the only encoder, C channels in, width D out; with several, refused."""
        self._only()
        return self.build_each(dict.fromkeys(self.connectors, channels), width)

    def build_each(self, channels: Mapping[str, int], width: int) -> ByEncoder:
        """The module for encoders with these channels by name, width D out of each. Refused as by `check`."""
        from sightline.model.connector_kinds.by_encoder_modules import ByEncoder

        self.check(list(channels))
        return ByEncoder({name: self.connectors[name].build(count, width) for name, count in channels.items()})

    def _only(self) -> Connector:
        if len(self.connectors) > 1:
            raise Refused(
                Problem(
                    code="model/connector-encoders",
                    place="connector.connectors",
                    found=f"{', '.join(self.connectors)} behind one set of tokens",
                    allowed="a combine that stands after the connectors",
                    fix="combine: {place: after}, or one connector",
                )
            )
        return next(iter(self.connectors.values()))
