"""Connectors: from encoder tokens (C channels) to language-model tokens (width D)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from torch import nn

    from sightline.model.connector_modules import Mlp

CONNECTOR = Family("connector")


class Connector(Protocol):
    """What every kind of connector offers.

    Its module: forward(features, texts=None, pictures=None) -> Features of width D with the new grids and the same crops; `blocks` in depth order.
    The tokens of a crop come out the same whatever other crops are in the batch.
    """

    @property
    def reads_text(self) -> bool:
        """Whether its tokens depend on the text beside the picture."""
        ...

    def grid(self, grid: Grid) -> Grid:
        """The tokens that one crop's tokens become; Refused where it cannot take them."""
        ...

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> Connector:
        """The Config with everything that is known elsewhere copied in: size of a trained side tokenizer, and the id of a control token in it."""
        ...

    def twin(self) -> Connector:
        """Same structure at toy size."""
        ...

    def build(self, channels: int, width: int) -> nn.Module:
        """The module for C channels in, width D out."""
        ...


class PictureConnector(Config):
    """Base of connectors whose tokens depend on the picture alone."""

    @property
    def reads_text(self) -> bool:
        """Never."""
        return False

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> Self:
        """Itself: it depends on no tokenizer."""
        return self


def merged(grid: Grid, side: int, place: str, pad: bool = False) -> Grid:
    """The grid of which each token stands for side x side tokens; with `pad` the last column and row may be incomplete. Refused with model/merge-grid."""
    if side == 1:
        return grid
    columns, rows = (-(-count // side) if pad else count // side for count in (grid.columns, grid.rows))
    if grid.lead or not (pad or (columns * side == grid.columns and rows * side == grid.rows)):
        raise Refused(
            Problem(
                code="model/merge-grid",
                place=place,
                found=f"{grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens",
                allowed="no lead tokens" if pad else f"no lead tokens, columns and rows divisible by {side}",
                fix=f"change the tiler's size or {place}",
            )
        )
    return Grid(columns=columns, rows=rows)


def needs_raster(grid: Grid, kind: str) -> None:
    """Refused with model/needs-raster unless a crop's tokens are a raster and nothing else."""
    if grid.lead or not grid.columns * grid.rows:
        raise Refused(
            Problem(
                code="model/needs-raster",
                place="connector",
                found=f"{grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens",
                allowed=f"columns and rows without lead tokens: {kind} places its queries on them",
                fix="encoders: tokens: patches",
            )
        )


@CONNECTOR.add
class MlpConnector(PictureConnector):
    """Per-token perceptron (depth 1 = linear, LLaVA; 2 = LLaVA-1.5), optionally after s x s space-to-depth and a LayerNorm."""

    kind: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1)
    """Linear layers; GELU between them."""
    inner: int | None = Field(default=None, ge=1)
    """Width between the layers; default is the language model's."""
    bias: bool = True
    """Whether the linear layers have biases; the LayerNorm always has one."""
    merge: int = Field(default=1, ge=1)
    """s: token (i, j) is the concatenation over di then dj of the tokens (s*i+di, s*j+dj)."""
    merge_pad: bool = False
    """Zero tokens fill up the last column and row where s does not divide them (VILA-1.5: 27 to 28)."""
    merge_order: Literal["raster", "columns"] = "raster"
    """columns: merged tokens leave column by column, as VILA-1.5 was trained; their grid is that of the transposed map."""
    concat: int = Field(default=1, ge=1)
    """k: each token is the concatenation of k that follow each other in raster order (MiniGPT-4 without Q-Former: 4)."""
    norm: bool = False
    """LayerNorm of the (merged) input."""
    coordinates: int = Field(default=0, ge=0, le=8)
    """0: none. n: the centre of each token (x, y in -1..1) and n-1 octaves of its sine and cosine join the input."""

    @model_validator(mode="after")
    def _fits(self) -> MlpConnector:
        if self.merge > 1 and self.concat > 1:
            raise ValueError("merge and concat both join tokens: choose one")
        if self.merge == 1 and (self.merge_pad or self.merge_order != "raster"):
            raise ValueError("merge_pad and merge_order say how tokens are merged: set merge")
        if self.inner is not None and self.depth == 1:
            raise ValueError("inner is the width between linear layers: depth 1 has one layer")
        if self.coordinates and (self.concat > 1 or self.merge_order != "raster"):
            raise ValueError("coordinates need tokens in raster order: neither concat nor merge_order columns")
        return self

    def twin(self) -> MlpConnector:
        """Itself with a toy width between its layers: all other sizes follow from its neighbours."""
        return self.model_copy(update={"inner": min(self.inner, 96)}) if self.inner else self

    def grid(self, grid: Grid) -> Grid:
        """The grid after merging; lead tokens cannot be merged."""
        if self.concat > 1:
            return self._joined(grid)
        found = merged(grid, self.merge, "connector.merge", self.merge_pad)
        return Grid(columns=found.rows, rows=found.columns) if self.merge_order == "columns" else found

    def _joined(self, grid: Grid) -> Grid:
        if grid.lead or grid.count % self.concat:
            raise Refused(
                Problem(
                    code="model/merge-grid",
                    place="connector.concat",
                    found=f"{grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens",
                    allowed=f"no lead tokens, a number of tokens divisible by {self.concat}",
                    fix="change the tiler's size or connector.concat",
                )
            )
        if grid.columns % self.concat:  # some groups go round the end of a row: they have no place on a grid
            return Grid(columns=0, rows=0, lead=grid.count // self.concat)
        return Grid(columns=grid.columns // self.concat, rows=grid.rows)

    def build(self, channels: int, width: int) -> Mlp:
        """The module for C channels in, width D out."""
        from sightline.model.connector_modules import Mlp

        return Mlp(self, channels, width)
