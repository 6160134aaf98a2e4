"""Worker processes that end with the process that started them, even when that one is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import Literal


def pool(count: int, start: Literal["spawn", "fork"] | None = None) -> ProcessPoolExecutor:
    """`count` worker processes, started in the platform's usual way unless `start` names another.

    A plain pool's workers wait for work forever when their parent is killed, and go on writing into a folder that the next run clears.
    """
    if start is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        start = "spawn"  # a fork would copy locks that the threads of several training processes hold
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(start), initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker has a parent to end with"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, where the platform says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
