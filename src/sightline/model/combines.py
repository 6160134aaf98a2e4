"""Combines: how the tokens of several encoders become one set of tokens per crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family, located
from sightline.model.tilers.windows import window_edges
from sightline.model.tiling import Crop, Grid, Tiling

if TYPE_CHECKING:
    from torch import nn

    from sightline.model.combine_modules import Concat, Mine, Sum, Union

COMBINE = Family("combine", default="union")

Place = Literal["before", "after"]
Grids = Mapping[str, Sequence[Grid | None]]
"""Encoder -> its tokens of each crop, in the tiler's order; None where it does not see the crop."""


class Combine(Protocol):
    """What every kind of combine offers. Its module: forward({encoder: Features}, pictures) -> Features; `blocks` in depth order."""

    @property
    def place(self) -> Place:
        """Before or after the connector."""
        ...

    def check(self, names: Sequence[str]) -> None:
        """ValueError with the path of the setting that does not fit encoders of these names."""
        ...

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """Tokens of each crop of one picture afterwards; a crop whose tokens went into others has none. Refused where they do not go together."""
        ...

    def channels(self, channels: Mapping[str, int]) -> int:
        """C afterwards, of C by encoder; after the connector all are equal."""
        ...

    def twin(self) -> Combine:
        """Same structure at toy size."""
        ...

    def build(self, channels: Mapping[str, int]) -> nn.Module:
        """The module for C by encoder."""
        ...


def _refused(code: str, found: str, allowed: str, fix: str) -> Refused:
    return Refused(Problem(code=f"model/{code}", place="combine", found=found, allowed=allowed, fix=fix))


def _said(grid: Grid | None) -> str:
    return "nothing" if grid is None else f"{grid.columns}x{grid.rows}" + (f" and {grid.lead} lead" if grid.lead else "") + " tokens"


def _same(grids: Grids) -> list[Grid]:
    """The grids that all encoders share. Refused with model/combine-grids where they differ."""
    found: list[Grid] = []
    for number, own in enumerate(zip(*grids.values(), strict=True)):
        if own[0] is None or any(grid != own[0] for grid in own):
            said = ", ".join(f"{name} {_said(grid)}" for name, grid in zip(grids, own, strict=True))
            raise _refused("combine-grids", f"crop {number}: {said}", "the same grid of every encoder", "give the encoders equal `sees`, crop and patch sizes")
        found.append(own[0])
    return found


def _equal(channels: Mapping[str, int]) -> int:
    """The C that all encoders share. Refused with model/combine-channels where they differ."""
    if len(set(channels.values())) > 1:
        said = ", ".join(f"{name} {count}" for name, count in channels.items())
        raise _refused("combine-channels", said, "equal channels before the connector", "combine: {place: after} and connector: {kind: by-encoder}")
    return next(iter(channels.values()))


class _Combine(Config):
    """What combines do unless they say otherwise."""

    def check(self, names: Sequence[str]) -> None:
        """Any encoders will do."""

    def twin(self) -> Self:
        """Itself: its sizes, where it has any, follow from its neighbours."""
        return self


class _Placed(_Combine):
    """A combine that can stand on either side of the connector."""

    place: Place = "after"
    """Before the connector, where encoders have equal channels; or after it."""

    def channels(self, channels: Mapping[str, int]) -> int:
        """The encoders' own, which must be equal before the connector."""
        return _equal(channels) if self.place == "before" else next(iter(channels.values()))


@COMBINE.add
class UnionCombine(_Placed):
    """Each crop from the one encoder that sees its role (Ferret-v2); with one encoder, its tokens as they are."""

    kind: Literal["union"] = "union"

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """The grid of the encoder that sees the crop. Refused with model/combine-roles where none or several do."""
        found: list[Grid] = []
        for crop, own in zip(crops, zip(*grids.values(), strict=True), strict=True):
            seen = {name: grid for name, grid in zip(grids, own, strict=True) if grid is not None}
            if len(seen) != 1:
                said = f"a crop of role {crop.role} is seen by {' and '.join(seen) or 'no encoder'}"
                raise _refused("combine-roles", said, "one encoder for each role", "set `sees` of the encoders, or a combine of kind average, add or concat")
            found += seen.values()
        return found

    def build(self, channels: Mapping[str, int]) -> Union:
        """The module, without weights."""
        from sightline.model.combine_modules import Union

        return Union()


@COMBINE.add
class AverageCombine(_Placed):
    """Weighted mean over the encoders, token by token (POINTS, https://arxiv.org/abs/2409.04828, section 3: 0.5 and 0.5 after a shared connector)."""

    kind: Literal["average"] = "average"
    weights: tuple[float, ...] | None = None
    """One per encoder, in their order, 1 together; default is equal."""

    @model_validator(mode="after")
    def _one_together(self) -> AverageCombine:
        if self.weights is not None and abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"weights are 1 together, not {sum(self.weights):g}")
        return self

    def check(self, names: Sequence[str]) -> None:
        """One weight per encoder."""
        if self.weights is not None and len(self.weights) != len(names):
            raise located([f"combine.weights: one weight for each of {', '.join(names)}"])

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """The grids that all encoders share."""
        return _same(grids)

    def build(self, channels: Mapping[str, int]) -> Sum:
        """The module, without weights of its own to learn."""
        from sightline.model.combine_modules import Sum

        return Sum(dict(zip(channels, self.weights or [1 / len(channels)] * len(channels), strict=True)))


@COMBINE.add
class AddCombine(_Placed):
    """Sum over the encoders, token by token."""

    kind: Literal["add"] = "add"

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """The grids that all encoders share."""
        return _same(grids)

    def build(self, channels: Mapping[str, int]) -> Sum:
        """The module, without weights."""
        from sightline.model.combine_modules import Sum

        return Sum(dict.fromkeys(channels, 1.0))


@COMBINE.add
class ConcatCombine(_Combine):
    """Channels of all encoders side by side, token by token, in the order of the encoders."""

    kind: Literal["concat"] = "concat"

    @property
    def place(self) -> Place:
        """Before the connector, which takes any channels; after it the tokens would be wider than the language model."""
        return "before"

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """The grids that all encoders share."""
        return _same(grids)

    def channels(self, channels: Mapping[str, int]) -> int:
        """Those of all encoders together."""
        return sum(channels.values())

    def build(self, channels: Mapping[str, int]) -> Concat:
        """The module, without weights."""
        from sightline.model.combine_modules import Concat

        return Concat(list(channels))


@COMBINE.add
class MineCombine(_Combine):
    """Patch info mining (Mini-Gemini, https://arxiv.org/abs/2403.18814, section 3.2): each token of one encoder reads what another saw of the same place in detail.

    The map of a `detail` crop is shared out among the crops that show parts of it or all of it; each token reads the cells that it covers.
    Where one crop's tokens would cover more cells than another's of the same picture, its part of the map is first resized to as many (bilinear).
    """

    kind: Literal["mine"] = "mine"
    queries: str = Field(min_length=1)
    """Encoder whose tokens read; it sees every crop but the detail."""
    candidates: str = Field(min_length=1)
    """Encoder whose tokens are read; it sees the detail alone."""

    @property
    def place(self) -> Place:
        """Before the connector."""
        return "before"

    def check(self, names: Sequence[str]) -> None:
        """Exactly the two encoders."""
        both = (self.queries, self.candidates)
        faults = [f"combine.{field}: one of {', '.join(names)}" for field, name in zip(("queries", "candidates"), both, strict=True) if name not in names]
        if not faults and (len(set(both)) == 1 or len(names) > 2):
            faults = [f"combine: two encoders, one that reads and one that is read, not {', '.join(names)}"]
        if faults:
            raise located(faults)

    def grids(self, grids: Grids, crops: Sequence[Crop]) -> list[Grid]:
        """Grids of the reading crops; none of the detail. Refused with model/mine-roles or model/mine-grids."""
        pairs = list(zip(grids[self.queries], grids[self.candidates], strict=True))
        details = [read for reads, read in pairs if reads is None and read is not None]
        if len(details) != 1 or any((reads is None) == (read is None) for reads, read in pairs):
            said = "; ".join(f"{crop.role}: {self.queries} {_said(own[0])}, {self.candidates} {_said(own[1])}" for crop, own in zip(crops, pairs, strict=True))
            raise _refused(
                "mine-roles", said, "one crop for the candidates, all others for the queries", "set `sees` of both encoders, and a tiler with one detail"
            )
        for reads in grids[self.queries]:
            if reads is not None and (reads.lead or details[0].lead or details[0].columns % reads.columns or details[0].rows % reads.rows):
                said = f"{_said(reads)} read {_said(details[0])}"
                raise _refused("mine-grids", said, "no lead tokens, and as many candidates for every token", "change the tiler's size or detail")
        return [reads or Grid(columns=0, rows=0) for reads, _ in pairs]

    def channels(self, channels: Mapping[str, int]) -> int:
        """Those of the reading encoder."""
        return channels[self.queries]

    def build(self, channels: Mapping[str, int]) -> Mine:
        """The module for C by encoder."""
        from sightline.model.combine_modules import Mine

        return Mine(self, channels[self.queries], channels[self.candidates])


def part_of_map(tiling: Tiling, crop: Crop, grid: Grid, detail: Crop, cells: Grid) -> tuple[int, int, int, int]:
    """The cells (x0, y0, x1, y1) of a detail that show what another crop of its picture shows, fill included.

    Refused with model/mine-area unless they are whole cells of the detail, and as many for each token of the crop's grid.
    """
    exact: list[float] = []
    for axis, count in ((0, cells.columns), (1, cells.rows)):
        (low, high), (start, end) = window_edges(tiling, crop, axis), window_edges(tiling, detail, axis)
        exact += [(edge - start) / (end - start) * count for edge in (low, high)]
    x0, x1, y0, y1 = (round(edge) for edge in exact)
    inside = min(x0, y0) >= 0 and x1 <= cells.columns and y1 <= cells.rows
    whole = max(abs(edge - cell) for edge, cell in zip(exact, (x0, x1, y0, y1), strict=True)) < 0.01
    if not inside or not whole or x1 == x0 or y1 == y0 or (x1 - x0) % grid.columns or (y1 - y0) % grid.rows:
        said = f"{_said(grid)} of a {crop.role} cover cells {exact[0]:g}..{exact[1]:g} x {exact[2]:g}..{exact[3]:g} of {_said(cells)}"
        raise _refused("mine-area", said, "whole cells of the detail, as many for each token", "change the tiler's size, cells or detail")
    return x0, y0, x1, y1
