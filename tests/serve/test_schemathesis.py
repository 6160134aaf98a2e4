"""Requests made from the API's own description, right ones and wrong ones, to every route: no server error, every reply as it is described, nothing taken that the description forbids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import schemathesis
from compositions import make
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, negative_data_rejection, response_schema_conformance, status_code_conformance
from servers import Running, data_url, png, running
from test_upstream import in_front

import scripted_endpoint

CHECKS = [content_type_conformance, negative_data_rejection, response_schema_conformance, status_code_conformance]
ROUTES = {
    "GET /health", "GET /metrics", "GET /ready", "GET /report", "GET /v1/card", "GET /v1/card/pictures/{number}", "GET /v1/models", "GET /version",
    "POST /tokenize", "POST /v1/chat/completions", "POST /v1/embeddings", "POST /v1/tiles",
}  # fmt: skip
TRIES = [pytest.param(GenerationMode.POSITIVE, route, id=f"right {route}") for route in sorted(ROUTES)]
TRIES += [pytest.param(GenerationMode.NEGATIVE, route, id=f"wrong {route}") for route in sorted(ROUTES) if route.startswith("POST")]
QUICK, LONG = 5, 150


@pytest.fixture(scope="module")
def ours() -> Iterator[Running]:
    with running(*make("flat")) as found:
        yield found


@pytest.fixture(scope="module")
def front() -> Iterator[Running]:
    """Before an engine that answers every third time only."""
    replies: dict[int, Any] = {0: "a {1,2,3,4,5}", 1: (500, b"<html>"), 2: (200, {"choices": 3})}
    with scripted_endpoint.scripted(lambda body, number: replies[number % 3]) as theirs, in_front(theirs.url) as found:
        yield found


@dataclass
class Tried:
    """What became of the requests to one route."""

    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)


def likely(body: Any) -> None:
    """Bring a right body past the first door: the model's name, pictures that are some, short answers."""
    if not isinstance(body, dict):
        return
    for name, value in (("model", "tiny"), ("max_tokens", 3), ("max_completion_tokens", 3)):
        if body.get(name) is not None:
            body[name] = value
    for message in body.get("messages") or ():
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                part["image_url"]["url"] = data_url(png())
    if isinstance(body.get("image_url"), dict):
        body["image_url"]["url"] = data_url(png())


@cache
def operations(base: str) -> dict[str, Any]:
    """All that the description of a server names, by method and path."""
    return {operation.label: operation for result in schemathesis.openapi.from_url(f"{base}/openapi.json").get_all_operations() if (operation := result.ok())}


def tried(server: Running, route: str, mode: GenerationMode, examples: int, upstream: bool) -> Tried:
    operation, found = operations(server.base)[route], Tried()

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE:
            likely(case.body)
        response = case.call(timeout=60)
        found.statuses[response.status_code] += 1
        allowed = {503} | ({502, 504} if upstream else set())
        assert response.status_code < 500 or response.status_code in allowed, response.content[:500]
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400 and response.content:
            code = json.loads(response.content)["error"]["code"]
            found.codes[code] += 1
            assert mode is GenerationMode.NEGATIVE or code != "serve/body", response.content[:500]

    ask()
    return found


def test_the_description_is_of_every_route(ours: Running) -> None:
    assert set(operations(ours.base)) == ROUTES


@pytest.mark.parametrize(("mode", "route"), TRIES)
def test_requests_of_the_description(ours: Running, mode: GenerationMode, route: str) -> None:
    found = tried(ours, route, mode, QUICK, upstream=False)
    assert found.statuses
    if mode is GenerationMode.NEGATIVE and route.startswith("POST"):
        assert set(found.statuses) <= {400, 404, 415, 422}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "route"), TRIES)
def test_many_requests_of_the_description(ours: Running, mode: GenerationMode, route: str) -> None:
    assert sum(tried(ours, route, mode, LONG if route.startswith("POST") else 4 * QUICK, upstream=False).statuses.values())


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_requests_to_a_server_before_another_engine(front: Running, mode: GenerationMode) -> None:
    found = tried(front, "POST /v1/chat/completions", mode, QUICK, upstream=True)
    assert set(found.codes) <= {code for code in found.codes if not code.startswith("serve/fault")}
