"""The API: routes and what they tell, before an engine. Nothing of what is asked or answered is logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from sightline import __version__
from sightline.errors import Problem
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.serve.card import Card
from sightline.serve.chat_route import Exchange, prepare
from sightline.serve.conversation import sample_of
from sightline.serve.guard import KINDS, Guard, told
from sightline.serve.jobs import Declined
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.page_routes import add_page
from sightline.serve.picture_tiles import picture_tiles
from sightline.serve.protocol import ChatRequest, EmbeddingRequest, TilesRequest, TokenizeRequest
from sightline.serve.serving_engine import Engine
from sightline.serve.settings import ServerSettings
from sightline.serve.vectors import Vectors

T = TypeVar("T", bound=BaseModel)
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
    folder: Path | None = None
    """What was asked to be served: a run, a model or a published checkpoint. Its card is read from there."""

    @property
    def model(self) -> Model:
        """What answers."""
        if self.engine is not None:
            return self.engine.model
        assert self.vectors is not None, "a model writes or embeds"
        return self.vectors.answerer.model


def make_app(served: Served) -> Any:
    """The ASGI app of a server."""
    app = FastAPI(title="Sightline", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    decoders = asyncio.Semaphore(served.settings.decoders)
    started = int(time.time())

    async def outside(work: Callable[..., Any], *given: Any) -> Any:
        async with decoders:
            return await run_in_threadpool(work, *given)

    @app.post("/v1/chat/completions", **_described(ChatRequest, "An answer to messages with pictures"))
    async def chat(request: Request) -> Response:
        body = await _parsed(ChatRequest, request)
        engine = _able(served.engine, "chat", "/v1/embeddings")
        _named(body.model, served.settings)
        name = request.state.request
        prepared = await outside(prepare, body, served.processor, served.media, served.settings, name)
        exchange = Exchange.begin(engine, served.processor, prepared, served.settings, name, request.state.client + (body.user or ""))
        if body.stream:
            return StreamingResponse(_closing(exchange.stream()), media_type="text/event-stream", headers={"cache-control": "no-cache"})
        found = await _unless_left(exchange.whole(), request)
        return JSONResponse(found) if found is not None else Response(status_code=499)

    @app.post("/v1/embeddings", **_described(EmbeddingRequest, "Vectors of texts and pictures"))
    async def embeddings(request: Request) -> Response:
        body = await _parsed(EmbeddingRequest, request)
        vectors = _able(served.vectors, "embeddings", "/v1/chat/completions")
        _named(body.model, served.settings)
        return JSONResponse(await outside(vectors.answer, body, served.settings.served_model_name[0]))

    @app.post("/tokenize", **_described(TokenizeRequest, "Tokens of a text, or of messages as a chat would have them"))
    async def tokenize(request: Request) -> Response:
        body = await _parsed(TokenizeRequest, request)
        if body.model is not None:
            _named(body.model, served.settings)
        if (body.prompt is None) == (body.messages is None):
            raise Declined(400, Problem(code="serve/parameter", place="prompt", found="both or neither", allowed="prompt or messages", fix="give one of them"))
        ids = await outside(_tokens, body, served)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": served.settings.engine.max_model_len})

    @app.post("/v1/tiles", **_described(TilesRequest, "How the model cuts a picture up"))
    async def tiles(request: Request) -> Response:
        body = await _parsed(TilesRequest, request)
        return JSONResponse(await outside(picture_tiles, body, served.processor, served.media))

    @app.get("/v1/models", summary="The model, by all its names")
    async def models() -> Response:
        card = {"object": "model", "created": started, "owned_by": "sightline", "root": served.settings.served_model_name[0], "weights": served.weights}
        card |= {"max_model_len": served.settings.engine.max_model_len}
        return JSONResponse({"object": "list", "data": [{"id": name, **card} for name in served.settings.served_model_name]})

    @app.get("/health", summary="200 while the engine works")
    async def health() -> Response:
        return Response(status_code=503 if served.engine is not None and served.engine.broken else 200)

    @app.get("/ready", summary="200 while requests are taken")
    async def ready() -> Response:
        away = served.engine is not None and (served.engine.broken or served.engine.draining)
        return Response(status_code=503 if away else 200)

    @app.get("/version", summary="The version of Sightline")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/metrics", summary="Counts and times in Prometheus' text format")
    async def metrics() -> Response:
        return Response(served.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    add_page(app, Card(settings=served.settings, processor=served.processor, model=served.model, weights=served.weights, folder=served.folder), outside)
    _handle_errors(app, served.meters)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return Guard(app, served.settings, served.meters)  # type: ignore[arg-type]


def _tokens(body: TokenizeRequest, served: Served) -> list[int]:
    if body.prompt is not None:
        return served.processor.tokenizer.encode(body.prompt)
    return served.processor.encode(sample_of(body.messages or [], served.media, "tokenize"), answer=False).ids.tolist()


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


async def _unless_left(work: Awaitable[dict[str, Any]], request: Request) -> dict[str, Any] | None:
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
    error = {"description": "What was wrong", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"summary": summary, "openapi_extra": {"requestBody": body}, "responses": {status: error for status in sorted(KINDS) if status != 500}}


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
