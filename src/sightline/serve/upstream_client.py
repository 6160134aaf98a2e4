"""HTTP to the engine that a server stands in front of: one request a connection, its reply as it comes, given up as soon as nobody wants it.

A request is tried again only where no connection came about: once anything of it was sent, the engine may have begun to answer.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import h11

from sightline.errors import Problem, Refused
from sightline.evaluate.remote import reason_of
from sightline.serve.jobs import Declined

T = TypeVar("T")
LONGEST_REPLY = 32 << 20
"""Bytes of a reply, or of one event of a stream: log-probabilities of many tokens are large."""
_CHUNK = 1 << 16
_PASSED_ON = (400, 413, 422)
"""What an engine says of a request that is wrong."""
_BUSY = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where the engine is, and how long it is waited for."""

    url: str
    """Base of its API: http://localhost:8000/v1."""
    model: str
    """Name of the model there."""
    key: str = field(default="", repr=False)
    """Sent as a bearer token where it is not empty; told to nobody else."""
    connect_timeout: float = 5.0
    """Seconds for a connection."""
    retries: int = 3
    """Further tries where no connection came about, each after twice the wait of the one before."""
    wait: float = 0.2
    """First wait, s."""
    silence: float = 120.0
    """Seconds without a byte of a reply, its first one included."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            sound = False
        if not sound:
            fix = "correct the address; a key goes into an environment variable"
            raise Refused(Problem(code="serve/upstream", place="--upstream", found="another address", allowed="http://HOST:PORT/v1", fix=fix))


@dataclass(kw_only=True)
class Reply:
    """A reply whose head is here."""

    upstream: Upstream
    status: int
    headers: dict[str, str]
    _connection: h11.Connection
    _reader: asyncio.StreamReader
    _ends: float

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its body as it comes. Raises Declined (502, 504) where it breaks off or stays out."""
        while not isinstance(event := await _event(self.upstream, self._connection, self._reader, self._ends), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def whole(self) -> bytes:
        """All of it. Raises Declined."""
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > LONGEST_REPLY:
                raise broken(f"a reply of more than {LONGEST_REPLY} bytes")
        return bytes(found)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The values of its server-sent events up to `[DONE]` or its end. Raises Declined where one of them is none."""
        left = b""
        async for chunk in self.chunks():
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue  # comments, names of events, and what separates them
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield read(data)
            if len(left) > LONGEST_REPLY:
                raise broken(f"an event of more than {LONGEST_REPLY} bytes")


@asynccontextmanager
async def asked(upstream: Upstream, body: bytes, ends: float) -> AsyncIterator[Reply]:
    """Send a chat request, and give its reply for as long as it is wanted; `ends`: time.monotonic() at which all must be over. Raises Declined: 502 where there is no engine or no sense in its
    reply, 504 where it takes too long, and what the engine says where it refuses the request."""
    async with _sent(upstream, "POST", "/chat/completions", body, ends) as reply:
        if reply.status != 200:
            raise _refusal(upstream, reply.status, reply.headers, await reply.whole())
        yield reply


async def alive(upstream: Upstream, patience: float) -> bool:
    """Whether the engine answers at all."""
    try:
        async with _sent(upstream, "GET", "/models", b"", time.monotonic() + patience, tries=1) as reply:
            return reply.status < 500
    except Declined:
        return False


def read(data: bytes) -> dict[str, Any]:
    """An object of JSON. Raises Declined for anything else."""
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise broken(f"{data[:80].decode(errors='replace')!r} in place of an object of JSON")
    return value


def broken(found: str) -> Declined:
    """What the engine did that it must not."""
    return Declined(
        502, Problem(code="serve/upstream-reply", place="upstream", found=found, allowed="a chat completion", fix="look at the engine, or try again")
    )


@asynccontextmanager
async def _sent(upstream: Upstream, method: str, path: str, body: bytes, ends: float, tries: int = 0) -> AsyncIterator[Reply]:
    parts = urlsplit(upstream.url)
    reader, writer = await _connected(upstream, ends, tries or upstream.retries + 1)
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [("host", parts.netloc), ("accept-encoding", "identity"), ("user-agent", "sightline"), ("connection", "close")]
        headers += [("authorization", f"Bearer {upstream.key}")] if upstream.key else []
        headers += [("content-type", "application/json"), ("content-length", str(len(body)))] if body else []
        request = h11.Request(method=method, target=parts.path.rstrip("/") + path, headers=headers)
        writer.write((connection.send(request) or b"") + (connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        await _in_time(upstream, writer.drain(), ends)
        event = await _event(upstream, connection, reader, ends)
        while isinstance(event, h11.InformationalResponse):
            event = await _event(upstream, connection, reader, ends)
        assert isinstance(event, h11.Response), "a reply begins with its head"
        told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
        yield Reply(upstream=upstream, status=event.status_code, headers=told, _connection=connection, _reader=reader, _ends=ends)
    finally:
        writer.transport.abort()  # at once: an engine that goes on writing learns that nobody reads


async def _connected(upstream: Upstream, ends: float, tries: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(upstream.url)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    wait, error = upstream.wait, ""
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(wait)
            wait *= 2
        try:
            async with asyncio.timeout(max(0.0, min(upstream.connect_timeout, ends - time.monotonic()))):
                return await asyncio.open_connection(parts.hostname, parts.port or (443 if context else 80), ssl=context)
        except (OSError, TimeoutError) as failure:
            error = type(failure).__name__
    found = f"no connection to the engine ({error}), {tries} times"
    raise Declined(502, Problem(code="serve/upstream-away", place="upstream", found=found, allowed="an engine that answers", fix="start it, or try again"), 5.0)


async def _event(upstream: Upstream, connection: h11.Connection, reader: asyncio.StreamReader, ends: float) -> Any:
    """The next event of a reply."""
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await _in_time(upstream, reader.read(_CHUNK), ends))
    except h11.RemoteProtocolError as error:
        raise broken(f"a reply that breaks off, or is no HTTP ({error})") from None
    if isinstance(event, h11.ConnectionClosed):
        raise broken("a connection closed without a reply")
    return event


async def _in_time(upstream: Upstream, work: Awaitable[T], ends: float) -> T:
    try:
        async with asyncio.timeout(max(0.0, min(upstream.silence, ends - time.monotonic()))):
            return await work
    except TimeoutError:
        late = ends <= time.monotonic()
        found = "no whole answer in time" if late else f"nothing from the engine for {upstream.silence:.0f} s"
        problem = Problem(
            code="serve/upstream-slow", place="upstream", found=found, allowed="an answer in time", fix="ask for fewer tokens, or try again later"
        )
        raise Declined(504, problem, 5.0) from None
    except OSError as error:
        raise broken(f"a connection that broke ({type(error).__name__})") from None


def _refusal(upstream: Upstream, status: int, headers: dict[str, str], reply: bytes) -> Declined:
    """What a reply without an answer means for the client: what is wrong with its request it is told, what is wrong with the engine is no status of ours."""
    reason = reason_of(reply)
    reason = reason.replace(upstream.key, "***") if upstream.key else reason
    if status in _PASSED_ON:
        problem = Problem(code="serve/upstream-refused", place="upstream", found=reason, allowed="a request that the engine takes", fix="change the request")
        return Declined(status, problem)
    if status in _BUSY:
        after = headers.get("retry-after", "")
        problem = Problem(code="serve/upstream-busy", place="upstream", found=f"{status}: {reason}", allowed="an engine with room", fix="try again later")
        return Declined(status, problem, float(after) if after.replace(".", "", 1).isdecimal() else 5.0)
    if status in (401, 403):
        reason = "the engine does not let this server in"
    problem = Problem(code="serve/upstream-error", place="upstream", found=f"{status}: {reason}", allowed="200", fix="tell whoever runs this server")
    return Declined(502, problem)
