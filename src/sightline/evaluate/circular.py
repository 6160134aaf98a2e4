"""Circular evaluation: a question is right when it is right under every rotation of its options (MMBench, Liu et al. 2023, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sightline.errors import Problem, Refused

STRIDE = 10**6
"""Copy k of question g has the index g + k * 10^6."""


def rotations(options: Mapping[str, str], answer: str) -> list[tuple[dict[str, str], str]]:
    """(options, answer) of every copy: options turned left by k places under the same letters, the answer's letter moved with its text."""
    letters, texts = list(options), list(options.values())
    place = letters.index(answer)
    return [(dict(zip(letters, texts[k:] + texts[:k], strict=True)), letters[(place - k) % len(letters)]) for k in range(len(letters))]


def circular(indices: Sequence[int], right: Sequence[bool], options: Sequence[int] | None = None) -> dict[int, bool]:
    """Question -> whether all its copies are right. `options`: choices of each row.

    Raises Refused where a question lacks a copy: there are as many copies as options, in published files, or one alone, in files that hold no rotations.
    """
    groups: dict[int, list[int]] = {}
    for number, index in enumerate(indices):
        groups.setdefault(index % STRIDE, []).append(number)
    if options is not None and any(index >= STRIDE for index in indices):
        short = {name: len(rows) for name, rows in groups.items() if len({indices[row] for row in rows}) != options[rows[0]]}
        if short:
            name, count = next(iter(short.items()))
            found = f"{len(short)} questions without all their rotations, first {name} with {count} copies of {options[groups[name][0]]}"
            raise Refused(
                Problem(code="evaluate/missing-rotation", place=f"index {name}", found=found, allowed="a copy for each option", fix="read the whole file")
            )
    return {name: all(right[row] for row in rows) for name, rows in groups.items()}
