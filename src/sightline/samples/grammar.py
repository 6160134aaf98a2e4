"""Grammars of answers: the texts that a codec may write, as a language that is followed symbol by symbol.

    Grammar --Automaton--> states and moves, each made when it is first asked for --model.token_grammar--> tokens that may follow --evaluate.generation--> an answer

A symbol is a byte of UTF-8, or a control token by its name. Nodes are derivatives of a regular expression (Antimirov, 1996): what may follow, and what is left after it. A grammar can
hold what a regular expression cannot say in reasonable length, such as that the second corner of a box lies beyond the first; `regex` is the same language without that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

GrammarName = Literal["region", "regions"]
"""What an answer may be. region: one shape, with its phrase or without; regions: one phrase with all its shapes."""
Symbol = int | str
"""A byte, or the name of a control token."""
Move = tuple[frozenset[Symbol], "Node"]
"""Any of these symbols leads to this rest."""
DEAD = -1
"""The state from which no text is right any more."""


class Node(Protocol):
    """What is left of a text. Equal nodes are the same language; all are hashable."""

    @property
    def least(self) -> int:
        """Fewest symbols to an end, along a path on which each symbol takes one off; 0 exactly where the text may end here."""
        ...

    def moves(self) -> tuple[Move, ...]:
        """What may follow; one symbol may stand in several."""
        ...

    def regex(self) -> str:
        """The language as a regular expression."""
        ...


def escaped(text: str) -> str:
    """A text as a regular expression; spaces stay as they are, because not every engine knows them escaped."""
    return re.escape(text).replace("\\ ", " ")


@dataclass(frozen=True)
class Chain:
    """One symbol of each set, in order."""

    sets: tuple[frozenset[Symbol], ...] = ()

    @property
    def least(self) -> int:
        """See Node."""
        return len(self.sets)

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return ((self.sets[0], Chain(self.sets[1:])),) if self.sets else ()

    def regex(self) -> str:
        """See Node. Of fixed texts, which are all that expressions are made for."""
        return "".join(escaped(symbol if isinstance(symbol, str) else chr(symbol)) for one in self.sets for symbol in one)


EMPTY = Chain()


@dataclass(frozen=True)
class Joined:
    """One after the other."""

    first: Node
    then: Node

    @property
    def least(self) -> int:
        """See Node."""
        return self.first.least + self.then.least

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        found = tuple((symbols, joined(rest, self.then)) for symbols, rest in self.first.moves())
        return found if self.first.least else (*found, *self.then.moves())

    def regex(self) -> str:
        """See Node."""
        return self.first.regex() + self.then.regex()


@dataclass(frozen=True)
class Either:
    """One of several."""

    options: tuple[Node, ...]

    @property
    def least(self) -> int:
        """See Node."""
        return min(option.least for option in self.options)

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return tuple(move for option in self.options for move in option.moves())

    def regex(self) -> str:
        """See Node."""
        told = [option.regex() for option in self.options if option != EMPTY]
        return f"(?:{'|'.join(told)}){'?' if EMPTY in self.options else ''}"


@dataclass(frozen=True)
class Repeated:
    """Any number of times."""

    one: Node
    least: int = 0

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return tuple((symbols, joined(rest, self)) for symbols, rest in self.one.moves())

    def regex(self) -> str:
        """See Node."""
        return f"(?:{self.one.regex()})*"


def joined(*nodes: Node) -> Node:
    """All of them in order."""
    kept = [node for node in nodes if node != EMPTY]
    found: Node = kept.pop() if kept else EMPTY
    while kept:
        found = Joined(kept.pop(), found)
    return found


def optional(node: Node) -> Node:
    """The node or nothing."""
    return Either((node, EMPTY))


def fixed(text: str, controls: Sequence[str] = (), before_words: bool = False) -> Node:
    """A text with the names of control tokens in it.

    A space may stand between such a token and words after it, of this text or (`before_words`) of what follows: tokenizers whose texts begin with a space write it.
    """
    told = [*symbols(text, controls)]
    found: list[Node] = []
    for number, symbol in enumerate(told):
        found.append(Chain((frozenset((symbol,)),)))
        if isinstance(symbol, str) and (isinstance(told[number + 1], int) if number + 1 < len(told) else before_words):
            found.append(optional(Chain((frozenset(b" "),))))
    return joined(*found)


def symbols(text: str, controls: Sequence[str] = ()) -> Iterator[Symbol]:
    """The symbols of a text in which control tokens stand by their names."""
    for part in re.split("(" + "|".join(map(re.escape, controls)) + ")", text) if controls else [text]:
        if part in controls:
            yield part
        else:
            yield from part.encode()


# Words of a phrase


def _span(first: int, last: int, without: Sequence[int] = ()) -> frozenset[Symbol]:
    return frozenset(range(first, last + 1)) - frozenset(without)


_WIDE = 0xFEE0
"""From an ASCII sign to its full-width form, which a codec reads as the same sign."""


@lru_cache(maxsize=8)
def _characters(without: str) -> tuple[tuple[frozenset[Symbol], ...], ...]:
    """Byte sets of the well-formed UTF-8 sequences (Unicode 16, table 3-7) of what is printed and no space, `without` some signs and their full-width forms."""
    rest = _span(0x80, 0xBF)
    kept = {chr(ord(sign) + _WIDE) for sign in without}
    wide = {
        lead: _span(0x80, last, [ord(sign) & 0x3F | 0x80 for sign in kept if sign.encode()[:2] == bytes((0xEF, lead))])
        for lead, last in ((0xBC, 0xBF), (0xBD, 0xBF))
    }
    return (
        (_span(0x21, 0x7E, [ord(sign) for sign in without]),),
        (_span(0xC2, 0xC2), _span(0xA1, 0xBF, [0xAD])),
        (_span(0xC3, 0xDF), rest),
        (_span(0xE0, 0xE0), _span(0xA0, 0xBF), rest),
        (_span(0xE1, 0xEC, [0xE2, 0xE3]), rest, rest),
        (_span(0xE2, 0xE2), _span(0x81, 0xBF), rest),
        (_span(0xE2, 0xE2), _span(0x80, 0x80), _span(0x90, 0xA7)),  # dashes and quotes, without the spaces and the invisible ones around them
        (_span(0xE3, 0xE3), _span(0x81, 0xBF), rest),
        (_span(0xE3, 0xE3), _span(0x80, 0x80), _span(0x81, 0xBF)),  # without the ideographic space
        (_span(0xED, 0xED), _span(0x80, 0x9F), rest),
        (_span(0xEF, 0xEF), _span(0xA4, 0xBA), rest),
        *((_span(0xEF, 0xEF), _span(lead, lead), thirds) for lead, thirds in wide.items()),
        (_span(0xF0, 0xF0), _span(0x90, 0xBF), rest, rest),
        (_span(0xF1, 0xF3), rest, rest, rest),
        (_span(0xF4, 0xF4), _span(0x80, 0x8F), rest, rest),
    )


@dataclass(frozen=True)
class Words:
    """A phrase: printed characters and spaces, with no space at either end, `without` the signs of the format."""

    without: str
    after: Literal["begin", "character", "space"] = "begin"

    @property
    def least(self) -> int:
        """See Node."""
        return int(self.after != "character")

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        inside = Words(self.without, "character")
        found = tuple((sets[0], joined(Chain(sets[1:]), inside)) for sets in _characters(self.without))
        return found if self.after == "begin" else (*found, (frozenset(b" "), Words(self.without, "space")))

    def regex(self) -> str:
        """See Node."""
        one = "[^ \\n" + "".join(re.escape(sign) + chr(ord(sign) + _WIDE) for sign in self.without) + "]"
        return f"{one}+(?: +{one}+)*"


# Numbers


@dataclass(frozen=True)
class Number:
    """low..high in units of the last decimal, written without leading zeros; more than number `above` of the same form, where that is given."""

    low: int
    high: int
    decimals: int = 0
    above: int | None = None

    def written(self, value: int) -> str:
        """A value of these units as text."""
        return str(value) if not self.decimals else f"{value // 10**self.decimals}.{value % 10**self.decimals:0{self.decimals}d}"

    def regex(self) -> str:
        """Of low..high, without `above`."""
        if not self.decimals:
            return range_regex(self.low, self.high)
        unit = 10**self.decimals
        below = f"{range_regex(0, (self.high + 1) // unit - 1)}\\.[0-9]{{{self.decimals}}}"
        return below if (self.high + 1) % unit == 0 else f"(?:{below}|{self.high // unit}\\.{'0' * self.decimals})"


def range_regex(low: int, high: int) -> str:
    """A regular expression of the whole numbers low..high, without leading zeros."""
    ranges = ([*_ranges(max(1, -high), -low, "-")] if low < 0 else []) + ([*_ranges(max(low, 0), high, "")] if high >= 0 else [])
    return ranges[0] if len(ranges) == 1 else f"(?:{'|'.join(ranges)})"


def _ranges(low: int, high: int, sign: str) -> Iterator[str]:
    """Runs of numbers that differ in last digits only: from each number the longest run of 10, 100, .. that begins there, with equal neighbours as one class."""
    while low <= high:
        size = 1
        while low and low % (size * 10) == 0 and low + size * 10 - 1 <= high:
            size *= 10
        digit = low // size % 10
        last = min(9, digit + (high - low + 1) // size - 1)
        head, tail = str(low // size)[:-1], len(str(size)) - 1
        one = str(digit) if last == digit else f"[{digit}-{last}]"
        yield sign + head + one + ("[0-9]" * tail if tail < 2 else f"[0-9]{{{tail}}}")
        low += (last - digit + 1) * size


@lru_cache(maxsize=1 << 16)
def number_rest(low: int, high: int, decimals: int, digits: str) -> tuple[int, int] | None:
    """Of the numbers low..high that begin with these digits the shortest, and of those the least: signs that it lacks, and its value. None where no number begins so."""
    if digits[:1] == "-" or (not digits and high < 0):
        found = number_rest(max(1, -high), -low, 0, digits[1:]) if low < 0 else None
        return None if found is None else (found[0] + (not digits), -found[1])
    whole, point, part = digits.partition(".")
    if (whole[:1] == "0" and len(whole) > 1) or len(part) > decimals:
        return None
    low, unit = max(low, 0), 10 ** (decimals - len(part))
    if point:
        first = int(whole + part) * unit
        return (decimals - len(part), max(low, first)) if max(low, first) <= min(high, first + unit - 1) else None
    for more in range(not whole, 1 if whole == "0" else len(str(high)) + 1):
        first, last = (int(whole) * 10**more, (int(whole) + 1) * 10**more - 1) if whole else (10 ** (more - 1) * (more > 1), 10**more - 1)
        least = max(low, first * unit)
        if least <= min(high, last * unit + unit - 1):
            return more + (decimals + 1 if decimals else 0), least
    return None


@lru_cache(maxsize=1 << 16)
def number_signs(low: int, high: int, decimals: int, digits: str) -> str:
    """What may follow the first digits of the numbers low..high."""
    return "".join(
        sign
        for sign in "-.0123456789"
        if (sign != "-" or not digits)
        and (sign != "." or (decimals and digits and "." not in digits))
        and number_rest(low, high, decimals, digits + sign) is not None
    )


def _low(number: Number, said: Sequence[int | None]) -> int:
    """The least value of a number after the ones that were said."""
    before = None if number.above is None else said[number.above]
    return number.low if before is None else max(number.low, before + 1)


@dataclass(frozen=True)
class Form:
    """Numbers between fixed signs: `signs[0] number[0] signs[1] .. number[-1] signs[-1]`. The rest holds of what was written no more than it needs.

    `said`: values of earlier numbers, None where no later one looks at it. `at`: signs written after the last of them. `digits`: those of the number that is being written.
    """

    signs: tuple[tuple[frozenset[Symbol], ...], ...]
    numbers: tuple[Number, ...]
    said: tuple[int | None, ...] = ()
    at: int = 0
    digits: str = ""

    def _next(self) -> Form:
        """After a number that is whole."""
        place = len(self.said)
        value = int(self.digits.replace(".", "")) if any(one.above == place for one in self.numbers) else None
        return replace(self, said=(*self.said, value), at=0, digits="")

    @property
    def least(self) -> int:
        """See Node. The shortest numbers, and of those the least: they leave most room for what must be above."""
        said, found, digits = [*self.said], len(self.signs[len(self.said)]) - self.at, self.digits
        for number in self.numbers[len(said) :]:
            low = _low(number, said)
            rest = number_rest(low, number.high, number.decimals, digits)
            assert rest is not None, "a number that was begun has an end"
            said.append(rest[1])
            found, digits = found + rest[0] + len(self.signs[len(said)]), ""
        return found

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        place = len(self.said)
        if self.at < len(self.signs[place]):
            return ((self.signs[place][self.at], replace(self, at=self.at + 1)),)
        if place == len(self.numbers):
            return ()
        number = self.numbers[place]
        bounds = _low(number, self.said), number.high, number.decimals, self.digits
        found = tuple((frozenset(sign.encode()), replace(self, digits=self.digits + sign)) for sign in number_signs(*bounds))
        rest = number_rest(*bounds)
        return (*found, *self._next().moves()) if self.digits and rest is not None and rest[0] == 0 else found

    def regex(self) -> str:
        """See Node. Without `above`."""
        told = [Chain(signs).regex() for signs in self.signs]
        return told[0] + "".join(number.regex() + signs for number, signs in zip(self.numbers, told[1:], strict=True))


def form(text: str, numbers: Sequence[Number], controls: Sequence[str] = ()) -> Node:
    """A text with `#` where each number stands, and control tokens before and after all of them."""
    opening = next((token for token in controls if text.startswith(token)), "")
    closing = next((token for token in controls if text.endswith(token)), "")
    signs = tuple(tuple(frozenset((sign,)) for sign in part.encode()) for part in text[len(opening) : len(text) - len(closing)].split("#"))
    assert len(signs) == len(numbers) + 1 and all(signs[1:]), "every number is followed by a sign"
    return joined(fixed(opening, controls, before_words=True), Form(signs, tuple(numbers)), fixed(closing, controls))


# The whole


@dataclass(frozen=True)
class Grammar:
    """The language of an answer, as the codec of the model writes it."""

    start: Node
    controls: tuple[str, ...] = ()
    """Control tokens in it."""
    ordered: bool = False
    """Whether it demands that a second corner lies beyond the first, which `regex` does not say."""

    @cached_property
    def regex(self) -> str:
        """For engines that take a regular expression. Control tokens stand in it by their names, as an engine sees them that shows special tokens."""
        return self.start.regex()

    def accepts(self, text: str) -> bool:
        """Whether the text is one of the language; control tokens are named in it."""
        state = 0
        for symbol in symbols(text, self.controls):
            state = self.automaton.after(state, symbol)
            if state == DEAD:
                return False
        return self.automaton.least[state] == 0

    @cached_property
    def automaton(self) -> Automaton:
        """Its states, as far as they have been asked for."""
        return Automaton(self.start)


class Automaton:
    """The states of a grammar, numbered in the order in which they were first reached; 0 is the start. What may follow a state is found out once."""

    def __init__(self, start: Node) -> None:
        self._nodes: list[frozenset[Node]] = []
        self._numbers: dict[frozenset[Node], int] = {}
        self._known = np.zeros(0, bool)
        self._moves = np.zeros((0, 256), np.int32)
        self._named: list[dict[str, int]] = []
        self.least: list[int] = []
        """Of each state: fewest symbols to an end; 0 exactly where the text may end."""
        self._number(frozenset((start,)))

    def _number(self, nodes: frozenset[Node]) -> int:
        found = self._numbers.get(nodes)
        if found is None:
            found = self._numbers[nodes] = len(self._nodes)
            self._nodes.append(nodes)
            self._named.append({})
            self.least.append(min(node.least for node in nodes))
            if found >= len(self._moves):
                more = max(64, len(self._moves))
                self._moves = np.concatenate([self._moves, np.full((more, 256), DEAD, np.int32)])
                self._known = np.concatenate([self._known, np.zeros(more, bool)])
        return found

    def _learn(self, state: int) -> None:
        by_symbol: dict[Symbol, set[Node]] = {}
        for node in self._nodes[state]:
            for signs, rest in node.moves():
                for sign in signs:
                    by_symbol.setdefault(sign, set()).add(rest)
        numbers: dict[frozenset[Node], int] = {}
        for sign, rests in by_symbol.items():
            frozen = frozenset(rests)
            number = numbers[frozen] if frozen in numbers else numbers.setdefault(frozen, self._number(frozen))
            if isinstance(sign, str):
                self._named[state][sign] = number
            else:
                self._moves[state, sign] = number
        self._known[state] = True

    def after(self, state: int, symbol: Symbol) -> int:
        """The state after a symbol; DEAD where it may not stand."""
        if not self._known[state]:
            self._learn(state)
        return self._named[state].get(symbol, DEAD) if isinstance(symbol, str) else int(self._moves[state, symbol])

    def walk(self, states: NDArray[np.int32], signs: NDArray[np.uint8]) -> NDArray[np.int32]:
        """`after` of many states and bytes (n,), none of them DEAD."""
        unknown = ~self._known[states]
        for state in np.unique(states[unknown]).tolist() if unknown.any() else ():
            self._learn(state)
        return self._moves[states, signs]

    def names(self, state: int) -> Mapping[str, int]:
        """The control tokens that may follow, and the states after them."""
        self.after(state, 0)
        return self._named[state]
