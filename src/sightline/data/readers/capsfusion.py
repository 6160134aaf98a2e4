"""CapsFusion: a caption from the web, one by a model, and one that fuses both.

    {"image_url"?, "laion_2b": "web text", "laion_coco": "model caption", "capsfusion": "fused"}          Parquet
    {"laion_2b", "laion_coco", "capsfuion_official"}                                                      JSON; the key is misspelt where it is published

With an address the row is a caption of a local picture, and the fused text is what is said. Without one it is a task of text: the two captions are given, the fused one is the answer. The first
two captions stay in the attributes `laion_2b` and `laion_coco`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import first_record, json_text, read_records
from sightline.data.readers.caption_reader import Captioned
from sightline.data.readers.files import refuse
from sightline.data.readers.linked_captions import LinkedCaptions
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Origin, Picture, Sample, Text, Turn

_GIVEN: tuple[str, str] = ("laion_2b", "laion_coco")
_FUSED = ("capsfusion", "capsfuion_official", "capsfusion_official")
_FILE = "capsfusion.json"


class Capsfusion(LinkedCaptions):
    """CapsFusion-120M and its published excerpt."""

    kind: Literal["capsfusion"] = "capsfusion"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet", ".json", ".jsonl")
    wanted: ClassVar[str] = f"rows of {', '.join(_GIVEN)} and one of {', '.join(_FUSED)}"

    def reason(self, file: Path) -> str | None:
        """The three captions."""
        row = first_record(file)
        return f"has {', '.join(_GIVEN)} and {_fused(row)}" if set(_GIVEN) <= row.keys() and _fused(row) else None

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """One per row."""
        for number, (place, row) in enumerate(read_records(file)):
            key = _fused(row) if isinstance(row, dict) else None
            texts = [row.get(name) for name in (*_GIVEN, key)] if key else []
            url = row.get("image_url") if isinstance(row, dict) else None
            said = tuple(text for text in texts if isinstance(text, str))
            if len(said) < len(_GIVEN) + 1 or not isinstance(url, str | None):
                yield refuse("wrong-shape", place, str(row)[:80], self.wanted, "mend the row")
                continue
            given = dict(zip(_GIVEN, said, strict=False))
            if url is None:
                yield Captioned(name="", id=str(number), references=said[-1:], place=place, number=str(number), attributes=given)
            else:
                yield self.linked(url, said[-1:], number, place, given)

    def origin(self, row: Row, path: Path) -> Origin:
        """The fused caption is a model's."""
        return replace(super().origin(row, path), maker="model:capsfusion")

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The caption of a picture, or the task of text."""
        if pictures:
            return super().make(row, pictures, origin)
        attributes = row.data["attributes"]
        given = Turn(role="user", items=(Text(text="\n".join(attributes[name] for name in _GIVEN)),))
        answer = Turn(role="assistant", items=(Text(text=attributes["references"][0].strip()),))
        return [Sample(id=row.id, turns=(given, answer), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/capsfusion.json, or PATH itself when it ends in .json: rows without a picture, under the keys of the published excerpt."""
        losses = Losses("capsfusion")
        rows: list[dict[str, str]] = []
        for sample in samples:
            said, references = sample.attributes, sample.attributes.get("references")
            if sample.pictures or not all(isinstance(said.get(name), str) for name in _GIVEN) or not isinstance(references, list) or len(references) != 1:
                losses.refuse("a picture, or other texts than the three captions", sample)
                continue
            losses.of(sample, "annotations", "weights")
            if set(said) - {*_GIVEN, "references"}:
                losses.warn("attributes", sample)
            if sample.id != str(len(rows)):
                losses.warn("ids", sample)
            rows.append({**{name: said[name] for name in _GIVEN}, "capsfuion_official": references[0]})
        write_text(path if path.suffix == ".json" else path / _FILE, json_text(rows))
        return losses.problems()


def _fused(row: Mapping[str, Any]) -> str | None:
    return next((key for key in _FUSED if key in row), None)
