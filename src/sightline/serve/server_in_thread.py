"""A server of a folder inside this process, for as long as somebody here asks it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from sightline.errors import Problem, Refused
from sightline.serve import server
from sightline.serve.app import make_app
from sightline.serve.chat_client import ChatServer
from sightline.serve.serving_engine import EngineLimits
from sightline.serve.settings import ServerSettings

NAME = "model"
PATIENCE = 30.0


@contextmanager
def served_here(run: Path, dtype: str = "float32", check: bool = True) -> Iterator[ChatServer]:
    """Serve a run, a model or a published checkpoint at a port of this machine that is free. Raises Refused where its model does not write."""
    settings = ServerSettings(served_model_name=(NAME,), engine=EngineLimits(precision=dtype))
    served = server.load(run, settings, check)
    if served.engine is None:
        raise Refused(Problem(code="canary/cannot-write", place=str(run), found="a model that embeds", allowed="a model that writes", fix="name another stage"))
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(served), loop="asyncio", ws="none", log_level="error", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, args=([listening],), name="server", daemon=True)
    thread.start()
    served.engine.start()
    ends = time.monotonic() + PATIENCE
    while not running.started and thread.is_alive() and time.monotonic() < ends:
        time.sleep(0.01)
    assert running.started, "a server on a port of this machine starts"
    try:
        yield ChatServer(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", model=NAME)
    finally:
        served.engine.drain(PATIENCE)
        running.should_exit = True
        thread.join(PATIENCE)
