"""Keys and values of prompts that were read before, found again by content: what a new prompt begins with is not computed twice.

Letters: T tokens (see model/slots.py).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

import numpy as np
from torch import Tensor

from sightline.evaluate.prefixes import named_entries
from sightline.model.packing import Encoded

LEAST = 16
"""Tokens that are worth finding again."""
MOST = 512
"""Prompts that are compared with a new one, at most."""
_NAMES = 1 << 62
_VECTORS = 1 << 20
"""Entries of a picture are named from its own beginning on; the vectors of layout and prompts have names of their own below."""


def spelled(encoded: Encoded, vectors: int) -> np.ndarray:
    """(t,) int64: two prompts that begin with the same numbers give the same keys and values there. Text tokens are their ids; entries of pictures are negative names, made of the content."""
    line = encoded.ids.astype(np.int64)
    if not len(encoded.slots):
        return line
    line[encoded.slots] = named_entries(encoded, encoded.entries, vectors, [_name(shown) for shown in encoded.shown()], _name)
    return line


def _name(what: object) -> int:
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=8).digest(), "big") % _NAMES + _VECTORS


class PrefixCache:
    """Copies of keys and values within `budget` bytes; what was not asked for longest goes first."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.bytes = 0
        self._known: OrderedDict[bytes, tuple[np.ndarray, Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, line: np.ndarray) -> tuple[Tensor | None, int]:
        """A copy whose first tokens are those of the line, and how many; the last token of the line is never among them, for somebody must predict from it."""
        best, longest = b"", 0
        for key, (known, _) in self._known.items():
            length = min(len(known), len(line) - 1)
            if length <= longest or known[0] != line[0] or known[longest] != line[longest]:
                continue
            differ = np.flatnonzero(known[:length] != line[:length])
            alike = int(differ[0]) if len(differ) else length
            if alike > longest:
                best, longest = key, alike
        if longest < LEAST:
            return None, 0
        self._known.move_to_end(best)
        return self._known[best][1], longest

    def holds(self, line: np.ndarray) -> bool:
        """Whether a prompt that begins with this line is there, so that a copy of it would add nothing."""
        return any(len(known) >= len(line) and np.array_equal(known[: len(line)], line) for known, _ in self._known.values())

    def add(self, line: np.ndarray, kept: Tensor) -> None:
        """Keep a copy (.., T, d) of the keys and values of a line (T,). Copies of its beginnings go: it holds them."""
        if len(line) < LEAST or kept.nbytes > self.budget:
            return
        for key in [key for key, (known, _) in self._known.items() if len(known) <= len(line) and np.array_equal(known, line[: len(known)])]:
            self._forget(key)
        self._known[line.tobytes()] = (line, kept)
        self.bytes += kept.nbytes
        while self.bytes > self.budget or len(self._known) > MOST:
            self._forget(next(iter(self._known)))

    def _forget(self, key: bytes) -> None:
        self.bytes -= self._known.pop(key)[1].nbytes
