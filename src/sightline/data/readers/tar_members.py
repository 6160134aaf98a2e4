"""Members of a tar file by name, place and size, without unpacking: only plain files are given, everything else is a problem, and nothing is trusted.

POSIX ustar and pax (POSIX.1-2001) and GNU long names are read. Sizes are checked against the file before a byte of content is touched.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sightline.data.readers.files import LONGEST_PATH, plain, refuse
from sightline.errors import Problem, Refused

BLOCK = 512
LARGEST_TAR = 1 << 42
"""Bytes of a tar file."""
LARGEST_HEADER = 1 << 16
"""Bytes of an extended header: names are short."""
LARGEST_MEMBER = 256 << 20
"""Bytes of one file inside."""
_PLAIN = (b"0", b"\0", b"7")
_FOLDER, _PAX, _PAX_OF_ALL, _LONG_NAME = b"5", b"x", b"g", b"L"
_OTHERS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"K": "a long link", b"S": "a sparse file"}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A plain file inside a tar file."""

    name: str
    offset: int
    """First byte of its content."""
    size: int


def members(file: Path) -> Iterator[Member | Problem]:
    """All plain files in order; what is none, or is named or sized as no honest file is, is a problem and passed over. A broken header ends the file with a problem."""
    try:
        plain(file, most=LARGEST_TAR)
        with file.open("rb") as stream:
            yield from _members(stream, file, file.stat().st_size)
    except Refused as refused:
        yield from refused.problems
    except OSError as error:
        yield refuse("unreadable-file", str(file), error.strerror or str(error), "a readable file", "correct the path")


def _members(stream: BinaryIO, file: Path, end: int) -> Iterator[Member | Problem]:
    place, long_name, long_size = 0, "", None
    while place < end:
        stream.seek(place)
        header = stream.read(BLOCK)
        if len(header) == BLOCK and not any(header):
            return
        size = _octal(header[124:136]) if _sound(header) else None
        if size is None:
            yield _broken(file, place, "no tar header")
            return
        kind = header[156:157]
        size = long_size if long_size is not None and kind in _PLAIN else size
        content, where = place + BLOCK, f"{file}:byte {place}"
        place = content + -(-size // BLOCK) * BLOCK
        if content + size > end:
            yield _broken(file, content, f"{size} bytes of content, {end - content} in the file")
            return
        if kind in (_PAX, _PAX_OF_ALL, _LONG_NAME):
            if size > LARGEST_HEADER:
                yield refuse("tar-header", where, f"an extended header of {size} bytes", f"at most {LARGEST_HEADER} bytes", "write the tar file again")
                return
            data = stream.read(size)
            if kind == _LONG_NAME:
                long_name = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind == _PAX:
                said = _pax(data)
                long_name, long_size = said.get("path", long_name), int(said["size"]) if said.get("size", "").isdecimal() and len(said["size"]) < 20 else None
            continue
        name, long_name, long_size = long_name or _name(header), "", None
        if kind != _FOLDER:
            yield _member(name, kind, content, size, where)


def _member(name: str, kind: bytes, offset: int, size: int, where: str) -> Member | Problem:
    shown = f"{name[:80]!r}"
    normal = posixpath.normpath(name.replace("\\", "/"))
    if kind not in _PLAIN:
        return refuse("tar-member", where, f"{shown} is {_OTHERS.get(kind, f'of type {kind!r}')}", "plain files", "write the tar file again without it")
    if not name or normal.startswith(("/", "../")) or normal in ("..", ".") or normal[1:2] == ":":
        return refuse("path-escape", where, f"{shown} leads out of the archive", "relative paths", "write the tar file again")
    if len(name) > LONGEST_PATH or not name.isprintable():
        return refuse("tar-member", where, f"{shown} as a name", f"at most {LONGEST_PATH} printable characters of UTF-8", "rename the member")
    if size > LARGEST_MEMBER:
        return refuse("tar-member", where, f"{shown} has {size} bytes", f"at most {LARGEST_MEMBER} bytes", "take the file out of the archive")
    return Member(name=normal, offset=offset, size=size)


def _broken(file: Path, place: int, found: str) -> Problem:
    return refuse("broken-tar", f"{file}:byte {place}", found, "a whole tar file, not compressed", "fetch or write the file again; what stands before was read")


def _sound(header: bytes) -> bool:
    """Whether the sum that a header holds is that of its bytes, with the sum itself taken as blanks."""
    stated = _octal(header[148:156]) if len(header) == BLOCK else None
    return stated is not None and stated == sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")


def _octal(field: bytes) -> int | None:
    """A number in octal, or in GNU's binary form from 8 GiB on; None for anything else."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and all(digit in b"01234567" for digit in digits) else None if digits else 0


def _name(header: bytes) -> str:
    short, prefix = (field.split(b"\0")[0].decode("utf-8", "surrogateescape") for field in (header[:100], header[345:500]))
    return f"{prefix}/{short}" if prefix and header[257:262] == b"ustar" else short


def _pax(data: bytes) -> dict[str, str]:
    """Keywords of a pax header, `<length> <key>=<value>\\n` each; reading ends at the first that is none."""
    found: dict[str, str] = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not length.isdigit() or len(length) > 6 or not 0 < int(length) <= len(data):
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return found


def content(file: Path, member: Member) -> bytes:
    """The bytes of a member."""
    with file.open("rb") as stream:
        stream.seek(member.offset)
        return stream.read(member.size)
