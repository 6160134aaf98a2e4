"""Seed tasks of Self-Instruct: one instruction with one or several inputs and answers.

    {"id": "seed_task_0", "name": "breakfast_suggestion", "instruction": "..", "instances": [{"input": "", "output": ".."}], "is_classification": false}

Each instance becomes one sample; where a task has several, `#K` follows its id. `kind` is the name of the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.alpaca import asked
from sightline.data.readers.annotation_reader import read_records
from sightline.data.readers.dialogue_reader import DialogueReader
from sightline.data.readers.files import refuse
from sightline.data.readers.reader import Row
from sightline.errors import Problem
from sightline.samples.sample import Origin, Picture, Sample, Text, Turn


class SelfInstruct(DialogueReader):
    """Seed tasks of Self-Instruct. Only read: what instances share is not to be had from single samples."""

    kind: Literal["self-instruct"] = "self-instruct"
    columns: ClassVar[tuple[str, ...]] = ("instruction", "instances")
    wanted: ClassVar[str] = '{"id", "name", "instruction", "instances": [{"input", "output"}], "is_classification"}'

    def fits(self, row: Mapping[str, Any]) -> bool:
        """An instruction and a list."""
        return isinstance(row["instruction"], str) and isinstance(row["instances"], list)

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per instance, over all files at `path`."""
        for file in self.chosen(path):
            for number, (place, value) in enumerate(read_records(file)):
                instances = value.get("instances") if isinstance(value, dict) else None
                if not isinstance(instances, list) or not instances or not isinstance(value.get("instruction"), str):
                    yield refuse("wrong-shape", place, str(value)[:80], self.wanted, "mend the row")
                    continue
                own = str(value["id"]) if self.ids == "file" and value.get("id") is not None else str(number)
                for k, instance in enumerate(instances):
                    yield _row(value, instance, own if len(instances) == 1 else f"{own}#{k}", number, place)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """A question and its answer."""
        user, answer = row.data["said"]
        turns = (Turn(role="user", items=(Text(text=user),)), Turn(role="assistant", items=(Text(text=answer),)))
        return [Sample(id=row.id, turns=turns, attributes=row.data["attributes"], origin=origin)]


def _row(task: Mapping[str, Any], instance: Any, identity: str, number: int, place: str) -> Row | Problem:
    given, answer = (instance.get("input") or "", instance.get("output")) if isinstance(instance, dict) else (None, None)
    if not isinstance(given, str) or not isinstance(answer, str):
        return refuse("wrong-shape", place, str(instance)[:80], '{"input", "output"}', "mend the row")
    attributes: dict[str, Any] = {"kind": task["name"]} if isinstance(task.get("name"), str) else {}
    if isinstance(task.get("is_classification"), bool):
        attributes["classification"] = task["is_classification"]
    return Row(id=identity, place=place, number=str(number), data={"said": (asked(task["instruction"], given), answer), "attributes": attributes})
