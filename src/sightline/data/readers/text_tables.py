"""Tables as text: comma- or tab-separated lines, in UTF-8 or in GB 18030 as Chinese spreadsheets export them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sightline.data.readers.files import head_bytes, read_text, refuse
from sightline.errors import Problem, Refused

CHINESE = "gb18030"


def read_table_text(file: Path) -> tuple[str, tuple[Problem, ...]]:
    """The text of a file and, when it is no UTF-8 and was read as GB 18030, the warning that says so. Refused when it is neither."""
    try:
        return read_text(file), ()
    except Refused as refused:
        (problem,) = refused.problems
        if problem.code != "data/not-utf-8":
            raise
        try:
            text = file.read_bytes().decode(CHINESE)
        except UnicodeDecodeError:
            raise refused from None
    fix = "look at a few captions, or convert the file"
    return text, (replace(problem, found=f"{problem.found}; the file was read as GB 18030", fix=fix, severity="warn"),)


def first_line(file: Path) -> str:
    """The first line of a file, without its end; bytes that are no UTF-8 are replaced."""
    return head_bytes(file).partition(b"\n")[0].decode("utf-8-sig", errors="replace").rstrip("\r")


def delimiter(header: str) -> str:
    """The sign that separates the fields of a header: a tab, a bar or a comma, whichever occurs most."""
    return max(",\t|", key=header.count)


def table_rows(text: str, separator: str, place: str) -> Iterator[tuple[str, list[str]]]:
    """(place, fields) of each row that is not empty, quotes resolved. Refused with the line where quotes do not close or a field is too long."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for fields in reader:
            if fields:
                yield f"{place}:{reader.line_num}", fields
    except csv.Error as error:
        raise Refused(refuse("not-csv", f"{place}:{reader.line_num}", str(error), "fields in closed quotes", "mend the line")) from None


def table_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as comma-separated text that `table_rows` reads back."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
