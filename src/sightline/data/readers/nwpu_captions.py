"""NWPU-Captions: classes, each with its pictures and five captions a picture.

    {"bridge": [{"filename": "bridge_001.jpg", "split": "test", "imgid", "raw": "c0", "raw_1": "c1", .. "raw_4": "c4"}]}

Every key that starts with `raw` is a caption, in the order of its number. A picture lies in the folder of its class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.caption_reader import USUAL, Captioned, CaptionReader, split_attribute
from sightline.data.readers.files import HEAD, read_json, refuse
from sightline.errors import Problem, Refused
from sightline.samples.sample import Sample

_RAW = re.compile(r"raw(?:_(\d{1,6}))?")
_HEAD = re.compile(rb'\s*\{\s*"[^"]+"\s*:\s*\[\s*\{[^{}]*?"raw(?:_\d+)?"\s*:')


class NwpuCaptions(CaptionReader):
    """NWPU-Captions and whatever has its `dataset_nwpu.json`."""

    kind: Literal["nwpu-captions"] = "nwpu-captions"
    wanted: ClassVar[str] = '{"CLASS": [{"filename", "split", "raw", "raw_1", ..}]}'
    usual: ClassVar[tuple[str, ...]] = (*USUAL, "NWPU-RESISC45", "NWPU_images")
    file: ClassVar[str] = "dataset_nwpu.json"

    def reason(self, file: Path) -> str | None:
        """A head that opens a map of lists whose rows have `raw`."""
        with file.open("rb") as stream:
            head = stream.read(HEAD).removeprefix(b"\xef\xbb\xbf")
        return "maps classes to rows with raw captions" if _HEAD.match(head) else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per row, class by class."""
        value = read_json(file)
        broken = [name for name, rows in value.items() if not isinstance(rows, list)] if isinstance(value, dict) else [type(value).__name__]
        if broken:
            raise Refused(refuse("wrong-shape", str(file), f"{broken[0][:60]} is no list of rows", self.wanted, "name the caption file itself"))
        return (_captioned(name, row, number, f"{file}:{name} row {number}") for name, rows in value.items() for number, row in enumerate(rows))

    def unwritable(self, sample: Sample, references: Sequence[str]) -> str:
        """A picture needs a class that can name its folder."""
        named = sample.attributes.get("class")
        usable = isinstance(named, str) and PurePosixPath(named).name == named and named not in ("", ".", "..") and "\0" not in named
        if not usable:
            return "no class that can name a folder"
        return "" if references else "no captions"

    def placed(self, sample: Sample) -> str:
        """The folder of its class."""
        return sample.attributes["class"]

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """Split and class."""
        return {**split_attribute(captioned), "class": captioned.attributes["class"]}

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file."""
        classes: dict[str, list[dict[str, Any]]] = {}
        for number, one in enumerate(written):
            captions = {"raw" if k == 0 else f"raw_{k}": text for k, text in enumerate(one.references)}
            row = {"filename": PurePosixPath(one.name).name, **split_attribute(one), "imgid": number, **captions}
            classes.setdefault(one.attributes["class"], []).append(row)
        return {self.file: json_text(classes)}


def _captioned(name: str, row: Any, number: int, place: str) -> Captioned | Problem:
    raws = sorted((int(match[1] or 0), key) for key in row if (match := _RAW.fullmatch(key))) if isinstance(row, dict) else []
    if not raws or not isinstance(row.get("filename"), str) or not all(isinstance(row[key], str) for _, key in raws):
        return refuse("wrong-shape", place, f"{repr(row)[:80]}", '{"filename", "split", "raw": "..", "raw_1": "..", ..}', "mend the row")
    split = row.get("split", "")
    if not isinstance(split, str):
        return refuse("wrong-shape", place, f"{repr(split)[:60]} as `split`", "text", "mend the row")
    attributes = {**({"split": split} if split else {}), "class": name}
    picture = f"{name}/{row['filename']}"
    references = tuple(row[key] for _, key in raws)
    return Captioned(name=picture, references=references, place=place, number=str(row.get("imgid", number)), attributes=attributes)
