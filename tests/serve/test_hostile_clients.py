"""Clients that send too much, too slowly, or do not read, and pictures that lead elsewhere: each gets its answer or is cut, and everybody else is answered meanwhile."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import uvicorn
from compositions import make
from servers import PATIENCE, Running, data_url, png, running, shown

from sightline.serve import media, server
from sightline.serve.media import Resolver

ASKED = [{"role": "user", "content": "Where?"}]
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
SOON = 20.0
"""Seconds that somebody else's answer may take on a busy machine."""


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """With the limits that servers have by default."""
    with running(*make("flat"), media={"max_image_pixels": 33_000_000, "images_per_prompt": 8}, body_timeout=PATIENCE) as found:
        yield found


def answered(found: Running) -> None:
    began = time.monotonic()
    assert found.chat(ASKED, max_tokens=2)[0] == 200 and time.monotonic() - began < SOON


# too much


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that says it is so large, of a few kB."""
    lines = zlib.compress(bytes(1 << 20), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + b"".join(more)
        + chunk(b"IDAT", lines)
        + chunk(b"IEND", b"")
    )


BOMBS = {
    "pixels": (claimed(12_000, 12_000), "serve/picture-too-large"),
    "more pixels than a number holds": (claimed(1 << 30, 1 << 30), "samples/picture-too-large"),
    "a line": (claimed(1 << 31 - 1, 1), "samples/picture-too-large"),
    "a profile": (claimed(1000, 1000, chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(64 << 20), 9))), "samples/broken-picture"),
    "texts": (claimed(1000, 1000, *[chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(900 << 10), 9))] * 100), "samples/broken-picture"),
    "cut off": (claimed(4000, 4000), "samples/broken-picture"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_more_than_it_may_is_declined(small: Running, name: str) -> None:
    data, code = BOMBS[name]
    assert len(data) < 1 << 20
    assert small.declined(shown(data_url(data))) == (400, code)
    answered(small)


def test_a_picture_of_one_line_is_a_picture(small: Running) -> None:
    assert small.chat(shown(data_url(png(0, 1, 10_000))))[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes_get_their_refusal(small: Running, chunked: bool) -> None:
    """Also where the client writes all of it before it reads."""
    piece = b" " * (1 << 20)
    with socket.create_connection(("127.0.0.1", small.port), timeout=PATIENCE) as connection:
        connection.sendall(HEAD + (b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: 104857600\r\n\r\n"))
        for number in range(100):
            connection.sendall(b"100000\r\n" + piece + b"\r\n" if chunked else piece)
            if number == 50:
                answered(small)
        reply = connection.recv(1 << 16)
    assert reply.startswith(b"HTTP/1.1 413") and b"RequestTooLargeError" in reply
    answered(small)


# too slow


def connected(found: Running, stack: ExitStack, data: bytes = b"") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", found.port), timeout=PATIENCE))
    connection.sendall(data)
    return connection


def ended(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return found
        if not data:
            return found
        found += data


def body(**more: Any) -> bytes:
    told = json.dumps({"model": "tiny", "messages": ASKED, "max_tokens": 2} | more).encode()
    return HEAD + f"content-length: {len(told)}\r\n\r\n".encode() + told


def test_clients_that_stall_hold_nobody_up_and_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_TIMEOUT", 1.5)
    with running(*make("flat"), body_timeout=1.5) as found, ExitStack() as stack:
        silent = [connected(found, stack) for _ in range(15)]
        begun = [connected(found, stack, HEAD) for _ in range(15)]
        bodies = [connected(found, stack, HEAD + b'content-length: 1000\r\n\r\n{"model"') for _ in range(15)]
        later = [connected(found, stack, body()) for _ in range(3)]
        for connection in later:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            connection.sendall(HEAD)  # the head of a second request, which does not end

        def trickle(connection: socket.socket) -> None:
            for sign in HEAD * 20:
                try:
                    connection.sendall(bytes((sign,)))
                except OSError:
                    return
                time.sleep(0.05)

        slow = connected(found, stack)
        threading.Thread(target=trickle, args=(slow,), daemon=True).start()
        for _ in range(3):
            answered(found)
        began = time.monotonic()
        assert all(ended(connection) == b"" for connection in [*silent, *begun, slow])
        assert not any(b"HTTP/" in ended(connection) for connection in later)
        assert all(b" 408 " in ended(connection).partition(b"\r\n")[0] for connection in bodies)
        assert time.monotonic() - began < SOON
        answered(found)


def test_a_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than what systems hold for it. The app learns that the client left, and one that reads slowly gets all."""
    monkeypatch.setattr(server, "READ_TIMEOUT", 1.0)
    told, pieces, piece = threading.Event(), 64, bytes(1 << 20)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await receive()
        if (await receive())["type"] == "http.disconnect":
            told.set()

    listener = socket.create_server(("127.0.0.1", 0))
    one = uvicorn.Server(uvicorn.Config(app, http=server.PatientProtocol, ws="none", log_level="critical", lifespan="off"))
    thread = threading.Thread(target=one.run, args=([listener],), daemon=True)
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as deaf, socket.create_connection(listener.getsockname()) as slow:
            for connection in (deaf, slow):
                connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            came = 0
            while data := slow.recv(1 << 19):
                came += len(data)
                time.sleep(0.02)
            assert came > pieces * len(piece), "who reads slowly gets all"
            assert told.wait(PATIENCE) and len(ended(deaf)) < pieces * len(piece)
    finally:
        one.should_exit = True
        thread.join(PATIENCE)


# pictures that lead elsewhere


class _Inner(BaseHTTPRequestHandler):
    """A host that stalls, or leads to another one."""

    def do_GET(self) -> None:
        if self.path == "/stalls":
            time.sleep(2.0)
        self.send_response(302 if self.path == "/inside" else 200)
        self.send_header("location", f"http://inner.example:{self.server.server_port}/picture.png")  # pyright: ignore[reportAttributeAccessIssue]
        self.send_header("content-type", "image/png")
        self.end_headers()
        if self.path == "/picture.png":
            self.wfile.write(png())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hosts(resolve: Resolver, timeout: float = 1.5) -> Iterator[tuple[Running, int]]:
    """A server that may fetch from two hosts, both of which are one at this machine, unless they are resolved to another address."""
    outer = ThreadingHTTPServer(("127.0.0.1", 0), _Inner)
    threading.Thread(target=outer.serve_forever, daemon=True).start()
    limits = {"allowed_media_domains": ("outer.example", "inner.example"), "fetch_timeout": timeout}
    try:
        with running(*make("flat"), media=limits, resolve=resolve) as found:
            yield found, outer.server_port
    finally:
        outer.shutdown()
        outer.server_close()


def test_hosts_lead_nowhere_that_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A private address, a redirect to one, and a name whose second answer is another one than the first."""
    monkeypatch.setattr(media, "_public", lambda address: address == "127.0.0.1")
    named = {"outer.example": ["127.0.0.1"], "inner.example": ["10.0.0.1"]}
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return named[host] if asked.count(host) == 1 or host == "inner.example" else ["169.254.169.254"]

    with hosts(resolve) as (found, port):
        assert found.declined(shown(f"http://inner.example:{port}/picture.png")) == (400, "serve/private-address")
        assert found.chat(shown(f"http://outer.example:{port}/picture.png"))[0] == 200 and asked == ["inner.example", "outer.example"], (
            "asked once, and so connected"
        )
        assert found.declined(shown(f"http://outer.example:{port}/picture.png")) == (400, "serve/private-address"), "the next request asks again"
        asked.clear()
        assert found.declined(shown(f"http://outer.example:{port}/inside")) == (400, "serve/private-address") and asked == ["outer.example", "inner.example"]
        assert found.declined(shown(f"http://elsewhere.example:{port}/picture.png")) == (400, "serve/media-domain")
        answered(found)


def test_hosts_that_stall_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_public", lambda address: True)
    with hosts(lambda host, port: ["127.0.0.1"], timeout=1.0) as (found, port):
        statuses: list[tuple[int, str]] = []
        threads = [threading.Thread(target=lambda: statuses.append(found.declined(shown(f"http://outer.example:{port}/stalls")))) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert found.chat(shown(data_url(png())), max_tokens=2)[0] == 200
        waited = time.monotonic() - began
        alive = sum(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join(PATIENCE)
        assert statuses == [(422, "serve/fetch")] * 6 and (alive or waited < 1.0)
