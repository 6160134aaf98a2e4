"""What a picture becomes in an exported model, known from its size alone, and its pixels as rows of equal length.

A row is a piece of a crop's pixels (bands first, 0..255); each crop begins a new row and its last one is filled up with zeros. Engines take pictures apart and put them together
by rows, whatever the sizes of crops.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.export.remote_code_files.part_kinds import GRIDS, part
from sightline.model.pieces import Piece, Slots, Words
from sightline.model.tiling import Grid, Tiling, cut
from sightline.samples.bands import COLOURS


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture of one size: its tiling, the tokens of each crop behind combine and connector, and the pieces of its layout."""

    tiling: Tiling
    grids: tuple[Grid, ...]
    pieces: tuple[Piece, ...]

    @property
    def entries(self) -> list[int]:
        """Entries of the feature table in the order in which they stand: the picture's own from 0, -1-k for vector k."""
        return [entry for piece in self.pieces if isinstance(piece, Slots) for entry in piece.entries]

    @property
    def count(self) -> int:
        """Its own entries in the feature table."""
        return sum(grid.count for grid in self.grids)


class Geometry:
    """Tilings, grids and layouts of the parts of one model."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.encoders: list[dict[str, Any]] = parts["encoders"]
        self.tiler = part("tiler", parts["tiler"])
        self.combine = part("combine", parts["combine"])
        self.connector = part("connector", parts["connector"]) if parts["connector"] is not None else None
        self.layout = part("layout", parts["layout"])
        self.prompts: int = parts["prompts"]["entries"] if parts["prompts"] is not None else 0
        self.length: int = parts["row"]

    def seen(self, width: int, height: int) -> Seen:
        """What a picture of width x height px becomes. Raises Refused for sizes that the parts do not take."""
        tiling = self.tiler.tile(width, height)
        raw: dict[str, list[Grid | None]] = {
            said["name"]: [GRIDS[said["kind"]](said, *crop.window[2:]) if crop.role in said["sees"] else None for crop in tiling.crops]
            for said in self.encoders
        }
        grids = self._grids(tiling, raw)
        pieces = self.layout.pieces(0, tiling, grids, lambda role: "decoder")
        vectors = len(self.layout.vectors)
        pieces += [Slots(picture=0, entries=range(-1 - vectors, -1 - vectors - self.prompts, -1))] if self.prompts else []
        return Seen(tiling=tiling, grids=grids, pieces=tuple(pieces))

    def _grids(self, tiling: Tiling, raw: Mapping[str, Sequence[Grid | None]]) -> tuple[Grid, ...]:
        crops = list(tiling.crops)
        if self.combine.place == "before":
            return tuple(self._connected(grid) for grid in self.combine.grids(raw, crops))
        own = {name: [None if grid is None else self._connected(grid, name) for grid in grids] for name, grids in raw.items()}
        return tuple(self.combine.grids(own, crops))

    def _connected(self, grid: Grid, encoder: str | None = None) -> Grid:
        if self.connector is None or not grid.count:
            return grid
        if encoder is not None and hasattr(self.connector, "grid_of"):
            return self.connector.grid_of(encoder, grid)
        return self.connector.grid(grid)

    def written(self, seen: Seen, image_token: str) -> str:
        """A picture in a prompt: the texts and control tokens of its layout, and `image_token` for each entry."""
        return "".join(
            image_token * len(piece.entries) if isinstance(piece, Slots) else piece.text if isinstance(piece, Words) else piece.token for piece in seen.pieces
        )

    # pixels

    def rows_of(self, tiling: Tiling) -> int:
        """Rows that a picture takes."""
        return sum(-(-self._numbers(tiling, number) // self.length) for number in range(len(tiling.crops)))

    def _numbers(self, tiling: Tiling, number: int) -> int:
        _, _, width, height = tiling.crops[number].window
        return len(COLOURS) * width * height

    def rows(self, picture: np.ndarray) -> np.ndarray:
        """(rows, length) uint8 of a picture (height, width, 3) uint8."""
        crops = [crop.ravel() for crop in cut(picture, self.tiler.tile(picture.shape[1], picture.shape[0]))]
        filled = [np.pad(crop, (0, -len(crop) % self.length)) for crop in crops]
        return np.concatenate(filled).reshape(-1, self.length)

    def crops(self, rows: Any, tiling: Tiling) -> Iterator[Any]:
        """Crops (3, h, w) of a picture from its rows, as tensors."""
        start = 0
        for number, crop in enumerate(tiling.crops):
            count = self._numbers(tiling, number)
            end = start + -(-count // self.length)
            _, _, width, height = crop.window
            yield rows[start:end].flatten()[:count].view(len(COLOURS), height, width)
            start = end

    def pictures(self, sizes: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """(width, height) of each picture, of the sizes that stand beside all rows of all pictures."""
        found, row = list[tuple[int, int]](), 0
        while row < len(sizes):
            width, height = sizes[row]
            found.append((width, height))
            row += self.rows_of(self.tiler.tile(width, height))
        return found
