"""GeoChat_Instruct: LLaVA's conversations with tasks, phrases and rotated boxes in the text.

    {"from": "human", "value": "<image>\\n[refer] where is the ship?"}
    {"from": "gpt", "value": "<p>ship</p> {<10><20><50><40>|<30>}<delim>{<1><2><3><4>}"}

Boxes, with the phrase right before them, become Regions in px through the codec `geochat`; a missing angle is 0. A phrase without boxes stays text as it stands, and so does the task `[grounding]`,
`[refer]` or `[identify]`, which is also the `kind` of its turn (`conversation` where there is none). A row with a box that is not well formed (four numbers in 0..100, left before right, top before
bottom) is refused: the published file has such rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from sightline.data.readers.annotation_reader import AnnotationReader
from sightline.data.readers.entries import head
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, joined
from sightline.errors import Problem, Refused
from sightline.samples.codec_kinds.rotated_codecs import GeoChatCodec
from sightline.samples.codecs import Codec, round_trip_iou, text_of
from sightline.samples.frames import Frame, frame_of
from sightline.samples.sample import Item, Origin, Picture, Regions, Sample, Text, Turn

TASKS = ("grounding", "refer", "identify")
_TASK = re.compile(rf"\s*\[({'|'.join(TASKS)})\]")
_SIGN = re.compile(rf"\[({'|'.join(TASKS)})\]|\{{<-?\d+><")
_KEPT_IOU = 0.8
"""Overlap below which a box counts as moved by the grid of 100."""


class GeoChat(AnnotationReader):
    """GeoChat_Instruct conversations."""

    kind: Literal["geochat"] = "geochat"
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".jsonl")
    wanted: ClassVar[str] = "conversations with tasks or boxes {<x1><y1><x2><y2>|<theta>}"
    pictures: str | None = None
    """Folder that the paths in `image` start from, relative to the file; found beside it when absent."""
    ids: Literal["file", "row"] = "file"
    """`row` numbers the rows, for files that repeat their ids."""
    turn: Literal["clockwise", "counter-clockwise"] = "clockwise"
    """Which way a positive angle turns on screen."""

    def reason(self, file: Path) -> str | None:
        """Conversations whose head has a task or a box."""
        return f"has {self.wanted}" if LlavaJson().recognise(file) and _SIGN.search(head(file)) else None

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """More sure than the plain form of conversations, which fits the same files."""
        known = super().recognise(path)
        return known and (0.95, known[1])

    @property
    def _plain(self) -> LlavaJson:
        return LlavaJson(pictures=self.pictures, ids=self.ids)

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per conversation."""
        for file in self.chosen(path):
            yield from self._plain.rows(file)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The conversation with its boxes as Regions, or a problem for each box that is none."""
        made: list[Sample | Problem] = []
        for found in self._plain.make(row, pictures, origin):
            if isinstance(found, Problem) or not found.pictures:
                made.append(found)
                continue
            frame = frame_of("source", found.pictures[0].width, found.pictures[0].height)
            turns, problems = self._located(found.turns, frame, row.place)
            made += problems or [replace(found, turns=turns, attributes=_kinds(turns))]
        return made

    def _located(self, turns: tuple[Turn, ...], frame: Frame, place: str) -> tuple[tuple[Turn, ...], list[Problem]]:
        located: list[Turn] = []
        problems: list[Problem] = []
        for number, turn in enumerate(turns):
            items: list[Item] = []
            for item in turn.items:
                parsed, faults = self._codec.parse(item.text, frame) if isinstance(item, Text) else ((item,), ())
                items += parsed
                problems += [replace(fault, code="data/region-text", place=f"{place}, turn {number}, {fault.place}", severity="refuse") for fault in faults]
            located.append(replace(turn, items=tuple(items)))
        return tuple(located), problems

    @property
    def _codec(self) -> Codec:
        return cast(Codec, GeoChatCodec(turn=self.turn))

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write as LLaVA's conversations, Regions as text; boxes that the grid of 100 moves are counted."""
        losses = Losses("geochat")
        return self._plain.write(self._told(samples, losses), path) + losses.problems()

    def _told(self, samples: Iterable[Sample], losses: Losses) -> Iterator[Sample]:
        for sample in samples:
            if len(sample.pictures) != 1:
                losses.refuse(f"{len(sample.pictures)} pictures where boxes need one", sample)
                continue
            frame = frame_of("source", sample.pictures[0].width, sample.pictures[0].height)
            try:
                turns = tuple(replace(turn, items=self._texts(turn.items, frame), alternatives=()) for turn in sample.turns)
            except Refused as refused:
                losses.refuse(refused.problems[0].found, sample)
                continue
            again, faults = self._located(turns, frame, "")
            if faults or [_said(turn) for turn in again] != [_said(turn) for turn in sample.turns]:
                losses.refuse("text or phrases that would be read as other regions", sample)
                continue
            losses.of(sample, "alternatives")
            regions = [item for turn in sample.turns for item in turn.items if isinstance(item, Regions)]
            if any(min(round_trip_iou(self._codec, item, frame)) < _KEPT_IOU for item in regions):
                losses.warn(f"boxes as they were (overlap under {_KEPT_IOU:g} after rounding)", sample)
            known = _kinds(turns)
            attributes = {key: value for key, value in sample.attributes.items() if known.get(key) != value}
            yield replace(sample, turns=turns, attributes=attributes)

    def _texts(self, items: tuple[Item, ...], frame: Frame) -> tuple[Item, ...]:
        told = tuple(Text(text=text_of(self._codec.render(item, frame))) if isinstance(item, Regions) else item for item in items)
        return joined(told)


def _said(turn: Turn) -> list[Any]:
    """Words, and how many regions of which phrase, in their order."""
    return [(item.label, len(item.regions)) if isinstance(item, Regions) else item for item in joined(turn.items)]


def _kinds(turns: tuple[Turn, ...]) -> dict[str, str]:
    texts = ["".join(item.text for item in turn.items if isinstance(item, Text)) for turn in turns if turn.role == "user"]
    found = [_TASK.match(text) for text in texts]
    return {"kind": ",".join(match[1] if match else "conversation" for match in found)} if any(found) else {}
