"""Captions as a table with a header, comma- or tab-separated: RSICD and RSITMD for retrieval, RS5M's samples, exports of spreadsheets.

    filename,title
    airport_1.jpg,many planes are parked next to a long building

One row per caption; rows of one picture become one sample. The text is UTF-8; a file that is none is read as GB 18030, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.caption_reader import Captioned, CaptionReader, class_hint, joined_by_picture, split_attribute
from sightline.data.readers.files import refuse
from sightline.data.readers.text_tables import delimiter, first_line, read_table_text, table_rows, table_text
from sightline.errors import Problem, Refused
from sightline.samples.sample import Sample

_PICTURE = ("filename", "file_name", "image_name", "image", "img", "filepath", "image_path", "path", "name")
_CAPTION = ("title", "caption", "captions", "text", "comment", "sentence", "description")
_SPLIT = "split"


class CaptionCsv(CaptionReader):
    """A table of pictures and captions with a header."""

    kind: Literal["caption-csv"] = "caption-csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    wanted: ClassVar[str] = f"a header with one of {', '.join(_PICTURE)}, and one of {', '.join(_CAPTION)}"
    file: ClassVar[str] = "captions.csv"

    def reason(self, file: Path) -> str | None:
        """A header that names pictures and captions."""
        line = first_line(file)
        found = _columns(line.split(delimiter(line)))
        return f"has columns {found[0]} and {found[1]}" if found else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per picture, in the order of first appearance."""
        text, losses = read_table_text(file)
        header = text.partition("\n")[0]
        rows = table_rows(text, delimiter(header), str(file))
        _, titles = next(rows, ("", []))
        titles = [title.strip().lower() for title in titles]
        columns = _columns(titles)
        if columns is None:
            raise Refused(refuse("wrong-shape", str(file), f"a header {header[:80]!r}", self.wanted, "name the columns in the first line"))
        return joined_by_picture(_rows(rows, titles, columns, losses))

    def unwritable(self, sample: Sample, references: Sequence[str]) -> str:
        """A picture stands in the table with its captions only."""
        return "" if references else "no captions"

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """Split, and the class that the file name carries."""
        return {**split_attribute(captioned), **class_hint(captioned.name)}

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file, a row per caption."""
        rows = [(one.name, text, split_attribute(one).get("split", "")) for one in written for text in one.references]
        return {self.file: table_text([("filename", "title", _SPLIT), *rows])}


def _columns(header: Sequence[str]) -> tuple[str, str] | None:
    titles = [title.strip().strip('"').lower() for title in header]
    picture = next((title for title in _PICTURE if title in titles), None)
    caption = next((title for title in _CAPTION if title in titles), None)
    return (picture, caption) if picture and caption else None


def _rows(rows: Iterator[tuple[str, list[str]]], titles: list[str], columns: tuple[str, str], losses: tuple[Problem, ...]) -> Iterator[Captioned | Problem]:
    picture, caption = (titles.index(name) for name in columns)
    split = titles.index(_SPLIT) if _SPLIT in titles else None
    for number, (place, fields) in enumerate(rows):
        if len(fields) != len(titles):
            yield refuse("wrong-shape", place, f"{len(fields)} fields", f"{len(titles)} as in the header", "quote fields that hold the separator")
            continue
        attributes = {**({"split": fields[split]} if split is not None and fields[split] else {}), **class_hint(fields[picture])}
        yield Captioned(
            name=fields[picture], references=(fields[caption],), place=place, number=str(number), attributes=attributes, losses=losses if number == 0 else ()
        )
