"""TextCaps: captions that read the text in a picture.

    {"data": [{"image_id": "1a2b", "image_name"?, "caption_str": "a sign says stop", "set_name": "train", ..}]}

One row per caption; rows of one picture become one sample. The picture is IMAGE_ID.jpg. Test files have pictures without captions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.caption_reader import Captioned, CaptionReader, joined_by_picture, split_attribute
from sightline.data.readers.files import HEAD, read_json, refuse
from sightline.data.readers.reader import SPLITS
from sightline.errors import Problem, Refused
from sightline.samples.sample import Sample

_SUFFIX = ".jpg"


class Textcaps(CaptionReader):
    """TextCaps 0.1."""

    kind: Literal["textcaps"] = "textcaps"
    wanted: ClassVar[str] = '{"data": [{"image_id", "caption_str"}]}'
    usual: ClassVar[tuple[str, ...]] = ("train_images", "test_images", "images", "imgs")
    file: ClassVar[str] = "TextCaps.json"

    def reason(self, file: Path) -> str | None:
        """A head with rows of caption_str."""
        with file.open("rb") as stream:
            head = stream.read(HEAD)
        return "has rows of image_id and caption_str" if b'"caption_str"' in head and b'"image_id"' in head else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per picture, in the order of first appearance."""
        value = read_json(file)
        rows = value.get("data") if isinstance(value, dict) else None
        if not isinstance(rows, list):
            raise Refused(refuse("wrong-shape", str(file), f"a JSON {type(value).__name__} without a list `data`", self.wanted, "name another file"))
        return joined_by_picture(_captioned(row, number, f"{file}:row {number}", self.wanted) for number, row in enumerate(rows))

    def unwritable(self, sample: Sample, references: Sequence[str]) -> str:
        """Pictures are named IMAGE_ID.jpg."""
        name = sample.pictures[0].name
        return "" if name.endswith(_SUFFIX) and name != _SUFFIX else f"a picture whose name does not end in {_SUFFIX}"

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """A split that the format knows."""
        return {key: value for key, value in split_attribute(captioned).items() if SPLITS.get(value) == value}

    def placed(self, sample: Sample) -> str:
        """All pictures lie in one folder."""
        return "."

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """One file, a row per caption."""
        rows: list[dict[str, Any]] = []
        for one in written:
            known = {"image_id": PurePosixPath(one.name).stem, **({"set_name": split} if (split := self.again(one).get("split")) else {})}
            rows += [{**known, "caption_str": text} for text in one.references] or [known]
        return {self.file: json_text({"dataset_type": "captions", "data": rows})}


def _captioned(row: Any, number: int, place: str, wanted: str) -> Captioned | Problem:
    caption = row.get("caption_str") if isinstance(row, dict) else row
    if not isinstance(row, dict) or not isinstance(row.get("image_id"), str) or not isinstance(caption, str | None):
        return refuse("wrong-shape", place, str(row)[:80], wanted, "mend the row")
    said = row.get("set_name")
    split = SPLITS.get(said) if isinstance(said, str) else None
    references = () if caption is None else (caption,)
    attributes = {"split": split} if split else {}
    return Captioned(name=row["image_id"] + _SUFFIX, references=references, place=place, number=row["image_id"], attributes=attributes)
