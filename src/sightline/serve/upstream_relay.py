"""Chat completions of another engine with what it drops put back: regions read by the model's codec, in px of the picture that was uploaded, and masks.

request --conversation--> pictures checked, upright, inside the request --Upstream--> text --codec--> text with regions --refiner--> with masks
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import Problem, Refused
from sightline.evaluate.remote import messages
from sightline.model.processor import Processor
from sightline.samples.ebnf import expression_as_ebnf
from sightline.samples.sample import Film, Sample
from sightline.serve.chat_route import as_event, check
from sightline.serve.conversation import refused, sample_of
from sightline.serve.dialects import ENGINES, SHOWING, Dialect
from sightline.serve.guard import told
from sightline.serve.jobs import Declined
from sightline.serve.json_format import json_asked
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.named_regions import Masks, NamedRegions, Outside
from sightline.serve.protocol import ChatRequest
from sightline.serve.settings import ServerSettings
from sightline.serve.upstream_client import Reply, Upstream, asked, broken, read

_SAME = ("top_p", "n", "seed", "stop", "logprobs", "top_logprobs", "stream", "user")
"""Fields that are passed on as they came."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that can be passed on."""

    request: ChatRequest
    sample: Sample
    body: dict[str, Any]


@dataclass(kw_only=True)
class Relay:
    """Passes requests on to one engine."""

    upstream: Upstream
    dialect: Dialect
    processor: Processor
    settings: ServerSettings
    meters: Meters
    masks: Masks | None = None
    _clients: Counter[str] = field(default_factory=Counter)

    def prepare(self, request: ChatRequest, media: Media, name: str) -> Asked:
        """Check a request and put it into the engine's words. Waits: call it outside of the event loop. Raises Declined."""
        check(request)
        asked_for = json_asked(request)
        try:
            sample = sample_of(request.messages, media, name)
            if any(isinstance(item, Film) for turn in sample.turns for item in turn.items):
                problem = Problem(code="serve/upstream-film", place="messages", found="a film", allowed="pictures", fix="send its frames as image_url parts")
                raise Declined(400, problem)
            body: dict[str, Any] = {"model": self.upstream.model, "messages": messages(sample)}
            body |= {key: value for key in _SAME if (value := getattr(request, key)) is not None}
            body["temperature"] = request.temperature or 0.0
            body["max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"] = (
                request.max_completion_tokens or request.max_tokens or self.settings.max_tokens
            )
            if request.stream_options is not None:
                body["stream_options"] = request.stream_options.model_dump()
            if asked_for is not None and request.response_format is not None:
                body["response_format"] = request.response_format.model_dump(by_alias=True, exclude_none=True)
            body |= self._codec(request)
        except Refused as problems:
            raise refused(problems) from None
        return Asked(request=request, sample=sample, body=body)

    def _codec(self, request: ChatRequest) -> dict[str, Any]:
        """What the model's codec needs of the engine: control tokens that are shown, and the grammar where it is asked for. Raises Declined."""
        codec = self.processor.config.codec
        shown = codec is not None and bool(codec.control) and self.dialect.engine in SHOWING
        found: dict[str, Any] = {"skip_special_tokens": False} if shown else {}
        if request.response_format is None or request.response_format.type != "regions":
            return found
        grammar = codec.grammar() if codec is not None else None
        if grammar is None or self.dialect.grammar == "none":
            told, fix = "a model without a grammar" if grammar is None else "an engine whose grammar is not set", "ask without response_format"
            raise Declined(400, Problem(code="serve/parameter", place="response_format", found=told, allowed="text, json_object or json_schema", fix=fix))
        said = {"regex": lambda: grammar.regex, "ebnf": lambda: expression_as_ebnf(grammar.regex), "regions": lambda: "regions"}[self.dialect.grammar]()
        for name in reversed(ENGINES[self.dialect.engine][self.dialect.grammar]):
            said = {name: said}
        assert isinstance(said, dict)
        return found | said

    @property
    def running(self) -> int:
        """Requests on their way."""
        return self._clients.total()

    @contextmanager
    def counted(self, client: str) -> Iterator[None]:
        """A request on its way. Raises Declined where there are too many, of all clients (503) or of one (429)."""
        limits = self.settings.engine
        running = self.running
        if running >= limits.max_num_queued_reqs or self._clients[client] >= limits.max_queued_per_client:
            all_of_them = running >= limits.max_num_queued_reqs
            found, most = (running, limits.max_num_queued_reqs) if all_of_them else (self._clients[client], limits.max_queued_per_client)
            problem = Problem(code="serve/full", place="server", found=f"{found} requests are on their way", allowed=f"at most {most}", fix="try again soon")
            raise Declined(503 if all_of_them else 429, problem, max(1.0, self.meters.recent))
        self._clients[client] += 1
        self.meters.running.set(running + 1)
        began = time.monotonic()
        try:
            yield
            self.meters.finished("stop", time.monotonic() - began)
        except (GeneratorExit, asyncio.CancelledError):
            self.meters.given_up.inc()
            raise
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]
            self.meters.running.set(self.running)


@dataclass(kw_only=True)
class Relayed:
    """One request on its way through another engine."""

    relay: Relay
    asked: Asked
    name: str
    client: str
    outside: Outside
    named: NamedRegions = field(init=False)

    def __post_init__(self) -> None:
        off = json_asked(self.asked.request) is not None
        self.named = NamedRegions(processor=self.relay.processor, sample=self.asked.sample, masks=self.relay.masks, off=off)

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed. Raises Declined."""
        with self.relay.counted(self.client):
            async with self._sent() as reply:
                value = read(await reply.whole())
            choices = value.get("choices")
            if not isinstance(choices, list) or not choices:
                raise broken("a reply without choices")
            return {**value, **self._head("chat.completion", value), "choices": [await self._choice(choice) for choice in choices]}

    async def _choice(self, choice: Any) -> dict[str, Any]:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
            raise broken("a choice without a message of text")
        return {**choice, "message": {**message, **await self.named.finished(message.get("content") or "", self.outside)}}

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events as the engine sends them, with the regions that are named. The first item is empty: it comes when the engine has taken the request, and before it Declined is raised."""
        with self.relay.counted(self.client):
            async with self._sent() as reply:
                yield b""
                try:
                    async for chunk in self._chunks(reply):
                        yield as_event(chunk)
                except Declined as declined:
                    yield as_event(told(declined))
                yield b"data: [DONE]\n\n"

    async def _chunks(self, reply: Reply) -> AsyncIterator[dict[str, Any]]:
        finished: set[int] = set()
        async for value in reply.events():
            if value.get("error") is not None:
                raise broken(f"an error after the answer began: {str(value['error'])[:200]}")
            choices = value.get("choices")
            if not isinstance(choices, list):
                raise broken("an event without choices")
            yield {**value, **self._head("chat.completion.chunk", value), "choices": [await self._delta(choice, finished) for choice in choices]}
        if len(finished) < (self.asked.request.n or 1):
            raise broken("a stream that ended before its answer did")

    async def _delta(self, choice: Any, finished: set[int]) -> dict[str, Any]:
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict) or not isinstance(delta.get("content"), str | None) or not isinstance(choice.get("index", 0), int):
            raise broken("a choice without a delta of text")
        number: int = choice.get("index", 0)
        regions = self.named.newly(number, delta.get("content") or "")
        if choice.get("finish_reason") is not None:
            finished.add(number)
            regions = await self.named.finished(self.named.texts[number], self.outside)
        return {**choice, "delta": {**delta, **regions}}

    def _sent(self) -> Any:
        body = json.dumps(self.asked.body, ensure_ascii=False).encode()
        return asked(self.relay.upstream, body, time.monotonic() + self.relay.settings.request_timeout)

    def _head(self, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        created = value.get("created")
        made = created if isinstance(created, int) else int(time.time())
        return {"id": f"chatcmpl-{self.name}", "object": kind, "created": made, "model": self.relay.settings.served_model_name[0]}
