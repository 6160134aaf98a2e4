"""PixMo captions: long descriptions written from what people said about a picture.

    {"image_url": "https://..", "caption": "..", "transcripts": ["..", ..]}          Parquet, JSON or JSON lines

What was said stays in `transcripts`; the caption is a model's summary of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import first_record, read_records
from sightline.data.readers.caption_reader import Captioned
from sightline.data.readers.files import refuse
from sightline.data.readers.linked_captions import LinkedCaptions
from sightline.data.readers.reader import Row
from sightline.errors import Problem
from sightline.samples.sample import Origin

_COLUMNS = {"image_url", "caption", "transcripts"}


class PixmoCaptions(LinkedCaptions):
    """PixMo-Cap. Only read: the address of a picture cannot be had from the picture."""

    kind: Literal["pixmo-captions"] = "pixmo-captions"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".json", ".jsonl")
    wanted: ClassVar[str] = '{"image_url", "caption", "transcripts": [..]}'

    def reason(self, file: Path) -> str | None:
        """The three columns."""
        return "has image_url, caption and transcripts" if first_record(file).keys() >= _COLUMNS else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per row."""
        for number, (place, row) in enumerate(read_records(file)):
            transcripts = row.get("transcripts") if isinstance(row, dict) else None
            if not isinstance(transcripts, list | None) or not all(isinstance(text, str) for text in [*_texts(row), *(transcripts or [])]):
                yield refuse("wrong-shape", place, str(row)[:80], self.wanted, "mend the row")
            else:
                yield self.linked(row["image_url"], (row["caption"],), number, place, {"transcripts": transcripts or []})

    def origin(self, row: Row, path: Path) -> Origin:
        """The caption is a model's."""
        return replace(super().origin(row, path), maker="model:pixmo")


def _texts(row: Any) -> list[Any]:
    return [row.get("image_url"), row.get("caption")] if isinstance(row, dict) else [None]
