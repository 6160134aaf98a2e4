"""Modules of combines. Letters: N tokens, M cells a side that a token reads, C channels of the tokens that read, A channels of the cells (see batch.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from sightline.model.batch import Features, Pictures
from sightline.model.combines import MineCombine, part_of_map
from sightline.model.tiling import Grid


class Union(nn.Module):
    """See UnionCombine."""

    @property
    def blocks(self) -> list[nn.Module]:
        """None."""
        return []

    def forward(self, features: Mapping[str, Features], pictures: Pictures) -> Features:
        """Crops of all encoders in batch order, (N, C)."""
        if len(features) == 1:
            return next(iter(features.values()))
        values = torch.cat([own.values for own in features.values()])
        crops = [number for own in features.values() for number in own.crops]
        grids = [grid for own in features.values() for grid in own.grids]
        assert len(set(crops)) == len(crops), "a crop is seen by two encoders: grids() refuses it"
        tokens = torch.arange(len(values), device=values.device).split([grid.count for grid in grids])
        order = sorted(range(len(crops)), key=crops.__getitem__)
        return Features(
            values=values[torch.cat([tokens[place] for place in order])] if order else values,
            grids=tuple(grids[place] for place in order),
            crops=tuple(crops[place] for place in order),
        )


class Sum(nn.Module):
    """See AverageCombine and AddCombine: a sum with fixed weights."""

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights

    @property
    def blocks(self) -> list[nn.Module]:
        """None."""
        return []

    def forward(self, features: Mapping[str, Features], pictures: Pictures) -> Features:
        """(N, C) of every encoder -> (N, C)."""
        first, *others = (weight * features[name].values for name, weight in self.weights.items())
        return _like(list(features.values()), sum(others, first))


class Concat(nn.Module):
    """See ConcatCombine."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    @property
    def blocks(self) -> list[nn.Module]:
        """None."""
        return []

    def forward(self, features: Mapping[str, Features], pictures: Pictures) -> Features:
        """(N, C) of every encoder -> (N, sum of C)."""
        return _like(list(features.values()), torch.cat([features[name].values for name in self.names], dim=1))


def _like(features: Sequence[Features], values: Tensor) -> Features:
    first = features[0]
    assert all(own.grids == first.grids and own.crops == first.crops for own in features), "encoders saw different crops: grids() refuses it"
    return Features(values=values, grids=first.grids, crops=first.crops)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One crop that reads: its grid, the map that it reads of, and which cells of it."""

    grid: Grid
    cells: Tensor  # (rows, columns, A)
    box: tuple[int, int, int, int]

    @property
    def each(self) -> tuple[int, int]:
        """Cells across and down that each token covers."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) // self.grid.columns, (y1 - y0) // self.grid.rows

    def windows(self, across: int, down: int) -> Tensor:
        """The cells that each token reads, (count, down * across, A)."""
        x0, y0, x1, y1 = self.box
        part, size = self.cells[y0:y1, x0:x1], (down * self.grid.rows, across * self.grid.columns)
        if part.shape[:2] != size:
            resized = functional.interpolate(part.permute(2, 0, 1)[None].float(), size=size, mode="bilinear", align_corners=False)
            part = resized[0].permute(1, 2, 0).to(part.dtype)
        windows = part.view(self.grid.rows, down, self.grid.columns, across, -1).transpose(1, 2)
        return windows.reshape(self.grid.count, down * across, -1)


class Mine(nn.Module):
    """See MineCombine."""

    def __init__(self, config: MineCombine, channels: int, candidates: int) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.key = nn.Sequential(nn.LayerNorm(candidates), nn.Linear(candidates, channels))
        self.value = nn.Sequential(nn.LayerNorm(candidates), nn.Linear(candidates, channels))

    @property
    def blocks(self) -> list[nn.Module]:
        """The three projections."""
        return [self.query, self.key, self.value]

    def forward(self, features: Mapping[str, Features], pictures: Pictures) -> Features:
        """(N, C) and the cells of the details -> (N, C): each token plus what it mined."""
        dtype = next(self.parameters()).dtype
        reading, read = (replace(features[name], values=features[name].values.to(dtype)) for name in (self.config.queries, self.config.candidates))
        windows = [crop.windows(*each) for crop, each in self._readings(reading, read, pictures)]
        cells = torch.cat([read.values[:0], *(window.flatten(0, 1) for window in windows)])
        counts = [window.shape[0] * window.shape[1] for window in windows]
        parts = zip(self.query(reading.values).split([grid.count for grid in reading.grids]), self.key(cells).split(counts), self.value(cells).split(counts))
        mined = torch.cat([reading.values[:0], *(_attended(q, k.view(len(q), -1, q.shape[1]), v.view(len(q), -1, q.shape[1])) for q, k, v in parts)])
        return Features(values=reading.values + mined, grids=reading.grids, crops=reading.crops)

    def _readings(self, reading: Features, read: Features, pictures: Pictures) -> list[tuple[_Reading, tuple[int, int]]]:
        """Each reading crop, and how many cells (across, down) a token of its picture reads: as many as where they are fewest."""
        maps = {number: (grid, tokens.view(grid.rows, grid.columns, -1)) for number, grid, tokens in zip(read.crops, read.grids, read.split())}
        grids = dict(zip(reading.crops, reading.grids))
        found, start = [], 0
        for tiling in pictures.tilings:
            own = range(start, start + len(tiling.crops))
            [detail] = [number for number in own if number in maps]
            cells, tokens = maps[detail]
            crops = []
            for number in (number for number in own if number in grids):
                box = part_of_map(tiling, tiling.crops[number - start], grids[number], tiling.crops[detail - start], cells)
                crops.append(_Reading(grid=grids[number], cells=tokens, box=box))
            across, down = (min(sides) for sides in zip(*(crop.each for crop in crops)))
            found += [(crop, (across, down)) for crop in crops]
            start = own.stop
        return found


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Tokens (n, C) over their own cells (n, m, C)."""
    weights = (torch.einsum("nc,nmc->nm", q, k) * q.shape[1] ** -0.5).softmax(-1)
    return torch.einsum("nm,nmc->nc", weights, v)
