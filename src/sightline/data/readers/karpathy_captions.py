"""Captions in Karpathy's form: COCO's original split file, RSICD, UCM-Captions, Sydney-Captions.

    {"images": [{"filename", "filepath"?, "imgid", "split", "sentences": [{"raw", "tokens", "imgid", "sentid"}]}], "dataset"}

A row becomes one sample: a user turn that shows the picture and says nothing, and an assistant turn with the first caption and the other distinct ones as alternatives.
All captions as published, repeats included, stay in `references`: published scores count them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sightline.data.readers.files import HEAD, json_files, picture_folder, read_json, refuse, within
from sightline.data.readers.reader import Reader, Row
from sightline.errors import Problem, Refused
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

_USUAL = ("images", "imgs")
_CLASS = re.compile(r"([A-Za-z]+)_\d+\.\w+")
_RESTVAL = "restval"
"""COCO's validation pictures that Karpathy's split gives to training."""


class KarpathyCaptions(Reader):
    """COCO Karpathy, RSICD, UCM-Captions, Sydney-Captions."""

    kind: Literal["karpathy-captions"] = "karpathy-captions"
    split: list[str] | None = None
    """Splits to read, all when absent; `restval` counts as `train`."""
    pictures: str | None = None
    """Folder of the pictures, relative to the file; found beside it when absent (images, imgs, *_images)."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A JSON file whose head has images, filename and sentences."""
        for file in json_files(path):
            with file.open("rb") as stream:
                head = stream.read(HEAD)
            if b'"images"' in head and b'"filename"' in head and (b'"sentences"' in head or b'"sentids"' in head):
                return 0.9, f"{file.name} has images with filename and sentences"
        return None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture of the wanted splits, over all caption files at `path`."""
        files = [path] if path.is_file() else [file for file in json_files(path) if self.recognise(file)]
        if not files:
            raise Refused(
                refuse("no-captions", str(path), "no caption file", "a dataset*.json with images and sentences", "correct the path, or name the file")
            )
        for file in files:
            yield from self._rows(file)

    def _rows(self, file: Path) -> Iterator[Row | Problem]:
        value = read_json(file)
        listed = value.get("images") if isinstance(value, dict) else None
        if not isinstance(listed, list):
            raise Refused(
                refuse("wrong-shape", str(file), f"a JSON {type(value).__name__} without a list `images`", '{"images": [..]}', "name the caption file itself")
            )
        names = (_name(image) for image in listed if isinstance(image, dict) and isinstance(image.get("filename"), str))
        root = picture_folder(file.parent, self.pictures, names, _USUAL)
        for number, image in enumerate(listed):
            place = f"{file}:row {number}"
            row = _row(image, number, place, root)
            if isinstance(row, Problem) or self.split is None or row.data["split"] in self.split:
                yield row

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and its captions."""
        references: list[str] = row.data["references"]
        distinct = list(dict.fromkeys(text.strip() for text in references))
        attributes: dict[str, Any] = {"split": row.data["split"], "references": references}
        if hint := _CLASS.fullmatch(Path(row.id).name):
            attributes["class"] = hint[1]
        turns: tuple[Turn, ...] = ()
        if distinct:
            answer = Turn(role="assistant", items=(Text(text=distinct[0]),), alternatives=tuple((Text(text=text),) for text in distinct[1:]))
            turns = (Turn(role="user", items=(Show(picture=0),)), answer)
        return [Sample(id=row.id, pictures=pictures, turns=turns, attributes=attributes, origin=origin)]


def _name(image: dict[str, Any]) -> str:
    return f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]


def _row(image: Any, number: int, place: str, root: Path) -> Row | Problem:
    sentences = image.get("sentences") if isinstance(image, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences):
        return refuse(
            "wrong-shape", place, "a row without a list `sentences` of objects with `raw`", '{"filename", "split", "sentences": [{"raw"}]}', "mend the row"
        )
    if any(not sentence["raw"].strip() for sentence in sentences):
        return refuse("empty-caption", place, "a caption without text", "captions with text", "remove the caption")
    for key in ("filename", "filepath", "split"):
        if not isinstance(image.get(key), str) and (key == "filename" or image.get(key) is not None):
            return refuse("wrong-shape", place, f"{repr(image.get(key))[:60]} as `{key}`", "text", "mend the row")
    name = _name(image)
    picture = within(root, name, place)
    if isinstance(picture, Problem):
        return picture
    split = image.get("split") or "train"
    data = {"split": "train" if split == _RESTVAL else split, "references": [sentence["raw"] for sentence in sentences]}
    return Row(id=name, place=place, number=str(image.get("imgid", number)), pictures=(str(picture),), data=data)
