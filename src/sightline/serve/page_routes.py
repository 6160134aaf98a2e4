"""The page at `/`, which is the files of the folder `page`, and what it reads of the model. It works without any network but the server's."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from sightline.errors import Problem
from sightline.lineage import sha256_bytes
from sightline.serve.card import Card
from sightline.serve.jobs import Declined
from sightline.serve.named_regions import Outside

SCRIPTS = ("page.js", "answer.js", "api.js", "dialogs.js", "elements.js", "messages.js", "pictures.js", "regions.js")
FILES = {"index.html": "text/html", "page.css": "text/css"} | dict.fromkeys(SCRIPTS, "text/javascript")
"""Files of the page and their media types."""
POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Nothing from elsewhere, and no script or style inside the document: whatever a model or a file says stays text."""
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""A report is a document of its own: styles and pictures inside it, no script, no origin."""

ERROR: dict[str, Any] = {"description": "What was wrong", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
PICTURE: dict[str, Any] = {"description": "The picture", "content": {"image/*": {}}}
"""What the API's description says of replies."""


def add_page(app: FastAPI, card: Card, outside: Outside) -> None:
    """Add the page's routes; `outside` runs a function beside the event loop."""
    served = {name: _read(name) for name in FILES}

    def file(name: str, request: Request) -> Response:
        data, tag = served[name]
        headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": POLICY, "referrer-policy": "no-referrer"}
        if tag in (known.strip().removeprefix("W/") for known in request.headers.get("if-none-match", "").split(",")):
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=f"{FILES[name]}; charset=utf-8", headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return file("index.html", request)

    @app.get("/page/{name}", include_in_schema=False)
    async def page_file(name: str, request: Request) -> Response:
        if name not in FILES:
            problem = Problem(code="serve/route", place="path", found=f"/page/{name[:80]}", allowed=", ".join(FILES), fix="correct the address")
            raise Declined(404, problem)
        return file(name, request)

    @app.get("/v1/card", summary="What is served: parts, abilities, limits, lineage, and questions to begin with")
    async def told() -> Response:
        return JSONResponse(await outside(card.record))

    @app.get("/v1/card/pictures/{number}", summary="A picture of the card's examples", response_class=Response, responses={200: PICTURE, 404: ERROR})
    async def picture(number: str) -> Response:
        data, kind = await outside(card.picture, number)
        return Response(data, media_type=kind, headers={"content-security-policy": REPORT_POLICY})

    @app.get("/report", summary="The report of the run that is served", response_class=HTMLResponse, responses={404: ERROR})
    async def report() -> Response:
        found = card.report
        if found is None:
            problem = Problem(code="serve/no-report", place="report", found="a folder without report.html", allowed="a run that has ended", fix="serve the run")
            raise Declined(404, problem)
        return FileResponse(found, media_type="text/html; charset=utf-8", headers={"content-security-policy": REPORT_POLICY, "cache-control": "no-cache"})


def _read(name: str) -> tuple[bytes, str]:
    """A file of the page, and the tag by which browsers know it again."""
    data = (files("sightline.serve") / "page" / name).read_bytes()
    return data, f'"{sha256_bytes(data)[:32]}"'
