"""Captions whose pictures are published as addresses: nothing is fetched; the pictures are local files that a rule names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import field_validator

from sightline.data.readers.caption_reader import Captioned, CaptionReader
from sightline.lineage import sha256_bytes

_SHARD = 10_000
"""Rows in a folder of img2dataset."""


class LinkedCaptions(CaptionReader):
    """Base of caption readers whose rows hold addresses of pictures. The address stays in the attribute `url`; a row whose file is absent is a problem when it is read."""

    rule: str = "{shard:05d}/{number:09d}.jpg"
    """The file of a row, from the folder of pictures: {number} is the row from 0, {shard} that number by 10,000, {file} the last step of the address, {hash} its sha256."""

    @field_validator("rule")
    @classmethod
    def _known_fields(cls, rule: str) -> str:
        try:
            named(rule, 0, "")
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"{rule!r} cannot be filled with number, shard, file and hash: {error}") from None
        return rule

    def linked(self, url: str, captions: tuple[str, ...], number: int, place: str, attributes: dict[str, Any]) -> Captioned:
        """A row with an address."""
        local = named(self.rule, number, url)
        return Captioned(name=local, references=captions, place=place, number=str(number), attributes={**attributes, "url": url})


def named(rule: str, number: int, url: str) -> str:
    """The file of row `number` under a rule."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = url
    return rule.format(number=number, shard=number // _SHARD, file=PurePosixPath(path).name, hash=sha256_bytes(url.encode("utf-8")))
