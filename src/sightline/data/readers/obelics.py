"""OBELICS: web pages as Parquet rows, two lists of equal length in which each place holds a picture's URL or a text.

    images list<url | null>, texts list<text | null>, metadata, general_metadata (JSON texts)

`urls` in the attributes are the pictures' addresses, null where a picture was named by a path; `general_metadata` is kept as it is.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from sightline.data.readers.documents import FOLDER, document, items_of, local_picture
from sightline.data.readers.files import refuse
from sightline.data.readers.parquet_rows import Rows, parquet_files, record, rows_of, schema
from sightline.data.readers.reader import Reader, Row, shaped
from sightline.data.readers.writing import Losses, PictureFolder, shown
from sightline.errors import Problem, Refused
from sightline.samples.pictures import read_picture
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text

FILE = "obelics.parquet"
_KEPT = ("general_metadata",)
_COLUMNS = ("id", "images", "texts", *_KEPT)
_LIST = pa.list_(pa.string())
_SCHEMA = pa.schema([("id", pa.string()), ("images", _LIST), ("texts", _LIST), ("general_metadata", pa.string())])


class Obelics(Reader):
    """OBELICS and other Parquet files of its two lists."""

    kind: Literal["obelics"] = "obelics"
    pictures: str = FOLDER
    """Folder of the pictures, relative to each file: named by the sha256 of their URLs, or by paths in place of URLs."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """Parquet files whose `images` and `texts` are both lists of text."""
        file = next(iter(_files(path)), None)
        return (0.95, f"{file.name} has columns images and texts, both lists of text") if file else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The Parquet files."""
        return frozenset(_files(path))

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per document; nothing but footers is read."""
        files = [path] if path.is_file() else list(_files(path))
        if not files:
            raise Refused(refuse("no-tables", str(path), "no Parquet file of documents", "columns images and texts, both lists of text", "correct the path"))
        yield from rows_of(path, files)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The document."""
        file = Path(row.data["file"])
        try:
            value = record(row, _COLUMNS)
        except Refused as refused:
            return list(refused.problems)
        entries = interleaved(value.get("images"), value.get("texts"), row.place)
        if isinstance(entries, Problem):
            return [entries]
        held: list[Picture] = []
        items: list[Item] = []
        problems: list[Problem] = []
        for is_picture, entry in entries:
            if not is_picture:
                items.append(Text(text=entry))
                continue
            found = local_picture(file.parent / self.pictures, entry, row.place)
            if isinstance(found, Problem):
                problems.append(found)
                continue
            items.append(Show(picture=len(held)))
            try:
                held.append(shaped(read_picture(found, row.place), row.place))
            except Refused as refused:
                problems += refused.problems
        if problems:
            return list(problems)
        attributes: dict[str, Any] = {name: value[name] for name in _KEPT if isinstance(value.get(name), str)}
        urls = [entry if "://" in entry[:12] else None for is_picture, entry in entries if is_picture]
        if any(urls):
            attributes["urls"] = urls
        identity = value["id"] if isinstance(value.get("id"), str) else row.id
        return [Sample(id=identity, pictures=tuple(held), turns=document(items), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/obelics.parquet with a further column `id`, and the pictures below images/, which are named by paths. Only documents can be held."""
        losses = Losses("obelics")
        target = path if path.suffix == ".parquet" else path / FILE
        folder = PictureFolder(target.parent)
        with Rows(target, _SCHEMA) as rows:
            for sample in samples:
                items, what = items_of(sample)
                if not what and shown(sample.turns) != list(range(len(sample.pictures))):
                    what = "pictures in another order than they are shown"
                if what or not items:
                    losses.refuse(what or "an empty document", sample)
                    continue
                losses.of(sample, "annotations", "alternatives", "weights", "origin")
                kept = {name: sample.attributes[name] for name in _KEPT if isinstance(sample.attributes.get(name), str)}
                if set(sample.attributes) - set(kept):
                    losses.warn("attributes", sample)
                images = [_name(folder, sample.pictures[item.picture], self.pictures) if isinstance(item, Show) else None for item in items]
                rows.add({"id": sample.id, "images": images, "texts": [item.text if isinstance(item, Text) else None for item in items], **kept})
        return losses.problems()


def interleaved(images: Any, texts: Any, place: str) -> list[tuple[bool, str]] | Problem:
    """(is a picture, its URL or the text) of each place; a Problem unless exactly one of the two lists holds something at each."""
    if not isinstance(images, list) or not isinstance(texts, list) or len(images) != len(texts) or not images:
        sizes = " and ".join(str(len(listed)) if isinstance(listed, list) else repr(listed)[:40] for listed in (images, texts))
        return refuse("wrong-shape", place, f"images and texts of lengths {sizes}", "two lists of equal length, not empty", "mend the row")
    both = [k for k, (image, text) in enumerate(zip(images, texts, strict=True)) if (image is None) == (text is None)]
    if both:
        found = f"both or neither at {', '.join(map(str, both[:8]))}"
        return refuse("wrong-shape", place, found, "a picture or a text at each place, and null in the other list", "mend the row")
    return [(text is None, str(text if image is None else image)) for image, text in zip(images, texts, strict=True)]


def _name(folder: PictureFolder, picture: Picture, pictures: str) -> str:
    return posixpath.relpath(folder.add(picture, pictures), pictures)


def _files(path: Path) -> Iterator[Path]:
    for file in parquet_files(path):
        columns = schema(file)
        if columns is not None and {"images", "texts"} <= set(columns.names) and all(_is_texts(columns.field(name).type) for name in ("images", "texts")):
            yield file


def _is_texts(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))
