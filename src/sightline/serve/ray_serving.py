"""Replicas of one server on a Ray cluster, by Ray Serve: as many as the queue asks for, each with a model, an engine and the app of its own.

A replica takes requests once its model is loaded and its golden requests passed. One that is to go away gets no more and answers what it has. Requests that find every replica busy wait in Ray's
proxies, and get 503 where too many do.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from sightline.data.engine import connect
from sightline.errors import Problem, Refused
from sightline.model.directory import model_folder
from sightline.progress import say
from sightline.serve.gathered_meters import Board, GatheredMetrics, Telling
from sightline.serve.guard import App, Receive, Scope, Send
from sightline.serve.settings import ServerSettings

NAME = "sightline"
RETRY_AFTER = 2.0
"""Seconds that requests are asked to wait where all replicas are full."""
TRIES = 1
"""Times that a replica is made anew whose model did not load: what golden requests find is there again."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How replicas come and go; names and meanings are Ray's."""

    min_replicas: int = 1
    max_replicas: int = 4
    target_ongoing_requests: float = 16.0
    """Requests for each replica, waiting ones too: there are so many replicas that it holds."""
    max_ongoing_requests: int = 32
    """Requests that a replica has at a time."""
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0


class Replica:
    """One server without a port: Ray hands it requests. It is there once __init__ is done."""

    def __init__(self, run: str, settings: ServerSettings, check: bool, board: Any) -> None:
        import ray  # pyright: ignore[reportMissingImports]
        from ray import serve  # pyright: ignore[reportMissingImports]

        from sightline.serve import server

        try:
            self.served = server.load(Path(run), settings, check)
        except Refused as refused:
            ray.get(board.refuse.remote(refused.problems))
            raise
        name = serve.get_replica_context().replica_id.unique_id
        exchange: Callable[..., Any] = lambda *told: ray.get(board.exchange.remote(*told))  # noqa: E731
        if self.served.engine is not None:
            self.served.engine.start()
        self.telling = Telling(name, self.served.meters, exchange, self._busy, self._end)

    def __serve_build_asgi_app__(self) -> App:
        """The app, as Ray asks for it after __init__."""
        from sightline.serve.app import make_app
        from sightline.serve.shadow_traffic import shadowed

        app = GatheredMetrics(make_app(self.served), self.telling)
        return Unnamed(shadowed(app, self.served.settings, self.served.meters))

    def check_health(self) -> None:
        """Raises where the engine does nothing any more: Ray then makes another replica."""
        if self.served.engine is not None and self.served.engine.broken:
            raise RuntimeError(self.served.engine.broken)

    def _busy(self) -> int:
        engine = self.served.engine
        return 0 if engine is None else engine.running + engine.waiting

    def _end(self) -> None:
        if self.served.engine is not None:
            self.served.engine.drain(self.served.settings.drain_timeout)


class Unnamed:
    """Takes the name of the request out of answers: Ray's proxy, which gave it, puts it there."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [(key, value) for key, value in message["headers"] if key.lower() != b"x-request-id"]}
            await send(message)

        await self.app(scope, receive, sent)


def deployment(run: Path, settings: ServerSettings, scaling: Scaling, check: bool, board: Any) -> Any:
    """The application that Ray Serve is to run. `board` is the handle of an actor of `Board`."""
    from ray import serve  # pyright: ignore[reportMissingImports]
    from ray.serve.config import AutoscalingConfig, BackpressureConfig  # pyright: ignore[reportMissingImports]

    made = serve.deployment(
        name="server",
        ray_actor_options={"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus},
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=settings.engine.max_num_queued_reqs,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER),
        autoscaling_config=AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            target_ongoing_requests=scaling.target_ongoing_requests,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
            metrics_interval_s=min(10.0, max(0.5, scaling.upscale_delay_s / 2)),
            look_back_period_s=min(30.0, max(1.0, scaling.upscale_delay_s)),
        ),
        graceful_shutdown_timeout_s=settings.request_timeout + 10.0,
        max_constructor_retry_count=TRIES,
    )(serve.ingress()(Replica))
    return made.bind(str(run.resolve()), settings, check, board)


@contextmanager
def deployed(run: Path, settings: ServerSettings, scaling: Scaling, host: str, port: int, *, check: bool = True, address: str | None = None) -> Iterator[None]:
    """Replicas behind the proxies of a cluster, for as long as this lasts; then what was taken is answered. Raises Refused where the cluster is not there or is taken, or where no replica comes up."""
    _refuse_absent()
    model_folder(run)
    import ray  # pyright: ignore[reportMissingImports]
    from ray import serve  # pyright: ignore[reportMissingImports]
    from ray.serve.config import HTTPOptions  # pyright: ignore[reportMissingImports]
    from ray.serve.schema import LoggingConfig  # pyright: ignore[reportMissingImports]

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    connect(ray, address, ceil(scaling.max_replicas * scaling.num_cpus))
    try:
        if serve.status().proxies:
            found, fix = "Ray Serve runs on this cluster already", "`serve shutdown`, or another cluster"
            raise Refused(Problem(code="serve/cluster-taken", place=str(address), found=found, allowed="a cluster without it", fix=fix))
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
        board: Any = ray.remote(num_cpus=0)(Board).remote()
        try:
            serve.run(deployment(run, settings, scaling, check, board), name=NAME, route_prefix="/", logging_config=quiet)
        except RuntimeError as error:
            told = " ".join(str(error).split())
            fix = "serve it without --engine ray to see why, or look at the logs of Ray"
            unknown = Problem(code="serve/replica", place=str(run), found=told, allowed="a replica that answers", fix=fix)
            raise Refused(ray.get(board.problems.remote()) or unknown) from error
        yield
        say("ending: what was taken is answered first")
        ray.get(board.end.remote())
        ends = time.monotonic() + settings.drain_timeout
        while ray.get(board.busy.remote()) and time.monotonic() < ends:
            time.sleep(0.2)
    finally:
        serve.shutdown()
        ray.shutdown()


def serve(run: Path, settings: ServerSettings, scaling: Scaling, host: str, port: int, *, check: bool = True, address: str | None = None) -> None:
    """Answer until a signal comes. Raises Refused as `deployed` does."""
    ended = threading.Event()
    with deployed(run, settings, scaling, host, port, check=check, address=address):
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: ended.set())
        counted = f"{scaling.min_replicas} to {scaling.max_replicas} replicas"
        say(f"serving {settings.served_model_name[0]} with {counted} at http://{host}:{port}/ (the API under /v1); stop it with Ctrl-C")
        ended.wait()


def _refuse_absent() -> None:
    absent = [name for name in ("ray", "aiohttp") if find_spec(name) is None]
    if absent:
        found, fix = f"{', '.join(absent)} not installed", 'pip install "sightline[serve,scale]"'
        raise Refused(Problem(code="serve/not-installed", place="serve", found=found, allowed="the extra `scale`", fix=fix))
