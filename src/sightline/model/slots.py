"""Keys and values of many lines that come and go: a row of a cache for each, written where the line stands, so that none is moved when another joins or leaves.

Letters: S rows, B bins of a step, H heads, T tokens, d head width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from sightline.model.batch import Stream
from sightline.model.fusion_modules import Memory
from sightline.model.vlm import State

COLUMNS = 256
"""Columns taken first; later half as many again."""


class SlotLayer(DynamicLayer):
    """One layer of all rows. `keys` and `values` that it hands out are (B, H, columns, d): the rows of the step."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self.slots = slots
        self.rooms: list[Tensor] = []
        """Keys and values (S, H, columns, d). Columns that were never written are zeros: a mask hides them, and what is hidden must be a number."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, d) into the rows of the step, each from its own column on; all columns up to the last one written."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        found = [self._written(which, fresh) for which, fresh in enumerate((key_states, value_states))]
        self.keys, self.values = found
        return found[0], found[1]

    def _written(self, which: int, fresh: Tensor) -> Tensor:
        slots, (bins, heads, tokens, width) = self.slots, fresh.shape
        if which == len(self.rooms):
            self.rooms.append(fresh.new_zeros(slots.rows, heads, slots.columns, width))
        elif self.rooms[which].shape[2] < slots.columns:
            wide = fresh.new_zeros(slots.rows, heads, slots.columns, width)
            wide[:, :, : self.rooms[which].shape[2]] = self.rooms[which]
            self.rooms[which] = wide
        own = self.rooms[which][slots.first : slots.first + bins]
        if tokens == 1:
            own[torch.arange(bins, device=fresh.device), :, slots.starts] = fresh[:, :, 0]
        else:
            for row, start in enumerate(slots.starts.tolist()):
                own[row, :, start : start + tokens] = fresh[row]
        return own[:, :, : slots.width]

    def get_seq_length(self) -> int:
        """Columns before those of the step, of the longest row."""
        return self.slots.width - self.slots.tokens


class Slots:
    """A cache of `rows` lines. A step addresses rows that lie beside each other, and says how many columns each of them holds."""

    def __init__(self, layers: int, rows: int) -> None:
        self.rows = rows
        self.columns = COLUMNS
        self.cache = DynamicCache()
        self.layers = [SlotLayer(self) for _ in range(layers)]
        self.cache.layers = list[Any](self.layers)
        self.first, self.width, self.tokens = 0, 0, 0
        self.starts = torch.zeros(0, dtype=torch.int64)

    def state(self, first: int, lengths: Sequence[int], tokens: int, device: torch.device) -> SlotState:
        """The state of rows from `first` on, which hold so many columns, before a step of so many tokens in each."""
        self.first, self.tokens, self.width = first, tokens, max(lengths) + tokens
        while self.columns < self.width:
            self.columns += self.columns // 2
        self.starts = torch.tensor(lengths, device=device)
        none = torch.zeros(len(lengths), 0, dtype=torch.bool, device=device)
        return SlotState(cache=self.cache, valid=none, branches=none.int(), next=self.starts, width=self.width)

    def copy(self, source: int, target: int, length: int) -> None:
        """The first columns of one row into another."""
        for layer in self.layers:
            for room in layer.rooms:
                room[target, :, :length] = room[source, :, :length]

    def kept(self, row: int, length: int) -> Tensor:
        """A copy of the first columns of a row (L, 2, H, length, d)."""
        return torch.stack([torch.stack([room[row, :, :length] for room in layer.rooms]) for layer in self.layers])

    def put(self, row: int, kept: Tensor, length: int) -> None:
        """The first `length` columns of a copy into a row. The rows must have been written before."""
        while self.columns < length:
            self.columns += self.columns // 2
        for layer, held in zip(self.layers, kept):
            for which, own in enumerate(held):
                room = layer.rooms[which]
                if room.shape[2] < length:
                    wide = room.new_zeros(*room.shape[:2], self.columns, room.shape[3])
                    wide[:, :, : room.shape[2]] = room
                    layer.rooms[which] = room = wide
                room[row, :, :length] = own[:, :length]

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values take."""
        return sum(room.nbytes for layer in self.layers for room in layer.rooms)


@dataclass(frozen=True, kw_only=True)
class SlotState(State):
    """The state of some rows of `Slots`: what a token reads is its own row up to itself."""

    width: int
    """Columns that the step's keys and values have."""

    def reach(self, stream: Stream) -> Tensor:
        """(B, T, columns) bool."""
        tokens = stream.ids.shape[1]
        last = self.next[:, None] + torch.arange(tokens, device=self.next.device)
        return torch.arange(self.width, device=self.next.device) <= last[:, :, None]

    def after(self, stream: Stream, following: Tensor, memory: Memory | None, sees: Tensor | None) -> State:
        """Who keeps the slots counts their columns."""
        return self
