"""The processes that train together. The loop and the objectives speak to all of them through one `World`; alone, it is this process."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class World(Protocol):
    """Rank and number of the processes of a run, and what crosses between them. Every rank calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """This process, 0..size-1."""
        ...

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def sum(self, t: Tensor) -> Tensor:
        """The sum of `t` over all processes, equal on each; without gradient."""
        ...

    def gather(self, t: Tensor) -> Tensor:
        """`t` (n, ..) of all processes one after another (size * n, ..), in rank order; gradients flow back to the rank that gave the rows."""
        ...


class Alone:
    """A world of one process."""

    rank = 0
    size = 1

    def sum(self, t: Tensor) -> Tensor:
        """`t` itself."""
        return t.detach()

    def gather(self, t: Tensor) -> Tensor:
        """`t` itself."""
        return t


ALONE: World = Alone()
