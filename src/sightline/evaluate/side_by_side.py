"""Passes through a model side by side on a CPU. Threads that each have a pass of their own wait for nobody; threads that share every operation of one pass wait for each other after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import nn

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


def passes_at_once(model: nn.Module) -> int:
    """How many threads may run a model at once: those of PyTorch on a CPU, else 1; and 1 where a module keeps what a pass changes, as rotary angles that grow with the prompt are kept."""
    grows = [str(getattr(module, "rope_type", "")) for module in model.modules()]  # a name, or one for each type of layer
    shared = next(model.parameters()).device.type == "cpu" and not any("dynamic" in name or "longrope" in name for name in grows)
    return torch.get_num_threads() if shared else 1


def side_by_side(model: nn.Module, work: Callable[[I], O], items: Sequence[I]) -> list[O]:
    """`work` of each item, in their order, as many at once as may run; they share the threads of PyTorch. Gradient mode and autocast are the caller's.

    The first error is raised here, after the passes that are under way; no further one is begun, nor after an interrupt.
    """
    threads, workers = torch.get_num_threads(), min(passes_at_once(model), len(items))
    if workers < 2:
        return [work(item) for item in items]
    grad, cast, dtype = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def within(item: I) -> O:
        with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=dtype, enabled=cast):
            return work(item)

    inside: Any = (threads // workers,)  # of a worker's own operations: OpenMP and MKL count threads for each thread that calls them
    pool = ThreadPoolExecutor(workers, "pass", torch.set_num_threads, inside)
    try:
        todo = [pool.submit(within, item) for item in items]
        wait(todo, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's count is also what threads of later begin with
    return [one.result() for one in todo]
