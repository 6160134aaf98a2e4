"""JSON Schema (draft 2020-12) as a grammar of answers: the part of it that a text can be held to while it is written. What lies outside is refused by the JSON pointer of the keyword, never left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from sightline.errors import Problem, Refused
from sightline.samples.grammar import Either, Grammar
from sightline.samples.json_nodes import (
    DEPTH,
    DIGITS,
    NEVER,
    NUMBER,
    AnyOf,
    Array,
    Member,
    Plain,
    Record,
    Schema,
    Schemas,
    Table,
    Written,
    integer,
    string,
    written,
)

ANNOTATIONS = frozenset(("title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly"))
"""Keywords that say nothing of what is valid."""
_ROOT = frozenset(("$schema", "$defs", "definitions"))
KEYWORDS: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "number": (),
    "boolean": (),
    "null": (),
}
"""Keywords of each type."""
MOST_SCHEMAS, MOST_VALUES = 1000, 1000
"""Schemas inside one, and values of one enum."""
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def json_grammar(schema: object, place: str = "", without: str = "") -> Grammar:
    """The texts that are JSON and valid by a schema: objects with their declared properties in order, at most DEPTH levels deep. `place`: JSON pointer of the schema, for what is refused.
    `without`: ASCII signs that no text holds as themselves, such as the first of a text that ends answers; strings escape them.

    Raises Refused with every keyword outside the subset, by its pointer.
    """
    reader = _Reader(schema, place, without)
    reader.read(schema, "")
    reader.check()
    return Grammar(reader.schemas.value(0, DEPTH))


class _Reader:
    """Reads one document."""

    def __init__(self, document: object, place: str, without: str) -> None:
        self.document, self.place = document, place
        self.schemas = Schemas(without=without)
        self.problems: list[Problem] = []
        self._places: list[str] = []
        self._known: dict[str, int] = {}
        self._any: int | None = None

    def refuse(self, pointer: str, found: str, allowed: str, fix: str = "leave it out, and check what comes") -> None:
        """Note what cannot be held to."""
        self.problems.append(Problem(code="samples/json-schema", place=f"{self.place}{pointer}", found=found, allowed=allowed, fix=fix))

    def check(self) -> None:
        """Raise what was noted, and what only the whole shows."""
        if not self.problems and (loop := self._loop()) is not None:
            self.refuse(
                self._places[loop], "a schema that is itself, with no object or array between", "recursion through properties or items", "drop the option"
            )
        if not self.problems and self.schemas.least(0, DEPTH) >= NEVER:
            self.refuse(
                "", f"nothing that fits into {DEPTH} levels", f"a value of at most {DEPTH} objects and arrays inside each other", "make a reference optional"
            )
        if self.problems:
            raise Refused(self.problems)

    def _loop(self) -> int | None:
        """A schema that leads back to itself on its own level."""
        done: set[int] = set()

        def leads_back(number: int, above: frozenset[int]) -> bool:
            schema = self.schemas.schemas[number]
            if number in above:
                return True
            if number in done or not isinstance(schema, AnyOf):
                return False
            found = any(leads_back(option, above | {number}) for option in schema.options)
            done.add(number)
            return found

        return next((number for number in range(len(self.schemas.schemas)) if leads_back(number, frozenset())), None)

    def read(self, schema: object, pointer: str) -> int:
        """The number of a schema."""
        number = len(self.schemas.schemas)
        self.schemas.schemas.append(Plain(node=Written(b"null")))
        self._places.append(pointer)
        if pointer == "":
            self._known["#"] = number
        if number >= MOST_SCHEMAS:
            if number == MOST_SCHEMAS:
                self.refuse(pointer, f"more than {MOST_SCHEMAS} schemas", f"at most {MOST_SCHEMAS}", "ask for less at a time")
            return number
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            self.refuse(pointer, f"{schema!r:.60}", "a schema that something is valid by", "correct the schema")
            return number
        self.schemas.schemas[number] = self._schema(schema, pointer)
        return number

    def any(self) -> int:
        """The number of the schema of every value."""
        if self._any is None:
            first = self._any = len(self.schemas.schemas)
            plain = Either((string(without=self.schemas.without), NUMBER, Written(b"true"), Written(b"false"), Written(b"null")))
            self.schemas.schemas += [AnyOf(options=(first + 1, first + 2, first + 3)), Plain(node=plain), Table(value=first), Array(item=first)]
            self._places += [""] * 4
        return self._any

    def _schema(self, schema: dict[str, Any], pointer: str) -> Schema:
        for whole, made in (("$ref", self._reference), ("anyOf", self._options), ("const", self._values), ("enum", self._values)):
            if whole in schema:
                beside = {"type"} if whole in ("const", "enum") else set()
                self._only({whole, *beside}, schema, pointer, f"nothing that narrows it beside {whole}")
                return made(schema, pointer)
        kinds = self._kinds(schema, pointer)
        self._only({"type", *(name for kind in kinds for name in KEYWORDS[kind])}, schema, pointer, "")
        if not kinds:
            return AnyOf(options=(self.any(),))
        made_of: dict[str, Callable[[dict[str, Any], str], Schema]] = {"object": self._object, "array": self._array, "string": self._string}
        made_of |= {"integer": self._integer}
        plain = {"number": NUMBER, "boolean": Either((Written(b"true"), Written(b"false"))), "null": Written(b"null")}
        found = [made_of[kind](schema, pointer) if kind in made_of else Plain(node=plain[kind]) for kind in kinds]
        if len(found) == 1:
            return found[0]
        first = len(self.schemas.schemas)
        self.schemas.schemas += found
        self._places += [pointer] * len(found)
        return AnyOf(options=tuple(range(first, first + len(found))))

    def _only(self, known: set[str], schema: dict[str, Any], pointer: str, allowed: str) -> None:
        known |= ANNOTATIONS | (_ROOT if pointer == "" else frozenset())
        for name in schema:
            if name not in known:
                told = allowed or f"{', '.join(sorted(known - ANNOTATIONS - _ROOT))} here; of all: type, enum, const, anyOf, $ref, " + ", ".join(
                    word for words in KEYWORDS.values() for word in words
                )
                self.refuse(f"{pointer}/{_escaped(name)}", f"the keyword {name[:80]!r}", told)

    def _kinds(self, schema: dict[str, Any], pointer: str) -> tuple[str, ...]:
        """Types of the values; none where any will do."""
        said = schema.get("type")
        if said is None:
            found = tuple(kind for kind, words in KEYWORDS.items() if any(word in schema for word in words))
            if len(found) > 1:
                self.refuse(pointer, f"keywords of {' and of '.join(found)} without a type", "a type", "name it")
            return found
        kinds = said if isinstance(said, list) else [said]
        if not kinds or any(not isinstance(kind, str) or kind not in KEYWORDS for kind in kinds):
            self.refuse(f"{pointer}/type", f"{said!r:.80}", ", ".join(KEYWORDS), "correct the type")
            return ()
        return tuple(dict.fromkeys(kinds))

    # what stands alone

    def _reference(self, schema: dict[str, Any], pointer: str) -> Schema:
        name = schema["$ref"]
        target, where = self._target(name)
        if target is None:
            self.refuse(f"{pointer}/$ref", f"{name!r:.80}", "#, #/$defs/NAME or #/definitions/NAME of this schema", "write the definition into the schema")
            return Plain(node=Written(b"null"))
        if name not in self._known:
            self._known[name] = len(self.schemas.schemas)  # known before it is read: it may name itself
            self.read(target, where)
        return AnyOf(options=(self._known[name],))

    def _target(self, name: object) -> tuple[object | None, str]:
        if name == "#":
            return self.document, ""
        parts = name.split("/") if isinstance(name, str) else []
        if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
            return None, ""
        key = unquote(parts[2]).replace("~1", "/").replace("~0", "~")
        defined = self.document.get(parts[1]) if isinstance(self.document, dict) else None
        return (defined.get(key) if isinstance(defined, dict) else None), f"/{parts[1]}/{_escaped(key)}"

    def _options(self, schema: dict[str, Any], pointer: str) -> Schema:
        options = schema["anyOf"]
        if not isinstance(options, list) or not options:
            self.refuse(f"{pointer}/anyOf", f"{options!r:.80}", "a list of schemas", "correct it")
            return Plain(node=Written(b"null"))
        return AnyOf(options=tuple(self.read(option, f"{pointer}/anyOf/{number}") for number, option in enumerate(options)))

    def _values(self, schema: dict[str, Any], pointer: str) -> Schema:
        name = "const" if "const" in schema else "enum"
        values = [schema["const"]] if name == "const" else schema["enum"]
        if not isinstance(values, list) or not 0 < len(values) <= MOST_VALUES:
            self.refuse(f"{pointer}/enum", f"{values!r:.80}", f"a list of 1 to {MOST_VALUES} values", "correct it")
            return Plain(node=Written(b"null"))
        kinds = self._kinds(schema, pointer) or tuple(KEYWORDS)
        fitting = [value for value in values if any(_is(value, kind) for kind in kinds)]
        if not fitting:
            self.refuse(f"{pointer}/{name}", f"no value of type {' or '.join(kinds)}", "a value of the type", "correct one of them")
            return Plain(node=Written(b"null"))
        try:
            nodes = list(dict.fromkeys(written(value, self.schemas.without) for value in fitting))
        except ValueError:
            self.refuse(f"{pointer}/{name}", "a number that is not finite", "numbers of JSON", "correct it")
            return Plain(node=Written(b"null"))
        return Plain(node=Either(tuple(nodes)) if len(nodes) > 1 else nodes[0])

    # types

    def _object(self, schema: dict[str, Any], pointer: str) -> Schema:
        properties, required, others = schema.get("properties", {}), schema.get("required", []), schema.get("additionalProperties", True)
        if not isinstance(properties, dict) or not isinstance(required, list):
            wrong = "required" if isinstance(properties, dict) else "properties"
            self.refuse(f"{pointer}/{wrong}", f"{schema[wrong]!r:.80}", "schemas by name, and a list of names", "correct it")
            return Record(members=())
        for number, name in enumerate(required):
            if not isinstance(name, str) or name not in properties:
                self.refuse(f"{pointer}/required/{number}", f"{name!r:.80}", "names among the properties", "describe the property, or drop the name")
        members = [
            Member(name=name, value=self.read(value, f"{pointer}/properties/{_escaped(name)}"), required=name in required) for name, value in properties.items()
        ]
        if others is False or (members and others is True):
            return Record(members=tuple(members))
        if members:
            self.refuse(f"{pointer}/additionalProperties", "a schema beside properties", "true or false; a schema where there are no properties")
            return Record(members=())
        return Table(value=self.read(others, f"{pointer}/additionalProperties"))

    def _array(self, schema: dict[str, Any], pointer: str) -> Schema:
        least, most = self._bounds(schema, pointer, "minItems", "maxItems")
        return Array(item=self.read(schema.get("items", True), f"{pointer}/items"), least=least, most=most)

    def _string(self, schema: dict[str, Any], pointer: str) -> Schema:
        return Plain(node=string(*self._bounds(schema, pointer, "minLength", "maxLength"), self.schemas.without))

    def _bounds(self, schema: dict[str, Any], pointer: str, low: str, high: str) -> tuple[int, int | None]:
        """Two counts."""
        found: list[int | None] = []
        for name in (low, high):
            if name not in schema:
                found.append(None)
                continue
            value = schema[name]
            sound = _is(value, "integer") and value >= 0
            if not sound:
                self.refuse(f"{pointer}/{name}", f"{value!r:.80}", "a whole number from 0", "correct it")
            found.append(int(value) if sound else None)
        least, most = found[0] or 0, found[1]
        if most is not None and least > most:
            self.refuse(f"{pointer}/{high}", f"{low} {least} above {high} {most}", "bounds between which something lies", "correct one of them")
            return 0, None
        return least, most

    def _integer(self, schema: dict[str, Any], pointer: str) -> Schema:
        sides: dict[str, list[int]] = {"min": [], "max": []}
        for name in KEYWORDS["integer"]:
            if name not in schema:
                continue
            value = schema[name]
            if not _is(value, "number") or (isinstance(value, float) and not math.isfinite(value)):
                self.refuse(f"{pointer}/{name}", f"{value!r:.80}", "a number", "correct it")
            elif "inimum" in name:
                sides["min"].append(math.floor(value) + 1 if name[0] == "e" else math.ceil(value))
            else:
                sides["max"].append(math.ceil(value) - 1 if name[0] == "e" else math.floor(value))
        reach = 10**DIGITS - 1
        low, high = max(sides["min"], default=None), min(sides["max"], default=None)
        if max(-reach, low if low is not None else -reach) > min(reach, high if high is not None else reach):
            found, allowed = f"no whole number of at most {DIGITS} digits within them", "bounds between which one lies"
            self.refuse(pointer, found, allowed, "correct one of them")
            return Plain(node=Written(b"0"))
        low, high = low if low is None else max(low, -reach), high if high is None else min(high, reach)
        return Plain(node=integer(low, high))


def _is(value: Any, kind: str) -> bool:
    """Whether a value is of a type of JSON Schema: 1.0 is an integer, and true is no number."""
    if kind in ("integer", "number"):
        return isinstance(value, int | float) and not isinstance(value, bool) and (kind == "number" or isinstance(value, int) or value.is_integer())
    types: dict[str, type | tuple[type, ...]] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def _escaped(name: str) -> str:
    """A name as a step of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
