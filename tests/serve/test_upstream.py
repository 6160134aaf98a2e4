"""`serve --upstream`: another engine's answers with regions and masks put back, and engines that are wrong, slow, away, or broken."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted_words import Script, question, scripted, tiny, write_run
from servers import PATIENCE, Running, data_url, limited, listening, png, running, shown

import scripted_endpoint
from sightline.cli.main import main
from sightline.errors import Refused
from sightline.model import directory
from sightline.model.processor import Processor
from sightline.refine.box_masks import FillBox, filled
from sightline.samples.geometry import decode_mask
from sightline.samples.sample import Mask
from sightline.samples.upright_crops import TurnedBox
from sightline.serve.app import Served
from sightline.serve.dialects import ENGINES, Dialect
from sightline.serve.media import Media
from sightline.serve.meters import Meters
from sightline.serve.named_regions import MASKS, Masks
from sightline.serve.server import load_in_front
from sightline.serve.upstream_client import Upstream
from sightline.serve.upstream_relay import Relay

SAID = "A pool: {500,250,200,300,10}, and {2,2,3,4,5,6} is none; <p>pier</p> {250,250,100,100,0}."
PICTURE = png(1, 200, 100)


@contextmanager
def in_front(
    url: str, dialect: Dialect | None = None, codec: str | None = "xyhwt-pad", masks: Masks | None = None, settings: dict[str, Any] | None = None, **more: Any
) -> Iterator[Running]:
    """A server before an engine."""
    model, processor = tiny("flat", codec)
    found, meters = limited(**(settings or {})), Meters()
    upstream = Upstream(**{"url": url, "model": "theirs", "wait": 0.01, "silence": 30.0} | more)
    relay = Relay(upstream=upstream, dialect=dialect or Dialect(), processor=processor, settings=found, meters=meters, masks=masks)
    served = Served(settings=found, processor=processor, weights="", meters=meters, media=Media(limits=found.media), relay=relay, blank=model, masks=masks)
    with listening(served) as server:
        yield server


@contextmanager
def engine(speak: Callable[[socket.socket, dict[str, Any]], None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An engine that says bytes: its address, and the bodies that it was sent."""
    asked: list[dict[str, Any]] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(1 << 16)
            head, _, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            while length is not None and len(body) < int(length[1]):
                body += connection.recv(1 << 16)
            asked.append(json.loads(body) if body else {})
            try:
                speak(connection, asked[-1])
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", asked
    finally:
        listener.close()


def whole(body: Any, status: str = "200 OK", *headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(data)}", *headers, "", ""]).encode() + data


def delta(text: str, finish: str | None = None) -> bytes:
    value = {"id": "theirs", "model": "theirs", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n"


def events(body: bytes) -> list[dict[str, Any]]:
    assert body.endswith(b"data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]


def streamed(server: Running, messages: list[dict[str, Any]], **more: Any) -> tuple[int, bytes]:
    status, _, body = server.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": messages, "stream": True} | more)
    return status, body


# what is passed on, and what comes back


def test_an_answer_has_the_regions_that_our_own_engine_would_tell() -> None:
    with scripted(Script(SAID)) as ours, scripted_endpoint.scripted(lambda body, number: SAID) as theirs, in_front(theirs.url, key="secret") as front:
        expected = ours.chat(shown(data_url(PICTURE)), max_tokens=200)[1]["choices"][0]["message"]
        status, body = front.chat(shown(data_url(PICTURE)), seed=3, stop=["x"], n=1)
    assert status == 200 and body["choices"][0]["message"] == {key: expected[key] for key in ("role", "content", "regions", "region_problems")}
    assert body["model"] == "tiny" and body["object"] == "chat.completion" and body["usage"] == {"total_tokens": 10} and body["id"].startswith("chatcmpl-")
    [asked] = theirs.asked
    assert theirs.keys == ["Bearer secret"] and asked.pop("path") == "/v1/chat/completions"
    messages = asked.pop("messages")
    assert asked == {"model": "theirs", "temperature": 0.0, "max_tokens": 5, "seed": 3, "stop": ["x"], "n": 1}
    assert messages == [{"role": "user", "content": [shown(data_url(PICTURE))[0]["content"][0], {"type": "text", "text": "Where?"}]}]


def test_pictures_are_passed_on_upright_and_limits_are_ours() -> None:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(20, 30, 3)).save(stream, "JPEG", exif=exif)
    with scripted_endpoint.scripted(lambda body, number: "a {500,500,500,500,0}") as theirs, in_front(theirs.url) as front:
        status, body = front.chat(shown(data_url(stream.getvalue(), "image/jpeg")), max_completion_tokens=9, max_tokens=None)
        sent = theirs.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
        assert front.declined(shown(data_url(png(0, 400, 200)))) == (400, "serve/picture-too-large")
        assert front.declined(shown("file:///etc/passwd")) == (400, "serve/url-scheme")
        film = {"type": "video_url", "video_url": {"url": [data_url(png(1)), data_url(png(2))]}}
        assert front.declined([{"role": "user", "content": [film]}]) == (400, "serve/upstream-film")
        assert len(theirs.asked) == 1 and theirs.asked[0]["max_completion_tokens"] == 9 and "max_tokens" not in theirs.asked[0]
    seen = Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2])))
    assert seen.size == (20, 30) and not seen.getexif().get(0x0112)
    [region] = body["choices"][0]["message"]["regions"]
    assert status == 200 and region["rotated_box"][0] == pytest.approx(15), "x of the upright picture, padded to 30 px"


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in ENGINES.items() for form in forms])
def test_the_grammar_of_regions_is_passed_on_in_the_engines_form(name: str, form: str) -> None:
    with scripted_endpoint.scripted(lambda body, number: "{1,2,3,4,5}") as theirs, in_front(theirs.url, Dialect(engine=name, grammar=form)) as front:
        assert front.chat(shown(data_url(PICTURE)), response_format={"type": "regions"})[0] == 200
        assert front.chat(shown(data_url(PICTURE)))[0] == 200
    said: Any = theirs.asked[0]
    for key in ENGINES[name][form]:
        said = said[key]
    assert ENGINES[name][form][0] not in theirs.asked[1]
    if form == "regex":
        assert re.fullmatch(said, "{1,2,3,4,5}") and not re.fullmatch(said, "{1,2,3,4,95}")
    else:
        assert said.startswith("root ::= ") or said == "regions"


def test_control_tokens_of_a_codec_are_asked_to_be_shown() -> None:
    for name in ("vllm", "openai"):
        with scripted_endpoint.scripted(lambda body, number: "none") as theirs, in_front(theirs.url, Dialect(engine=name), codec="qwen2-vl") as front:
            assert front.chat(shown(data_url(PICTURE)))[0] == 200
        assert theirs.asked[0].get("skip_special_tokens", True) is (name == "openai")


def test_formats_that_an_engine_knows_itself_are_passed_on_and_others_are_declined() -> None:
    asked = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "a"}}}
    with scripted_endpoint.scripted(lambda body, number: '"a {1,2,3,4,5}"') as theirs, in_front(theirs.url) as front:
        status, body = front.chat(shown(data_url(PICTURE)), response_format=asked)
        assert status == 200 and theirs.asked[0]["response_format"] == asked and "regions" not in body["choices"][0]["message"]
        assert front.declined(shown(data_url(PICTURE)), response_format={"type": "regions"}) == (400, "serve/parameter")
    with pytest.raises(Refused, match="usage/upstream-grammar"):
        Dialect(engine="openai", grammar="regex")


def test_our_own_server_is_an_engine_too() -> None:
    """Of a tiny model with random weights, held to regions: the same text, the same regions, whole and in a stream, and with masks."""
    model, processor = tiny("flat")
    asked = shown(data_url(PICTURE))
    how: dict[str, Any] = {"response_format": {"type": "regions"}, "max_tokens": 60, "temperature": 1.5, "seed": 3, "logprobs": True, "top_logprobs": 1}
    with running(model, processor) as behind:
        dialect = Dialect(engine="sightline", grammar="regions")
        with in_front(f"{behind.base}/v1", dialect, masks=Masks(FillBox()), model="tiny") as front:
            assert front.ask("GET", "/ready")[0] == 200
            expected = behind.chat(asked, **how)[1]["choices"][0]
            [found] = front.chat(asked, **how)[1]["choices"]
            assert found["message"]["content"] == expected["message"]["content"] and len(found["logprobs"]["content"]) == len(expected["logprobs"]["content"])
            bare = [{key: value for key, value in region.items() if key != "mask"} for region in found["message"]["regions"]]
            assert bare == expected["message"]["regions"] and bare and all("mask" in region for region in found["message"]["regions"])
            status, body = streamed(front, asked, **how, stream_options={"include_usage": True})
            told = events(body)
            *deltas, last = [event for event in told if event["choices"]]
            assert status == 200 and "".join(event["choices"][0]["delta"].get("content", "") for event in (*deltas, last)) == expected["message"]["content"]
            assert last["choices"][0]["delta"]["regions"] == found["message"]["regions"] and last["choices"][0]["finish_reason"] == expected["finish_reason"]
            assert told[-1]["choices"] == [] and told[-1]["usage"]["completion_tokens"] > 0 and {event["model"] for event in told} == {"tiny"}


def test_regions_are_told_while_the_stream_goes_on() -> None:
    def speak(connection: socket.socket, body: dict[str, Any]) -> None:
        parts = [SAID[start : start + 4] for start in range(0, len(SAID), 4)]
        connection.sendall(STREAM + b"".join(map(delta, parts[:-1])) + delta(parts[-1], "stop") + b"data: [DONE]\n\n")

    with engine(speak) as (url, _), in_front(url) as front:
        status, body = streamed(front, shown(data_url(PICTURE)))
    found = [event["choices"][0]["delta"] for event in events(body)]
    assert status == 200 and "".join(one["content"] for one in found) == SAID
    assert [len(one["regions"]) for one in found if "regions" in one] == [1, 2, 2] and "region_problems" in found[-1]


# masks


def test_regions_of_our_own_engine_get_masks_too() -> None:
    text = SAID + " " + "{10,10,5,5,0}, " * (MASKS + 3)
    with scripted(Script(text), masks=Masks(FillBox()), engine={"max_model_len": 1500}) as server:
        messages = shown(data_url(PICTURE))
        message = server.chat(messages, max_tokens=600)[1]["choices"][0]["message"]
        _, body = streamed(server, messages, max_tokens=600)
    pool = message["regions"][0]
    mask = decode_mask(Mask(width=pool["mask"][0], height=pool["mask"][1], runs=tuple(pool["mask"][2])))
    cx, cy, w, h, theta = pool["rotated_box"]
    assert (mask == filled(TurnedBox(cx=cx, cy=cy, w=w, h=h, theta=theta), 200, 100)).all() and mask.any()
    assert sum("mask" in region for region in message["regions"]) == MASKS < len(message["regions"])
    assert [problem["code"] for problem in message["region_problems"]].count("serve/masks") == 1
    told = [event["choices"][0]["delta"]["regions"] for event in events(body) if event["choices"] and "regions" in event["choices"][0]["delta"]]
    assert told[-1] == message["regions"] and not any("mask" in region for regions in told[:-1] for region in regions)


# engines that fail


@pytest.mark.parametrize(
    ("status", "ours", "code"),
    [
        ("400 Bad Request", 400, "serve/upstream-refused"),
        ("413 Too Large", 413, "serve/upstream-refused"),
        ("422 Unprocessable", 422, "serve/upstream-refused"),
        ("401 Unauthorized", 502, "serve/upstream-error"),
        ("404 Not Found", 502, "serve/upstream-error"),
        ("302 Found", 502, "serve/upstream-error"),
        ("500 Internal Server Error", 502, "serve/upstream-error"),
        ("429 Too Many Requests", 429, "serve/upstream-busy"),
        ("503 Service Unavailable", 503, "serve/upstream-busy"),
    ],
)
def test_what_an_engine_refuses_is_told_in_our_form(status: str, ours: int, code: str) -> None:
    reply = whole({"error": {"message": "no: key-1 is wrong"}}, status, "retry-after: 7", "location: http://elsewhere.example/")
    with engine(lambda connection, body: connection.sendall(reply)) as (url, asked), in_front(url, key="key-1") as front:
        for stream in (False, True):
            found, headers, body = front.ask("POST", "/v1/chat/completions", {"model": "tiny", "messages": shown(), "stream": stream})
            error = json.loads(body)["error"]
            assert (found, error["code"]) == (ours, code) and "key-1" not in error["message"]
            assert headers.get("retry-after") == ("7" if ours in (429, 503) else None)
    assert len(asked) == 2, "never tried again"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"", 502, "serve/upstream-reply"),
        (b"SSH-2.0-OpenSSH_9\r\n", 502, "serve/upstream-reply"),
        (whole(b"<html>"), 502, "serve/upstream-reply"),
        (whole([]), 502, "serve/upstream-reply"),
        (whole({"choices": []}), 502, "serve/upstream-reply"),
        (whole({"choices": ["x"]}), 502, "serve/upstream-reply"),
        (whole({"choices": [{"message": {"content": [1]}}]}), 502, "serve/upstream-reply"),
        (whole({"choices": [{"message": {"content": "x"}}]})[:-9], 502, "serve/upstream-reply"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, 502, "serve/upstream-reply"),
    ],
)
def test_garbage_is_told_as_such(said: bytes, status: int, code: str) -> None:
    with engine(lambda connection, body: connection.sendall(said)) as (url, asked), in_front(url) as front:
        assert front.declined(shown()) == (status, code)
        assert front.ask("GET", "/health")[0] == 200
    assert len(asked) == 1, "what was sent is not sent again"


@pytest.mark.parametrize(
    "said",
    [
        delta("a") + delta("b"),
        delta("a") + b"data: nonsense\n\n",
        delta("a") + b'data: {"error": {"message": "out of memory"}}\n\n',
        delta("a") + b'data: {"choices": [{"delta": 3}]}\n\n',
        delta("a") + b'data: {"choices": 3}\n\n',
        delta("a") + b"data: [DONE]\n\n",
    ],
)
def test_a_stream_that_breaks_says_so_and_ends(said: bytes) -> None:
    with engine(lambda connection, body: connection.sendall(STREAM + said)) as (url, _), in_front(url) as front:
        status, body = streamed(front, shown())
    *rest, error = events(body)
    assert status == 200 and rest[0]["choices"][0]["delta"]["content"] == "a" and error["error"]["code"] == "serve/upstream-reply"


def test_an_engine_that_hangs_is_not_waited_for_longer_than_said() -> None:
    gone = threading.Event()

    def hang(connection: socket.socket, body: dict[str, Any]) -> None:
        if body["stream"]:
            connection.sendall(STREAM + delta("a"))
        connection.recv(1)  # until the front gives up
        gone.set()

    with engine(hang) as (url, _), in_front(url, silence=0.3) as front:
        assert front.chat(shown(), stream=False)[1]["error"]["code"] == "serve/upstream-slow" and gone.wait(5)
        status, body = streamed(front, shown())
        assert status == 200 and events(body)[-1]["error"]["code"] == "serve/upstream-slow"
    with engine(hang) as (url, _), in_front(url, settings={"request_timeout": 0.3}) as front:
        assert front.chat(shown(), stream=False)[0] == 504


def test_an_engine_that_is_away_is_tried_again_and_then_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with in_front(f"http://127.0.0.1:{port}/v1", wait=0.3) as front:
        status, body = front.chat(shown())
        assert (status, body["error"]["code"]) == (502, "serve/upstream-away") and "4 times" in body["error"]["message"]
        assert front.ask("GET", "/ready")[0] == 503 and front.ask("GET", "/health")[0] == 200
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(front.chat(shown())[0]))
        asking.start()
        time.sleep(0.1)
        with socket.create_server(("127.0.0.1", port)) as late:
            connection, _ = late.accept()
            connection.recv(1 << 16)
            connection.sendall(whole({"choices": [{"message": {"content": "here"}}]}))
            asking.join(PATIENCE)
        connection.close()
    assert answers == [200], "nothing had been sent before"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_given_up_there_too(stream: bool) -> None:
    gone = threading.Event()

    def speak(connection: socket.socket, body: dict[str, Any]) -> None:
        connection.sendall(STREAM + delta("a") if stream else b"")
        try:
            connection.recv(1)
        finally:
            gone.set()

    with engine(speak) as (url, asked), in_front(url) as front:
        body = json.dumps({"model": "tiny", "messages": shown(), "stream": stream}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as connection:
            connection.sendall(head + body)
            while not asked:
                time.sleep(0.01)
            time.sleep(0.05)
        assert gone.wait(5), "the engine learns that nobody reads"
        ends = time.monotonic() + 5
        while (served := front.served.relay) is not None and served.running and time.monotonic() < ends:
            time.sleep(0.01)
        assert served is not None and not served.running
        assert b"sightline_requests_given_up_total 1.0" in front.ask("GET", "/metrics")[2]


def test_too_many_at_a_time_are_declined() -> None:
    release = threading.Event()

    def speak(connection: socket.socket, body: dict[str, Any]) -> None:
        release.wait(PATIENCE)
        connection.sendall(whole({"choices": [{"message": {"content": "x"}}]}))

    with engine(speak) as (url, asked), in_front(url, settings={"engine": {"max_num_queued_reqs": 3, "max_queued_per_client": 2}}) as front:
        found: list[tuple[int, str]] = []
        threads = [threading.Thread(target=lambda user=user: found.append((front.chat(shown(), user=user)[0], user))) for user in ("a", "a", "b")]
        for thread in threads:
            thread.start()
        while len(asked) < 3:
            time.sleep(0.01)
        assert front.declined(shown(), user="c") == (503, "serve/full")
        release.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(found) == [(200, "a"), (200, "a"), (200, "b")]


# the verb


def test_a_front_reads_no_weights(tmp_path: Path) -> None:
    model, processor = tiny("flat")
    folder = write_run(tmp_path / "run", model, processor, [question("Where?", png(1))])
    model_folder = folder / "stages" / "01-see" / "model"
    weights = directory.load(model_folder)[2]
    for file in model_folder.glob("*.safetensors"):
        file.unlink()
    served = load_in_front(folder, limited(), Upstream(url="http://127.0.0.1:1/v1", model="x"), Dialect())
    assert isinstance(served.processor, Processor) and served.weights == weights and served.settings.engine.max_model_len == 400
    with listening(served) as front:
        card = json.loads(front.ask("GET", "/v1/card")[2])
        assert card["parameters"] == sum(weight.numel() for weight in model.parameters()) and card["codec"]["kind"] == "xyhwt" and card["examples"]
        assert front.ask("POST", "/tokenize", {"prompt": "x"})[0] == 200 and front.ask("POST", "/v1/tiles", {"image_url": {"url": data_url(PICTURE)}})[0] == 200
        assert front.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"})[0] == 400


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--upstream", "http://user:key@127.0.0.1/v1"], "serve/upstream"),
        (["--upstream", "ftp://127.0.0.1"], "serve/upstream"),
        (["--upstream", "http://127.0.0.1:1/v1", "--upstream-key-env", "NO_SUCH_VARIABLE"], "usage/no-key"),
        (["--upstream", "http://127.0.0.1:1/v1", "--upstream-grammar", "regex"], "usage/upstream-grammar"),
        (["--upstream", "http://127.0.0.1:1/v1", "--refiner", "nowhere"], "refine/no-refiner"),
    ],
)
def test_what_the_verb_refuses(words: list[str], code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = tiny("flat")
    directory.save(tmp_path, model, processor)
    assert main(["serve", str(tmp_path), *words]) in (1, 2)
    told = capsys.readouterr().err
    assert code in told and "user:key" not in told
