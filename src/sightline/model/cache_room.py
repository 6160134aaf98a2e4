"""Keys and values of decoding in memory that is taken ahead of need: a step writes its columns and moves nothing. Letters: B bins, H heads, T tokens, d head width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, EncoderDecoderCache

SPARE, GROWTH = 64, 4
"""Columns taken ahead: at least so many, and one for every so many that are held. Copying is then a constant share of writing, however long the answers."""


class Filled(Exception):
    """The last layer has its keys and values, and nothing is asked of what comes after."""


class RoomyLayer(DynamicLayer):
    """A layer of a cache. `keys` and `values` (B, H, columns, d) are views of wider tensors; who replaces them, as `reorder_cache` does, loses the room ahead and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: list[Tensor | None] = [None, None]
        """What `keys` and `values` are views of."""
        self.ends = False
        """Whether the pass is over once this layer is written: `update` raises Filled."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the columns of (B, H, T, d) behind those that are there; all of them. The first come back as they came: they lie in memory as the queries do."""
        fresh = not self.is_initialized
        if fresh:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self._written(0, self.keys, key_states), self._written(1, self.values, value_states)
        if self.ends:
            raise Filled
        return (key_states, value_states) if fresh else (self.keys, self.values)

    def _written(self, which: int, held: Tensor, fresh: Tensor) -> Tensor:
        before = held.shape[2]
        after = before + fresh.shape[2]
        room = self.rooms[which]
        if room is None or room.data_ptr() != held.data_ptr() or room.shape[2] < after:
            room = fresh.new_empty(*fresh.shape[:2], after + max(SPARE, after // GROWTH), fresh.shape[3])
            room[:, :, :before] = held
            self.rooms[which] = room
        room[:, :, before:after] = fresh
        return room[:, :, :after]


def roomy(cache: Any) -> Any:
    """The same empty cache with room ahead in what grows at every step."""
    growing = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    assert isinstance(growing, Cache) and not growing.layers, "an empty cache"
    growing.layer_class_to_replicate = RoomyLayer
    return cache


@contextmanager
def keys_alone(cache: Any, layers: int) -> Iterator[None]:
    """A pass of which nothing but the cache is wanted ends when the last of the layers has its keys and values. A cache that also holds those of memory goes through."""
    if isinstance(cache, EncoderDecoderCache):
        yield
        return
    while len(cache.layers) < layers:
        cache.layers.append(RoomyLayer())
    cache.layers[-1].ends = True
    try:
        yield
    except Filled:
        pass
    finally:
        cache.layers[-1].ends = False


def joined(caches: Sequence[Any]) -> Any:
    """One cache of the bins of all, in order, whose narrow layers are widened with zeros. The caches given are emptied on the way, so that little exists twice."""
    first = caches[0]
    if isinstance(first, EncoderDecoderCache):
        pairs = [(one.self_attention_cache, one.cross_attention_cache) for one in caches]
        found = EncoderDecoderCache(*(joined(side) for side in zip(*pairs)))
        found.is_updated = dict(first.is_updated)
        return found
    for number, layer in enumerate(first.layers):
        layers = [one.layers[number] for one in caches]
        width = max(own.get_seq_length() for own in layers)
        for which, name in enumerate(("keys", "values")):
            room = _below([getattr(own, name) for own in layers], width)
            setattr(layer, name, room[:, :, :width])
            for own in layers:
                own.__dict__.update({} if own is layer else {name: None})
                if isinstance(own, RoomyLayer):
                    own.rooms[which] = room if own is layer else None
    return first


def _below(parts: Sequence[Tensor], width: int) -> Tensor:
    """Columns (B, H, T, d) of several groups of bins, zeros where a group has fewer than `width`, and room behind."""
    bins, (_, heads, _, channels) = sum(len(part) for part in parts), parts[0].shape
    room = parts[0].new_empty(bins, heads, width + max(SPARE, width // GROWTH), channels)
    for own, part in zip(room.split([len(part) for part in parts]), parts):
        own[:, :, : part.shape[2]] = part
        own[:, :, part.shape[2] : width] = 0
    return room
