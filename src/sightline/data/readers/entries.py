"""JSON objects of published files, field by field: every field is checked for its type when it is taken, and what does not fit is a Problem at its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sightline.data.readers.files import head_bytes, read_json, refuse
from sightline.errors import Problem, Refused

Made = TypeVar("Made")
LONGEST_SHOWN = 60
"""Characters of a wrong value that a message shows."""


class Entry:
    """One object of a file. A field that is not there, or of another type, is Refused."""

    def __init__(self, value: object, place: str) -> None:
        self.place = place
        if not isinstance(value, dict):
            raise Refused(refuse("wrong-shape", place, f"a JSON {type(value).__name__}", "an object", "mend the row"))
        self.value: dict[str, Any] = value

    def wrong(self, key: str, allowed: str) -> Refused:
        """The refusal of a field."""
        found = f"{repr(self.value[key])[:LONGEST_SHOWN]} as `{key}`" if key in self.value else f"no `{key}`"
        return Refused(refuse("wrong-shape", self.place, found, allowed, "mend the row"))

    def text(self, key: str) -> str:
        """A text that says something."""
        value = self.value.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "text")
        return value

    def optional(self, key: str) -> str | None:
        """A text, or None where the field is absent, null or empty."""
        return self.text(key) if self.value.get(key) not in (None, "") else None

    def identity(self, key: str) -> str:
        """An id as text, published as text or as a whole number."""
        value = self.value.get(key)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(key)

    def whole(self, key: str) -> int:
        """A whole number."""
        value = self.value.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "a whole number")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.value.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300 or not math.isfinite(value):
            raise self.wrong(key, "a finite number")
        return float(value)

    def texts(self, key: str) -> list[str]:
        """A list of texts, each as published."""
        value = self.value.get(key)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise self.wrong(key, "a list of texts")
        return value

    def entries(self, key: str) -> list[Entry]:
        """A list of objects."""
        value = self.value.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list of objects")
        return [Entry(item, f"{self.place}, {key} {number}") for number, item in enumerate(value)]

    def entry(self, key: str) -> Entry:
        """An object."""
        return Entry(self.value.get(key), f"{self.place}, {key}")

    def known(self, *keys: str) -> dict[str, str]:
        """Those of the optional texts `keys` that are there."""
        return {key: text for key in keys if (text := self.optional(key)) is not None}


def each(listed: Iterable[tuple[str, Any]], make: Callable[[Entry, int], Iterable[Made]]) -> Iterator[Made | Problem]:
    """What `make` gives for each (place, value), or the problems for which it refuses; one bad value does not end the others."""
    for number, (place, value) in enumerate(listed):
        try:
            made = list(make(Entry(value, place), number))
        except Refused as refused:
            yield from refused.problems
        else:
            yield from made


def file_object(file: Path) -> dict[str, Any]:
    """The object of a JSON file. Refused when it holds another value."""
    return Entry(read_json(file), str(file)).value


def listed(file: Path, key: str) -> list[tuple[str, Any]]:
    """(place, value) of every item of the list `key` of a JSON file that holds one object."""
    return [(entry_place(file, number), value) for number, value in enumerate(_list(Entry(file_object(file), str(file)), key))]


def _list(entry: Entry, key: str) -> list[Any]:
    value = entry.value.get(key)
    if not isinstance(value, list):
        raise entry.wrong(key, "a list")
    return value


def entry_place(file: Path, number: int) -> str:
    """Place of an item in a file, counted from 0."""
    return f"{file}:row {number}"


def by_key(file: Path) -> list[tuple[str, Any]]:
    """(key, value) of a JSON file that holds one object of many."""
    return list(file_object(file).items())


def head(file: Path) -> str:
    """The beginning of a text file, bytes that are not UTF-8 replaced."""
    return head_bytes(file).decode("utf-8-sig", errors="replace")


def mentions(file: Path, *keys: str) -> bool:
    """Whether the head of a JSON file has all of `keys` as names of fields."""
    text = head(file)
    return all(f'"{key}"' in text for key in keys)
