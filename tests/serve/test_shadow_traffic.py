"""Live traffic asked of another server too: what is compared, what is kept, and that answers never wait for it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_chat import Given, ScriptedChat, given
from scripted_words import Script, tiny
from servers import Running, running, shown

from sightline.canary import read_requests
from sightline.serve.meters import Meters
from sightline.serve.settings import CanarySettings, ServerSettings
from sightline.serve.shadow_traffic import ROUTE, ShadowTraffic

SAID = "two pools"


@pytest.fixture(scope="module")
def words() -> Any:
    model, processor = tiny("flat")
    Script(SAID).direct(processor)
    return model, processor


def shadowing(other: ScriptedChat, **more: Any) -> CanarySettings:
    return CanarySettings(**{"url": other.chat.url, "model": "there", "key": "theirs", "share": 1.0} | more)


def counts(server: Running) -> dict[str, float]:
    """Comparisons by what came of them."""
    lines = server.ask("GET", "/metrics")[2].decode().splitlines()
    start = 'sightline_canary_requests_total{outcome="'
    return {line[len(start) :].partition('"')[0]: float(line.split()[1]) for line in lines if line.startswith(start) and float(line.split()[1])}


def until(found: Callable[[], Any], wanted: Any) -> None:
    ends = time.monotonic() + 20
    while found() != wanted:
        assert time.monotonic() < ends, found()
        time.sleep(0.02)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(given(SAID), "equal"), (given("three pools"), "differ"), ((500, {}, b'{"error": {"message": "no"}}'), "failed"), ((200, {}, b"{}"), "failed")],
)
def test_both_answers_are_compared(words: Any, reply: Given, outcome: str, streamed: bool) -> None:
    other = ScriptedChat(reply)
    with running(*words, canary=shadowing(other), api_keys=("ours",)) as server:
        body = {"model": "tiny", "messages": shown(), "max_tokens": 20, "stream": streamed}
        status, headers, data = server.ask("POST", "/v1/chat/completions", body, authorization="Bearer ours")
        assert status == 200 and (SAID in data.decode() or streamed)
        until(lambda: counts(server), {outcome: 1.0})
    [(sent, asked)] = other.asked
    assert asked["messages"] == shown() and asked["model"] == "there" and "stream" not in asked
    assert sent["Authorization"] == "Bearer theirs" and sent["X-Request-ID"] == headers["x-request-id"]


def test_of_texts_nothing_is_kept_unless_it_is_said(words: Any, tmp_path: Path) -> None:
    other, log = ScriptedChat(given("three pools")), tmp_path / "canary.jsonl"
    with running(*words, canary=shadowing(other, log=log)) as server:
        for _ in range(2):
            server.chat(shown(text="Where is the pool?"))
        until(lambda: log.is_file() and len(lines(log)), 2)
    first, again = lines(log)
    assert first["outcome"] == "differ" and first["status"] == 200 and first["seconds"]["theirs"] > 0
    assert first["request"] == again["request"] and first["ours"] == again["ours"] != first["theirs"], "equal things have equal hashes"
    assert "pool" not in log.read_text(encoding="utf-8")
    assert len(first["ours"]) == 64 and first["ours"] != hashlib.sha256(json.dumps([SAID]).encode()).hexdigest(), "nobody can guess it"


def test_texts_are_kept_where_it_is_said(words: Any, tmp_path: Path) -> None:
    other, log = ScriptedChat(given("three pools")), tmp_path / "canary.jsonl"
    with running(*words, canary=shadowing(other, log=log, texts=True)) as server:
        server.chat(shown(text="Where?"), max_tokens=20)
        until(lambda: log.is_file() and len(lines(log)), 1)
    [line] = lines(log)
    assert (line["ours"], line["theirs"]) == ([SAID], ["three pools"]) and line["body"]["messages"] == shown(text="Where?")
    [asked] = read_requests(log)
    assert (asked.name, asked.question) == (line["id"], "Where?"), "such a log is traffic for `sightline canary`"


def test_answers_do_not_wait_and_what_is_too_much_is_dropped(words: Any) -> None:
    other = ScriptedChat(given(SAID), pause=3.0)
    with running(*words, canary=shadowing(other, concurrency=1, most_waiting=1)) as server:
        began = time.monotonic()
        for _ in range(6):
            assert server.chat(shown())[0] == 200
        assert time.monotonic() - began < 2.5, "six answers in less time than the other takes for one"
        assert counts(server)["dropped"] >= 3


def test_only_chats_that_were_answered_and_are_not_drawn_by_chance(words: Any) -> None:
    other = ScriptedChat(given(SAID))
    with running(*words, canary=shadowing(other)) as server:
        assert server.chat(shown(), temperature=-1.0)[0] == 400
        assert server.chat(shown(), temperature=1.0)[0] == 200
        assert server.ask("POST", "/tokenize", {"prompt": "x"})[0] == 200
        assert server.ask("GET", "/ready")[0] == 200
        until(lambda: counts(server), {"skipped": 2.0})
        assert server.chat(shown(), temperature=1.0, seed=3, max_tokens=20)[0] == 200
        until(lambda: counts(server), {"skipped": 2.0, "equal": 1.0})
    assert len(other.asked) == 1


def test_a_server_that_is_away_fails_nothing(words: Any) -> None:
    other = ScriptedChat(given(SAID))
    other.shutdown()
    other.server_close()
    with running(*words, canary=shadowing(other)) as server:
        assert [server.chat(shown())[0] for _ in range(3)] == [200] * 3
        until(lambda: counts(server), {"failed": 3.0})


def test_a_share_is_a_share() -> None:
    other, drawn = ScriptedChat(given(SAID)), iter([0.04, 0.05, 0.9, 0.01])
    settings = ServerSettings(served_model_name=("tiny",), canary=shadowing(other, share=0.05))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": given(SAID)[2]})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"messages": []}'}

    async def send(message: Any) -> None:
        """To nobody."""

    shadow = ShadowTraffic(app, settings, Meters(), lambda: next(drawn))
    for _ in range(4):
        asyncio.run(shadow({"type": "http", "path": ROUTE}, receive, send))
    shadow.wait()
    assert len(other.asked) == 2 and shadow.meters.outcomes.labels("equal")._value.get() == 2
