"""JSON that wants to be a problem, given to every reader of JSON: torn, garbled, absurdly deep, of huge numbers, of wrong types at every place. Each is read or refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile_pictures import Outcome, encoded, sample_picture, tried

from sightline.data.reading import read_into, recognise_all

DEEP = 100_000
"""Brackets inside brackets: more than any parser's stack holds."""
_SHALLOW = 900
"""Below the limit of Python's JSON reader, and still more than anything that walks a value may recurse into."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A small whole data set of one format with one JSON file in it."""

    format: str
    file: str
    value: Any
    beside: tuple[str, ...] = ("images/a.png",)
    """Picture files that it needs."""
    lines: bool = False
    """One object a line in place of an array."""
    by_folder: bool = False
    """The reader is given the folder; else the file itself."""


_TALK = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": "a pond"}]
_PART = [{"type": "text", "text": "What is there?"}, {"type": "image_url", "image_url": {"url": "a.png"}}]
_SENTENCES = [{"raw": "a pond", "tokens": ["a", "pond"]}, {"raw": "one pond", "tokens": ["one", "pond"]}]
CASES = (
    Case(format="llava-json", file="talks.json", value=[{"id": "0", "image": "a.png", "conversations": _TALK}]),
    Case(format="llava-json", file="talks.jsonl", value=[{"id": "0", "image": ["a.png"], "conversations": _TALK}], lines=True),
    Case(
        format="openai-messages",
        file="messages.json",
        value=[{"id": "0", "messages": [{"role": "user", "content": _PART}, {"role": "assistant", "content": "a pond"}]}],
    ),
    Case(
        format="openai-messages",
        file="messages.jsonl",
        value=[{"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a pond"}], "images": ["a.png"]}],
        lines=True,
    ),
    Case(
        format="karpathy-captions",
        file="dataset.json",
        value={"images": [{"filename": "a.png", "filepath": ".", "imgid": 0, "split": "train", "sentids": [0, 1], "sentences": _SENTENCES}], "dataset": "x"},
    ),
    Case(
        format="label-masks",
        file="classes.json",
        value=[{"id": 0, "name": "ignore"}, {"id": 1, "name": "pond", "rgb": [30, 80, 170]}],
        beside=("images/a.png", "masks/a.png"),
        by_folder=True,
    ),
)


def values() -> list[Any]:
    """What may stand where something else was expected."""
    deep: Any = 1
    for _ in range(_SHALLOW):
        deep = [deep]
    plain = [None, True, 0, -1, 0.5, 1e308, 10**30, float("nan"), "", "x", "<image>", " \n", [], {}, [[]], [None], [""], {"": {}}, "x" * 100_000]
    return [*plain, "\ud800", "\0", "../../a.png", "/a.png", "data:,", "data:image/png;base64,!", "http://host/a.png", deep]


def texts(whole: str, tries: int) -> Iterator[tuple[str, bytes]]:
    """Files that are no JSON, or too much of it."""
    data = whole.encode()
    for length in np.unique(np.linspace(0, len(data) - 1, tries).astype(int)).tolist():
        yield f"cut after {length} bytes", data[:length]
    yield "deep lists", b"[" * DEEP + b"]" * DEEP
    yield "deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield "a deep value in a row", data.replace(b'"a pond"', b"[" * DEEP + b"]" * DEEP, 1)
    yield "a number of 100000 digits", data.replace(b'"a pond"', b"9" * 100_000, 1).replace(b'"id": 1', b'"id": ' + b"9" * 100_000)
    yield "a file of one long number", b"1" * 100_000
    yield "not UTF-8", data.replace(b"pond", b"p\xffnd", 1)
    yield "zero bytes", bytes(100)
    yield "UTF-16", whole.encode("utf-16")
    yield "byte order mark", b"\xef\xbb\xbf" + data
    yield "more after the end", data + b"]"
    yield "a key twice", data.replace(b'"id"', b'"id": "x", "id"', 1)


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every value inside a value, itself included."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from paths(below, (*at, key))


def put(value: Any, at: tuple[str | int, ...], new: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    holder = changed
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = new
    return changed


def without(value: Any, at: tuple[str | int, ...]) -> Any:
    """A copy that lacks what stands at a place, which is not the root."""
    changed = copy.deepcopy(value)
    holder = changed
    for key in at[:-1]:
        holder = holder[key]
    del holder[at[-1]]
    return changed


def written(case: Case, value: Any) -> str:
    """The JSON text of a value in the case's form."""
    return "\n".join(json.dumps(row) for row in value) if case.lines and isinstance(value, list) else json.dumps(value)


def lay_out(case: Case, folder: Path) -> None:
    """The pictures of a case."""
    for name in case.beside:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = sample_picture()
        (folder / name).write_bytes(encoded(picture.point(lambda _: 1).convert("L") if name.startswith("masks") else picture, "PNG"))


def check_case(case: Case, scratch: Path, tries: int) -> Iterator[Outcome]:
    """One format: the whole file is read; every hostile one is read or refused, under both policies, and neither recognition nor the finished store stumbles."""
    folder = scratch / f"{case.format}-{case.file}"
    folder.mkdir()
    lay_out(case, folder)
    name = f"{case.format} {case.file}"
    (folder / case.file).write_text(written(case, case.value))
    yield tried(f"{name}: whole", lambda: _read(case, folder, scratch / "out"), refused=False)
    for what, data in texts(written(case, case.value), tries):
        (folder / case.file).write_bytes(data)
        yield tried(f"{name}: {what}", lambda: _read(case, folder, scratch / "out"))
    for at in paths(case.value):
        changed = [(ascii(new)[:40], put(case.value, at, new)) for new in values()] + ([("left out", without(case.value, at))] if at else [])
        for said, new in changed:
            (folder / case.file).write_text(written(case, new), encoding="utf-8")
            yield tried(f"{name}: {'.'.join(map(str, at))} = {said}", lambda: _read(case, folder, scratch / "out"))


def _read(case: Case, folder: Path, out: Path) -> None:
    recognise_all(folder)
    source = folder if case.by_folder else folder / case.file
    store = read_into(source, case.format, out, on_problem="quarantine", workers=1)
    for sample in store:
        assert sample.problems("soak") == [], "a stored sample has problems"
    store.counts()
    read_into(source, case.format, out, on_problem="refuse", workers=1)


def check_all(scratch: Path, tries: int = 20) -> Iterator[Outcome]:
    """All formats."""
    for case in CASES:
        yield from check_case(case, scratch, tries)
