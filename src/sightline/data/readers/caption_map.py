"""Captions as a plain JSON map from picture to captions.

{"00001.jpg": {"split"?: "train", "captions": ["a pond .", ..]}, ..}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.caption_reader import Captioned, CaptionReader, class_hint, split_attribute
from sightline.data.readers.files import HEAD, read_json, refuse
from sightline.errors import Problem, Refused


class CaptionMap(CaptionReader):
    """A JSON map of file names to objects with `captions`."""

    kind: Literal["caption-map"] = "caption-map"
    wanted: ClassVar[str] = '{"FILE": {"captions": [..]}}'
    file: ClassVar[str] = "captions.json"

    def reason(self, file: Path) -> str | None:
        """A head that opens a map whose first value is an object with captions."""
        with file.open("rb") as stream:
            head = b"".join(stream.read(HEAD).split())
        name, colon, rest = head.removeprefix(b"\xef\xbb\xbf").removeprefix(b'{"').partition(b'":{')
        known = head.removeprefix(b"\xef\xbb\xbf").startswith(b'{"') and colon and b'"' not in name and b"." in name
        return "maps file names to captions" if known and b'"captions":[' in rest.partition(b"}")[0] else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per key."""
        value = read_json(file)
        if not isinstance(value, dict):
            raise Refused(refuse("wrong-shape", str(file), f"a JSON {type(value).__name__}", self.wanted, "name the caption file itself"))
        return (_captioned(name, one, f"{file}:{name[:60]}") for name, one in value.items())

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """Split, and the class that the file name carries."""
        return {**split_attribute(captioned), **class_hint(captioned.name)}

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file."""
        kept = {one.name: {**split_attribute(one), "captions": list(one.references)} for one in written}
        return {self.file: json_text(kept)}


def _captioned(name: str, value: Any, place: str) -> Captioned | Problem:
    captions = value.get("captions") if isinstance(value, dict) else None
    split = value.get("split", "") if isinstance(value, dict) else ""
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions) or not isinstance(split, str):
        return refuse("wrong-shape", place, f"{repr(value)[:80]}", '{"split"?: "train", "captions": ["..", ..]}', "mend the row")
    attributes = {**({"split": split} if split else {}), **class_hint(name)}
    return Captioned(name=name, references=tuple(captions), place=place, number=name, attributes=attributes)
