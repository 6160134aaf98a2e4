"""Flickr8k, Flickr30k and Flickr8k-CN: captions in English and in Chinese, and lists of the pictures of each split.

    captions.txt             image,caption                       comma-separated, with a header
    *.token.txt              FILE.jpg#0<tab>A child ..           the older form
    *zhc*.txt                FILE.jpg#zhc#0 caption              Chinese
    *train*.txt, *val*.txt   one file name a line, with or without .jpg

A picture becomes one sample per language: `FILE.jpg` with `language` en, `FILE.jpg#zh` with `language` zh. A picture that stands in no list has no split; a list may be empty.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.caption_reader import Captioned, CaptionReader, joined_by_picture, split_attribute
from sightline.data.readers.files import read_text, refuse
from sightline.data.readers.reader import SPLITS
from sightline.data.readers.text_tables import first_line, table_rows, table_text
from sightline.errors import Problem
from sightline.samples.sample import Sample

_NUMBERED = re.compile(r"([^\s#]+)#(?:(\w+)#)?(\d+)\s+(.*)")
_LIST = re.compile(r"flickr.*?[_.]?(train|val|dev|test)\w*\.txt", re.IGNORECASE)
_LANGUAGES = {"": "en", "enc": "en", "zhc": "zh", "zhb": "zh", "zhm": "zh"}
"""Language of the mark between the two #."""
_HEADER = "image,caption"
_CHINESE = "flickrzhc.caption.txt"
_WRITTEN = ("train", "val", "test")


class FlickrCaptions(CaptionReader):
    """Flickr8k, Flickr30k, Flickr8k-CN."""

    kind: Literal["flickr-captions"] = "flickr-captions"
    suffixes: ClassVar[tuple[str, ...]] = (".txt",)
    wanted: ClassVar[str] = f"captions.txt with the header {_HEADER}, or lines FILE.jpg#0 caption"
    usual: ClassVar[tuple[str, ...]] = ("Images", "images", "Flicker8k_Dataset", "flickr30k-images", "flickr30k_images")
    file: ClassVar[str] = "captions.txt"
    folder: ClassVar[str] = "Images"

    def reason(self, file: Path) -> str | None:
        """A first line that is the header, or a numbered caption."""
        line = first_line(file)
        if line == _HEADER:
            return f"has the header {_HEADER}"
        match = _NUMBERED.match(line)
        return "has lines FILE#NUMBER caption" if match and (match[2] or "") in _LANGUAGES else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """Captions and lists of splits."""
        found = self.files(path)
        return frozenset([*found, *(file for folder in {one.parent for one in found} for file in _lists(folder))])

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per picture of the language of this file, then a problem per listed picture that has no captions in it."""
        problems: list[Problem] = []
        splits = _splits(file.parent, problems)
        rows = _table(file, splits) if first_line(file) == _HEADER else _numbered(file, splits)
        for one in joined_by_picture(rows):
            if isinstance(one, Captioned):
                splits.pop(_stem(one.name), None)
            yield one
        for name, split in splits.items():
            found = f"{name!r} stands in the list of {split}"
            problems.append(refuse("missing-captions", str(file), found, "captions for every picture of the lists", "mend the list, or add the captions"))
        yield from problems

    def unwritable(self, sample: Sample, references: Sequence[str]) -> str:
        """Lines hold no breaks, and only the two languages have a file."""
        if not references:
            return "no captions"
        if sample.attributes.get("language", "en") not in ("en", "zh"):
            return "a language other than en and zh"
        name = sample.pictures[0].name
        if sample.attributes.get("language") == "zh" and any(text.strip() != text or len(text.splitlines()) > 1 for text in references):
            return "blanks at the ends of a Chinese caption, or breaks in it"
        return "a picture's name with blanks or #" if re.search(r"[\s#]", name) else ""

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """Split and language."""
        split = {key: value for key, value in split_attribute(captioned).items() if value in _WRITTEN}
        return {**split, "language": captioned.attributes.get("language", "en")}

    def identity(self, captioned: Captioned) -> str:
        """The name of the picture, with the language where it is not English."""
        return _identity(captioned.name, self.again(captioned)["language"])

    def placed(self, sample: Sample) -> str:
        """All pictures lie in one folder."""
        return "."

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """Captions of both languages, and the lists."""
        known = [(one, self.again(one)) for one in written]
        rows = [(one.name, text) for one, attributes in known if attributes["language"] == "en" for text in one.references]
        lines = [f"{one.name}#zhc#{k} {text}\n" for one, attributes in known if attributes["language"] == "zh" for k, text in enumerate(one.references)]
        files = {self.file: table_text([_HEADER.split(","), *rows]), **({_CHINESE: "".join(lines)} if lines else {})}
        for split in _WRITTEN:
            names = dict.fromkeys(one.name for one, attributes in known if attributes.get("split") == split)
            files[f"flickr{split}.txt"] = "".join(f"{Path(name).stem}\n" for name in names)
        return files


def _identity(name: str, language: str) -> str:
    return name if language == "en" else f"{name}#{language}"


def _lists(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if _LIST.fullmatch(file.name) and file.is_file() and "#" not in first_line(file))


def _splits(folder: Path, problems: list[Problem]) -> dict[str, str]:
    """Split of each listed picture, by its name without suffix; a picture in two lists is a problem."""
    splits: dict[str, str] = {}
    for file in _lists(folder):
        match = _LIST.fullmatch(file.name)
        assert match
        split = SPLITS.get(match[1].lower(), "val")
        for number, line in enumerate(read_text(file).splitlines(), 1):
            name = line.strip().removesuffix(".jpg")
            if name and splits.setdefault(name, split) != split:
                found = f"{name!r}, which is in the list of {splits[name]} too"
                problems.append(refuse("split-conflict", f"{file}:{number}", found, "each picture in one list", "mend the lists"))
    return splits


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _row(name: str, language: str, caption: str, place: str, splits: Mapping[str, str]) -> Captioned:
    split = splits.get(_stem(name))
    attributes = {**({"split": split} if split else {}), "language": language}
    return Captioned(name=name, references=(caption,), place=place, number=name, id=_identity(name, language), attributes=attributes)


def _table(file: Path, splits: Mapping[str, str]) -> Iterable[Captioned | Problem]:
    rows = table_rows(read_text(file), ",", str(file))
    next(rows)
    for place, fields in rows:
        if len(fields) == 2:
            yield _row(fields[0], "en", fields[1], place, splits)
        else:
            yield refuse("wrong-shape", place, f"{len(fields)} fields", "image,caption with quotes around a caption that holds commas", "mend the line")


def _numbered(file: Path, splits: Mapping[str, str]) -> Iterable[Captioned | Problem]:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        match = _NUMBERED.fullmatch(line.rstrip("\r"))
        if match and (match[2] or "") in _LANGUAGES:
            yield _row(match[1], _LANGUAGES[match[2] or ""], match[4], f"{file}:{number}", splits)
        elif line.strip():
            yield refuse("wrong-shape", f"{file}:{number}", f"{line[:80]!r}", "FILE.jpg#NUMBER caption", "mend the line")
