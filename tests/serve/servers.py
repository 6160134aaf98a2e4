"""A server of a tiny model in this process, and requests to it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from sightline.evaluate.comparing import ModelAnswerer
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.serve.app import Served, make_app
from sightline.serve.media import Media, Resolver, addresses
from sightline.serve.meters import Meters
from sightline.serve.named_regions import Masks
from sightline.serve.server import PatientProtocol
from sightline.serve.serving_engine import Engine, EngineLimits
from sightline.serve.settings import MediaLimits, ServerSettings
from sightline.serve.shadow_traffic import shadowed
from sightline.serve.vectors import Vectors

PATIENCE = 120.0


def png(seed: int = 0, width: int = 24, height: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(*urls: str, text: str = "Where?") -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


class Running:
    """A server that answers at 127.0.0.1:port."""

    def __init__(self, served: Served, port: int) -> None:
        self.served, self.port = served, port
        self.base = f"http://127.0.0.1:{port}"

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, kind: str = "application/json", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        told = {name.replace("_", "-"): value for name, value in headers.items()} | ({"content-type": kind} if body is not None else {})
        connection.request(method, path, sent, told)
        reply = connection.getresponse()
        found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
        connection.close()
        return found

    def chat(self, messages: list[dict[str, Any]], **more: Any) -> tuple[int, dict[str, Any]]:
        status, _, body = self.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": messages, "max_tokens": 5} | more)
        return status, json.loads(body)

    def declined(self, messages: list[dict[str, Any]], **more: Any) -> tuple[int, str]:
        """Status and code of an error."""
        status, body = self.chat(messages, **more)
        assert set(body) == {"error"} and body["error"]["message"], body
        return status, body["error"]["code"]


@contextmanager
def running(
    model: Model,
    processor: Processor,
    engine: dict[str, Any] | None = None,
    media: dict[str, Any] | None = None,
    resolve: Resolver = addresses,
    folder: Path | None = None,
    masks: Masks | None = None,
    **more: Any,
) -> Iterator[Running]:
    settings = limited(engine, media, **more)
    meters = Meters()
    writer = Engine(model, processor, settings.engine, meters) if "write" in model.abilities else None
    vectors = Vectors(ModelAnswerer(model, processor, "w")) if "embed" in model.abilities else None
    pictures = Media(limits=settings.media, resolve=resolve)
    with listening(
        Served(settings=settings, processor=processor, weights="w", meters=meters, media=pictures, engine=writer, vectors=vectors, folder=folder, masks=masks)
    ) as found:
        yield found


def limited(engine: dict[str, Any] | None = None, media: dict[str, Any] | None = None, **more: Any) -> ServerSettings:
    """Settings with limits for tiny models."""
    limits = EngineLimits(**{"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 400} | (engine or {}))
    told = MediaLimits(**{"max_image_pixels": 40_000, "images_per_prompt": 3} | (media or {}))
    return ServerSettings(**{"served_model_name": ("tiny", "other-name"), "engine": limits, "media": told} | more)


@contextmanager
def listening(served: Served) -> Iterator[Running]:
    """A server in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = shadowed(make_app(served), served.settings, served.meters)
    config = uvicorn.Config(app, http=PatientProtocol, ws="none", log_level="error", lifespan="off", h11_max_incomplete_event_size=32 << 10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    if served.engine is not None:
        served.engine.start()
    try:
        yield Running(served, listener.getsockname()[1])
    finally:
        if served.engine is not None:
            served.engine.drain(PATIENCE)
        server.should_exit = True
        thread.join(PATIENCE)
