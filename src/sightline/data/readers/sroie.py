"""SROIE: scanned receipts with their lines of text and four key fields.

    img/NNN.jpg; box/NNN.csv: x1,y1,x2,y2,x3,y3,x4,y4,TRANSCRIPT; key/NNN.json: {"company", "date", "address", "total"}

A receipt is one sample without turns: its lines are annotations (label `text`, attributes `quad` and `text`), its key fields are attributes. Lines keep the order of the file, which is
not sorted by place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.entries import Entry
from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, read_json, refuse
from sightline.data.readers.icdar import text_lines
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Origin, Picture, Sample

FIELDS = ("company", "date", "address", "total")
_PICTURES, _LINES, _KEYS = "img", "box", "key"


class Sroie(Reader):
    """SROIE receipts: lines and key fields."""

    kind: Literal["sroie"] = "sroie"

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """The three folders."""
        if all((path / name).is_dir() for name in (_PICTURES, _LINES, _KEYS)):
            return 0.9, f"{_PICTURES}/, {_LINES}/ and {_KEYS}/ beside each other"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The files of lines and of key fields."""
        return frozenset(file for files in self._files(path) for file in files.values()) if self.recognise(path) else frozenset()

    def _files(self, path: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        lines = {PurePosixPath(name).stem: path / _LINES / name for name in files_below(path / _LINES, (".csv", ".txt"))}
        keys = {PurePosixPath(name).stem: path / _KEYS / name for name in files_below(path / _KEYS, (".json",))}
        return lines, keys

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per receipt; a picture, lines or key fields without the others are a problem."""
        if self.recognise(path) is None:
            layout = f"{_PICTURES}/, {_LINES}/ and {_KEYS}/"
            raise Refused(refuse("no-receipts", str(path), f"a folder without {layout}", f"a folder with {layout}", "correct the path"))
        lines, keys = self._files(path)
        pictures = {PurePosixPath(name).stem: path / _PICTURES / name for name in files_below(path / _PICTURES, PICTURE_SUFFIXES)}
        parts = {_PICTURES: pictures, _LINES: lines, _KEYS: keys}
        for stem in sorted({stem for files in parts.values() for stem in files}):
            missing = [f"{name}/" for name, files in parts.items() if stem not in files]
            if missing:
                yield refuse("missing-part", f"{path}:{stem}", f"nothing in {' and '.join(missing)}", "a picture, its lines and its key fields", "add it")
            else:
                data = {"lines": str(lines[stem]), "keys": str(keys[stem])}
                yield Row(id=stem, place=str(lines[stem]), number=stem, pictures=(str(pictures[stem]),), data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The receipt."""
        try:
            regions = text_lines(Path(row.data["lines"]), "text")
            fields = Entry(read_json(Path(row.data["keys"])), row.data["keys"])
            known = fields.known(*FIELDS)
        except Refused as refused:
            return list(refused.problems)
        return [Sample(id=row.id, pictures=pictures, annotations=regions, attributes=known, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write img/, box/ and key/ below PATH, under the names of the pictures."""
        losses, folder = Losses("sroie"), PictureFolder(path)
        for sample in samples:
            lines = [(region.attributes.get("quad"), region.attributes.get("text", "###")) for region in sample.annotations]
            if len(sample.pictures) != 1 or any(not quad or "\n" in str(text) or "\r" in str(text) for quad, text in lines):
                losses.refuse("no single picture, or a region that is no line with `quad` and `text`", sample)
                continue
            losses.of(sample, "turns", "origin")
            stem = PurePosixPath(folder.add(sample.pictures[0], _PICTURES)).stem
            written = (",".join([*(str(int(value)) if value == int(value) else repr(value) for value in quad), text]) + "\n" for quad, text in lines if quad)
            write_text(path / _LINES / f"{stem}.csv", "".join(written))
            fields = {key: sample.attributes[key] for key in FIELDS if key in sample.attributes}
            write_text(path / _KEYS / f"{stem}.json", json_text(fields))
        return losses.problems()
