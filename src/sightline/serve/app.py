"""The API: routes and what they tell, before an engine. Nothing of what is asked or answered is logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from sightline import __version__
from sightline.errors import Problem
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.serve.card import Card
from sightline.serve.chat_route import Exchange, prepare
from sightline.serve.conversation import addressed, sample_of
from sightline.serve.guard import KINDS, Door, Guard, told
from sightline.serve.jobs import Declined
from sightline.serve.json_format import JsonFormats
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.named_regions import Masks
from sightline.serve.page_routes import ERROR, add_page
from sightline.serve.picture_tiles import picture_tiles
from sightline.serve.protocol import ChatRequest, EmbeddingRequest, Message, TilesRequest, TokenizeRequest
from sightline.serve.serving_engine import Engine
from sightline.serve.settings import ServerSettings
from sightline.serve.upstream_client import alive
from sightline.serve.upstream_relay import Relay, Relayed
from sightline.serve.vectors import Vectors

R = TypeVar("R")
T = TypeVar("T", bound=BaseModel)
LEFT = 499
"""Status for a client that is not there any more."""
READY_PATIENCE = 2.0
"""Seconds in which another engine must say that it is there."""
SHOWN = 8
"""Problems of a body that are told."""


@dataclass(kw_only=True)
class Served:
    """What a server has at hand."""

    settings: ServerSettings
    processor: Processor
    weights: str
    meters: Meters
    media: Media
    engine: Engine | None = None
    """Where the model writes."""
    vectors: Vectors | None = None
    """Where it embeds."""
    relay: Relay | None = None
    """What passes requests on, where another engine writes."""
    masks: Masks | None = None
    """What gives the regions of answers masks."""
    blank: Model | None = None
    """The model without weights, where another engine has them."""
    door: Door = field(default_factory=Door)
    folder: Path | None = None
    """What was asked to be served: a run, a model or a published checkpoint. Its card is read from there."""

    @property
    def model(self) -> Model:
        """What answers; without its weights, where another engine does."""
        if self.blank is not None:
            return self.blank
        if self.engine is not None:
            return self.engine.model
        assert self.vectors is not None, "a model writes or embeds"
        return self.vectors.answerer.model


def make_app(served: Served) -> Any:
    """The ASGI app of a server."""
    app = FastAPI(title="Sightline", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    decoders = asyncio.Semaphore(served.settings.decoders)
    fetchers = asyncio.Semaphore(served.settings.fetchers)
    formats = JsonFormats(served.processor)

    async def fetched(messages: Sequence[Message]) -> Media:
        urls = [*addressed(messages)]
        if not urls:
            return served.media
        async with fetchers:
            return await run_in_threadpool(served.media.fetched, urls)

    async def outside(work: Callable[..., Any], *given: Any) -> Any:
        async with decoders:
            return await run_in_threadpool(work, *given)

    @app.post("/v1/chat/completions", **_described(ChatRequest, "An answer to messages with pictures"))
    async def chat(request: Request) -> Response:
        body = await _parsed(ChatRequest, request)
        _named(body.model, served.settings)
        name, client = request.state.request, request.state.client + (body.user or "")
        media = await fetched(body.messages)
        if served.relay is not None:
            asked = await outside(served.relay.prepare, body, media, name)
            exchange = Relayed(relay=served.relay, asked=asked, name=name, client=client, outside=outside)
        else:
            engine = _able(served.engine, "chat", "/v1/embeddings")
            prepared = await outside(prepare, body, formats, media, served.settings, name)
            exchange = Exchange.begin(engine, prepared, served.settings, name, client, outside, served.masks)
        if not body.stream:
            found = await _unless_left(exchange.whole(), request)
            return JSONResponse(found) if found is not None else Response(status_code=LEFT)
        stream = exchange.stream()
        if isinstance(exchange, Relayed) and await _unless_left(anext(stream), request) is None:
            return Response(status_code=LEFT)
        return StreamingResponse(_closing(stream), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    @app.post("/v1/embeddings", **_described(EmbeddingRequest, "Vectors of texts and pictures"))
    async def embeddings(request: Request) -> Response:
        body = await _parsed(EmbeddingRequest, request)
        _named(body.model, served.settings)
        vectors = _able(served.vectors, "embeddings", "/v1/chat/completions")
        media = await fetched(body.messages or [])
        return JSONResponse(await outside(vectors.answer, body, media, served.settings.served_model_name[0]))

    @app.post("/tokenize", **_described(TokenizeRequest, "Tokens of a text, or of messages as a chat would have them"))
    async def tokenize(request: Request) -> Response:
        body = await _parsed(TokenizeRequest, request)
        if body.model is not None:
            _named(body.model, served.settings)
        if (body.prompt is None) == (body.messages is None):
            raise Declined(400, Problem(code="serve/parameter", place="prompt", found="both or neither", allowed="prompt or messages", fix="give one of them"))
        ids = await outside(_tokens, body, served, await fetched(body.messages or []))
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": served.settings.engine.max_model_len})

    @app.post("/v1/tiles", **_described(TilesRequest, "How the model cuts a picture up"))
    async def tiles(request: Request) -> Response:
        body = await _parsed(TilesRequest, request)
        async with fetchers:
            media = await run_in_threadpool(served.media.fetched, [(body.image_url.url, "image_url")])
        return JSONResponse(await outside(picture_tiles, body, served.processor, media))

    _add_states(app, served)
    add_page(app, Card(settings=served.settings, processor=served.processor, model=served.model, weights=served.weights, folder=served.folder), outside)
    _handle_errors(app, served.meters)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Guard(app, served.settings, served.meters, served.door)  # type: ignore[arg-type]


def _add_states(app: FastAPI, served: Served) -> None:
    """Add the routes that tell what the server is and how it does."""
    started = int(time.time())

    @app.get("/v1/models", summary="The model, by all its names")
    async def models() -> Response:
        card = {"object": "model", "created": started, "owned_by": "sightline", "root": served.settings.served_model_name[0], "weights": served.weights}
        card |= {"max_model_len": served.settings.engine.max_model_len}
        return JSONResponse({"object": "list", "data": [{"id": name, **card} for name in served.settings.served_model_name]})

    @app.get("/health", summary="200 while the engine works", response_class=Response, responses={503: {"description": "It does not"}})
    async def health() -> Response:
        return Response(status_code=503 if served.engine is not None and served.engine.broken else 200)

    @app.get("/ready", summary="200 while requests are taken", response_class=Response, responses={503: {"description": "None are"}})
    async def ready() -> Response:
        away = served.door.draining or (served.engine is not None and bool(served.engine.broken))
        away = away or (served.relay is not None and not await alive(served.relay.upstream, READY_PATIENCE))
        return Response(status_code=503 if away else 200)

    @app.get("/version", summary="The version of Sightline")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/metrics", summary="Counts and times in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(served.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _tokens(body: TokenizeRequest, served: Served, media: Media) -> list[int]:
    if body.prompt is not None:
        return served.processor.tokenizer.encode(body.prompt)
    return served.processor.encode(sample_of(body.messages or [], media, "tokenize"), answer=False).ids.tolist()


async def _parsed(kind: type[T], request: Request) -> T:
    """The body as a request of its kind. Raises Declined with all that is wrong, quoted by place and never by value."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors(include_url=False, include_input=False)]
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        place = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "body"
        problem = Problem(code="serve/body", place=place, found="; ".join(found[:SHOWN]) + more, allowed="the fields in /openapi.json", fix="correct the body")
        raise Declined(400, problem) from None


def _able(part: Any, asked: str, other: str) -> Any:
    if part is None:
        problem = Problem(code="serve/unable", place="model", found=f"a model without {asked}", allowed=other, fix="serve another model")
        raise Declined(400, problem)
    return part


def _named(model: str, settings: ServerSettings) -> None:
    if model not in settings.served_model_name:
        allowed = ", ".join(settings.served_model_name)
        raise Declined(404, Problem(code="serve/model", place="model", found=repr(model[:80]), allowed=allowed, fix="ask /v1/models for the names"))


async def _closing(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream, closed as soon as the client leaves, so that its job is given up at once."""
    try:
        async for chunk in stream:
            yield chunk
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def _unless_left(work: Awaitable[R], request: Request) -> R | None:
    """The result; None where the client left before, in which case the work is given up."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for one in (task, left):
            one.cancel()


def _handle_errors(app: FastAPI, meters: Meters) -> None:
    @app.exception_handler(Declined)
    async def declined(request: Request, error: Declined) -> Response:
        meters.rejected.labels(str(error.status)).inc()
        headers = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after)))}
        return JSONResponse(told(error), error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        found = f"{request.method} {request.url.path[:200]}: {error.detail}"
        problem = Problem(code="serve/route", place="path", found=found, allowed="the routes in /openapi.json", fix="correct the address")
        return JSONResponse(told(Declined(error.status_code, problem)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        meters.failed.inc()
        problem = Problem(code="serve/fault", place="server", found=type(error).__name__, allowed="an answer", fix="report it with the x-request-id")
        return JSONResponse(told(Declined(500, problem)), 500)


def _described(kind: type[BaseModel], summary: str) -> dict[str, Any]:
    """What the API's description says of a route: its body, and how errors look."""
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}}
    return {"summary": summary, "openapi_extra": {"requestBody": body}, "responses": {status: ERROR for status in sorted(KINDS) if status != 500}}


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        from fastapi.openapi.utils import get_openapi

        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas: dict[str, Any] = found.setdefault("components", {}).setdefault("schemas", {})
        for kind in (ChatRequest, EmbeddingRequest, TilesRequest, TokenizeRequest):
            own = kind.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= own.pop("$defs", {})
            schemas[kind.__name__] = own
        text = {"type": "string"}
        error = {"type": "object", "required": ["message", "type"], "properties": {"message": text, "type": text, "param": text, "code": text}}
        schemas["Error"] = {"type": "object", "required": ["error"], "properties": {"error": error}}
        app.openapi_schema = found
    return app.openapi_schema
