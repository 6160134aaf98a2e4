"""Answers of an endpoint that speaks the OpenAI protocol."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.scripted_endpoint import Scripted, scripted

from sightline.errors import Refused
from sightline.evaluate.answers import AnswerFile, Remembering
from sightline.evaluate.remote import Endpoint, RemoteAnswerer, messages
from sightline.samples.exchange import Decoding, Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Regions, Sample, Show, Text, Turn


def request(name: str, question: str = "what is it?", picture: bool = False, **decoding: Any) -> Request:
    out = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 10, 30)).save(out, "PNG")
    pictures = (describe(out.getvalue(), "", "here"),) if picture else ()
    items = (*((Show(),) if picture else ()), Text(text=question))
    sample = Sample(
        id=name, pictures=pictures, turns=(Turn(role="system", items=(Text(text="be brief"),)), Turn(role="user", items=items)), origin=Origin(source="set")
    )
    return Request(sample=sample, decoding=Decoding(**decoding))


def remote(endpoint: Scripted, **options: Any) -> RemoteAnswerer:
    return RemoteAnswerer(Endpoint(url=endpoint.url, model="teller", wait=0.001, **options))


def test_what_is_sent_and_what_comes_back() -> None:
    with scripted(lambda asked, number: "a red tile") as endpoint:
        (answer,) = remote(endpoint, key="secret").answer([request("a", picture=True, max_tokens=9, temperature=0.5, seed=3, stop=("\n",))])
    assert (answer.text, answer.sample, answer.finish) == ("a red tile", "a", "stop")
    (asked,) = endpoint.asked
    assert asked["path"] == "/v1/chat/completions" and endpoint.keys == ["Bearer secret"]
    assert {name: asked[name] for name in ("model", "max_tokens", "temperature", "seed", "stop")} == {
        "model": "teller",
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["\n"],
    }
    system, user = asked["messages"]
    assert system == {"role": "system", "content": "be brief"} and user["content"][1] == {"type": "text", "text": "what is it?"}
    head, _, data = user["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(data))).size == (16, 12)


def test_every_request_is_answered_once_and_several_at_a_time() -> None:
    def slow(asked: dict[str, Any], number: int) -> str:
        time.sleep(0.02)
        return asked["messages"][-1]["content"].upper()

    with scripted(slow) as endpoint:
        answers = list(remote(endpoint, concurrency=4).answer(request(str(number), f"q{number}") for number in range(20)))
    assert sorted((answer.sample, answer.text) for answer in answers) == sorted((str(number), f"Q{number}") for number in range(20))
    assert 2 <= endpoint.busiest <= 4


@pytest.mark.parametrize("trouble", [(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}), (503, b"overloaded")])
def test_overload_is_waited_out(trouble: Any) -> None:
    with scripted(lambda asked, number: trouble if number < 3 else "yes") as endpoint:
        assert [answer.text for answer in remote(endpoint).answer([request("a")])] == ["yes"]
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {"error": {"message": "no key"}}), "401: no key"),
        ((404, {"error": "no such model"}), "404: no such model"),
        ((302, b""), "302"),
        ((500, b"boom"), r"500: boom, 3 times"),
        ((200, b"<html>"), "name an OpenAI-compatible endpoint"),
        ((200, {"choices": []}), "IndexError"),
        ((200, {"choices": [{"message": {"content": ["x"]}}]}), "content"),
    ],
)
def test_endpoints_that_do_not_answer_are_refused(reply: Any, message: str) -> None:
    with scripted(lambda asked, number: reply) as endpoint, pytest.raises(Refused, match=message):
        list(remote(endpoint, retries=2).answer([request("a")]))


def test_nobody_there() -> None:
    with pytest.raises(Refused, match="what was answered is kept"):
        list(RemoteAnswerer(Endpoint(url="http://127.0.0.1:9/v1", model="m", retries=1, wait=0.001)).answer([request("a")]))
    with pytest.raises(Refused, match="http://HOST:PORT/v1"):
        RemoteAnswerer(Endpoint(url="file:///etc/passwd", model="m"))


def test_a_wrong_request_is_one_refused_answer_and_not_the_end() -> None:
    def reply(asked: dict[str, Any], number: int) -> Any:
        return (400, {"error": {"message": "too long"}}) if asked["messages"][-1]["content"] == "bad" else "fine"

    with scripted(reply) as endpoint:
        answers = {answer.sample: answer for answer in remote(endpoint).answer([request("a", "bad"), request("b")])}
    assert answers["b"].text == "fine" and answers["a"].finish == "refused" and "400: too long" in str(answers["a"].problems[0])


@pytest.mark.parametrize(("message", "finish"), [({"content": None, "refusal": "I will not"}, "refused"), ({"content": "cut"}, "length")])
def test_how_an_answer_ended(message: dict[str, Any], finish: str) -> None:
    reply = (200, {"choices": [{"message": message, "finish_reason": "length"}]})
    with scripted(lambda asked, number: reply) as endpoint:
        (answer,) = remote(endpoint).answer([request("a")])
    assert answer.finish == finish


@pytest.mark.parametrize(("budget", "sent"), [({"most_requests": 3}, 3), ({"most_tokens": 25}, 3)])
def test_a_spent_budget_stops_and_what_was_answered_is_kept(budget: dict[str, int], sent: int, tmp_path: Path) -> None:
    asked = [request(str(number), f"q{number}") for number in range(6)]
    with scripted(lambda told, number: "ok") as endpoint:
        file = tmp_path / "answers.jsonl"
        with pytest.raises(Refused, match="run again with a larger budget"):
            list(Remembering(remote(endpoint, concurrency=1, **budget), AnswerFile(file)).answer(asked))
        assert len(endpoint.asked) == sent
        answers = list(Remembering(remote(endpoint, concurrency=1), AnswerFile(file)).answer(asked))
        assert len(answers) == 6 and len(endpoint.asked) <= 6 + 1


def test_keys_tell_requests_apart_and_know_equal_ones() -> None:
    with scripted(lambda asked, number: "") as endpoint:
        key: Callable[[Request], str] = remote(endpoint).key
        other = RemoteAnswerer(Endpoint(url=endpoint.url, model="another")).key
        base = request("a", picture=True)
        assert key(base) == key(request("b", picture=True))
        assert len({key(base), key(request("a")), key(request("a", "why?", picture=True)), key(request("a", picture=True, seed=1)), other(base)}) == 5


def test_what_the_protocol_cannot_carry_is_refused() -> None:
    sample = Sample(id="a", turns=(Turn(role="user", items=(Regions(regions=()),)),), origin=Origin(source="set"))
    with pytest.raises(Refused, match="regions in a turn"):
        messages(sample)
    with scripted(lambda asked, number: "") as endpoint, pytest.raises(Refused, match="asked to score"):
        list(remote(endpoint).answer([Request(sample=sample, ask="score")]))
