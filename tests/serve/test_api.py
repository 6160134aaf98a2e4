"""The API as clients see it: the official client, hostile requests, keys, limits, and what is counted."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import openai
import pytest
from compositions import composition
from PIL import Image
from servers import PATIENCE, Running, data_url, png, running, shown
from tiny_models import TEXTS, built

from sightline.evaluate.answering import LocalAnswerer
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding, Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn
from sightline.serve import guard
from sightline.serve.jobs import Declined
from sightline.serve.media import Media, _public
from sightline.serve.settings import MediaLimits


@pytest.fixture(scope="module")
def flat() -> tuple[Model, Processor]:
    config = composition("flat")
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    return built(config.resolve(400, control=tokenizer.control), tokenizer)


@pytest.fixture(scope="module")
def server(flat: tuple[Model, Processor]) -> Iterator[Running]:
    with running(*flat) as found:
        yield found


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="none", max_retries=0)


def expected(flat: tuple[Model, Processor], *pictures: bytes, text: str = "Where?", **said: Any) -> str:
    known = tuple(describe(data, "", "test") for data in pictures)
    turn = Turn(role="user", items=(*(Show(picture=number) for number in range(len(known))), Text(text=text)))
    sample = Sample(id="x", pictures=known, turns=(turn,), origin=Origin(source="test"))
    return next(LocalAnswerer(*flat, "w").answer([Request(sample=sample, decoding=Decoding(**{"max_tokens": 12} | said))])).text


def test_the_official_client_is_answered_as_an_evaluation_would_be(flat: tuple[Model, Processor], client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "other-name"]
    pictures = png(1), png(2, 50, 20)
    asked: Any = shown(*map(data_url, pictures))
    reply = client.chat.completions.create(model="tiny", messages=asked, max_tokens=12, logprobs=True, top_logprobs=2)
    assert reply.choices[0].message.content == expected(flat, *pictures)
    assert reply.usage is not None and reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None and len(logprobs.content) == reply.usage.completion_tokens
    assert all(one.top_logprobs[0].token == one.token and one.logprob <= 0 for one in logprobs.content)


def test_a_stream_says_what_the_whole_answer_says(flat: tuple[Model, Processor], client: openai.OpenAI) -> None:
    asked: Any = shown(data_url(png(1)))
    chunks = list(
        client.chat.completions.create(model="other-name", messages=asked, max_completion_tokens=12, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected(flat, png(1))
    assert chunks[0].choices[0].delta.role == "assistant" and len(chunks) > 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    assert chunks[-1].usage is not None and not chunks[-1].choices


def test_several_answers_are_drawn_by_their_seeds(client: openai.OpenAI) -> None:
    asked: Any = shown(data_url(png(1)))
    draw = lambda: client.chat.completions.create(model="tiny", messages=asked, max_tokens=8, n=3, temperature=1.9, seed=7)  # noqa: E731
    first, again = draw(), draw()
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices] and len(set(texts)) > 1


def test_earlier_turns_and_films_are_taken(server: Running) -> None:
    asked = shown(data_url(png(1)))
    later = [{"role": "system", "content": "Be brief."}, *asked, {"role": "assistant", "content": "none"}, {"role": "user", "content": "How many?"}]
    assert server.chat(later)[0] == 200
    stream = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 24, 3), 60 * number, np.uint8)) for number in range(4)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], duration=500)
    film = {"type": "video_url", "video_url": {"url": data_url(stream.getvalue(), "image/gif")}}
    status, body = server.chat([{"role": "user", "content": [film, {"type": "text", "text": "Where?"}]}])
    assert status == 200 and body["usage"]["prompt_tokens_details"]["multimodal_tokens"]["image"] > 0
    listed = {"type": "video_url", "video_url": {"url": [data_url(png(1)), data_url(png(2))], "fps": 2.0}}
    assert server.chat([{"role": "user", "content": [listed]}])[0] == 200


def gif() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("L", (8, 8), number) for number in (0, 255)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


HOSTILE: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "bomb": (shown(data_url(png(0, 400, 200))), 400, "serve/picture-too-large"),
    "long": (shown(data_url(png(0, 1, 10_000))), 0, ""),
    "svg": (shown(data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml")), 400, "serve/media-type"),
    "svg-as-png": (shown(data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>")), 400, "samples/not-a-picture"),
    "wrong-type": (shown(data_url(png(), "image/jpeg")), 400, "serve/media-type"),
    "animated": (shown(data_url(gif(), "image/gif")), 400, "serve/animated-picture"),
    "cut": (shown(data_url(png()[:-40])), 400, "samples/broken-picture"),
    "base64": (shown("data:image/png;base64,%%%"), 400, "serve/base64"),
    "no-base64": (shown("data:image/png;base64,"), 400, "samples/not-a-picture"),
    "data": (shown("data:nonsense"), 400, "serve/data-url"),
    "file": (shown("file:///etc/passwd"), 400, "serve/url-scheme"),
    "path": (shown("/etc/passwd"), 400, "serve/url-scheme"),
    "http": (shown("http://169.254.169.254/latest"), 400, "serve/media-domain"),
    "mp4": ([{"role": "user", "content": [{"type": "video_url", "video_url": {"url": data_url(b"x", "video/mp4")}}]}], 400, "serve/media-type"),
    "many": (shown(*[data_url(png(number)) for number in range(4)]), 400, "serve/too-many-pictures"),
    "two hundred": (shown(*[data_url(png(number, 2, 2)) for number in range(200)]), 400, "serve/too-many-pictures"),
    "role": ([{"role": "tool", "content": "x"}], 400, "serve/body"),
    "order": ([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}], 400, "samples/turn-order"),
    "last": ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], 400, "serve/last-message"),
    "empty": ([], 400, "serve/body"),
    "long text": ([{"role": "user", "content": "ship " * 2000}], 400, "model/too-long"),
    "picture by the model": ([{"role": "user", "content": "x"}, {**shown(data_url(png()))[0], "role": "assistant"}], 400, "serve/picture-role"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_messages_are_declined_with_a_reason(server: Running, name: str) -> None:
    messages, status, code = HOSTILE[name]
    if not status:
        assert server.chat(messages)[0] in (200, 400)
    else:
        assert server.declined(messages) == (status, code)
    assert server.chat([{"role": "user", "content": "Where?"}])[0] == 200


@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"model": "nobody"}, 404, "serve/model"),
        ({"max_tokens": 10_000}, 400, "serve/context"),
        ({"max_tokens": 0}, 400, "serve/body"),
        ({"temperature": "hot"}, 400, "serve/body"),
        ({"tools": []}, 400, "serve/body"),
        ({"n": 100}, 400, "serve/choices"),
        ({"top_logprobs": 3}, 400, "serve/parameter"),
        ({"stream_options": {"include_usage": True}}, 400, "serve/parameter"),
        ({"temperature": float("nan")}, 400, "serve/body"),
    ],
)
def test_parameters_out_of_range_are_declined_by_name(server: Running, more: dict[str, Any], status: int, code: str) -> None:
    assert server.declined([{"role": "user", "content": "Where?"}], **more) == (status, code)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": "tiny", "messages": 3}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * 3000, "application/json", 413),
    ],
)
def test_bodies_that_are_none(flat: tuple[Model, Processor], body: bytes, kind: str, status: int) -> None:
    with running(*flat, max_body_bytes=200_000 if status != 413 else 2000) as server:
        found, headers, reply = server.ask("POST", "/v1/chat/completions", body, kind)
    assert found == status and "error" in json.loads(reply) and headers["x-request-id"]


def test_unknown_routes_and_methods_have_the_same_form(server: Running) -> None:
    for method, path, status in (("GET", "/v2/nothing", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/../../etc/passwd", 404)):
        found, _, body = server.ask(method, path, {} if method == "POST" else None)
        assert found == status and json.loads(body)["error"]["code"] == "serve/route"


def test_a_body_is_counted_while_it_comes_and_must_come_in_time(flat: tuple[Model, Processor]) -> None:
    with running(*flat, max_body_bytes=10_000, body_timeout=0.3) as server:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        for sent, status in ((b"1000\r\n" + b" " * 4096 + b"\r\n", b"408"), ((b"1000\r\n" + b" " * 4096 + b"\r\n") * 4, b"413")):
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
                connection.sendall(head + sent)
                assert connection.recv(4096).startswith(b"HTTP/1.1 " + status)
        assert server.chat([{"role": "user", "content": "Where?"}])[0] == 200


def test_keys_are_asked_for_and_tell_clients_apart(flat: tuple[Model, Processor]) -> None:
    with running(*flat, api_keys=("one", "two")) as server:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2}
        for sent, status in (
            ({}, 401),
            ({"authorization": "Bearer three"}, 401),
            ({"authorization": "Bearer two"}, 200),
            ({"authorization": "Basic two"}, 401),
        ):
            assert server.ask("POST", "/v1/chat/completions", body, **sent)[0] == status
        assert server.ask("GET", "/v1/models")[0] == 401
        assert server.ask("GET", "/health")[0] == server.ask("GET", "/ready")[0] == 200


def test_overload_is_told_with_the_time_to_come_again(flat: tuple[Model, Processor]) -> None:
    with running(*flat, engine={"max_num_seqs": 1, "max_num_queued_reqs": 2, "max_queued_per_client": 1}) as server:
        found: list[tuple[int, dict[str, str]]] = []

        def ask(user: str) -> None:
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 300, "user": user}
            status, headers, _ = server.ask("POST", "/v1/chat/completions", body)
            found.append((status, headers))

        threads = [threading.Thread(target=ask, args=(user,)) for user in ("a", "a", "a", "b", "c", "d", "a")]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join(PATIENCE)
    statuses = sorted(status for status, _ in found)
    assert set(statuses) <= {200, 429, 503} and statuses.count(200) >= 2 and {429, 503} & set(statuses)
    assert all(int(headers["retry-after"]) >= 1 for status, headers in found if status != 200)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_written_for(flat: tuple[Model, Processor], stream: bool) -> None:
    with running(*flat) as server:
        engine = server.served.engine
        assert engine is not None
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 380, "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(head + body)
            ends = time.monotonic() + PATIENCE
            while not engine.running and time.monotonic() < ends:
                time.sleep(0.005)
        while engine.running and time.monotonic() < ends:
            time.sleep(0.01)
        _, _, metrics = server.ask("GET", "/metrics")
    assert b"sightline_requests_given_up_total 1.0" in metrics


def test_what_is_served_is_counted(server: Running) -> None:
    before = server.ask("GET", "/metrics")[2]
    assert server.chat(shown(data_url(png(77))))[0] == 200
    server.declined([{"role": "user", "content": "x"}], model="nobody")
    after = server.ask("GET", "/metrics")[2]
    value = lambda text, name: sum(float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith(name))  # noqa: E731
    for name, more in (
        ("sightline_generation_tokens_total", 1),
        ("sightline_prompt_tokens_total", 10),
        ('sightline_admission_rejections_total{status="404"}', 1),
    ):
        assert value(after, name) >= value(before, name) + more


def test_tokens_are_told(server: Running, flat: tuple[Model, Processor]) -> None:
    text = "How many ships?"
    status, _, body = server.ask("POST", "/tokenize", {"prompt": text})
    assert status == 200 and json.loads(body)["tokens"] == flat[1].tokenizer.encode(text)
    status, _, body = server.ask("POST", "/tokenize", {"messages": shown(data_url(png()))})
    assert status == 200 and json.loads(body)["count"] > 10
    assert server.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"})[0] == 400


def test_the_description_names_every_route(server: Running) -> None:
    described = json.loads(server.ask("GET", "/openapi.json")[2])
    assert {"/v1/chat/completions", "/v1/embeddings", "/v1/models", "/tokenize", "/health", "/ready", "/metrics"} <= set(described["paths"])
    named = json.dumps(described).split("#/components/schemas/")[1:]
    assert {part.split('"')[0] for part in named} <= set(described["components"]["schemas"])


# pictures from other hosts


class _Host(BaseHTTPRequestHandler):
    """A host with a picture, redirects, and bad manners."""

    def do_GET(self) -> None:
        here = f"http://pictures.example:{self.server.server_address[1]}"
        redirects = {"/to-file": "file:///etc/passwd", "/to-other": "http://other.example/x.png", "/round": "/round", "/twice": f"{here}/picture.png"}
        if self.path in redirects:
            self.send_response(302)
            self.send_header("location", redirects[self.path])
            self.end_headers()
            return
        body = {"/picture.png": png(1), "/large.png": bytes(5000), "/page": b"<html>"}.get(self.path)
        if self.path == "/slow.png":
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            for _ in range(40):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
            return
        self.send_response(200 if body is not None else 404)
        self.send_header("content-type", "text/html" if self.path == "/page" else "image/png")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def media(private: bool = True, **more: Any) -> Media:
    limits = MediaLimits(allowed_media_domains=("pictures.example",), fetch_timeout=0.6, max_media_bytes=4000, allow_private=private, **more)
    return Media(limits=limits, resolve=lambda name, port: ["127.0.0.1"])


def test_a_picture_of_an_allowed_host_is_fetched(host: int) -> None:
    for path in ("picture.png", "twice"):
        assert media().picture(f"http://pictures.example:{host}/{path}", "here").width == 24


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://pictures.example:{}/to-file", 400, "serve/url-redirect"),
        ("http://pictures.example:{}/to-other", 400, "serve/media-domain"),
        ("http://pictures.example:{}/round", 400, "serve/url-redirect"),
        ("http://pictures.example:{}/nothing", 422, "serve/fetch"),
        ("http://pictures.example:{}/large.png", 422, "serve/picture-too-large"),
        ("http://pictures.example:{}/page", 400, "serve/media-type"),
        ("http://pictures.example:{}/slow.png", 422, "serve/fetch"),
        ("http://pictures.example.evil.example:{}/picture.png", 400, "serve/media-domain"),
        ("http://user@pictures.example:{}/picture.png", 400, "serve/media-domain"),
        ("http://127.0.0.1:{}/picture.png", 400, "serve/media-domain"),
        ("http://[::1", 400, "serve/url"),
        ("http://pictures.example:1/picture.png", 422, "serve/fetch"),
        ("ftp://pictures.example/picture.png", 400, "serve/url-scheme"),
    ],
)
def test_what_a_host_must_not_do(host: int, url: str, status: int, code: str) -> None:
    with pytest.raises(Declined) as raised:
        media().picture(url.format(host), "here")
    assert (raised.value.status, raised.value.problem.code) == (status, code)


def test_a_name_of_a_private_address_is_refused_and_asked_only_once(host: int) -> None:
    with pytest.raises(Declined) as raised:
        media(private=False).picture(f"http://pictures.example:{host}/picture.png", "here")
    assert raised.value.problem.code == "serve/private-address"
    answers = iter([["127.0.0.1"]])  # a second question would find nothing
    limits = MediaLimits(allowed_media_domains=("pictures.example",), allow_private=True)
    assert Media(limits=limits, resolve=lambda name, port: next(answers)).picture(f"http://pictures.example:{host}/picture.png", "here").width == 24


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.1.1",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "nonsense",
    ],
)
def test_addresses_that_are_nobodys_business(address: str) -> None:
    assert not _public(address)


def test_public_addresses_are_public() -> None:
    assert _public("93.184.216.34") and _public("2606:2800:220:1:248:1893:25c8:1946")


def test_an_error_tells_how_to_mend_it(server: Running) -> None:
    _, body = server.chat(shown("file:///etc/passwd"))
    assert body["error"]["type"] == guard.KINDS[400] and body["error"]["param"] == "messages[0].content[0]" and "data:image" in body["error"]["message"]
