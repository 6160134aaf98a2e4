"""/v1/chat/completions: from a request to jobs of the engine, and from its events to what clients read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.errors import Problem, Refused
from sightline.evaluate.guided import guides_of
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.token_grammar import TokenGrammar
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Sample
from sightline.serve.conversation import refused, sample_of
from sightline.serve.guard import told
from sightline.serve.jobs import Added, Began, Declined, Ended, Event, Failed, Job
from sightline.serve.json_format import JsonFormats
from sightline.serve.media import Media
from sightline.serve.named_regions import Masks, NamedRegions, Outside
from sightline.serve.protocol import ChatRequest
from sightline.serve.serving_engine import Engine
from sightline.serve.settings import ServerSettings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request that the model can take."""

    request: ChatRequest
    sample: Sample
    encoded: Encoded
    decodings: tuple[Decoding, ...]
    grammar: TokenGrammar | None = None
    """Of JSON, where it is asked for."""


def prepare(request: ChatRequest, formats: JsonFormats, media: Media, settings: ServerSettings, name: str) -> Prepared:
    """Fetch, decode and encode. Waits: call it outside of the event loop. Raises Declined."""
    check(request)
    processor = formats.processor
    try:
        grammar = formats.grammar(request)
        sample = sample_of(request.messages, media, name)
        encoded = processor.encode(sample, answer=False)
        drawn = decodings(request, settings, encoded.length)
        guides_of(processor, dict(enumerate(drawn[:1])))  # refused here, where no codec or too little room is the client's affair
    except Refused as problems:
        raise refused(problems) from None
    return Prepared(request=request, sample=sample, encoded=encoded, decodings=drawn, grammar=grammar)


def check(request: ChatRequest) -> None:
    """Raises Declined where parameters do not go together."""
    if request.top_logprobs and not request.logprobs:
        raise _wrong("top_logprobs", "top_logprobs without logprobs", "logprobs: true beside it", "add logprobs: true")
    if request.stream_options is not None and not request.stream:
        raise _wrong("stream_options", "stream_options without stream", "stream: true beside it", "drop it")


def _wrong(place: str, found: str, allowed: str, fix: str) -> Declined:
    return Declined(400, Problem(code="serve/parameter", place=place, found=found, allowed=allowed, fix=fix))


def decodings(request: ChatRequest, settings: ServerSettings, prompt: int) -> tuple[Decoding, ...]:
    """One Decoding for each of the n answers; the seed of answer i is i more than the request's."""
    room = settings.engine.max_model_len - prompt
    asked = request.max_completion_tokens or request.max_tokens
    most = asked or max(1, min(settings.max_tokens, room))
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    grammar = "regions" if request.response_format is not None and request.response_format.type == "regions" else None
    one = Decoding(max_tokens=most, grammar=grammar, temperature=request.temperature or 0.0, top_p=request.top_p or 1.0, stop=tuple(filter(None, stop)))
    seed = (request.seed if request.seed is not None else time.time_ns()) % (1 << 62)
    return tuple(replace(one, seed=seed + choice) for choice in range(request.n or 1))


@dataclass(kw_only=True)
class Exchange:
    """One request on its way through the engine."""

    engine: Engine
    processor: Processor
    prepared: Prepared
    name: str
    model: str
    job: Job
    events: asyncio.Queue[Event]
    named: NamedRegions
    outside: Outside
    made: int = field(default_factory=lambda: int(time.time()))
    cached: int = 0
    written: int = 0
    """Tokens of all answers."""

    @classmethod
    def begin(
        cls, engine: Engine, prepared: Prepared, settings: ServerSettings, name: str, client: str, outside: Outside, masks: Masks | None = None
    ) -> Exchange:
        """Hand the request to the engine, or raise Declined. Call it in the event loop; `outside` runs a function beside it."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        job = Job(
            encoded=prepared.encoded,
            decodings=prepared.decodings,
            listen=lambda event: _hand_over(loop, events, event),
            client=client,
            sample=prepared.sample,
            likeliest=prepared.request.top_logprobs or 0,
            deadline=time.monotonic() + settings.request_timeout,
            grammar=prepared.grammar,
        )
        engine.submit(job)
        named = NamedRegions(processor=engine.processor, sample=prepared.sample, masks=masks, off=prepared.grammar is not None)
        return cls(
            engine=engine,
            processor=engine.processor,
            prepared=prepared,
            name=f"chatcmpl-{name}",
            model=settings.served_model_name[0],
            job=job,
            events=events,
            named=named,
            outside=outside,
        )

    async def _each(self) -> AsyncIterator[Added | Ended]:
        """Events up to the last; raises Declined where the engine gave up. Whoever stops listening before has left, and the job is cancelled."""
        open_choices = len(self.prepared.decodings)
        try:
            while open_choices:
                event = await self.events.get()
                if isinstance(event, Failed):
                    open_choices = 0
                    raise event.declined
                if isinstance(event, Began):
                    self.cached = event.cached
                    continue
                if isinstance(event, Ended):
                    self.written += len(event.tokens)
                    open_choices -= 1
                yield event
        finally:
            if open_choices:
                self.engine.cancel(self.job)

    async def whole(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        ended: dict[int, Ended] = {}
        shown: dict[int, list[Added]] = {choice: [] for choice in range(len(self.prepared.decodings))}
        async for event in self._each():
            if isinstance(event, Ended):
                ended[event.choice] = event
            else:
                shown[event.choice].append(event)
        choices = [await self._choice(ended[number], shown[number]) for number in sorted(ended)]
        return {"id": self.name, "object": "chat.completion", "created": self.made, "model": self.model, "choices": choices, "usage": self.usage()}

    async def _choice(self, ended: Ended, added: list[Added]) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": ended.text,
            "refusal": None,
            **await self.named.finished(ended.text, self.outside, (ended.items, ended.problems)),
        }
        logprobs = {"content": [self._logprob(event) for event in added], "refusal": None} if self.prepared.request.logprobs else None
        return {"index": ended.choice, "message": message, "logprobs": logprobs, "finish_reason": ended.finish}

    def _logprob(self, event: Added) -> dict[str, Any]:
        piece = self.processor.tokenizer.piece
        one = lambda token, logp: {"token": piece(token), "logprob": logp, "bytes": list(piece(token).encode())}  # noqa: E731
        return {**one(event.token, event.logp), "top_logprobs": [one(*likely) for likely in event.likeliest]}

    def usage(self) -> dict[str, Any]:
        """Tokens of the prompt and of all answers."""
        encoded = self.prepared.encoded
        prompt = encoded.length
        seen = len(encoded.slots) or (len(encoded.memory.slots) if encoded.memory is not None else 0)
        details = {"cached_tokens": self.cached, "multimodal_tokens": {"image": seen}}
        return {"prompt_tokens": prompt, "completion_tokens": self.written, "total_tokens": prompt + self.written, "prompt_tokens_details": details}

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events: a delta for each token that shows text, regions where the text named another one and at the end of each choice, usage where it was asked for."""
        for choice in range(len(self.prepared.decodings)):
            yield self._chunk(choice, {"role": "assistant", "content": ""})
        try:
            async for event in self._each():
                if isinstance(event, Added):
                    logprobs = {"content": [self._logprob(event)], "refusal": None} if self.prepared.request.logprobs else None
                    if event.text or logprobs:
                        yield self._chunk(event.choice, {"content": event.text, **self.named.newly(event.choice, event.text)}, logprobs=logprobs)
                else:
                    held_back = event.text[len(self.named.texts.get(event.choice, "")) :]
                    regions = await self.named.finished(event.text, self.outside, (event.items, event.problems))
                    yield self._chunk(event.choice, {**({"content": held_back} if held_back else {}), **regions}, finish=event.finish)
        except Declined as declined:
            yield as_event(told(declined))
        else:
            options = self.prepared.request.stream_options
            if options is not None and options.include_usage:
                yield as_event({**self._head(), "choices": [], "usage": self.usage()})
        yield b"data: [DONE]\n\n"

    def _head(self) -> dict[str, Any]:
        return {"id": self.name, "object": "chat.completion.chunk", "created": self.made, "model": self.model}

    def _chunk(self, choice: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> bytes:
        return as_event({**self._head(), "choices": [{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]})


def as_event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _hand_over(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    """From the engine's thread to the loop of the server; after its end there is nobody to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(events.put_nowait, event)
