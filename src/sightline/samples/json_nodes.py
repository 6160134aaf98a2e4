"""JSON as a language that is followed symbol by symbol: what may stand next in a text that a schema describes. Nodes of `grammar`, made when they are first reached.

A text is compact: one space may stand after a colon and after a comma, and none elsewhere. Members of an object stand in the order of the schema. What is counted (characters, items, levels) is part of
a node, so that a text keeps to its limits while it is written and not only when it is checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sightline.errors import Problem, Refused
from sightline.samples.grammar import EMPTY, Chain, Either, Move, Node, Symbol, joined, number_rest, number_signs, optional

DEPTH = 16
"""Objects and arrays inside each other, at most: a language without a bound has texts without an end."""
DIGITS = 15
"""Digits before the point: every whole number of so many is a double."""
DECIMALS = 20
"""Digits after it: as many as the shortest text of a double has."""
NEVER = 1 << 30
"""`least` of what cannot be written in the levels that are left."""
_HEX = frozenset(b"0123456789abcdefABCDEF")
_DIGIT = frozenset(b"0123456789")


def _span(first: int, last: int) -> frozenset[Symbol]:
    return frozenset(range(first, last + 1))


_REST = _span(0x80, 0xBF)
_WIDE: tuple[tuple[frozenset[Symbol], ...], ...] = (
    (_span(0xC2, 0xDF), _REST),
    (_span(0xE0, 0xE0), _span(0xA0, 0xBF), _REST),
    (_span(0xE1, 0xEC) | _span(0xEE, 0xEF), _REST, _REST),
    (_span(0xED, 0xED), _span(0x80, 0x9F), _REST),
    (_span(0xF0, 0xF0), _span(0x90, 0xBF), _REST, _REST),
    (_span(0xF1, 0xF3), _REST, _REST, _REST),
    (_span(0xF4, 0xF4), _span(0x80, 0x8F), _REST, _REST),
)
"""Byte sets of the well-formed UTF-8 sequences of two bytes and more (Unicode 16, table 3-7)."""


class _Nested:
    """What brackets of JSON have in common."""

    def regex(self) -> str:
        """See Node. Refused: brackets nest, which no regular expression says."""
        fix = "hand the schema itself on: engines take it as response_format"
        raise Refused(Problem(code="samples/no-expression", place="grammar", found="JSON", allowed="a language of one level", fix=fix))


@dataclass(frozen=True)
class Written(_Nested):
    """A fixed text, of which `at` bytes are written."""

    text: bytes
    at: int = 0

    @property
    def least(self) -> int:
        """See Node."""
        return len(self.text) - self.at

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        if self.at == len(self.text):
            return ()
        rest = EMPTY if self.at + 1 == len(self.text) else Written(self.text, self.at + 1)
        return ((frozenset((self.text[self.at],)), rest),)


SPACE = optional(Written(b" "))


def written(value: Any, without: str = "") -> Node:
    """One value as it is written; the signs of `without` are escaped wherever they stand in strings."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in without:
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Written(text.encode())


# Strings and numbers


@lru_cache(maxsize=8)
def _characters(without: str) -> tuple[tuple[frozenset[Symbol], ...], ...]:
    """Symbol sets of one character of a string: as itself, or escaped. Halves of surrogate pairs are no characters."""
    escapes = (
        (frozenset(b"\\"), frozenset(b'"\\/bfnrt')),
        (frozenset(b"\\"), frozenset(b"u"), _HEX - frozenset(b"dD"), _HEX, _HEX, _HEX),
        (frozenset(b"\\"), frozenset(b"u"), frozenset(b"dD"), frozenset(b"01234567"), _HEX, _HEX),
    )
    return ((_span(0x20, 0x7F) - frozenset(b'"\\') - frozenset(without.encode()),), *_WIDE, *escapes)


@dataclass(frozen=True)
class Characters(_Nested):
    """The rest of a string with its closing quote: `need` characters (code points) at least and, where `room` is given, so many at most. `without`: ASCII signs that stand in it escaped only."""

    need: int = 0
    room: int | None = None
    without: str = ""

    @property
    def least(self) -> int:
        """See Node."""
        return self.need + 1

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        end: tuple[Move, ...] = () if self.need else ((frozenset(b'"'), EMPTY),)
        if self.room == 0:
            return end
        after = replace(self, need=max(0, self.need - 1), room=None if self.room is None else self.room - 1)
        return (*((sets[0], joined(Chain(sets[1:]), after)) for sets in _characters(self.without)), *end)


@dataclass(frozen=True)
class Digits(_Nested):
    """Any number of digits up to `room`."""

    room: int

    @property
    def least(self) -> int:
        """See Node."""
        return 0

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return ((_DIGIT, Digits(self.room - 1)),) if self.room else ()


@dataclass(frozen=True)
class Whole(_Nested):
    """A whole number low..high without leading zeros, of which `digits` are written."""

    low: int
    high: int
    digits: str = ""

    @property
    def least(self) -> int:
        """See Node."""
        found = number_rest(self.low, self.high, 0, self.digits)
        assert found is not None, "a number that was begun has an end"
        return found[0]

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return tuple((frozenset(sign.encode()), replace(self, digits=self.digits + sign)) for sign in number_signs(self.low, self.high, 0, self.digits))


def _one(signs: bytes) -> Node:
    return Chain((frozenset(signs),))


_NATURAL = Either((_one(b"0"), joined(_one(b"123456789"), Digits(DIGITS - 1))))
INTEGER = joined(optional(_one(b"-")), _NATURAL)
"""A whole number of at most DIGITS digits."""
_FROM = {None: INTEGER, 0: _NATURAL, 1: joined(_one(b"123456789"), Digits(DIGITS - 1))}
"""Whole numbers without an upper bound by their lower one: the usual ones, with few states."""
_FRACTION = joined(_one(b"."), _one(b"0123456789"), Digits(DECIMALS - 1))
_EXPONENT = joined(_one(b"eE"), optional(_one(b"+-")), _one(b"0123456789"), Digits(1))
NUMBER = joined(INTEGER, optional(_FRACTION), optional(_EXPONENT))
"""A number that a double holds: at most DIGITS digits before the point, DECIMALS after it, and two of the exponent."""


def integer(low: int | None, high: int | None) -> Node:
    """A whole number within bounds; bounds that are not given are those of DIGITS digits."""
    if high is None and low in _FROM:
        return _FROM[low]
    most = 10**DIGITS - 1
    return Whole(-most if low is None else low, most if high is None else high)


def string(least: int = 0, most: int | None = None, without: str = "") -> Node:
    """A string of least..most characters."""
    return joined(Written(b'"'), Characters(least, most, without))


# Schemas


@dataclass(frozen=True, kw_only=True)
class Plain:
    """One of several nodes that hold no other schema."""

    node: Node


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """One of several schemas, by number."""

    options: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A property: its name, its schema, and whether it must be there."""

    name: str
    value: int
    required: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """An object of these members, in this order, and no others."""

    members: tuple[Member, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """An object of any names, all values of one schema."""

    value: int


@dataclass(frozen=True, kw_only=True)
class Array:
    """`least`..`most` items of one schema."""

    item: int
    least: int = 0
    most: int | None = None


Schema = Plain | AnyOf | Record | Table | Array


@dataclass(eq=False)
class Schemas:
    """All schemas of a language by number, and what it costs to write each of them within so many levels."""

    schemas: list[Schema] = field(default_factory=list)
    without: str = ""
    """ASCII signs that strings hold escaped only."""
    _least: dict[tuple[int, int], int] = field(default_factory=dict)

    def least(self, number: int, depth: int) -> int:
        """Fewest symbols of a value of schema `number` in `depth` levels; NEVER where it needs more of them."""
        found = self._least.get((number, depth))
        if found is None:
            found = self._least[number, depth] = self._shortest(self.schemas[number], depth)
        return found

    def _shortest(self, schema: Schema, depth: int) -> int:
        if isinstance(schema, Plain):
            return schema.node.least
        if isinstance(schema, AnyOf):
            return min(self.least(option, depth) for option in schema.options)
        if depth == 0:
            return NEVER
        if isinstance(schema, Record):
            return min(NEVER, 1 + self.members(schema, 0, False, depth - 1))
        if isinstance(schema, Table):
            return 2
        return min(NEVER, 2 + schema.least * (self.least(schema.item, depth - 1) + 1) - (schema.least > 0))

    def members(self, record: Record, at: int, begun: bool, depth: int) -> int:
        """Fewest symbols from member `at` on, the closing bracket included; `begun`: one stands before."""
        needed = [member for member in record.members[at:] if member.required]
        told = sum(self.named(member.name).least + 1 + self.least(member.value, depth) for member in needed)
        return min(NEVER, told + max(0, len(needed) - 1 + begun) + 1)

    def named(self, name: str) -> Node:
        """The name of a member."""
        return written(name, self.without)

    def value(self, number: int, depth: int) -> Node:
        """What schema `number` says, with `depth` levels left."""
        schema = self.schemas[number]
        if isinstance(schema, Plain):
            return schema.node
        if isinstance(schema, AnyOf):
            fitting = tuple(self.value(option, depth) for option in schema.options if self.least(option, depth) < NEVER)
            return fitting[0] if len(fitting) == 1 else Either(fitting)
        return Opened(self, number, depth)


@dataclass(frozen=True)
class Opened(_Nested):
    """An object or an array of which nothing is written: its bracket is next."""

    schemas: Schemas
    number: int
    depth: int

    @property
    def least(self) -> int:
        """See Node."""
        return self.schemas.least(self.number, self.depth)

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        inside = _Inside(self.schemas, self.number, self.depth - 1)
        return ((frozenset(b"[" if isinstance(self.schemas.schemas[self.number], Array) else b"{"), inside),)


@dataclass(frozen=True)
class _Inside(_Nested):
    """An object or an array after its opening bracket, or after a value in it: the next member or item `at`, or the closing bracket. Items without an upper bound are counted up to the lower one."""

    schemas: Schemas
    number: int
    depth: int
    at: int = 0
    begun: bool = False

    @property
    def _schema(self) -> Record | Table | Array:
        found = self.schemas.schemas[self.number]
        assert isinstance(found, Record | Table | Array)
        return found

    @property
    def least(self) -> int:
        """See Node."""
        schema = self._schema
        if isinstance(schema, Record):
            return self.schemas.members(schema, self.at, self.begun, self.depth)
        if isinstance(schema, Table):
            return 1
        more = max(0, schema.least - self.at)
        return 1 + more * (self.schemas.least(schema.item, self.depth) + 1) - (more > 0 and not self.begun)

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return tuple(move for node in self._following() for move in node.moves())

    def _following(self) -> Iterator[Node]:
        schema = self._schema
        if isinstance(schema, Record):
            for number, member in enumerate(schema.members[self.at :], self.at):
                if self.schemas.least(member.value, self.depth) < NEVER:
                    yield self._after(self.schemas.named(member.name), member.value, number + 1)
                if member.required:
                    return
            yield Written(b"}")
        elif isinstance(schema, Table):
            if self.schemas.least(schema.value, self.depth) < NEVER:
                yield self._after(string(without=self.schemas.without), schema.value, 0)
            yield Written(b"}")
        else:
            counted = self.at + 1 if schema.most is not None or self.at < schema.least else self.at
            if (schema.most is None or self.at < schema.most) and self.schemas.least(schema.item, self.depth) < NEVER:
                yield self._after(None, schema.item, counted)
            if self.at >= schema.least:
                yield Written(b"]")

    def _after(self, name: Node | None, value: int, at: int) -> Node:
        """A member or an item, and what follows it."""
        told = (name, Written(b":"), SPACE) if name is not None else ()
        before = (Written(b","), SPACE) if self.begun else ()
        return joined(*before, *told, self.schemas.value(value, self.depth), replace(self, at=at, begun=True))
