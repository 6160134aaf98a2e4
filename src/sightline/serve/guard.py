"""What stands before every request: keys, types, bodies that are too large or too slow, and a name for each request. It is plain ASGI, so that a body is counted while it comes."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sightline.errors import Problem
from sightline.serve.jobs import Declined
from sightline.serve.meters import Meters
from sightline.serve.page_routes import FILES
from sightline.serve.settings import ServerSettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KINDS = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 408: "RequestTimeoutError", 413: "RequestTooLargeError"}
KINDS |= {405: "MethodNotAllowedError", 415: "UnsupportedMediaTypeError", 422: "UnprocessableEntityError", 429: "RateLimitError"}
KINDS |= {500: "InternalServerError", 502: "UpstreamError", 503: "ServiceUnavailableError", 504: "TimeoutError"}
OPEN = frozenset(("/", "/health", "/ready", "/metrics", "/openapi.json", *(f"/page/{name}" for name in FILES)))
"""Paths that need no key: they tell nothing that was asked or answered."""
LINGER, LINGER_BYTES = 5.0, 256 << 20
"""Seconds and bytes for which the rest of a refused body is read and thrown away."""
_NAME = re.compile(r"[\w.:-]{1,64}")


def told(declined: Declined) -> dict[str, Any]:
    """The body of an error, as clients of the OpenAI API read it."""
    problem = declined.problem
    message = f"{problem.place}: found {problem.found}; allowed: {problem.allowed}; {problem.fix}"
    return {"error": {"message": message, "type": KINDS.get(declined.status, "APIError"), "param": problem.place, "code": problem.code}}


@dataclass(kw_only=True)
class Door:
    """Whether requests are taken, and how many were and are not answered yet."""

    draining: bool = False
    """Nothing more is taken: the server is about to end."""
    answering: int = 0
    """Requests whose bodies are here and whose answers are not whole."""

    def check(self) -> None:
        """Raises Declined where nothing is taken any more."""
        if self.draining:
            found, allowed = "the server is about to end", "a server that goes on"
            raise Declined(503, Problem(code="serve/ending", place="server", found=found, allowed=allowed, fix="try again soon"), 5.0)

    @contextmanager
    def passed(self, method: str) -> Iterator[None]:
        """A request that is let in."""
        if method != "POST":
            yield
            return
        self.check()
        self.answering += 1
        try:
            yield
        finally:
            self.answering -= 1


class Guard:
    """Lets requests through to an app."""

    def __init__(self, app: App, settings: ServerSettings, meters: Meters, door: Door) -> None:
        self.app, self.settings, self.meters, self.door = app, settings, meters, door
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        name = given if _NAME.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request"] = name
        begun = whole = False

        async def heard() -> MutableMapping[str, Any]:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body")
            return message

        async def named(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                safe = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", []), *safe]}
            await send(message)

        try:
            scope["state"]["client"] = self._client(scope, headers)
            body = await self._body(scope, headers, heard)
            with self.door.passed(scope["method"]):
                await self.app(scope, _again(body, receive), named)
        except Declined as declined:
            if begun:
                raise
            self.meters.rejected.labels(str(declined.status)).inc()
            await answer(named, declined, None if whole else heard)

    def _client(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """Whose request it is: the key's, where there are keys, else the address's."""
        if not self._keys:
            return str((scope.get("client") or ("", 0))[0])
        token = headers.get(b"authorization", b"")
        scheme, _, key = token.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        if scheme.lower() == b"bearer" and any([hmac.compare_digest(digest, known) for known in self._keys]):  # noqa: C419
            return digest.hex()[:16]
        if scope["path"] in OPEN:
            return ""
        problem = Problem(code="serve/key", place="authorization", found="no key that is known", allowed="Bearer KEY", fix="send one of the server's keys")
        raise Declined(401, problem)

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self.settings.max_body_bytes
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return b""
        self.door.check()
        if headers.get(b"content-length", b"0").isdigit() and int(headers.get(b"content-length", b"0")[:20]) > most:
            raise self._too_large(most)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            found = kind.decode("latin-1")[:80] or "no content type"
            raise Declined(415, Problem(code="serve/content-type", place="content-type", found=found, allowed="application/json", fix="send JSON"))
        found = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Declined(400, Problem(code="serve/left", place="body", found="the client left", allowed="a whole body", fix="send it again"))
                    found += message.get("body", b"")
                    if len(found) > most:
                        raise self._too_large(most)
                    if not message.get("more_body"):
                        return bytes(found)
        except TimeoutError:
            told, fix = f"{len(found)} bytes in {self.settings.body_timeout:.0f} s", "send it faster"
            raise Declined(408, Problem(code="serve/slow", place="body", found=told, allowed="a whole body", fix=fix)) from None

    def _too_large(self, most: int) -> Declined:
        fix = "send smaller pictures, or fewer"
        return Declined(413, Problem(code="serve/body", place="body", found=f"more than {most} bytes", allowed=f"at most {most}", fix=fix))


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body first, and then what comes from the client: that it left."""
    given = False

    async def found() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return found


async def answer(send: Send, declined: Declined, unread: Receive | None) -> None:
    """Send an error, and let what is unread of the body pass: a connection that is closed before takes the answer with it."""
    body = json.dumps(told(declined)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if declined.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(declined.retry_after))).encode()))
    await send({"type": "http.response.start", "status": declined.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            passed, more = 0, unread is not None
            while unread is not None and more and passed < LINGER_BYTES:
                message = await unread()
                passed, more = passed + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.body", "body": b""})
