"""RefGPT-Fact: dialogues in one string, written from a reference text.

    {"dialogue": "<user> q <assistant> a <user> q2 <assistant> a2", "reference": "..", "title"?}

Marks may have full-width brackets. What stands before the first mark, and a last question without an answer, are left out with a warning. The reference is an attribute: it is not said in the
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.alpaca import text_of
from sightline.data.readers.annotation_reader import json_lines
from sightline.data.readers.dialogue_reader import DialogueReader
from sightline.data.readers.files import refuse
from sightline.data.readers.llava_json import answered
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Origin, Picture, Role, Sample, Text, Turn

FILE = "refgpt.jsonl"
_MARK = re.compile(r"[<\uff1c\u3008]\s*(user|assistant)\s*[>\uff1e\u3009]")
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant"}
_KEPT = ("reference", "title")


class Refgpt(DialogueReader):
    """RefGPT-Fact and RefGPT-Code."""

    kind: Literal["refgpt"] = "refgpt"
    columns: ClassVar[tuple[str, ...]] = ("dialogue", "reference")
    wanted: ClassVar[str] = '{"dialogue": "<user> .. <assistant> ..", "reference"}'

    def fits(self, row: Mapping[str, Any]) -> bool:
        """A dialogue with marks."""
        return isinstance(row["dialogue"], str) and _MARK.search(row["dialogue"]) is not None

    def row(self, value: Any, identity: str, number: int, place: str, root: Path) -> Row | Problem:
        """One dialogue."""
        if not isinstance(value, dict) or not isinstance(value.get("dialogue"), str):
            return refuse("wrong-shape", place, str(value)[:80], self.wanted, "mend the row")
        attributes = {key: value[key] for key in _KEPT if isinstance(value.get(key), str)}
        return Row(id=identity, place=place, number=str(number), data={"dialogue": value["dialogue"], "attributes": attributes})

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The dialogue, after what was left out of it."""
        before, *parts = _MARK.split(row.data["dialogue"])
        if not parts:
            return [refuse("wrong-shape", row.place, f"a dialogue without <user>: {before[:60]!r}", self.wanted, "mend the row")]
        said: list[tuple[Role, str]] = [(_ROLES[role], text.strip()) for role, text in zip(parts[::2], parts[1::2], strict=True)]
        turns, losses = answered(said, row.place)
        if before.strip():
            found = f"{before.strip()[:60]!r} before the first mark"
            losses.append(
                Problem(code="data/before-first-mark", place=row.place, found=found, allowed="<user> first", fix="the text was left out", severity="warn")
            )
        made = tuple(Turn(role=role, items=(Text(text=text),)) for role, text in turns)
        return [*losses, Sample(id=row.id, turns=made, attributes=row.data["attributes"], origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/refgpt.jsonl, or PATH itself when it ends in .jsonl: dialogues of text that hold no mark."""
        losses = Losses("refgpt")
        rows: list[dict[str, Any]] = []
        for sample in samples:
            said = [(turn.role, text_of(turn.items)) for turn in sample.turns]
            fine = all(text is not None and text.strip() == text and not _MARK.search(text) for _, text in said)
            if sample.pictures or not fine or len(said) < 2 or len(said) % 2 or said[0][0] == "system":
                losses.refuse("pictures, regions, a system turn, texts with marks or blanks at their ends, or a last turn that is not the assistant's", sample)
                continue
            losses.of(sample, "alternatives", "weights", "origin")
            if set(sample.attributes) - set(_KEPT):
                losses.warn("attributes", sample)
            dialogue = " ".join(f"<{role}> {text}" for role, text in said)
            rows.append({"id": sample.id, "dialogue": dialogue, "reference": "", **{key: sample.attributes[key] for key in _KEPT if key in sample.attributes}})
        write_text(path if path.suffix == ".jsonl" else path / FILE, json_lines(rows))
        return losses.problems()
