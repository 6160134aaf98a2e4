"""Lists of captions and addresses: CC3M, CC12M, SBU.

a very typical bus station<TAB>http://..            CC3M; CC12M has the address first
sbu-captions-all.json                               {"image_urls": [..], "captions": [..], "user_ids"?: [..]}
SBU_.._urls.txt, SBU_.._captions.txt                two lists of equal length
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.caption_reader import Captioned
from sightline.data.readers.coco_karpathy_flat import split_in_name
from sightline.data.readers.files import HEAD, read_json, read_text, refuse
from sightline.data.readers.linked_captions import LinkedCaptions
from sightline.data.readers.text_tables import first_line
from sightline.errors import Problem, Refused

_WEB = ("http://", "https://")
_URLS, _CAPTIONS = "_urls.txt", "_captions.txt"


class CaptionList(LinkedCaptions):
    """CC3M, CC12M and SBU. Only read: the address of a picture cannot be had from the picture."""

    kind: Literal["caption-list"] = "caption-list"
    suffixes: ClassVar[tuple[str, ...]] = (".tsv", ".txt", ".json")
    wanted: ClassVar[str] = "lines of a caption, a tab and an address; or image_urls and captions"

    def reason(self, file: Path) -> str | None:
        """A first line with a tab and an address, the first of two lists, or the two keys."""
        if file.suffix.lower() == ".json":
            with file.open("rb") as stream:
                return "lists image_urls" if b'"image_urls"' in stream.read(HEAD) else None
        if file.name.endswith(_URLS):
            return f"stands beside {_partner(file).name}" if _partner(file).is_file() and _is_url(first_line(file)) else None
        return "has lines of a caption and an address" if _pair(first_line(file)) else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The files, and the captions of those that list addresses alone."""
        found = self.files(path)
        return frozenset([*found, *(_partner(file) for file in found if file.name.endswith(_URLS))])

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per line."""
        split = split_in_name(file)
        for number, (place, pair) in enumerate(_pairs(file, self.wanted)):
            if pair is None:
                yield refuse("wrong-shape", place, "a row without a caption and an address", self.wanted, "mend the row")
            else:
                yield self.linked(pair[1], (pair[0],), number, place, split)


def _is_url(text: str) -> bool:
    return text.startswith(_WEB)


def _partner(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(_URLS) + _CAPTIONS)


def _pair(line: str) -> tuple[str, str] | None:
    """(caption, address) of a line, whichever stands first."""
    left, tab, right = line.rstrip("\r").partition("\t")
    if not tab or _is_url(left) == _is_url(right):
        return None
    return (right, left) if _is_url(left) else (left, right)


def _pairs(file: Path, wanted: str) -> Iterator[tuple[str, tuple[str, str] | None]]:
    """(place, caption and address) of each row. Refused when two lists have different lengths."""
    if file.suffix.lower() == ".json":
        value = read_json(file)
        urls, captions = (value.get("image_urls"), value.get("captions")) if isinstance(value, dict) else (None, None)
        places = f"{file}:row"
    elif file.name.endswith(_URLS):
        urls, captions = read_text(file).splitlines(), read_text(_partner(file)).splitlines()
        places = f"{file}:line"
    else:
        lines = read_text(file).split("\n")
        yield from ((f"{file}:{number}", _pair(line)) for number, line in enumerate(lines, 1) if line.strip())
        return
    if not isinstance(urls, list) or not isinstance(captions, list) or len(urls) != len(captions):
        counts = " and ".join(str(len(one)) if isinstance(one, list) else "no list" for one in (urls, captions))
        raise Refused(
            refuse("wrong-shape", str(file), f"{counts} addresses and captions", f"{wanted}, as many of one as of the other", "fetch the lists again")
        )
    for number, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        yield f"{places} {number}", _texts(caption, url)


def _texts(caption: Any, url: Any) -> tuple[str, str] | None:
    return (caption, url) if isinstance(caption, str) and isinstance(url, str) else None
