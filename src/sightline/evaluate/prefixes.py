"""Which prompts begin alike, and how they are laid out so that what they share is computed once: a trunk, and a branch for each question.

Two tokens are the same when their ids are, or the pictures, the crops and the text that a connector reads with them; and when all memory of their prompts is, which a fusion lets
tokens read. An encoder-decoder reads question and picture in one pass, so that its prompts share nothing but the pictures' features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sightline.model.packing import Encoded, EncodedStream

LEAST = 16
"""Tokens that are worth sharing."""
LINES = 32
"""Most questions of a trunk: each of them adds columns to the attention of all."""
PAIRS = 2048
"""Pairs of tokens in attention that cost as much as one token everywhere else: about 6 D of a decoder of width D, here of a narrow one."""
_PICTURES, _REGIONS = 1 << 20, 1 << 50
"""Where the names of pictures' entries begin, and those of regions; below them are the vectors of layout and prompts."""


_Sizes = Sequence[tuple[int, int]]
"""Tokens of each prompt, and of its memory."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Questions beside each other: the first `trunk` tokens are the same in all."""

    trunk: int
    lines: tuple[int, ...]


@dataclass(kw_only=True)
class Counts:
    """What sharing came to."""

    questions: int = 0
    shared: int = 0
    """Questions beside others of the same trunk."""
    alone: dict[str, int] = field(default_factory=dict)
    """Those that share nothing, by reason: `nothing-in-common` with another prompt of the same call, or `prompt-in-memory`, of which an encoder makes one thing."""
    prompt_tokens: int = 0
    """Tokens of all prompts in the decoder."""
    computed_tokens: int = 0
    """Those that went through it."""
    halved: int = 0
    """Trunks that were computed once more, because all their questions were too many for one batch."""

    def text(self) -> str:
        """For people, in a line."""
        if not self.questions:
            return "nothing was asked: all answers were there"
        alone = ", ".join(f"{count:,} {reason.replace('-', ' ')}" for reason, count in self.alone.items() if count)
        parts = [
            f"{self.questions:,} questions were put to the model",
            f"{self.shared:,} shared the beginning of their prompt with others",
            f"{self.questions - self.shared:,} did not{f' ({alone})' if alone else ''}",
            f"{self.computed_tokens:,} of {self.prompt_tokens:,} prompt tokens were computed",
        ]
        return "; ".join([*parts, *([f"{self.halved:,} beginnings computed once more, to fit into a batch"] if self.halved else [])])


class Spelling:
    """Prompts as numbers: where two begin with the same numbers, a model computes the same. The first number stands for all memory of the prompt."""

    def __init__(self, vectors: int) -> None:
        self._vectors = vectors
        self._names: dict[object, int] = {}
        self._first: dict[object, int] = {}
        self._total = _PICTURES

    def __call__(self, encoded: Encoded) -> np.ndarray:
        """(1 + t,) int64."""
        line = np.empty(1 + encoded.length, np.int64)
        line[1:] = encoded.ids
        line[1 + encoded.slots] = self._entries(encoded, encoded.entries)
        line[0] = self._memory(encoded)
        return line

    def _memory(self, encoded: Encoded) -> int:
        memory = encoded.memory
        if encoded.branches.any():  # several lines of its own already
            return self._name(id(encoded))
        if memory is None:
            return 0
        return self._name((memory.ids.tobytes(), memory.slots.tobytes(), memory.branches.tobytes(), self._entries(encoded, memory.entries).tobytes()))

    def _name(self, what: object) -> int:
        return self._names.setdefault(what, 1 + len(self._names))

    def _entries(self, encoded: Encoded, entries: np.ndarray) -> np.ndarray:
        shown = encoded.shown()
        for one, measure in zip(shown, encoded.measures):
            if one not in self._first:
                self._first[one] = self._total
                self._total += measure.entries
        return named_entries(encoded, entries, self._vectors, [self._first[one] for one in shown], lambda region: _REGIONS + self._name(region))


def named_entries(encoded: Encoded, entries: np.ndarray, vectors: int, first: Sequence[int], name: Callable[[object], int]) -> np.ndarray:
    """Negative names of entries: equal ones are equal vectors of the feature table. `first`: name of the first entry of each picture, those of its others follow; `name`: that of a region."""
    own = np.cumsum([0, *(measure.entries for measure in encoded.measures)])
    starts = np.asarray(first or [0], np.int64)
    picture = np.clip(np.searchsorted(own, entries, side="right") - 1, 0, len(starts) - 1)
    names = np.where(entries < 0, -1 - entries, entries - own[picture] + starts[picture])
    for place in np.flatnonzero(entries < -vectors):
        number, shape = encoded.regions[-1 - entries[place] - vectors]
        names[place] = name((encoded.shown()[number], shape))
    return -1 - names


def arrange(spelled: Sequence[np.ndarray], memory: Sequence[int] | None = None) -> list[Bin]:
    """Bins of all prompts, each prompt in one; `memory`: tokens of memory beside each, absent: none.

    Neighbours in lexical order form a tree by how much of their beginning is the same (Abouelhoda et al. 2004), and every group of it shares a trunk or leaves that to the groups inside it, whichever
    computes fewer tokens. A trunk leaves each line a token of its own.
    """
    order = sorted(range(len(spelled)), key=lambda number: _in_order(spelled[number]))
    sizes = [(len(line) - 1, beside) for line, beside in zip(spelled, memory if memory is not None else [0] * len(spelled), strict=True)]
    stack = [_Node(length=0)]
    for place, number in enumerate(order):
        alike = _alike(spelled[number], spelled[order[place + 1]]) if place + 1 < len(order) else 0
        if alike > stack[-1].length:
            stack.append(_Node(length=alike))
        stack[-1].rest.append(number)
        while alike < stack[-1].length:
            done = stack.pop()
            if alike > stack[-1].length:
                stack.append(_Node(length=alike))
            stack[-1].take(done, sizes)
    [root] = stack
    groups = [*root.groups, *((0, [number]) for number in root.rest)]
    bins: list[Bin] = []
    for length, numbers in groups:
        for part in np.array_split(np.asarray(numbers), -(-len(numbers) // _most(length, numbers, sizes))):
            lines = tuple(int(number) for number in part)
            bins.append(Bin(trunk=length if len(lines) > 1 else sizes[int(part[0])][0] - 1, lines=lines))
    return bins


def _in_order(line: np.ndarray) -> bytes:
    """Bytes that sort as the numbers do."""
    return (line.view(np.uint64) ^ np.uint64(1 << 63)).astype(">u8").tobytes()


def _alike(one: np.ndarray, other: np.ndarray) -> int:
    """Tokens with which both begin; at least one is left of each."""
    length = min(len(one), len(other)) - 1
    differ = np.flatnonzero(one[:length] != other[:length])
    return max(0, (int(differ[0]) if len(differ) else length) - 1)


def _worth(length: int, numbers: Sequence[int], sizes: _Sizes) -> int:
    """Tokens that each line after the first is spared by a trunk of `length`: those, and half of the memory, of which the decoder makes keys and values only."""
    worth = length + max(sizes[number][1] for number in numbers) // 2 if length and numbers else 0
    return worth if worth >= LEAST else 0


def _most(length: int, numbers: Sequence[int], sizes: _Sizes) -> int:
    """Lines that one bin may hold: a token of one line is beside those of all others in attention, which must cost less than the trunk saves."""
    own = sum(sizes[number][0] for number in numbers) / max(1, len(numbers)) - length
    return max(1, min(LINES, int(PAIRS * _worth(length, numbers, sizes) / max(1.0, own) ** 2)))


@dataclass(kw_only=True)
class _Node:
    """Prompts that begin alike with `length` tokens: groups found among them, and the rest."""

    length: int
    groups: list[tuple[int, list[int]]] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)

    def take(self, inner: _Node, sizes: _Sizes) -> None:
        """What a node inside this one came to."""
        whole = [*(number for _, numbers in inner.groups for number in numbers), *inner.rest]
        apart = [*inner.groups, (inner.length, inner.rest)] if _saved(inner.length, inner.rest, sizes) else inner.groups
        if _saved(inner.length, whole, sizes) >= max(1, sum(_saved(*group, sizes) for group in apart)):
            self.groups.append((inner.length, whole))
            return
        self.groups += apart
        self.rest += inner.rest if apart is inner.groups else []


def _saved(length: int, numbers: Sequence[int], sizes: _Sizes) -> int:
    """Tokens that are not computed when these share a trunk."""
    return (len(numbers) - -(-len(numbers) // _most(length, numbers, sizes))) * _worth(length, numbers, sizes)


def head(encoded: Encoded, length: int) -> Encoded:
    """The first tokens of a prompt, with all that it sees."""
    return _cut(encoded, slice(0, length))


def tail(encoded: Encoded, length: int, whole: bool) -> Encoded:
    """A prompt without its first tokens. `whole`: with its memory, which no earlier pass has taken; else pictures are left out where none of its slots takes them."""
    found = _cut(encoded, slice(length, None))
    if whole:
        return found
    found = replace(found, memory=None)
    return found if len(found.slots) else replace(found, pictures=(), measures=(), read=(), regions=())


def _cut(encoded: Encoded, where: slice) -> Encoded:
    first = where.start
    inside = (encoded.slots >= first) & (encoded.slots < (where.stop if where.stop is not None else encoded.length))
    stream = EncodedStream(
        ids=encoded.ids[where],
        positions=encoded.positions[..., where],
        branches=encoded.branches[where],
        slots=encoded.slots[inside] - first,
        entries=encoded.entries[inside],
    )
    return replace(
        encoded,
        ids=stream.ids,
        positions=stream.positions,
        branches=stream.branches,
        slots=stream.slots,
        entries=stream.entries,
        sees=encoded.sees[where] if encoded.sees is not None else None,
    )
