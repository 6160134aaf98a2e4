"""Who computes: the processes of this machine, or a Ray cluster. Both map one function over tasks and give the results in the order of the tasks, with few of them in flight."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

from sightline.data.workers import pool, usable_cores
from sightline.errors import Problem, Refused

Task = TypeVar("Task")
Result = TypeVar("Result")

ENGINES = ("local", "ray")
FEW = 4
"""So many tasks are done in this process sooner than others have started."""
AHEAD = 2
"""Tasks in flight per worker: one that is worked on and one that waits, so that memory stays bounded."""


class Engine(Protocol):
    """Anything that maps a picklable function over tasks."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """Results in the order of the tasks; tasks are taken as workers get free. An exception of the function is raised here, and the other tasks are given up."""
        ...


@dataclass(frozen=True, kw_only=True)
class Local:
    """Processes of this machine; few tasks, or one worker, are done in this very process."""

    workers: int = field(default_factory=usable_cores)

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """See `Engine`."""
        rest = iter(tasks)
        first = list(islice(rest, FEW + 1)) if self.workers > 1 else []
        if len(first) <= FEW:
            yield from (function(task) for task in chain(first, rest))
            return
        with pool(self.workers) as processes:
            try:
                submitted = (processes.submit(function, task) for task in chain(first, rest))
                yield from (future.result() for future in _bounded(submitted, AHEAD * self.workers))
            except BaseException:
                processes.shutdown(wait=True, cancel_futures=True)
                raise


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Tasks of a Ray cluster. All its machines must see the folders that are read and written under the same paths."""

    address: str | None = None
    """Address of a running cluster (`auto`, `HOST:PORT`, `ray://..`); None starts one on this machine, for this pass."""
    workers: int = field(default_factory=usable_cores)
    """CPUs of a cluster that is started here."""
    devices: int = 0
    """Accelerators that every task has for itself."""

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            fix = "pip install 'sightline[scale]', or leave `--engine ray` out: the result is the same"
            raise Refused(Problem(code="data/no-ray", place="engine", found="ray is not installed", allowed="ray 2.60 or later", fix=fix))

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """See `Engine`."""
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayTaskError  # pyright: ignore[reportMissingImports]

        ours = not ray.is_initialized()
        if ours:
            connect(ray, self.address, self.workers)
        try:
            shared = ray.put(function)
            call = ray.remote(num_cpus=1, num_gpus=self.devices)(_call)
            cores = int(ray.cluster_resources().get("CPU", 1))
            yield from (ray.get(reference) for reference in _bounded((call.remote(shared, task) for task in tasks), AHEAD * cores))
        except RayTaskError as error:
            # Ray wraps what the function raised; a refusal is a refusal wherever it happens.
            raise error.cause if isinstance(error.cause, Refused) else error from None
        finally:
            if ours:
                ray.shutdown()


def engine_of(name: str, workers: int | None = None, address: str | None = None) -> Engine:
    """The engine of a name, `local` or `ray`, with so many workers (None: the cores that this process may use). Refused when it is not there."""
    count = usable_cores() if workers is None else workers
    if name == "local" and address is None:
        return Local(workers=count)
    if name == "ray":
        return Ray(address=address, workers=count)
    found = "an address of Ray with the local engine" if name == "local" else repr(name)
    raise Refused(Problem(code="data/unknown-engine", place="engine", found=found, allowed=", ".join(ENGINES), fix="--engine ray, or no address"))


def _bounded(submitted: Iterable[Result], count: int) -> Iterator[Result]:
    """What was submitted, each `count` places after it was."""
    waiting: deque[Result] = deque()
    for one in submitted:
        waiting.append(one)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    return function(task)


def connect(ray: Any, address: str | None, workers: int) -> None:
    """Join the Ray cluster of an address, or start one on this machine with so many CPUs. Refused when it is not there."""
    size = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **size)
    except (OSError, RuntimeError, ValueError) as error:
        fix = "start one (`ray start --head`), correct the address, or leave it out to start one for this pass"
        raise Refused(Problem(code="data/no-cluster", place=str(address), found=str(error).partition("\n")[0], allowed="a running cluster", fix=fix)) from None


def _knock(address: str | None) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()
