"""The answerer behind an OpenAI-compatible endpoint: chat completions over HTTP, pictures inside the request, several at a time, within a budget."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal
from urllib.parse import urlsplit

from sightline.errors import Problem, Refused
from sightline.samples.bands import colours_alone
from sightline.samples.exchange import Answer, Request, answer_key
from sightline.samples.pictures import encoded, is_upright, media_type, rgb_pixels
from sightline.samples.sample import Film, Picture, Regions, Sample, Show, Turn

LONGEST_REPLY = 8 << 20
"""Bytes of a reply that are read; an endpoint that sends more is broken or hostile."""
_RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))
_FINISHES: dict[str, Literal["stop", "length", "refused"]] = {"stop": "stop", "length": "length", "content_filter": "refused"}
_TAKEN = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Formats that every endpoint takes."""
_WORD_TOKENS = 1.5
_PICTURE_TOKENS = 576


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the model is, and how hard it may be asked."""

    url: str
    """Base of the API: http://localhost:8000/v1."""
    model: str
    """Name of the model there."""
    key: str = field(default="", repr=False)
    """Sent as a bearer token where it is not empty; never stored."""
    concurrency: int = 8
    """Requests at a time."""
    retries: int = 5
    """Further tries after a refused connection, an overload (429) or a fault of the server (5xx), each after twice the wait of the one before."""
    wait: float = 0.5
    """First wait, s; a server's Retry-After goes before it."""
    timeout: float = 120.0
    """Patience with one request, s."""
    most_requests: int | None = None
    """Requests that may be sent; answers found in a cache cost nothing."""
    most_tokens: int | None = None
    """Tokens, of prompts and answers, that may be used, as the server counts them."""


class RemoteAnswerer:
    """Writes what an endpoint's model answers. Equal requests have equal keys, so that a cache in front of it (see `Remembering`) asks nothing twice."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.weights = f"{endpoint.url}#{endpoint.model}"
        self.requests = 0
        """Requests sent, tries after failures included."""
        self.tokens = 0
        """Tokens used, as the server counts them."""
        self._lock = Lock()
        parts = urlsplit(endpoint.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused(_problem("endpoint", endpoint.url, endpoint.url, "http://HOST:PORT/v1", "correct the address"))
        self._parts = parts

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt, estimated: an endpoint counts them only when it is asked."""
        words = sum(len(sample.text(number).split()) for number in range(len(sample.turns)))
        return round(_WORD_TOKENS * words) + _PICTURE_TOKENS * len(sample.pictures)

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again."""
        told = json.dumps(messages(request.sample, inline=False), ensure_ascii=False, sort_keys=True)
        return answer_key(self.weights, told, tuple(picture.hash for picture in request.sample.pictures), _decoding(request), request.ask)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once, as answers come. Refused when the endpoint is away or does not let us in, when the budget is spent, and for anything but `write`.

        A request that the server finds wrong (400, 413, 422) gets an answer that is `refused`, with the reason as its problem.
        """
        rest = iter(requests)
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            running: set[Future[Answer]] = set()
            try:
                for request in rest:
                    if request.ask != "write":
                        raise Refused(
                            _problem("cannot-answer", self.weights, f"asked to {request.ask}", "write", "name a model folder: it can score and compare")
                        )
                    running.add(pool.submit(self._one, request))
                    if len(running) >= 2 * self.endpoint.concurrency:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from _answers(done, running)
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from _answers(done, running)
            finally:
                for future in running:
                    future.cancel()

    def _one(self, request: Request) -> Answer:
        began = time.monotonic()
        key = self.key(request)
        body = {"model": self.endpoint.model, "messages": messages(request.sample), **_decoding(request)}
        status, reply = self._ask(json.dumps(body).encode())
        fields: dict[str, Any] = {"key": key, "sample": request.sample.id, "weights": self.weights}
        if status in (400, 413, 422):
            problem = _problem(
                "request-refused", request.sample.id, f"{status}: {reason_of(reply)}", "a request that the server takes", "shorten it, or drop the row"
            )
            return Answer(**fields, text="", finish="refused", problems=(problem,), seconds=time.monotonic() - began)
        text, finish = self._read(reply)
        return Answer(**fields, text=text, finish=finish, seconds=time.monotonic() - began)

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and reply of one request, tried again while that may help."""
        patience = self.endpoint.wait
        status, reply = 0, b""
        for attempt in range(self.endpoint.retries + 1):
            self._spend()
            try:
                status, reply, after = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                status, reply, after = 0, f"{type(error).__name__}: {error}".encode(), None
            if status == 200 or status in (400, 413, 422):
                return status, reply
            if status and status not in _RETRIED:
                hint = "give a key the server knows" if status in (401, 403) else "correct the address or the model's name"
                raise Refused(_problem("endpoint", self.weights, f"{status}: {reason_of(reply)}", "200", hint))
            if attempt < self.endpoint.retries:
                time.sleep(min(60.0, after if after is not None else patience))
                patience *= 2
        found = f"{status or 'no reply'}: {reason_of(reply)}, {self.endpoint.retries + 1} times"
        raise Refused(_problem("endpoint-away", self.weights, found, "an answer", "start it, and run again: what was answered is kept"))

    def _spend(self) -> None:
        with self._lock:
            spent = [
                f"{used} {name}"
                for name, used, most in (("requests", self.requests, self.endpoint.most_requests), ("tokens", self.tokens, self.endpoint.most_tokens))
                if most is not None and used >= most
            ]
            if spent:
                fix = "run again with a larger budget: what was answered is kept"
                raise Refused(_problem("budget-spent", self.weights, f"{' and '.join(spent)} used", "the budget", fix))
            self.requests += 1

    def _post(self, body: bytes) -> tuple[int, bytes, float | None]:
        """Status, reply, and how long the server asks us to wait. Redirects are not followed."""
        parts, patience = self._parts, self.endpoint.timeout
        host = parts.hostname or ""
        if parts.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, parts.port, timeout=patience, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=patience)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {})}
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, headers)
            reply = connection.getresponse()
            read = reply.read(LONGEST_REPLY + 1)
            if len(read) > LONGEST_REPLY:
                raise Refused(_problem("endpoint", self.weights, f"a reply of more than {LONGEST_REPLY} bytes", "a chat completion", "correct the address"))
            after = reply.getheader("Retry-After") or ""
            return reply.status, read, float(after) if after.replace(".", "", 1).isdecimal() else None
        finally:
            connection.close()

    def _read(self, reply: bytes) -> tuple[str, Literal["stop", "length", "refused"]]:
        try:
            value = json.loads(reply)
            choice = value["choices"][0]
            text = choice["message"].get("content") or choice["message"].get("refusal") or ""
            finish = "refused" if choice["message"].get("refusal") else _FINISHES.get(choice.get("finish_reason") or "stop", "stop")
            used = int((value.get("usage") or {}).get("total_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            found = f"{reply[:80].decode(errors='replace')!r} ({type(error).__name__})"
            raise Refused(
                _problem("endpoint", self.weights, found, '{"choices": [{"message": {"content": ..}}]}', "name an OpenAI-compatible endpoint")
            ) from None
        if not isinstance(text, str):
            raise Refused(_problem("endpoint", self.weights, f"content {text!r:.60}", "text", "name an OpenAI-compatible endpoint"))
        with self._lock:
            self.tokens += used
        return text, finish


def _answers(done: set[Future[Answer]], running: set[Future[Answer]]) -> Iterator[Answer]:
    """Answers of the requests that are done. When one failed, those under way are waited for and given first, for they are paid for; then its exception is raised."""
    if any(future.exception() for future in done):
        done = done | {future for future in running if not future.cancel()}
    yield from (future.result() for future in done if not future.exception())
    for future in done:
        future.result()


def messages(sample: Sample, *, inline: bool = True) -> list[dict[str, Any]]:
    """A sample's turns as chat messages. Pictures become `image_url` parts with their bytes, or with their hash where `inline` is false (for keys). Refused for regions and films, which the protocol has no parts for."""
    return [{"role": turn.role, "content": _content(turn, sample, inline)} for turn in sample.turns]


def _content(turn: Turn, sample: Sample, inline: bool) -> str | list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for item in turn.items:
        if isinstance(item, Film | Regions):
            found, fix = f"{type(item).__name__.lower()} in a turn", "write them as text first, or drop the row"
            raise Refused(_problem("unsayable", sample.id, found, "text and pictures", fix))
        if isinstance(item, Show):
            picture = sample.pictures[item.picture]
            parts.append({"type": "image_url", "image_url": {"url": _data_url(picture) if inline else picture.hash}})
        else:
            parts.append({"type": "text", "text": item.text})
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _data_url(picture: Picture) -> str:
    assert isinstance(picture.data, bytes), f"{picture.name} is read through its store"
    # other models take red, green and blue, in formats that browsers show, and turn a picture as its EXIF says or do not
    plain = colours_alone(picture) and media_type(picture.data) in _TAKEN and is_upright(picture.data, picture.name or picture.hash[:12])
    data = picture.data if plain else encoded(rgb_pixels(picture))
    return f"data:{media_type(data)};base64,{base64.b64encode(data).decode()}"


def _decoding(request: Request) -> dict[str, Any]:
    said = request.decoding
    if said.grammar is not None:
        found, fix = f"grammar {said.grammar}", "leave it out: the codec of a model behind an endpoint is not known here"
        raise Refused(_problem("no-grammar", request.sample.id, found, "answers of a model that is loaded here", fix))
    return {
        "max_tokens": said.max_tokens,
        "temperature": said.temperature,
        "top_p": said.top_p,
        "seed": said.seed,
        **({"stop": list(said.stop)} if said.stop else {}),
    }


def reason_of(reply: bytes) -> str:
    """What the server says went wrong, on one line."""
    try:
        told = json.loads(reply)
        error = told.get("error", told) if isinstance(told, dict) else told
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = reply.decode(errors="replace")
    return " ".join(str(text).split())[:200]


def _problem(code: str, place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code=f"evaluate/{code}", place=place, found=found, allowed=allowed, fix=fix)
