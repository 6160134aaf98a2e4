"""A server of one run: model, engine and app put together, signals, and connections that say nothing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sightline.evaluate.answering import load_checked
from sightline.evaluate.comparing import ModelAnswerer
from sightline.progress import say
from sightline.serve.app import Served, make_app
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.serving_engine import Engine
from sightline.serve.settings import ServerSettings
from sightline.serve.shadow_traffic import shadowed
from sightline.serve.vectors import Vectors

HEADER_TIMEOUT = 10.0
"""Seconds in which the head of a first request must have come."""
HEADER_BYTES = 32 << 10
CONNECTIONS = 1024
"""Connections at a time; more get 503."""


class PatientProtocol(H11Protocol):
    """Closes a connection on which no request has come in time: uvicorn itself waits for ever for the first one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEADER_TIMEOUT, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """At the first signal it takes nothing more, answers what it took, and ends; at the second it ends."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served
        self._ending: threading.Thread | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if self._ending is not None or self.served.engine is None:
            super().handle_exit(sig, frame)
            return
        say(f"ending: {self.served.engine.running + self.served.engine.waiting} requests are finished first")
        self.served.engine.draining = True
        self._ending = threading.Thread(target=self._drain, daemon=True)
        self._ending.start()

    def _drain(self) -> None:
        assert self.served.engine is not None
        whole = self.served.engine.drain(self.served.settings.drain_timeout)
        say("all were answered" if whole else f"some were not finished within {self.served.settings.drain_timeout:.0f} s, and were told so")
        self.should_exit = True


def load(run: Path, settings: ServerSettings, check: bool = True) -> Served:
    """The model of a run, its golden requests checked, and what answers with it. The engine is not started."""
    limits = settings.engine
    model, processor, weights = load_checked(run, limits.precision, check)
    meters, media = Meters(), Media(limits=settings.media)
    if not limits.max_model_len:
        settings = replace(settings, engine=replace(limits, max_model_len=processor.config.max_tokens))
    engine = Engine(model, processor, settings.engine, meters) if "write" in model.abilities else None
    vectors = Vectors(ModelAnswerer(model, processor, weights, limits.precision), media) if "embed" in model.abilities else None
    return Served(settings=settings, processor=processor, weights=weights, meters=meters, media=media, engine=engine, vectors=vectors, folder=run)


def serve(served: Served, host: str, port: int, **more: Any) -> None:
    """Answer until a signal comes."""
    config = uvicorn.Config(
        shadowed(make_app(served), served.settings, served.meters),
        host=host,
        port=port,
        http=PatientProtocol,
        loop="asyncio",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        lifespan="off",
        **more,
    )
    if served.engine is not None:
        served.engine.start()
    Server(config, served).run()
