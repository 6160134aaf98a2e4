"""COCO captions of Karpathy's split as flat rows.

    [{"image": "val2014/COCO_val2014_000000522418.jpg", "caption": "A woman .." | ["..", ..], "image_id"?: "coco_522418"}]

Training files have one row per caption, the others one per picture; rows of one picture become one sample. The split is the end of the file's name (coco_karpathy_train.json).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import first_record, json_text
from sightline.data.readers.caption_reader import Captioned, CaptionReader, joined_by_picture, split_attribute
from sightline.data.readers.files import read_json_rows, refuse
from sightline.data.readers.reader import SPLITS
from sightline.errors import Problem


class CocoKarpathyFlat(CaptionReader):
    """Flat caption files: COCO, Flickr30k, NoCaps as BLIP's line of systems publishes them."""

    kind: Literal["coco-karpathy-flat"] = "coco-karpathy-flat"
    wanted: ClassVar[str] = 'a JSON array of {"image", "caption"}'
    file: ClassVar[str] = "captions.json"

    def reason(self, file: Path) -> str | None:
        """A first row with image and caption."""
        row = first_record(file)
        known = isinstance(row.get("image"), str) and isinstance(row.get("caption"), str | list)
        return "has rows of image and caption" if known else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per picture, in the order of first appearance."""
        split = split_in_name(file)
        return joined_by_picture(_captioned(row, number, place, split) for number, (place, row) in enumerate(read_json_rows(file)))

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """A split that can stand in the name of a file."""
        return {key: value for key, value in split_attribute(captioned).items() if SPLITS.get(value) == value}

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file per split."""
        files: dict[str, list[dict[str, Any]]] = {} if written else {self.file: []}
        for one in written:
            split = self.again(one).get("split")
            files.setdefault(f"captions_{split}.json" if split else self.file, []).append({"image": one.name, "caption": list(one.references)})
        return {name: json_text(rows) for name, rows in files.items()}


def split_in_name(file: Path) -> dict[str, str]:
    """`split` from the words of a file's name; empty when none of them is one."""
    words = re.findall(r"[a-z]+", file.stem.lower())
    split = next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)
    return {"split": split} if split else {}


def _captioned(row: Any, number: int, place: str, split: dict[str, str]) -> Captioned | Problem:
    caption = row.get("caption") if isinstance(row, dict) else None
    captions = [caption] if isinstance(caption, str) else caption
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions) or not isinstance(row.get("image"), str):
        return refuse("wrong-shape", place, f"{repr(row)[:80]}", '{"image": "path", "caption": ".." or ["..", ..]}', "mend the row")
    return Captioned(name=row["image"], references=tuple(captions), place=place, number=str(row.get("image_id", number)), attributes=split)
