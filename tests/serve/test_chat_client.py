"""The client of chat completions: whatever goes wrong is a reply, streams are put together again, tries wait as they are told."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from scripted_chat import ScriptedChat, given

from sightline.errors import Refused
from sightline.serve import chat_client
from sightline.serve.chat_client import ChatServer, Reply, ask, chat_server, of_stream


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    found: list[float] = []
    monkeypatch.setattr(chat_client.time, "sleep", found.append)
    yield found


def test_a_request_goes_under_the_other_name_and_whole() -> None:
    server = ScriptedChat(given("yes"))
    reply = ask(server.chat, {"model": "here", "messages": [], "stream": True, "stream_options": {}}, "name-1")
    assert reply.answered and reply.texts == ("yes",) and reply.error == "" and reply.seconds > 0
    [(headers, body)] = server.asked
    assert body == {"model": "there", "messages": [], "path": "/v1/chat/completions"}
    assert headers["Authorization"] == "Bearer secret" and headers["X-Request-ID"] == "name-1"


def test_tries_wait_as_the_server_says(waits: list[float]) -> None:
    full = json.dumps({"error": {"message": "busy", "code": "serve/full"}}).encode()
    server = ScriptedChat((503, {"Retry-After": "7"}, full), (429, {}, full), given("yes"))
    assert ask(server.chat, {"messages": []}, tries=3).answered
    assert waits == [7.0, 2 * chat_client.FIRST_WAIT]
    server = ScriptedChat((503, {"Retry-After": "7"}, full))
    assert ask(server.chat, {"messages": []}).error == "503: serve/full"


@pytest.mark.parametrize(
    ("status", "data", "error"),
    [
        (400, b'{"error": {"message": "no", "code": "serve/body"}}', "400: serve/body"),
        (500, b"<html>", "500: <html>"),
        (200, b"[1]", "200: JSON of another form: [1]"),
        (200, b'{"choices": [{"index": 0}]}', "200: no chat completion"),
        (200, b'{"choices": 3}', "200: no chat completion"),
    ],
)
def test_what_is_no_answer_is_told_on_one_line(status: int, data: bytes, error: str) -> None:
    reply = ask(ScriptedChat((status, {}, data)).chat, {"messages": []})
    assert not reply.answered and reply.error == error


def test_a_server_that_is_away_is_a_reply_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    reply = ask(ChatServer(url=f"http://127.0.0.1:{port}/v1", model="m", timeout=5.0), {"messages": []})
    assert reply.status == 0 and "ConnectionRefusedError" in reply.error


@pytest.mark.parametrize(
    "name", ["", "ftp://host/v1#m", "http://host:8000/v1", "http:///v1#m", "http://host:0/v1#m", "http://host:x/v1#m", "http://me:key@host/v1#m"]
)
def test_names_of_another_form_are_refused_without_their_key(name: str) -> None:
    with pytest.raises(Refused, match="serve/endpoint") as refused:
        chat_server(name, "--canary")
    assert "key@" not in str(refused.value)
    assert chat_server("http://host:8000/v1/#a/b", "--canary") == ChatServer(url="http://host:8000/v1", model="a/b")


@hypothesis.given(st.lists(st.lists(st.text(max_size=8), max_size=6), min_size=1, max_size=3), st.randoms())
def test_a_stream_says_what_its_deltas_say_together(choices: list[list[str]], order: Any) -> None:
    head = [event({"choices": [{"index": number, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}) for number in range(len(choices))]
    turns = [number for number, deltas in enumerate(choices) for _ in deltas]
    order.shuffle(turns)
    rest = [iter(deltas) for deltas in choices]
    body = [event({"choices": [{"index": number, "delta": {"content": next(rest[number])}, "finish_reason": None}]}) for number in turns]
    tail = [event({"choices": [{"index": number, "delta": {"regions": [number]}, "finish_reason": "stop"}]}) for number in range(len(choices))]
    usage = event({"choices": [], "usage": {}})
    reply = Reply(status=200, seconds=0.0, body=of_stream(b"".join([*head, *body, *tail, usage, b"data: [DONE]\n\n"])))
    assert reply.texts == tuple("".join(deltas) for deltas in choices)
    assert [choice["message"]["regions"] for choice in reply.choices] == [[number] for number in range(len(choices))]
    assert {choice["finish_reason"] for choice in reply.choices} == {"stop"}


def test_an_error_in_a_stream_is_no_answer() -> None:
    data = event({"choices": [{"index": 0, "delta": {"content": "ye"}}]}) + event({"error": {"code": "serve/failed"}}) + b"data: [DONE]\n\n"
    assert Reply(status=200, seconds=0.0, body=of_stream(data)).error == "200: serve/failed"
