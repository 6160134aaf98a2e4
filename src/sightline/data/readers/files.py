"""Finding and opening the files that data sets name. Names inside a data set are hostile until checked: none may lead out of its folder."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from sightline.errors import Problem, Refused

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")
DEPTH = 4
"""Folders below the given one that are searched for a known layout."""
HEAD = 1 << 16
"""Bytes of a file that `recognise` looks at."""
LARGEST_TEXT = 4 << 30
"""Bytes of a text file: more than any that was published, and less than a file of holes can claim."""
LONGEST_NAME = 255
"""Bytes of one step of a path: what file systems hold."""
LONGEST_PATH = 2000
"""Bytes of a path inside a data set."""
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}/){0,8}[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}")
"""Names that can be taken as they are: no step is long, or begins with a dot."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def refuse(code: str, place: str, found: str, allowed: str, fix: str) -> Problem:
    """A problem of this room."""
    return Problem(code=f"data/{code}", place=place, found=found or "an empty text", allowed=allowed, fix=fix)


def plain(path: Path, most: int = LARGEST_TEXT) -> None:
    """Refused when a file is not there, is no plain file (a pipe or a device never ends), or has more than `most` bytes."""
    try:
        known = path.stat()
    except OSError as error:
        raise Refused(refuse("unreadable-file", str(path), error.strerror or str(error), "a readable file", "correct the path")) from None
    if not stat.S_ISREG(known.st_mode):
        raise Refused(refuse("unreadable-file", str(path), "no plain file", "a readable file", "replace it by the file"))
    if known.st_size > most:
        raise Refused(refuse("file-too-large", str(path), f"{known.st_size} bytes", f"at most {most} bytes", "split the file"))


def head_bytes(path: Path) -> bytes:
    """The first `HEAD` bytes of a plain file; none where there is nothing to read: a broken link, a pipe."""
    try:
        plain(path, most=sys.maxsize)
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except (OSError, Refused):
        return b""


def read_text(path: Path) -> str:
    """UTF-8 text, with or without a byte order mark. Refused when it is no plain file or not UTF-8."""
    plain(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Refused(refuse("unreadable-file", str(path), error.strerror or str(error), "a readable file", "correct the path")) from None
    except UnicodeDecodeError as error:
        raise Refused(
            refuse("not-utf-8", str(path), f"byte {error.start} is {error.object[error.start]:#04x}", "UTF-8 text", "convert the file to UTF-8")
        ) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_constant(digits[:40])


_JSON = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def parse_json(text: str) -> Any:
    """The value of a JSON text that can be stored as UTF-8 again.

    Raises ValueError (json.JSONDecodeError where there is a place) for broken text, NaN and Infinity, halves of surrogate pairs, numbers and nesting beyond all measure.
    """
    try:
        value = _JSON.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("brackets nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("an escape \\ud800 to \\udfff that is half of a pair") from None
    return value


def read_json(path: Path) -> Any:
    """The value of a JSON file. Refused with line and column when it is not JSON."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        place = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise Refused(refuse("not-json", place, _fault(error), "a JSON file", "fetch the file again, or mend it at this place")) from None


def _fault(error: ValueError) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def read_json_rows(path: Path) -> list[tuple[str, Any]]:
    """(place, value) of every row of a JSON array, or of a file with one JSON object per line. Refused with all broken lines."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return [(f"{path}:row {number}", row) for number, row in enumerate(read_json(path))]
    rows: list[tuple[str, Any]] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((f"{path}:{number}", parse_json(line)))
        except ValueError as error:
            problems.append(refuse("not-json", f"{path}:{number}", _fault(error), "one JSON object a line, or a JSON array", "mend the line"))
    if problems:
        raise Refused(problems)
    return rows


def first_row(path: Path) -> dict[str, Any] | None:
    """The first object of a JSON array or of a file of JSON lines, from the head of the file; None when there is none."""
    return _first_object(head_bytes(path))


@lru_cache(maxsize=32)
def _first_object(head: bytes) -> dict[str, Any] | None:
    """Kept, because every format looks at the same heads."""
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    text = text[1:].lstrip() if text.startswith("[") else text
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def within(root: Path, name: object, place: str) -> Path | Problem:
    """`root/name`, or the problem of a name that is no relative path or leads out of `root`."""
    if not isinstance(name, str) or not name:
        return refuse("picture-name", place, f"{name!r} as the name of a picture", "a relative path", "name the file")
    if _PLAIN.fullmatch(name):
        return root / name
    normal = posixpath.normpath(name.replace("\\", "/"))
    if normal.startswith(("/", "../")) or normal in ("..", ".") or Path(normal).drive or "\0" in normal:
        return refuse(
            "path-escape",
            place,
            f"{name!r} leads out of {root}",
            "a path inside the folder of pictures",
            "correct the path; nothing outside the folder is read",
        )
    if len(os.fsencode(normal)) > LONGEST_PATH or any(len(os.fsencode(step)) > LONGEST_NAME for step in normal.split("/")):
        return refuse("picture-name", place, f"{name[:60]!r}.. of {len(name)} characters", f"at most {LONGEST_NAME} bytes between slashes", "name the file")
    return root / normal


_listings: ContextVar[dict[Path, list[str]] | None] = ContextVar("listings", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within it no folder is listed twice: recognising asks every format about the same ones."""
    token = _listings.set({})
    try:
        yield
    finally:
        _listings.reset(token)


def names_in(folder: Path) -> list[str]:
    """Names of what lies directly in a folder, sorted."""
    known = _listings.get()
    if known is None:
        return sorted(os.listdir(folder))
    if folder not in known:
        known[folder] = sorted(os.listdir(folder))
    return known[folder]


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, sorted, each before its children."""
    yield root
    if depth:
        for entry in sorted(entry.name for entry in os.scandir(root) if _is(entry, folder=True) and not entry.name.startswith(".")):
            yield from folders(root / entry, depth - 1)


def has_pictures(folder: Path) -> bool:
    """Whether a picture file lies directly in the folder."""
    return any(entry.name.lower().endswith(PICTURE_SUFFIXES) for entry in os.scandir(folder) if _is(entry))


def _is(entry: os.DirEntry[str], folder: bool = False) -> bool:
    """Whether an entry is a file, or a folder; a link into a circle is neither."""
    try:
        return entry.is_dir() if folder else entry.is_file()
    except OSError:
        return False


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Relative POSIX paths of all files below `folder` with one of the suffixes, sorted."""
    found: list[str] = []
    for parent, children, names in os.walk(folder):
        children[:] = [child for child in children if not child.startswith(".")]
        base = os.path.relpath(parent, folder)
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found.append(name if base == "." else posixpath.join(base.replace(os.sep, "/"), name))
    return sorted(found)


def json_files(path: Path, suffixes: tuple[str, ...] = (".json",)) -> list[Path]:
    """The file itself, or the JSON files directly in a folder, sorted."""
    if path.is_file():
        return [path] if path.name.endswith(suffixes) else []
    return sorted(entry for entry in path.iterdir() if entry.name.endswith(suffixes) and entry.is_file()) if path.is_dir() else []


def picture_folder(near: Path, given: str | None, names: Iterable[object], usual: Iterable[str]) -> Path:
    """The folder from which the picture files `names` start: `given`, one of `usual`, any `*_images`, or `near` itself.

    The first hundred names are tried. Refused with the folders that were tried when none of the names is in any of them.
    """
    if given is not None:
        if not (near / given).is_dir():
            raise Refused(refuse("no-picture-folder", str(near / given), "no such folder", f"a folder below {near}, or an absolute path", "correct `pictures`"))
        return near / given
    wanted = [name for _, name in zip(range(100), names) if isinstance(name, str) and isinstance(within(near, name, ""), Path)]
    if not wanted:
        return near
    tried = [near / name for name in usual] + sorted(near.glob("*_images")) + [near]
    for folder in tried:
        if any((folder / name).is_file() for name in wanted):
            return folder
    found = f"{wanted[0]!r} is in none of " + ", ".join(str(folder) for folder in tried)
    raise Refused(
        refuse("no-picture-folder", str(near), found, "the pictures beside the file, or in a folder that `pictures` names", "pass `pictures: FOLDER`")
    )
