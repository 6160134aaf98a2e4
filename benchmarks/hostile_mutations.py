"""What can be wrong with the files of a data set: one change at a time, drawn from a table by the sort of the file. All is decided by the generator of random numbers that is given."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_json import DEEP, paths, put, values, without
from hostile_paintings import painting

from sightline.data.readers.files import PICTURE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Special:
    """Something in a folder that is no plain file."""

    sort: Literal["link", "pipe", "folder", "hole"]
    """`hole`: a file of a terabyte of which nothing is stored."""
    target: str = ""
    """Where a link leads."""


Contents = dict[str, bytes | Special]
"""What lies in a folder, by path. A path may hold bytes that are no UTF-8, as surrogates."""
Change = Callable[[bytes, np.random.Generator], bytes]
HOLE = 1 << 40
_NUMBERS = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
_WORDS = (
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1",
    b"0",
    b"9" * 5000,
    b"1e308",
    b"",
    b"true",
    b"None",
    "\u0663".encode(),
    b"0x10",
    b"1_0",
    b"../../../etc/passwd",
    b"/etc/passwd",
)
_BYTES = (
    b'"',
    b"\n",
    b",",
    b"\xff",
    b"\0",
    b"\t",
    b"..",
    b"/",
    b"\r",
    b"#",
    b"<",
    b"&",
    b"{",
    b"]",
    b"\\",
    "\u6e2f".encode("gb18030"),
    "\U0001f6a2".encode(),
    b"\xed\xa0\x80",
)
_LONG = 3 << 20
"""Bytes of a string that is too long for anything."""


def _one(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


# any file


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _garbled(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 9))).tolist() if data else ():
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def _inserted(data: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data) + 1))
    return data[:place] + _one(rng, _BYTES) * int(rng.integers(1, 4)) + data[place:]


def _moved(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:start] + data[stop:] + data[start:stop]


def _filled(data: bytes, rng: np.random.Generator) -> bytes:
    return _one(rng, (b"", bytes(1000), rng.bytes(1000), b"\n" * 1000, b"\xef\xbb\xbf", data + data, data + rng.bytes(50)))


def _encoded(data: bytes, rng: np.random.Generator) -> bytes:
    text = data.decode("utf-8", "replace")
    kind = _one(rng, ("utf-16", "utf-32", "gb18030", "latin-1", "utf-8-sig", "cp037"))
    return (
        text.encode(kind, "replace")
        if rng.random() < 0.7
        else text[: len(text) // 2].encode() + "\u6e2f\u00e9".encode(kind, "replace") + text[len(text) // 2 :].encode()
    )


# text


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    found = list(_NUMBERS.finditer(data))
    if not found:
        return _inserted(data, rng)
    place = _one(rng, found)
    return data[: place.start()] + _one(rng, _WORDS) + data[place.end() :]


def _lines(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    place = int(rng.integers(len(lines)))
    fields = re.split(rb"([,\t ])", lines[place])
    changes: tuple[bytes, ...] = (
        b'"' + lines[place],
        b"".join(fields[2:]),
        lines[place] + b"," * 10_000,
        lines[place][:1000] * 5000,
        b"x" * _LONG,
        lines[place].replace(b",", b"\t"),
        b"".join([*fields[:-1], b"../../../etc/passwd"]),
        lines[place] + b"\r",
        lines[place] + b"\0",
        b"".join([_one(rng, _WORDS), *fields[1:]]),
        (lines[place][:1000] + b"\n") * 2000,
    )
    return b"\n".join([*lines[:place], _one(rng, changes), *lines[place + 1 :]])


# JSON


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """Another value at a place, a value left out, or rows repeated, in an array, an object or in lines."""
    try:
        return _json_row(data, rng)
    except RecursionError:  # an earlier change made it too deep to be walked
        return _inserted(data, rng)


def _json_row(data: bytes, rng: np.random.Generator) -> bytes:
    rows = _parsed([data]) or _parsed(data.splitlines())
    if not rows:
        return _inserted(data, rng)
    number = int(rng.integers(len(rows)))
    at = _one(rng, list(paths(rows[number])))
    drawn = rng.random()
    if drawn < 0.15 and at:
        rows[number] = without(rows[number], at)
    elif drawn < 0.25:
        rows = rows[:number] + [rows[number]] * 300 + rows[number:] if len(rows) > 1 else [put(rows[0], at, [_at(rows[0], at)] * 300)]
    else:
        rows[number] = put(rows[number], at, _one(rng, _json_values()))
    return "\n".join(json.dumps(row) for row in rows).encode()


def _parsed(texts: Sequence[bytes]) -> list[Any]:
    """The values of JSON texts; none where one of them is no JSON."""
    try:
        return [json.loads(text) for text in texts if text.strip()]
    except ValueError:
        return []


def _at(value: Any, at: Sequence[str | int]) -> Any:
    for key in at:
        value = value[key]
    return value


def _json_values() -> list[Any]:
    boxes: list[Any] = [
        [float("nan")] * 4,
        [float("inf"), 0, 1, 1],
        [-1e308, 1e308, 5, 5],
        [1, 2, 3],
        [[1e308] * 8],
        [5, 5, -5, -5],
        {"size": [10**9, 10**9], "counts": [10**18]},
    ]
    boxes += [{"size": [16, 24], "counts": "o" * 4000}, {"size": [-1, 3], "counts": [1]}, [[1, 2]] * 2000, {f"k{number}": number for number in range(2000)}]
    return [
        *values(),
        *boxes,
        "y" * _LONG,
        "<image>" * 5000,
        "\u202e\u0000\u6e2f\U0001f6a2",
        "a\n" * 1000,
        "1e400",
        10**400,
        -(10**18),
        "<p>" * 3000,
        "{<1><2>" * 3000,
    ]


def _json_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Text that no JSON writer makes."""
    strings = list(re.finditer(rb'"[^"\\]*"', data)) or [re.compile(b"").match(data)]
    place = _one(rng, strings)
    deep = (b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP)
    new = _one(
        rng,
        (*deep, b"9" * 100_000, b"NaN", b"Infinity", b"-1e999", b'"\\ud800"', b'"\\u0000"', b"'x'", b'"\t\x01"', place[0] + b": 1, " + place[0], b"//x", b"01"),
    )
    return data[: place.start()] + new + data[place.end() :]


# XML

_ENTITIES = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(b'<!ENTITY %c "%s">' % (letter, b"&%c;" % (letter - 1) * 10) for letter in b"bcdefghij") + b"]>"
_EXTERNAL = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


def _xml(data: bytes, rng: np.random.Generator) -> bytes:
    texts = list(re.finditer(rb">([^<>]*)</", data))
    if not texts:
        return _inserted(data, rng)
    place = _one(rng, texts)
    bomb = _one(rng, ((_ENTITIES, b"&j;"), (_EXTERNAL, b"&x;")))
    tag = b"<a>" * 5000
    changes = (
        (b"", _one(rng, _WORDS)),
        bomb,
        (b'<?xml version="1.0" encoding="' + _one(rng, (b"utf-16", b"cp037", b"nonsense", b"gb18030", b"utf-7")) + b'"?>', place[1]),
        (b"", tag + tag.replace(b"<", b"</")),
        (b"", b"<![CDATA[" + b"x" * 100_000 + b"]]>"),
        (b"<!--" + b"-" * 1000, place[1]),
        (b"", b'<b c="' + b"d" * 1_000_000 + b'"/>'),
        (b"", b"&#0;"),
        (b"", b"&#xD800;"),
    )
    head, new = _one(rng, changes)
    changed = data[: place.start(1)] + new + data[place.end(1) :]
    if head and changed.startswith(b"<?xml"):
        changed = changed.partition(b"?>")[2]
    return head + changed


# Parquet


def _parquet(data: bytes, rng: np.random.Generator) -> bytes:
    """A column dropped, renamed, emptied, or of another type and other values; or a footer that lies."""
    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        return _garbled(data, rng)
    if not table.num_columns or not table.num_rows:
        return _garbled(data, rng)
    place = int(rng.integers(table.num_columns))
    name, count = table.column_names[place], table.num_rows
    choices: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([None] * count, table.schema.field(place).type),
        lambda: pa.array([None] * count),
        lambda: pa.array([float("nan")] * count),
        lambda: pa.array([2**62] * count),
        lambda: pa.array(["z" * _LONG] + ["../../etc/passwd"] * (count - 1)),
        lambda: pa.array([b"\xff\xfe" * 10] * count, pa.binary()),
        lambda: pa.array([painting(rng)] * count, pa.binary()),
        lambda: pa.array([[{"bytes": painting(rng), "path": "../x"}]] * count),
        lambda: pa.array([{"bytes": painting(rng), "path": None}] * count),
        lambda: pa.array([{"user": None, "assistant": "x", "source": 1}] * count),
        lambda: pa.array([[None, "x", None]] * count),
        lambda: pa.array([[[["deep"]]]] * count),
        lambda: pa.array([[{"user": "", "assistant": "\0"}] * 500] * count),
        lambda: pa.array(["x"] * count).dictionary_encode(),
    )
    drawn = rng.random()
    if drawn < 0.1:
        table = table.remove_column(place)
    elif drawn < 0.2:
        table = table.rename_columns([name if number != place else name + "_" for number, name in enumerate(table.column_names)])
    elif drawn < 0.3:
        table = table.append_column(name, table.column(place))
    elif drawn < 0.35:
        table = table.slice(0, 0)
    else:
        table = table.set_column(place, name, _one(rng, choices)())
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression=_one(rng, ("snappy", "zstd", "none")))
    return stream.getvalue().to_pybytes()


# tar

_PICKLE = b"cos\n_exit\n(I86\ntR."
"""Unpickling it ends the process; nothing may."""


def _tar(data: bytes, rng: np.random.Generator) -> bytes:
    """The same members, one of them changed, with one more that no data set needs."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as opened:
            members = [(member, stream.read()) for member in opened if (stream := opened.extractfile(member)) is not None]
    except (tarfile.TarError, ValueError, EOFError, KeyError, OverflowError, MemoryError):  # KeyError: a link to a member that is not there
        return _garbled(data, rng)
    if members and rng.random() < 0.6:
        place = int(rng.integers(len(members)))
        member, inside = members[place]
        members[place] = (member, changed(member.name, inside, rng)[1])
    key = members[0][0].name.split(".")[0] if members else "000000"
    extra = tarfile.TarInfo(
        _one(
            rng,
            (
                f"{key}.pkl",
                f"{key}.pyd",
                f"{key}.pth",
                "../../out.json",
                "/etc/passwd",
                f"{key}.json",
                "x" * 3000 + ".png",
                "\udcff.png",
                f"{key}/../b.png",
                f"{key}.",
                ".",
                "",
            ),
        )
    )
    extra.type = _one(
        rng, (tarfile.REGTYPE,) * 6 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE)
    )
    extra.linkname = _one(rng, ("/etc/passwd", "../../x", f"{key}.json"))
    extra.pax_headers = _one(rng, ({}, {}, {}, {"path": "../" * 500}, {"size": "9" * 30}, {"comment": "c" * 100_000}, {"GNU.sparse.realsize": "1" * 15}))
    members.insert(int(rng.integers(len(members) + 1)), (extra, _PICKLE if extra.isreg() else b""))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=_one(rng, (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)), errors="surrogateescape") as shard:
        for member, inside in members:
            member.size = len(inside)
            shard.addfile(member, io.BytesIO(inside))
    made = stream.getvalue()
    return _claimed(made, rng) if rng.random() < 0.2 else made


def _claimed(data: bytes, rng: np.random.Generator) -> bytes:
    """The first header claims another size, with a right sum."""
    size = _one(rng, (b"77777777777\0", b"\x80" + b"\xff" * 11, b"-1         \0", b"00000000000\0"))
    head = bytearray(data[:512])
    head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data[512:]


# pictures and the table


def _painted(_: bytes, rng: np.random.Generator) -> bytes:
    return painting(rng)


_ANY: tuple[Change, ...] = (_cut, _garbled, _inserted, _moved, _filled)
_TEXT: tuple[Change, ...] = (*_ANY, _encoded, _number, _number)
BY_SUFFIX: Mapping[str, tuple[Change, ...]] = {
    **dict.fromkeys(PICTURE_SUFFIXES, (*_ANY, *[_painted] * 12)),
    **dict.fromkeys((".json", ".jsonl"), (*_TEXT, *[_json] * 12, _json_text, _json_text, _json_text)),
    **dict.fromkeys((".txt", ".csv", ".tsv"), (*_TEXT, *[_lines] * 8)),
    ".xml": (*_TEXT, *[_xml] * 8),
    ".parquet": (*_ANY, *[_parquet] * 12),
    ".tar": (*_ANY, *[_tar] * 12),
}


def changed(name: str, data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """(what was done, the changed content) of one file, by the end of its name."""
    change = _one(rng, BY_SUFFIX.get(Path(name).suffix.lower(), _ANY))
    return change.__name__.strip("_"), change(data, rng)


_LINKS = ("/etc/passwd", "/dev/zero", "/proc/self/environ", "absent", ".", "..")
_NAMES = (
    "a\nb.png",
    "\udcff\udcfe.png",
    "\u202ea.png",
    "x" * 250 + ".png",
    " .png",
    "e\u0301.png",
    "..png",
    "a.PNG",
    "CON.json",
    "%2e%2e.png",
    "-rf.png",
    "deep/" * 30 + "a.png",
    "{0}.png",
)


def tampered(contents: Contents, rng: np.random.Generator) -> tuple[str, Contents]:
    """(what was done, the changed folder): the content of a file, or in one of eight cases what lies where."""
    name = _one(rng, sorted(contents) or [""])
    now = contents.get(name, b"")
    if isinstance(now, bytes) and len(now) > _LONG:
        return f"{name} left as it is", contents
    if isinstance(now, bytes) and rng.random() < 7 / 8:
        what, data = changed(name, now, rng)
        return f"{name} {what}", {**contents, name: data}
    others = {path: content for path, content in contents.items() if path != name}
    whole = {**others, name: now}
    other = _one(rng, sorted(contents) or [""])
    link, new = _one(rng, (*_LINKS, os.path.basename(name))), os.path.join(os.path.dirname(name), _one(rng, _NAMES))
    cases: tuple[tuple[str, Contents], ...] = (
        ("removed", others),
        (f"a link to {link}", {**others, name: Special(sort="link", target=link)}),
        ("a pipe", {**others, name: Special(sort="pipe")}),
        ("a folder", {**others, name: Special(sort="folder")}),
        ("a hole", {**others, name: Special(sort="hole")}),
        (f"renamed {new!r}", {**others, new: now}),
        (f"beside {new!r}", {**whole, new: now}),
        (f"given the content of {other}", {**whole, name: contents.get(other, b"")}),
        ("beside a link in a circle", {**whole, os.path.join(os.path.dirname(name), "again"): Special(sort="link", target=".")}),
    )
    what, made = _one(rng, cases)
    return f"{name} {what}", made


def lay_out(contents: Contents, folder: Path) -> None:
    """Write a folder that is not there yet. What lies in the way of something else is left out, so that every draw can be laid out."""
    folder.mkdir()
    for name, content in contents.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif content.sort == "link":
                target.symlink_to(content.target)
            elif content.sort == "pipe":
                os.mkfifo(target)
            elif content.sort == "folder":
                target.mkdir()
            else:
                with target.open("wb") as stream:
                    stream.truncate(HOLE)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
