"""JSON schemas as grammars: every text of one is JSON and valid, what is valid and written compactly is a text of it, and what cannot be held to is refused by its place."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import schemas

from sightline.errors import Refused
from sightline.samples.grammar import DEAD, Grammar
from sightline.samples.json_schema import ANY_OBJECT, json_grammar


def walked(grammar: Grammar, rng: np.random.Generator, most: int) -> str:
    """A text drawn symbol by symbol, brought to an end after `most` of them along the way that `least` promises."""
    automaton, state, found = grammar.automaton, 0, bytearray()
    while automaton.least[state] or (len(found) < most and rng.random() < 0.7):
        reached = automaton.walk(np.full(256, state, np.int32), np.arange(256, dtype=np.uint8)).tolist()
        steps = [(byte, after) for byte, after in enumerate(reached) if after != DEAD]
        if not steps:
            break
        nearer = [step for step in steps if automaton.least[step[1]] == automaton.least[state] - 1]
        assert nearer or not automaton.least[state], "an end comes nearer along one way"
        kept = nearer if len(found) >= most else steps
        byte, state = kept[rng.integers(len(kept))]
        found.append(byte)
    return found.decode()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(schemas(), st.integers(0, 1 << 30))
def test_every_text_of_a_grammar_is_json_and_valid(schema: dict[str, Any], seed: int) -> None:
    grammar, rng = json_grammar(schema, without="#"), np.random.default_rng(seed)
    for most in (0, 60):
        text = walked(grammar, rng, most)
        jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)
        assert "#" not in text and grammar.accepts(text)
        if most == 0:
            assert len(text.encode()) == grammar.automaton.least[0], "the shortest text is as short as it says"


@settings(max_examples=25, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers(-(10**14), 10**14) | st.floats(-1e14, 1e14).filter(lambda x: not 0 < abs(x) < 1e-90) | st.text(max_size=6), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8))  # fmt: skip
def test_any_json_is_accepted_in_both_usual_forms(value: Any) -> None:
    grammar = json_grammar({})
    told = json.dumps(value, ensure_ascii=False)
    assert grammar.accepts(told) and grammar.accepts(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    assert json_grammar(ANY_OBJECT).accepts(told) == isinstance(value, dict)


ROW = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "count": {"type": "integer", "minimum": 1, "maximum": 12}, "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 2}},
    "required": ["name"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        (ROW, ['{"name":"a"}', '{"name": "abc", "count": 12}', '{"name":"\u8239\u8239\u8239","tags":["x", "y"]}', '{"name":"\\u8239"}'], ['{"name":"abcd"}', '{"name":"a","count":13}', '{"name":"a","count":012}', '{"count":1}', '{"count":1,"name":"a"}', '{"name":"a","tags":["x","x","y"]}', '{"name":"a","other":1}', '{"name" :"a"}', ' {"name":"a"}', '{"name":"a"} ', '{"name":"a",}']),
        ({"type": "integer"}, ["0", "-1", "999999999999999"], ["01", "1.0", "1e3", "1000000000000000", "", "+1"]),
        ({"type": "number"}, ["0", "-0.5", "1e-30", "123456789012345.5E+02"], [".5", "1.", "1e", "1e100", "NaN", "Infinity"]),
        ({"type": "integer", "minimum": -3, "exclusiveMaximum": 2}, ["-3", "0", "1"], ["-4", "2", "-0"]),
        ({"type": "integer", "minimum": 0}, ["0", "7"], ["-1"]),
        ({"type": "string"}, ['""', '"\\n\\u00e9\U0001f6a2"'], ['"\n"', '"\\ud83d\\udea2"', '"\\x41"', '"a', "a"]),
        ({"enum": [1, "1", None, {"a": [True]}]}, ["1", '"1"', "null", '{"a":[true]}'], ["2", "true", '{"a": [true]}']),
        ({"type": "string", "enum": ["a", 1]}, ['"a"'], ["1"]),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "boolean"}, "minItems": 2}]}, ["null", "[true,false]", "[true, true, true]"], ["[]", "[true]"]),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, ["null"], ["1"]),
        ({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}, ['{"next":null}', '{"next":{"next":{"next":null}}}'], ["{}", '{"next":' * 17 + "null" + "}" * 17]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ["{}", '{"a":1,"b": 2}'], ['{"a":"b"}']),
        ({"type": "object", "properties": {"a": True, "b": {}}, "additionalProperties": True}, ["{}", '{"b":[]}', '{"a":{"x":1},"b":2}'], ['{"c":1}']),
        ({"properties": {"a": {"type": "null"}}}, ["{}", '{"a":null}'], ["1"]),
    ],
)  # fmt: skip
def test_what_a_schema_means(schema: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    grammar = json_grammar(schema)
    assert [text for text in right if not grammar.accepts(text)] == [] == [text for text in wrong if grammar.accepts(text)]
    for text in right:
        jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("schema", "pointers"),
    [
        ({"type": "string", "pattern": "a+", "format": "date"}, ["/pattern", "/format"]),
        ({"properties": {"a/b": {"oneOf": []}}}, ["/properties/a~1b/oneOf"]),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, ["/properties/a/uniqueItems"]),
        ({"type": "number", "minimum": 1}, ["/minimum"]),
        ({"type": "integer", "multipleOf": 2}, ["/multipleOf"]),
        ({"type": "thing"}, ["/type"]),
        ({"type": []}, ["/type"]),
        ({"$ref": "#/$defs/none"}, ["/$ref"]),
        ({"$ref": "https://elsewhere.example/schema"}, ["/$ref"]),
        ({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {}}}, ["/type"]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, ["/$defs/a/not"]),
        ({"anyOf": [{"type": "null"}, False]}, ["/anyOf/1"]),
        ({"anyOf": [{"$ref": "#"}]}, [""]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, [""]),
        ({"type": "object", "required": ["a"]}, ["/required/0"]),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}}, ["/additionalProperties"]),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}, [""]),
        ({"type": "string", "minLength": 3, "maxLength": 2}, ["/maxLength"]),
        ({"type": "string", "maxLength": -1}, ["/maxLength"]),
        ({"type": "integer", "minimum": 2, "maximum": 1}, [""]),
        ({"type": "integer", "minimum": 10**400}, [""]),
        ({"type": "integer", "minimum": "1"}, ["/minimum"]),
        ({"type": "integer", "enum": ["a", 1.5]}, ["/enum"]),
        ({"enum": []}, ["/enum"]),
        ({"const": float("inf")}, ["/const"]),
        ({"type": "string", "items": {}}, ["/items"]),
        ({"maxLength": 3, "items": {}}, [""]),
        ({"properties": []}, ["/properties"]),
        ({"type": "array", "items": [{}]}, ["/items"]),
        ({"properties": {str(number): {} for number in range(3)} | {"x": {"if": {}}}}, ["/properties/x/if"]),
        ([], [""]),
        (False, [""]),
    ],
)  # fmt: skip
def test_what_cannot_be_held_to_is_refused_by_its_pointer(schema: Any, pointers: list[str]) -> None:
    with pytest.raises(Refused) as raised:
        json_grammar(schema, "/at")
    assert [problem.place for problem in raised.value.problems] == [f"/at{pointer}" for pointer in pointers]
    assert {problem.code for problem in raised.value.problems} == {"samples/json-schema"}


def test_schemas_are_bounded() -> None:
    with pytest.raises(Refused, match="more than 1000 schemas"):
        json_grammar({"properties": {str(number): {} for number in range(2000)}})
    with pytest.raises(Refused, match="list of 1 to 1000 values"):
        json_grammar({"enum": list(range(1001))})
    nested: Any = {"type": "null"}
    for _ in range(17):
        nested = {"type": "array", "items": nested, "minItems": 1}
    with pytest.raises(Refused, match="16 levels"):
        json_grammar(nested)


def test_no_regular_expression_says_it() -> None:
    with pytest.raises(Refused, match="samples/no-expression"):
        _ = json_grammar(ANY_OBJECT).regex
