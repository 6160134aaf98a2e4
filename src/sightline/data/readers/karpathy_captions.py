"""Captions in Karpathy's form: COCO's original split file, RSICD, UCM-Captions, Sydney-Captions.

    {"images": [{"filename", "filepath"?, "imgid", "split", "sentences": [{"raw", "tokens", "imgid", "sentid"}]}], "dataset"}

`tokens` are not read: in published files they are not always the words of `raw`. A file name such as airport_12.jpg carries the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.caption_reader import Captioned, CaptionReader, class_hint, split_attribute
from sightline.data.readers.files import HEAD, read_json, refuse
from sightline.errors import Problem, Refused

_RESTVAL = "restval"
"""COCO's validation pictures that Karpathy's split gives to training."""


class KarpathyCaptions(CaptionReader):
    """COCO Karpathy, RSICD, UCM-Captions, Sydney-Captions. `restval` counts as `train`."""

    kind: Literal["karpathy-captions"] = "karpathy-captions"
    wanted: ClassVar[str] = "a dataset*.json with images and sentences"
    file: ClassVar[str] = "dataset.json"

    def reason(self, file: Path) -> str | None:
        """A head with images, filename and sentences."""
        with file.open("rb") as stream:
            head = stream.read(HEAD)
        known = b'"images"' in head and b'"filename"' in head and (b'"sentences"' in head or b'"sentids"' in head)
        return "has images with filename and sentences" if known else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per entry of `images`."""
        value = read_json(file)
        images = value.get("images") if isinstance(value, dict) else None
        if not isinstance(images, list):
            raise Refused(
                refuse("wrong-shape", str(file), f"a JSON {type(value).__name__} without a list `images`", '{"images": [..]}', "name the caption file itself")
            )
        return (_captioned(image, number, f"{file}:row {number}") for number, image in enumerate(images))

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """Split, and the class that the file name carries."""
        return {**split_attribute(captioned), **class_hint(captioned.name)}

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file; sentences are numbered through."""
        images: list[dict[str, Any]] = []
        sentid = 0
        for number, one in enumerate(written):
            numbers = list(range(sentid, sentid := sentid + len(one.references)))
            sentences = [
                {"tokens": text.split(), "raw": text, "imgid": number, "sentid": sentid_} for text, sentid_ in zip(one.references, numbers, strict=True)
            ]
            images.append({"filename": one.name, "imgid": number, "sentids": numbers, "sentences": sentences, **split_attribute(one)})
        return {self.file: json_text({"images": images, "dataset": "captions"})}


def _captioned(image: Any, number: int, place: str) -> Captioned | Problem:
    sentences = image.get("sentences") if isinstance(image, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences):
        return refuse(
            "wrong-shape", place, "a row without a list `sentences` of objects with `raw`", '{"filename", "split", "sentences": [{"raw"}]}', "mend the row"
        )
    for key in ("filename", "filepath", "split"):
        if not isinstance(image.get(key), str) and (key == "filename" or image.get(key) is not None):
            return refuse("wrong-shape", place, f"{repr(image.get(key))[:60]} as `{key}`", "text", "mend the row")
    name = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]
    split = "train" if image.get("split") == _RESTVAL else image.get("split")
    attributes = {**({"split": split} if split else {}), **class_hint(name)}
    references = tuple(sentence["raw"] for sentence in sentences)
    return Captioned(name=name, references=references, place=place, number=str(image.get("imgid", number)), attributes=attributes)
