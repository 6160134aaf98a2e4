"""Which palette a set of label masks has, from its names and from the values of a few masks; never a guess where two may be meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.data.readers.files import refuse
from sightline.data.readers.palettes import PALETTES, Palette
from sightline.errors import Problem, Refused
from sightline.samples.pictures import decode_labels, picture_bytes

LARGEST_UNKNOWN = 0.01
"""Share of a mask's pixels outside the palette above which the palette is the wrong one."""
LOOKED_AT = 4
"""Masks, spread over the set."""
MOST_PIXELS = 1 << 20
"""Pixels of a mask that are looked at, spread over it."""
LARGEST_FILE = 64 << 20
"""Bytes of a mask above which it is not looked at to tell the palette."""
TELLING_COLOURS = 2
"""True colours from which a palette is told without a name."""
TELLING_NUMBERS, TELLING_STEP = 3, 16
"""Numbers, and the least step between them, from which a palette is told without a name: no counting gives them."""
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The palettes that may be meant, one where it is clear, and why."""

    names: tuple[str, ...]
    reason: str

    def palette(self, place: str) -> Palette:
        """The palette. Refused with all that fit when there are several or none."""
        if len(self.names) == 1:
            return PALETTES[self.names[0]]
        allowed, fix = ", ".join(PALETTES), "pass `labels: NAME` or `labels: {number: name}`, or write classes.json beside the folders"
        raise Refused(Problem(code="data/labels-missing", place=place, found=self.reason, allowed=allowed, fix=fix))


def guess(root: Path, masks: Sequence[str]) -> Guess:
    """The palette of the masks `root/name`. Refused when none of the masks that are looked at can be decoded.

    What counts: a name (of `root`, of a folder below it, or of a file) that belongs to one palette, and values that all fit it. Values alone tell a palette when they are colours, or
    numbers that are not counted from 0; small numbers fit nearly every palette and tell none.
    """
    seen = _seen(root, masks)
    places = [f"{root.resolve().name}/{name}" for name in masks[:LOOKED_AT]]
    named = {name: hit for name, palette in PALETTES.items() if (hit := _hint(palette, places))}
    fitting = [name for name, palette in PALETTES.items() if palette.threshold is None and all(_unknown(palette, codes) <= LARGEST_UNKNOWN for codes in seen)]
    values = sorted(set().union(*seen), key=lambda value: (isinstance(value, tuple), value))  # numbers before colours: some sets mix both
    shown = _show(values)
    both = [name for name in named if name in fitting or PALETTES[name].threshold is not None]
    told = _distinct(both) or _distinct([*named, *(fitting if _telling(values) else [])])
    if len(told) == 1:
        why = f"the name {named[told[0]]!r}" if told[0] in named else "no other palette has all of them"
        return Guess(names=told, reason=f"palette {told[0]}: values {shown}, and {why}")
    if told:
        return Guess(names=told, reason=f"values {shown}, which may be of {' or of '.join(told)}")
    fits = _distinct(fitting)
    return Guess(
        names=fits if len(fits) > 1 else (), reason=f"values {shown}, which fit {', '.join(fits) or 'no palette'}, and no name that says which is meant"
    )


def _seen(root: Path, masks: Sequence[str]) -> list[dict[int | tuple[int, int, int], float]]:
    """Share of the pixels by value, or by colour, of masks spread over the set."""
    found: list[dict[int | tuple[int, int, int], float]] = []
    problems: list[Problem] = []
    for name in masks[:: max(1, len(masks) // LOOKED_AT)][:LOOKED_AT]:
        file = root / name
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            continue
        try:
            values = decode_labels(picture_bytes(file, str(file)), str(file))
            step = int(np.ceil(np.sqrt(values.shape[0] * values.shape[1] / MOST_PIXELS)))
            values = values[::step, ::step]
        except Refused as refused:
            problems += refused.problems
            continue
        colours = values.ndim == 3
        codes = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1]) if colours else values
        kinds, counts = np.unique(codes, return_counts=True)
        keys = [(code >> 16, code >> 8 & 255, code & 255) if colours else code for code in kinds.tolist()]
        found.append(dict(zip(keys, (counts / codes.size).tolist(), strict=True)))
    if not found:
        raise Refused(problems or [refuse("labels-missing", str(root), "no mask small enough to look at", ", ".join(PALETTES), "pass `labels: NAME`")])
    return found


def _unknown(palette: Palette, codes: Mapping[int | tuple[int, int, int], float]) -> float:
    """Share of the pixels whose value or colour the palette does not know."""
    return sum(share for code, share in codes.items() if code not in palette.rgb and code not in palette.names and code not in palette.ignore)


def _hint(palette: Palette, places: Sequence[str]) -> str:
    """The piece of the names that belongs to the palette, if it is in all of them."""
    hits = [re.search(palette.hint, place, re.IGNORECASE) for place in places] if palette.hint else []
    return hits[0][0].strip("/") if hits and hits[0] and all(hits) else ""


def _telling(values: Sequence[int | tuple[int, int, int]]) -> bool:
    """Whether the values are none that masks of just any classes have: true colours, or numbers in wide steps."""
    coloured = [value for value in values if isinstance(value, tuple)]
    if coloured:
        return sum(len(set(value)) > 1 for value in coloured) >= TELLING_COLOURS or _telling(sorted({value[0] for value in coloured}))
    numbers = [value for value in values if isinstance(value, int)]
    return len(numbers) >= TELLING_NUMBERS and int(np.diff(numbers).min()) >= TELLING_STEP


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The first name of each palette: some have several."""
    return tuple(name for k, name in enumerate(names) if PALETTES[name] not in [PALETTES[other] for other in names[:k]])


def _show(values: Sequence[int | tuple[int, int, int]]) -> str:
    return " ".join(str(value).replace(" ", "") for value in values[:_SHOWN]) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")
