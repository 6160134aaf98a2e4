"""A server of one run: model, engine and app put together, signals, and connections that say nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sightline.errors import Problem, Refused
from sightline.evaluate.answering import load_checked
from sightline.evaluate.comparing import ModelAnswerer
from sightline.model import directory, hub_layout
from sightline.model.native.native_weights import blank
from sightline.model.processor import Processor
from sightline.progress import say
from sightline.serve.app import Served, make_app
from sightline.serve.dialects import Dialect
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.named_regions import Masks
from sightline.serve.serving_engine import Engine
from sightline.serve.settings import ServerSettings
from sightline.serve.shadow_traffic import shadowed
from sightline.serve.upstream_client import Upstream
from sightline.serve.upstream_relay import Relay
from sightline.serve.vectors import Vectors

HEADER_TIMEOUT = 10.0
"""Seconds in which the head of a request must have come."""
HEADER_BYTES = 32 << 10
READ_TIMEOUT = 30.0
"""Seconds in which a client must take something of what is written to it."""
TOLD = 5.0
"""Seconds in which answers that are given up at the end are told so."""
CONNECTIONS = 1024
"""Connections at a time; more get 503."""


class PatientProtocol(H11Protocol):
    """Gives clients up that say nothing, too little, or do not read: uvicorn itself waits for ever for a first request, for the rest of the head of any, and for a reader."""

    _head: asyncio.TimerHandle | None = None
    """Runs while a head is awaited: from the connection on, and from the first byte of a later request."""
    _unread: asyncio.TimerHandle | None = None
    """Runs while the client does not take what is written."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEADER_TIMEOUT, self.transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(HEADER_TIMEOUT, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(READ_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = _stopped(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._unread = _stopped(self._head), _stopped(self._unread)
        super().connection_lost(exc)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """At the first signal it takes nothing more, answers what it took, and ends; at the second it ends."""

    def __init__(self, config: uvicorn.Config, served: Served) -> None:
        super().__init__(config)
        self.served = served
        self._ending: threading.Thread | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if self._ending is not None:
            super().handle_exit(sig, frame)
            return
        self.served.door.draining = True
        say(f"ending: {self.served.door.answering} requests are finished first")
        self._ending = threading.Thread(target=self._drain, daemon=True)
        self._ending.start()

    def _drain(self) -> None:
        timeout = self.served.settings.drain_timeout
        whole = self._answered(timeout)
        if self.served.engine is not None:
            self.served.engine.drain(TOLD if whole else 0.0)
        if not whole:
            self._answered(TOLD)
        say("all were answered" if whole else f"some were not finished within {timeout:.0f} s, and were told so")
        self.should_exit = True

    def _answered(self, timeout: float) -> bool:
        """Wait until all that was taken is answered; whether it was."""
        ends = time.monotonic() + timeout
        while self.served.door.answering and time.monotonic() < ends:
            time.sleep(0.02)
        return not self.served.door.answering


def load(run: Path, settings: ServerSettings, check: bool = True, masks: Masks | None = None) -> Served:
    """The model of a run, its golden requests computed again whatever an earlier start found, and what answers with it. The engine is not started."""
    limits = settings.engine
    model, processor, weights = load_checked(run, limits.precision, check, anew=True)
    meters, media = Meters(), Media(limits=settings.media)
    settings = _with_length(settings, processor)
    engine = Engine(model, processor, settings.engine, meters) if "write" in model.abilities else None
    vectors = Vectors(ModelAnswerer(model, processor, weights, limits.precision)) if "embed" in model.abilities else None
    return Served(
        settings=settings,
        processor=processor,
        weights=weights,
        meters=meters,
        media=media,
        engine=engine,
        vectors=vectors,
        masks=masks,
        folder=run,
    )


def load_in_front(run: Path, settings: ServerSettings, upstream: Upstream, dialect: Dialect, masks: Masks | None = None) -> Served:
    """What stands in front of another engine: the processor of a run, whose weights are not read. Refused where the run has none."""
    folder = directory.model_folder(run)
    processor = directory.load_processor(folder)
    if processor.masks is not None:
        found, fix = "a model whose masks are drawn from hidden states", "serve it here, without --upstream"
        raise Refused(
            Problem(
                code="serve/mask-head", place=str(folder), found=found, allowed="a model whose regions are words: no other engine tells these states", fix=fix
            )
        )
    parts = hub_layout.read_json(folder / directory.INDEX)["metadata"].get("parts") if (folder / directory.INDEX).is_file() else None
    settings = _with_length(settings, processor)
    meters, media = Meters(), Media(limits=settings.media)
    relay = Relay(upstream=upstream, dialect=dialect, processor=processor, settings=settings, meters=meters, masks=masks)
    return Served(
        settings=settings,
        processor=processor,
        weights=directory.weights_id(parts) if parts else "",
        meters=meters,
        media=media,
        relay=relay,
        blank=blank(directory.without_checkpoints(processor.config)),
        masks=masks,
        folder=run,
    )


def _with_length(settings: ServerSettings, processor: Processor) -> ServerSettings:
    """With the longest prompt that the model was made for, where none is said."""
    longest = settings.engine.max_model_len or processor.config.max_tokens
    return replace(settings, engine=replace(settings.engine, max_model_len=longest))


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
