"""The processes that train together. The loop and the objectives speak to all of them through one `World`; alone, it is this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


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

    def told(self, value: Any) -> Any:
        """What rank 0 says, on every rank; `value` is JSON."""
        ...

    def wait(self) -> None:
        """Until every process is here."""
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

    def told(self, value: Any) -> Any:
        """`value` itself."""
        return value

    def wait(self) -> None:
        """Nobody to wait for."""


ALONE: World = Alone()


def first_alone(world: World, work: Callable[[], T]) -> T:
    """`work` by rank 0, and then by the others, who find done what they share (a cache on disk)."""
    if world.rank == 0:
        found = work()
        world.wait()
        return found
    world.wait()
    return work()
