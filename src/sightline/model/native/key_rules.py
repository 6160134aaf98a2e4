"""Rules between published tensors and ours: which names belong together, and what becomes of the numbers. Each is applied in both directions.

In a pattern `#` stands for a number and `*` for any rest of a name; the n-th mark of a pattern takes what the n-th mark of its counterpart took.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Protocol

from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from torch import Tensor

LISTED = 20
"""Names that a problem lists; it counts the others."""


class Change(Protocol):
    """What becomes of tensors between the two sides. `to_theirs` undoes `to_ours`, bit for bit."""

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Published tensors as ours."""
        ...

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Our tensors as published."""
        ...


@dataclass(frozen=True)
class Same:
    """The same numbers under another name."""

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Themselves."""
        return list(theirs)

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Themselves."""
        return list(ours)


@dataclass(frozen=True)
class Split:
    """One published tensor is several of ours, one after another along `dim`; `sizes` along it, else `parts` equal ones."""

    parts: int = 2
    sizes: tuple[int, ...] = ()
    dim: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Its pieces. ValueError where it has another size."""
        [whole] = theirs
        sizes = self.sizes or (whole.shape[self.dim] // self.parts,) * self.parts
        if sum(sizes) != whole.shape[self.dim]:
            raise ValueError(f"{whole.shape[self.dim]} along dimension {self.dim} is not the sum of {sizes}")
        return [piece.clone() for piece in whole.split(sizes, self.dim)]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """The pieces joined."""
        from torch import cat

        return [cat(list(ours), self.dim)]


@dataclass(frozen=True)
class Stack:
    """Several published tensors of one shape are one of ours with a new dimension `dim`."""

    dim: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """The stack. RuntimeError where shapes differ."""
        from torch import stack

        return [stack(list(theirs), self.dim)]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Its layers."""
        return [layer.clone() for layer in ours[0].unbind(self.dim)]


@dataclass(frozen=True)
class Transpose:
    """Our dimension i is the published dimension `axes[i]`."""

    axes: tuple[int, ...] = (1, 0)

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Dimensions in our order."""
        return [tensor.permute(self.axes).contiguous() for tensor in theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Dimensions in the published order."""
        back = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return [tensor.permute(back).contiguous() for tensor in ours]


@dataclass(frozen=True)
class Permute:
    """Our row i along `dim` is the published row `order[i]`."""

    order: tuple[int, ...]
    dim: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """Rows in our order."""
        return [self._chosen(tensor, self.order) for tensor in theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Rows in the published order."""
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return [self._chosen(tensor, back) for tensor in ours]

    def _chosen(self, tensor: Tensor, order: Sequence[int]) -> Tensor:
        from torch import tensor as numbers

        if tensor.shape[self.dim] != len(order):
            raise ValueError(f"{tensor.shape[self.dim]} along dimension {self.dim}, the order names {len(order)}")
        return tensor.index_select(self.dim, numbers(order, device=tensor.device))


@dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order, in another shape."""

    theirs: tuple[int, ...]
    ours: tuple[int, ...]

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """In our shape. RuntimeError where the count differs."""
        return [tensor.reshape(self.ours) for tensor in theirs]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """In the published shape."""
        return [tensor.reshape(self.theirs) for tensor in ours]


@dataclass(frozen=True)
class Pad:
    """Ours has `rows` more rows of zeros at the end of `dim`."""

    rows: int
    dim: int = 0

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """With the zeros."""
        from torch import cat

        shapes = [[*tensor.shape[: self.dim], self.rows, *tensor.shape[self.dim + 1 :]] for tensor in theirs]
        return [cat([tensor, tensor.new_zeros(shape)], self.dim) for tensor, shape in zip(theirs, shapes)]

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """Without them. ValueError where they are no longer zero: the published form has no place for them."""
        found = []
        for tensor in ours:
            kept, cut = tensor.split([tensor.shape[self.dim] - self.rows, self.rows], self.dim)
            if cut.device.type != "meta" and bool(cut.any()):
                raise ValueError(f"the last {self.rows} rows hold numbers that the published form has no place for")
            found.append(kept.clone())
        return found


@dataclass(frozen=True)
class Reversed:
    """A change the other way round: joined instead of split, unstacked instead of stacked."""

    change: Change

    def to_ours(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        """What the change does to ours."""
        return self.change.to_theirs(theirs)

    def to_theirs(self, ours: Sequence[Tensor]) -> list[Tensor]:
        """What the change does to theirs."""
        return self.change.to_ours(ours)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Patterns of published names and of ours that belong together."""

    theirs: tuple[tuple[str, ...], ...]
    """For each published tensor its spellings; the first is the one that is written, and where several fit a name the one with most letters does."""
    ours: tuple[str, ...]
    change: Change = Same()


@dataclass(frozen=True, kw_only=True)
class Move:
    """A rule applied: these published tensors are these of ours."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    change: Change


def rename(ours: str, *theirs: str, change: Change | None = None) -> Rule:
    """One tensor, or all under a prefix where both patterns end in `*`; `theirs` are spellings of the same name."""
    return Rule(theirs=(theirs,), ours=(ours,), change=change or Same())


def moves_in(rules: Sequence[Rule], names: Iterable[str], place: str) -> list[Move]:
    """What becomes of published tensors. Raises Refused (model/native-keys) with all names that no rule takes, that several take, or whose counterparts are absent."""
    return _moves(rules, sorted(names), place, ours=False)


def moves_out(rules: Sequence[Rule], names: Iterable[str], place: str) -> list[Move]:
    """How our tensors are published, each in its first spelling. Raises Refused as `moves_in` does."""
    return _moves(rules, sorted(names), place, ours=True)


def to_ours(moves: Iterable[Move], tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Our tensors by name. Raises Refused (model/native-shape) with all that a rule cannot change."""
    return _carried(moves, tensors, place, ours=True)


def to_theirs(moves: Iterable[Move], tensors: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Published tensors by name. Raises Refused as `to_ours` does."""
    return _carried(moves, tensors, place, ours=False)


def _carried(moves: Iterable[Move], tensors: Mapping[str, Tensor], place: str, ours: bool) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    problems = []
    for move in moves:
        sources, targets = (move.theirs, move.ours) if ours else (move.ours, move.theirs)
        apply = move.change.to_ours if ours else move.change.to_theirs
        try:
            found |= dict(zip(targets, apply([tensors[name] for name in sources]), strict=True))
        except (ValueError, RuntimeError) as error:
            shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in sources)
            allowed = f"shapes that {type(move.change).__name__.lower()} to {', '.join(targets)}: {error}".splitlines()[0]
            problems.append(Problem(code="model/native-shape", place=place, found=shapes, allowed=allowed, fix="use the config that belongs to these weights"))
    if problems:
        raise Refused(problems)
    return found


def _moves(rules: Sequence[Rule], names: list[str], place: str, ours: bool) -> list[Move]:
    groups: dict[tuple[int, tuple[str, ...]], dict[int, str]] = {}
    orphans, torn, doubled = [], [], []
    for name in names:
        taken = [(number, *place_of) for number, rule in enumerate(rules) if (place_of := _position(rule, name, ours)) is not None]
        if len(taken) != 1:
            (torn if taken else orphans).append(name)
            continue
        [(number, position, marks)] = taken
        group = groups.setdefault((number, marks), {})
        if position in group:
            doubled.append(f"{group[position]} and {name}")
        group[position] = name
    moves = [_move(rules[number], marks, group, ours) for (number, marks), group in groups.items()]
    lonely = [name for move in moves for name in (move.ours if ours else move.theirs) if name not in set(names)]
    targets = Counter(name for move in moves for name in (move.theirs if ours else move.ours))
    told = (
        (orphans, "that no rule takes"),
        (torn, "that several rules take"),
        (doubled, "that are two spellings of one tensor"),
        (lonely, "that a rule needs beside others are absent"),
        ([name for name, count in targets.items() if count > 1], "that several tensors would become"),
    )
    if problems := [_key_problem(listed, said, place) for listed, said in told if listed]:
        raise Refused(problems)
    return moves


def _key_problem(names: Sequence[str], said: str, place: str) -> Problem:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return Problem(
        code="model/native-keys",
        place=place,
        found=f"{len(names)} tensors {said}: {', '.join(names[:LISTED])}{rest}",
        allowed="tensors of this format, each taken by one rule",
        fix="use a checkpoint whose weights belong to its config.json",
    )


def _position(rule: Rule, name: str, ours: bool) -> tuple[int, tuple[str, ...]] | None:
    """Which of a rule's tensors a name is, and what its marks take; of several spellings the one with most letters speaks."""
    sides: Sequence[Sequence[str]] = [(pattern,) for pattern in rule.ours] if ours else rule.theirs
    fits = [
        (len(pattern), position, match.groups())
        for position, spellings in enumerate(sides)
        for pattern in spellings
        if (match := _compiled(pattern).fullmatch(name))
    ]
    return max(fits)[1:] if fits else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    marks = {"#": r"(\d+)", "*": "(.+)"}
    return re.compile("".join(marks.get(letter) or re.escape(letter) for letter in pattern))


def _move(rule: Rule, marks: tuple[str, ...], given: dict[int, str], ours: bool) -> Move:
    """The rule with its marks filled in; the names that were given keep their own spelling."""
    move = Move(
        theirs=tuple(_filled(spellings[0], marks) for spellings in rule.theirs),
        ours=tuple(_filled(pattern, marks) for pattern in rule.ours),
        change=rule.change,
    )
    return move if ours else replace(move, theirs=tuple(given.get(number, name) for number, name in enumerate(move.theirs)))


def _filled(pattern: str, marks: tuple[str, ...]) -> str:
    rest = iter(marks)
    return re.sub(r"[#*]", lambda _: next(rest), pattern)
