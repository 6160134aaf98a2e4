"""Layouts: in which order a picture's entries stand among the tokens, and what stands around them."""

from __future__ import annotations

from typing import Literal, Protocol

from sightline.kinds import Config, Family
from sightline.model.pieces import Piece, Slots, Words
from sightline.model.tiling import Grid, Tiling


class Layout(Protocol):
    """What every kind of layout offers."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of learned vectors (width D) that it places among the entries."""
        ...

    def pieces(self, picture: int, tiling: Tiling, grids: list[Grid]) -> list[Piece]:
        """The pieces of one picture; `grids` after the connector, one per crop."""
        ...


LAYOUT = Family("layout")


@LAYOUT.add
class FlatLayout(Config):
    """All entries of all crops, one crop after another, between two optional texts (LLaVA)."""

    kind: Literal["flat"] = "flat"
    before: str = ""
    """Text before the entries."""
    after: str = ""
    """Text after the entries."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """None."""
        return ()

    def twin(self) -> FlatLayout:
        """Itself."""
        return self

    def pieces(self, picture: int, tiling: Tiling, grids: list[Grid]) -> list[Piece]:
        """[before] entries [after]."""
        found: list[Piece] = [Words(text=self.before)] if self.before else []
        start = 0
        for grid in grids:
            found.append(Slots(picture=picture, entries=range(start, start + grid.count), grid=grid))
            start += grid.count
        return [*found, Words(text=self.after)] if self.after else found
