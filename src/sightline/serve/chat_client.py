"""A client of /v1/chat/completions by the standard library alone: one request, one reply, timed. Whatever goes wrong is a reply too."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sightline.errors import Problem, Refused

LONGEST = 16 << 20
"""Bytes of a reply that are read."""
AGAIN = frozenset((0, 429, 502, 503))
"""Statuses after which another try may help; 0 is a server that is not reached."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the second try where the server does not say, and at most in any case."""


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """Where a model is asked."""

    url: str
    """Base of its API: http://HOST:PORT/v1."""
    model: str
    """Its name there."""
    key: str = field(default="", repr=False)
    """Sent as a bearer token where it is not empty."""
    timeout: float = 300.0
    """Patience with one reply, s."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    """That of HTTP; 0 where there was no reply."""
    seconds: float
    """Until the reply was whole."""
    body: Mapping[str, Any]
    """The answer, or the error."""

    @property
    def answered(self) -> bool:
        """Whether it is an answer."""
        return self.status == 200 and bool(self.choices)

    @property
    def choices(self) -> tuple[Mapping[str, Any], ...]:
        """Choices in order of their index; none where the body has another form."""
        found = self.body.get("choices")
        if not isinstance(found, list) or not all(isinstance(one, dict) and isinstance(one.get("message"), dict) for one in found):
            return ()
        return tuple(sorted(found, key=lambda one: one.get("index") or 0))

    @property
    def texts(self) -> tuple[str, ...]:
        """Text of each choice."""
        return tuple(str(one["message"].get("content") or "") for one in self.choices)

    @property
    def error(self) -> str:
        """What went wrong, on one line; empty where it is an answer."""
        if self.answered:
            return ""
        error = self.body.get("error")
        told = (error.get("code") or error.get("message")) if isinstance(error, dict) else error
        return " ".join(f"{self.status or 'no reply'}: {told or 'no chat completion'}".split())[:200]


def chat_server(name: str, place: str, key: str = "", timeout: float = 300.0) -> ChatServer:
    """The server of `http://HOST:PORT/v1#MODEL`. Raises Refused where the name has another form; `place` says where it was given."""
    base, _, model = name.partition("#")
    try:
        parts = urlsplit(base)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and bool(model) and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound:
        found, fix = repr(re.sub("//[^/#]*@", "//", name)), "name scheme, host, port, path and, after `#`, the model; a key goes into a file"
        raise Refused(Problem(code="serve/endpoint", place=place, found=found, allowed="http://HOST:PORT/v1#MODEL", fix=fix))
    return ChatServer(url=base.rstrip("/"), model=model, key=key, timeout=timeout)


def ask(server: ChatServer, body: Mapping[str, Any], name: str = "", tries: int = 1) -> Reply:
    """The reply to a chat request, with the server's own name of the model and not streamed. `name` is the request's id; tries after overload wait as the server says. `seconds` is that of the last try."""
    said = {key: value for key, value in body.items() if key not in ("stream", "stream_options")} | {"model": server.model}
    data = json.dumps(said).encode()
    patience = FIRST_WAIT
    for left in reversed(range(tries)):
        began = time.monotonic()
        try:
            status, told, after = _post(server, data, name)
        except (OSError, http.client.HTTPException) as error:
            status, told, after = 0, json.dumps({"error": {"message": f"{type(error).__name__}: {error}"}}).encode(), None
        reply = Reply(status=status, seconds=time.monotonic() - began, body=_record(told))
        if status not in AGAIN or not left:
            return reply
        time.sleep(min(LONGEST_WAIT, patience if after is None else after))
        patience *= 2
    raise AssertionError("a request is tried at least once")


def _post(server: ChatServer, data: bytes, name: str) -> tuple[int, bytes, float | None]:
    parts = urlsplit(server.url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, parts.port, timeout=server.timeout, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=server.timeout)
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {server.key}"} if server.key else {}
    headers |= {"X-Request-ID": name} if name else {}
    try:
        connection.request("POST", f"{parts.path}/chat/completions", data, headers)
        reply = connection.getresponse()
        read = reply.read(LONGEST + 1)
        after = reply.getheader("Retry-After") or ""
        if len(read) > LONGEST:
            return 0, json.dumps({"error": {"message": f"a reply of more than {LONGEST} bytes"}}).encode(), None
        return reply.status, read, float(after) if after.isdecimal() else None
    finally:
        connection.close()


def _record(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {"error": {"message": data[:80].decode(errors="replace")}}
    return found if isinstance(found, dict) else {"error": {"message": f"JSON of another form: {str(found)[:80]}"}}


def of_stream(data: bytes) -> Mapping[str, Any]:
    """The chat completion that server-sent events (WHATWG HTML, section 9.2) of a stream make together; an error in them is the error."""
    choices: dict[int, dict[str, Any]] = {}
    for event in _events(data):
        if "error" in event:
            return event
        for part in event.get("choices", ()):
            one = choices.setdefault(part["index"], {"index": part["index"], "message": {"role": "assistant", "content": ""}, "finish_reason": None})
            delta = dict(part["delta"])
            one["message"]["content"] += delta.pop("content", None) or ""
            one["message"] |= delta
            one["finish_reason"] = part.get("finish_reason") or one["finish_reason"]
    return {"object": "chat.completion", "choices": list(choices.values())}


def _events(data: bytes) -> Iterable[dict[str, Any]]:
    for line in data.decode(errors="replace").split("\n"):
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
