"""`response_format` json_object and json_schema: whatever its weights, a model answers with JSON that is valid; what cannot be held to is refused by its place."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from compositions import make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import schemas
from servers import Running, data_url, png, running, shown
from tiny_models import TEXTS, built, metaspace, published, writer

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS
from sightline.model.json_answers import json_tokens
from sightline.model.token_grammar import Guide
from sightline.model.tokens import train_tokenizer

ASKED = [{"role": "user", "content": "Where?"}]
SHIPS = {
    "type": "object",
    "properties": {"ships": {"type": "array", "items": {"type": "object", "properties": {"kind": {"enum": ["tug", "\u8239"]}, "long": {"type": "number"}}, "required": ["kind"]}}, "more": {"type": "boolean"}},
    "required": ["ships", "more"],
    "additionalProperties": False,
}  # fmt: skip


def held_to(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}}


def valid(text: str, schema: Any) -> Any:
    found = json.loads(text)
    jsonschema.validate(found, schema, cls=jsonschema.Draft202012Validator)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(*make("flat")) as found:
        yield found


@pytest.fixture(scope="module")
def memory() -> Iterator[Running]:
    with running(*make("prompt-in-memory")) as found:
        yield found


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas(), st.integers(0, 1000), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([30, 90]))
def test_an_answer_parses_and_is_valid_unless_it_is_cut(server: Running, schema: Any, seed: int, heat: float, room: int) -> None:
    status, body = server.chat(ASKED, **held_to(schema, strict=True), seed=seed, temperature=heat, max_tokens=room)
    assert status == 200, body
    choice = body["choices"][0]
    try:
        valid(choice["message"]["content"], schema)
    except json.JSONDecodeError:
        assert choice["finish_reason"] == "length" and body["usage"]["completion_tokens"] == room, "only what had no room for its end is cut"
    assert "regions" not in choice["message"]


@pytest.mark.parametrize("name", ["flat", "hybrid", "question-in-memory"])
def test_models_with_memory_and_without_can_be_held_to_a_schema(name: str) -> None:
    with running(*make(name)) as found:
        status, body = found.chat(ASKED, **held_to(SHIPS), temperature=1.3, seed=2, max_tokens=80, n=2)
    assert status == 200, body
    for choice in body["choices"]:
        valid(choice["message"]["content"], SHIPS)


def test_an_object_is_asked_for_without_a_schema(server: Running, memory: Running) -> None:
    for one in (server, memory):
        for seed in range(4):
            status, body = one.chat(shown(data_url(png())), response_format={"type": "json_object"}, temperature=1.5, seed=seed, max_tokens=60)
            assert status == 200 and isinstance(json.loads(body["choices"][0]["message"]["content"]), dict)


def test_a_stream_says_the_same_json(server: Running) -> None:
    asked = {"model": "tiny", "messages": ASKED, "max_tokens": 70, "temperature": 1.2, "seed": 5, **held_to(SHIPS)}
    whole = json.loads(server.ask("POST", "/v1/chat/completions", asked)[2])["choices"][0]
    events = server.ask("POST", "/v1/chat/completions", asked | {"stream": True})[2].decode().split("\n")
    deltas = [json.loads(line[6:])["choices"][0] for line in events if line.startswith("data: {")]
    assert "".join(delta["delta"].get("content", "") for delta in deltas) == whole["message"]["content"]
    assert deltas[-1]["finish_reason"] == whole["finish_reason"]


def test_an_answer_that_ends_by_itself_says_stop_and_one_that_is_brought_to_its_end_says_length(server: Running) -> None:
    status, body = server.chat(ASKED, **held_to({"enum": ["yes", "no"]}), max_tokens=20)
    assert status == 200 and body["choices"][0]["finish_reason"] == "stop" and valid(body["choices"][0]["message"]["content"], {"enum": ["yes", "no"]})
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
    found = [server.chat(ASKED, **held_to(endless), max_tokens=12, temperature=1.0, seed=seed)[1]["choices"][0] for seed in range(6)]
    assert all(valid(choice["message"]["content"], endless) for choice in found) and "length" in {choice["finish_reason"] for choice in found}
    cut = server.chat(ASKED, **held_to(SHIPS), max_tokens=3)[1]["choices"][0]
    assert cut["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut["message"]["content"])


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        (held_to({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}), "/response_format/json_schema/schema/properties/a/pattern", "samples/json-schema"),
        (held_to({"type": "object", "properties": {"a": {}}, "required": ["b"]}), "/response_format/json_schema/schema/required/0", "samples/json-schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "serve/parameter"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}}, "response_format.json_schema", "serve/parameter"),
        ({"response_format": {"type": "text", "json_schema": {"name": "x", "schema": {}}}}, "response_format.json_schema", "serve/parameter"),
        (held_to({}) | {"stop": "}"}, "stop", "serve/parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "serve/body"),
        (held_to("no schema"), "response_format.json_schema.schema", "serve/body"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_to_is_declined_by_its_place(server: Running, more: dict[str, Any], param: str, code: str) -> None:
    status, body = server.chat(ASKED, **more)
    assert (status, body["error"]["param"], body["error"]["code"]) == (400, param, code)


def test_lines_without_a_format_are_left_alone(server: Running) -> None:
    plain = server.chat(ASKED, max_tokens=20)[1]["choices"][0]["message"]["content"]
    found: dict[int, str] = {}

    def ask(number: int, **more: Any) -> None:
        found[number] = server.chat(ASKED, max_tokens=20, **more)[1]["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(number,), kwargs=held_to(SHIPS) if number % 2 else {}) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in (0, 2, 4)] == [plain] * 3 and plain not in [found[number] for number in (1, 3, 5)]


@pytest.mark.parametrize("chat", ["turns", "vicuna", "caption", *(name for name, one in CHAT_FORMATS.items() if one.stop)])
def test_a_text_that_ends_answers_never_stands_in_one(chat: str) -> None:
    config = writer(chat=chat)
    words = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(words.size, control=words.control), words)
    with running(model, processor) as found:
        for seed in range(3):
            status, body = found.chat(
                ASKED, **held_to({"type": "object", "properties": {"#": {"type": "string"}}, "required": ["#"]}), max_tokens=60, temperature=1.5, seed=seed
            )
            assert status == 200 and set(json.loads(body["choices"][0]["message"]["content"])) == {"#"}


def test_a_vocabulary_without_bytes_is_refused(tmp_path: Any) -> None:
    chat = CHAT_FORMATS["turns"]
    for words, refused in ((metaspace(chat, tmp_path), True), (published(chat, tmp_path), False)):
        _, processor = built(writer(), words)
        if refused:
            with pytest.raises(Refused, match="model/vocabulary-cannot-say"):
                json_tokens(processor, {})
        else:
            assert json_tokens(processor, {}).left(0) == 1


def test_room_is_counted_in_tokens() -> None:
    """Pieces of several letters: an object whose shortest text has more bytes than there is room is written all the same, and its last string is not cut short for it."""
    words = train_tokenizer(['"description" "location" : , { }'] * 3, 500, CHAT_FORMATS["turns"])
    _, processor = built(writer(), words)
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in ("description", "location")}, "required": ["description", "location"]}
    grammar = json_tokens(processor, schema)
    assert grammar.needed(0) < grammar.left(0) == len('{"description":"","location":""}')
    guide = Guide(grammar=grammar, room=grammar.needed(0) + 3)
    for _ in range(200):
        ids = guide.allowed()
        if guide.tight:
            ids = guide.fitting(0)
        token = int(ids[0])
        guide.take(token)
        if token == words.end_id or guide.closed:
            break
    assert guide.room >= 0 and grammar.left(guide.state) == 0
