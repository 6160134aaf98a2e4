"""Random JSON schemas of the subset that answers are held to."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "label", "with space", "\u8239", 'quote"d', "back\\slash", "#hash", "~/", ""])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-50, 50), st.floats(-5, 5), st.text(max_size=4), st.just([1, {"x": "#"}]))


@st.composite
def _bounds(draw: st.DrawFn, low: str, high: str, most: int) -> dict[str, int]:
    least = draw(st.integers(0, most))
    found = {low: least} if draw(st.booleans()) else {}
    return found | ({high: draw(st.integers(found.get(low, 0), found.get(low, 0) + most))} if draw(st.booleans()) else {})


@st.composite
def _integers(draw: st.DrawFn) -> dict[str, Any]:
    low, width = draw(st.integers(-200, 200)), draw(st.integers(2, 300))
    known = {"minimum": low, "maximum": low + width, "exclusiveMinimum": low - 0.5, "exclusiveMaximum": low + width + 1}
    return {"type": "integer"} | {name: known[name] for name in draw(st.sets(st.sampled_from(sorted(known))))}


SCALARS = st.one_of(
    _bounds("minLength", "maxLength", 3).map(lambda bounds: {"type": "string", **bounds}),
    _integers(),
    st.sampled_from([{"type": "number"}, {"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"], "title": "maybe"}]),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value, "description": "one value"}),
)


@st.composite
def _object(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return {"type": "object", "properties": properties, "required": required} | draw(st.sampled_from([{}, {"additionalProperties": False}]))


@st.composite
def _array(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    return {"type": "array", "items": draw(inner), **draw(_bounds("minItems", "maxItems", 3))}


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    options = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return st.one_of(_object(inner), _array(inner), options, inner.map(lambda value: {"type": "object", "additionalProperties": value}))


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    """A schema; sometimes with definitions, one of which may hold itself."""
    tree = {"type": "object", "properties": {"is": {"type": "boolean"}, "of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "required": ["is"]}
    leaf = draw(SCALARS)
    inner = st.one_of(SCALARS, st.just({"$ref": "#/$defs/leaf"}), st.just({"$ref": "#/$defs/tree"}), st.just({}))
    found = draw(st.recursive(inner, _wider, max_leaves=6))
    return {**found, "$defs": {"leaf": leaf, "tree": tree}}
