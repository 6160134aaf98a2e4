"""Instructions without pictures in Alpaca's form, with the further columns of COIG-CQIA and the earlier turns of LLaMA-Factory.

    {"instruction": "Name it.", "input"?: "a pond", "output": "..", "system"?, "history"?: [["question", "answer"], ..],
     "task_type"?: {"major": ["qa"], "minor": [..]}, "domain"?, "answer_from"?, "human_verified"?, "copyright"?, "metadata"?}

The user's turn is the instruction and, where it is not empty, the input on a line of its own. `task_type.major` becomes `kind`; `metadata`, which is nested, is kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text
from sightline.data.readers.dialogue_reader import DialogueReader
from sightline.data.readers.files import refuse
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Item, Origin, Picture, Sample, Text, Turn

FILE = "alpaca.json"
_KEPT = ("domain", "answer_from", "human_verified", "copyright")
_HUMAN = "human"


class Alpaca(DialogueReader):
    """Alpaca, Alpaca-GPT4, COIG-CQIA and their like."""

    kind: Literal["alpaca"] = "alpaca"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "output")
    wanted: ClassVar[str] = '{"instruction", "input"?, "output"}'

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Texts in both columns."""
        return isinstance(row["instruction"], str) and isinstance(row["output"], str)

    def row(self, value: Any, identity: str, number: int, place: str, root: Path) -> Row | Problem:
        """One instruction."""
        texts = [value.get(key) for key in ("instruction", "output")] if isinstance(value, dict) else [None]
        more = [value.get(key) or "" for key in ("input", "system")] if isinstance(value, dict) else []
        history = (value.get("history") or []) if isinstance(value, dict) else []
        pairs = history if isinstance(history, list) else [history]
        flat = all(_is_flat(value[key]) for key in _KEPT if key in value) if isinstance(value, dict) else False
        if not flat or not all(isinstance(text, str) for text in [*texts, *more]) or not all(_is_pair(pair) for pair in pairs):
            return refuse("wrong-shape", place, str(value)[:80], self.wanted, "mend the row")
        turns = [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
        turns += [("user", asked(value["instruction"], more[0])), ("assistant", value["output"])]
        return Row(id=identity, place=place, number=str(number), data={"system": more[1], "turns": turns, "attributes": _attributes(value)})

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The dialogue."""
        attributes = row.data["attributes"]
        if isinstance(maker := attributes.get("answer_from"), str) and maker != _HUMAN:
            origin = replace(origin, maker=f"model:{maker}")
        system = [("system", row.data["system"])] if row.data["system"] else []
        turns = tuple(Turn(role=role, items=(Text(text=text),)) for role, text in [*system, *row.data["turns"]])
        return [Sample(id=row.id, turns=turns, attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/alpaca.json, or PATH itself when it ends in .json: dialogues of text, with `input` empty."""
        losses = Losses("alpaca")
        rows: list[dict[str, Any]] = []
        for sample in samples:
            turns = [text_of(turn.items) for turn in sample.turns]
            system = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
            body = [text for text in turns[len(system) :] if text is not None]
            if sample.pictures or None in turns or not body or len(body) % 2:
                losses.refuse("pictures, regions, or a last turn that is not the assistant's", sample)
                continue
            losses.of(sample, "alternatives", "weights", "attributes", "origin")
            row: dict[str, Any] = {"id": sample.id, "instruction": body[-2], "input": "", "output": body[-1]}
            row.update({"system": turns[0]} if system else {})
            row.update({"history": [body[k : k + 2] for k in range(0, len(body) - 2, 2)]} if len(body) > 2 else {})
            rows.append(row)
        write_text(path if path.suffix == ".json" else path / FILE, json_text(rows))
        return losses.problems()


def asked(instruction: str, given: str) -> str:
    """What the user says: the instruction and, where there is one, the input on the next line."""
    return f"{instruction}\n{given}" if given else instruction


def text_of(items: tuple[Item, ...]) -> str | None:
    """The text of items that are nothing else; None otherwise."""
    texts = [item.text for item in items if isinstance(item, Text)]
    return "".join(texts) if len(texts) == len(items) else None


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)


def _is_flat(value: object) -> bool:
    return isinstance(value, str | bool | None) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _attributes(value: Mapping[str, Any]) -> dict[str, Any]:
    task = value.get("task_type")
    attributes: dict[str, Any] = {}
    for key, name in (("major", "kind"), ("minor", "minor")):
        found = task.get(key) if isinstance(task, dict) else None
        words = found if isinstance(found, list) else [found] if found else []
        attributes.update({name: "/".join(str(word) for word in words)} if words else {})
    attributes.update({key: value[key] for key in _KEPT if value.get(key) is not None})
    if value.get("metadata"):
        attributes["metadata"] = json.dumps(value["metadata"], ensure_ascii=False)
    return attributes
