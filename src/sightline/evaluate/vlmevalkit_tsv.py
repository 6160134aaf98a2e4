"""TSV files of VLMEvalKit, read as they are.

    index  image | image_path  question  [hint]  [A B C ..]  answer  [category l2-category split ..]

`image` is base64 of a picture's file, a list literal of several, or, in at most 64 characters, the index of the row that holds it. `image_path` is a name or a list literal of names.
Fields are quoted as in CSV; other columns are kept under their names, and `image` as what tells pictures apart. Rows that refer to a later
row come last.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.data.readers.files import plain
from sightline.evaluate.published import LETTERS, PublishedRow, pictures_in, refused
from sightline.lineage import sha256_bytes
from sightline.samples.pictures import describe
from sightline.samples.sample import Picture

REFERENCE = 64
"""Characters up to which `image` is another row's index."""
LONGEST_FIELD = 1 << 28
"""Characters of a field: pictures of several ten million bytes."""
_DEEPEST = 4096
"""Characters of a list of names; lists of pictures are split without being parsed."""
_NOTHING = ("", "nan")


def read_tsv(path: Path, pictures: Path | None, seen: bool) -> Iterator[PublishedRow]:
    """The rows of a file; `pictures` is the folder from which `image_path` starts, default beside the file. Pictures are checked like any other, and opened only where they are `seen`.

    Raises Refused where the file is no such table, a picture is none, or a row refers to one that holds no picture.
    """
    plain(path)
    opened = pictures_in(path.parent if pictures is None else pictures)
    known: dict[str, tuple[Picture, ...]] = {}
    names: dict[str, str] = {}
    waiting: list[tuple[PublishedRow, str]] = []
    for place, fields in _lines(path):
        image = fields.get("image", "")
        names[fields["index"]] = names.get(image, image) if len(image) <= REFERENCE else sha256_bytes(image.encode())
        row = row_of(place, {**fields, "image": names[fields["index"]]})
        if not seen or (image in _NOTHING and fields.get("image_path", "") in _NOTHING):
            yield row
        elif 0 < len(image) <= REFERENCE and image in known:
            yield _shown(row, known[image])
        elif 0 < len(image) <= REFERENCE and image not in _NOTHING:
            waiting.append((row, image))
        else:
            known[row.index] = _pictures(image, fields.get("image_path", ""), place, opened)
            yield _shown(row, known[row.index])
    for row, image in waiting:
        if image not in known:
            raise refused("tsv-reference", row.place, f"image {image!r}", "base64, or the index of a row that holds a picture", "fetch the file again")
        yield _shown(row, known[image])


def _shown(row: PublishedRow, pictures: tuple[Picture, ...]) -> PublishedRow:
    return PublishedRow(**{**vars(row), "pictures": pictures})


def _lines(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, column -> text) of each row."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            reader = csv.reader(stream, delimiter="\t", strict=True)
            header = next(reader, [])
            missing = [name for name in ("index", "question") if name not in header]
            if missing or len(set(header)) < len(header):
                found = f"columns {', '.join(header)[:200]}"
                raise refused("not-tsv", f"{path}:1", found, "a header with index and question, each column once", "name a TSV file of VLMEvalKit")
            for fields in reader:
                csv.field_size_limit(LONGEST_FIELD)  # others may have set it while a row was used
                if fields and len(fields) != len(header):
                    found = f"{len(fields)} fields under {len(header)} columns"
                    raise refused("not-tsv", f"{path}:{reader.line_num}", found, "as many fields as columns", "fetch the file again")
                if fields:
                    yield f"{path}:{reader.line_num}", dict(zip(header, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise refused("not-tsv", str(path), error, "UTF-8 text with fields in closed quotes", "fetch the file again") from None
        finally:
            csv.field_size_limit(before)


def row_of(place: str, fields: Mapping[str, str]) -> PublishedRow:
    """A row of texts by column; those that say nothing are left out."""
    options = {letter: fields[letter] for letter in LETTERS if fields.get(letter, "").strip() not in _NOTHING}
    others = {name: text for name, text in fields.items() if name not in LETTERS and text not in _NOTHING}
    return PublishedRow(index=fields["index"], place=place, question=fields["question"], answer=fields.get("answer", ""), options=options, fields=others)


def _pictures(image: str, names: str, place: str, opened: Callable[[str, str], Picture]) -> tuple[Picture, ...]:
    if image not in _NOTHING:
        return tuple(describe(_decoded(one, place), "", place) for one in _base64s(image))
    return tuple(opened(name, place) for name in listed(names, place))


def _base64s(image: str) -> list[str]:
    """The texts of a list literal, or the one text. Base64 has no quotes, so that a list need not be parsed."""
    if not image.startswith("["):
        return [image]
    return [part.strip().strip("'\"") for part in image.strip("[] \n").split(",")]


def _decoded(text: str, place: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused("tsv-picture", place, f"{text[:20]!r}.., {len(text)} characters: {error}", "a picture's file in base64", "fetch the file again") from None


def listed(text: str, place: str) -> list[str]:
    """The texts of a list literal such as `['a', 'b']`, or the text itself where it is none. Refused when it is broken, or holds other things than texts and numbers."""
    if not text.lstrip().startswith("["):
        return [text]
    try:
        value: Any = ast.literal_eval(text) if len(text) <= _DEEPEST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
        raise refused("tsv-list", place, f"{text[:60]!r}", "a list of texts", "fetch the file again")
    return [str(one) for one in value]
