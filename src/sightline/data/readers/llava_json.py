"""LLaVA's conversations, and ShareGPT's text-only ones.

    [{"id", "image": "path" | ["path", ..], "conversations": [{"from": "human" | "gpt" | "system", "value": "<image>\\nDescribe."}]}]
    [{"system"?, "conversation": [{"human": "Hi", "assistant": "Hello"}]}]

`<image>` is the place of the next picture. It becomes a picture shown at that place: the text around it stays as it is, but for one newline directly after a marker, or before markers that
end a turn, which belong to the marker. A path that is listed twice is one picture shown twice. A first turn of the assistant's, and a last one of the user's that nobody answers, are left out
with a warning, as the tools do that train on these files. Rows are a JSON array, one object a line, or a Parquet file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import PARQUET, first_record
from sightline.data.readers.dialogue_reader import DialogueReader
from sightline.data.readers.files import refuse, within
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder, conversations, normal, shown, unsayable
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Item, Origin, Picture, Role, Sample, Show, Text, Turn

MARKER = "<image>"
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "system": "system",
    "gpt": "assistant",
    "assistant": "assistant",
    "bing": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
}
_NAMES: dict[Role, str] = {"user": "human", "assistant": "gpt", "system": "system"}
FILE = "llava.json"
_LISTS = ("conversations", "conversation")
"""Keys of a row that may hold its turns."""


class LlavaJson(DialogueReader):
    """LLaVA pretraining and instruction files, ShareGPT text."""

    kind: Literal["llava-json"] = "llava-json"
    wanted: ClassVar[str] = "a JSON array or JSON lines with `conversations`"

    def reason(self, file: Path) -> str | None:
        """A first row with a list of turns."""
        row = first_record(file)
        key = next((key for key in _LISTS if isinstance(row.get(key), list) or (key in row and file.suffix.lower() == PARQUET)), None)
        return f"has {key}" if key else None

    def names(self, value: Any) -> Iterator[object]:
        """What stands in `image` or `images`."""
        yield from _images(value) if isinstance(value, dict) else ()

    def row(self, value: Any, identity: str, number: int, place: str, root: Path) -> Row | Problem:
        """One conversation."""
        listed = _listed(value) if isinstance(value, dict) else None
        if not isinstance(listed, list) or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in listed):
            return refuse(
                "wrong-shape", place, "a row without a list `conversations` of objects with `from` and `value`", '{"id", "conversations": [..]}', "mend the row"
            )
        pictures: list[str] = []
        for name in _images(value):
            picture = within(root, name, place)
            if isinstance(picture, Problem):
                return picture
            pictures.append(str(picture))
        roles = [turn.get("from") for turn in listed]
        unknown = sorted({repr(role)[:60] for role in roles if not isinstance(role, str) or role not in _ROLES})
        if unknown:
            return refuse("unknown-role", place, f"from: {', '.join(unknown)}", ", ".join(_ROLES), "rename the role")
        turns = [(_ROLES[turn["from"]], turn["value"]) for turn in listed]
        distinct = tuple(dict.fromkeys(pictures))
        data = {"turns": turns, "order": [distinct.index(picture) for picture in pictures]}
        return Row(id=identity, place=place, number=str(number), pictures=distinct, data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The conversation, after what was left out of it."""
        turns, made = answered(row.data["turns"], row.place)
        parsed = marked_turns(turns, row.data["order"], row.place)
        if isinstance(parsed, Problem):
            return [parsed]
        return [*made, Sample(id=row.id, pictures=pictures, turns=parsed, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/llava.json (or PATH itself when it ends in .json) and the pictures under images/ beside it."""
        file = path if path.suffix == ".json" else path / FILE
        losses, folder = Losses("llava-json"), PictureFolder(file.parent)
        rows: list[dict[str, Any]] = []
        for sample in samples:
            if what := "no turns" if not sample.turns else unsayable(sample.turns, MARKER):
                losses.refuse(what, sample)
                continue
            losses.of(sample, "annotations", "alternatives", "weights", "attributes", "origin")
            if set(shown(sample.turns)) != set(range(len(sample.pictures))):
                losses.warn("pictures that no turn shows", sample)
            for identity, turns in conversations(sample):
                names = [folder.add(sample.pictures[number], "images") for number in shown(turns)]
                row: dict[str, Any] = {"id": identity}
                if names:
                    row["image"] = names[0] if len(names) == 1 else names
                row["conversations"] = [{"from": _NAMES[turn.role], "value": marked_text(turn.items)} for turn in normal(turns)]
                rows.append(row)
        write_text(file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        return losses.problems()


def _images(row: dict[str, Any]) -> list[Any]:
    value = row["images"] if row.get("image") is None and "images" in row else row.get("image")
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _listed(row: dict[str, Any]) -> Any:
    """Turns as objects with `from` and `value`, whichever way the row lists them."""
    key = next((key for key in _LISTS if key in row), _LISTS[0])
    turns = row.get(key)
    if isinstance(turns, list) and all(isinstance(turn, dict) and "from" not in turn for turn in turns):
        turns = [{"from": role, "value": text} for turn in turns for role, text in turn.items() if text is not None]
    system = row.get("system")
    return [{"from": "system", "value": system}, *turns] if isinstance(turns, list) and system else turns


def answered(turns: Sequence[tuple[Role, str]], place: str) -> tuple[list[tuple[Role, str]], list[Sample | Problem]]:
    """The turns without an assistant's before the first question and a last question without an answer, and a warning for each."""
    head = 1 if turns and turns[0][0] == "system" else 0
    kept, losses = list(turns), list[Sample | Problem]()
    if kept[head:] and kept[head][0] == "assistant":
        found = f"the first turn is the assistant's: {kept.pop(head)[1][:60]!r}"
        losses.append(_left_out("leading-assistant", place, found, "a user turn first"))
    if len(kept) - head > 2 and kept[-1][0] == "user" and kept[-2][0] == "assistant":
        found = f"the last turn is the user's: {kept.pop()[1][:60]!r}"
        losses.append(_left_out("trailing-user", place, found, "an answer to every user turn"))
    return kept, losses


def _left_out(code: str, place: str, found: str, allowed: str) -> Problem:
    return Problem(code=f"data/{code}", place=place, found=found, allowed=allowed, fix="the turn was left out", severity="warn")


def marked_turns(turns: Sequence[tuple[Role, str]], order: Sequence[int], place: str) -> tuple[Turn, ...] | Problem:
    """Turns from texts whose k-th `<image>` over the whole dialogue is picture `order[k]`; a Problem when their numbers differ."""
    marks = sum(text.count(MARKER) for _, text in turns)
    if marks != len(order):
        fix = f"give each picture one {MARKER}, at its place in the text"
        return refuse("marker-count", place, f"{marks} {MARKER} for {len(order)} pictures", "as many markers as pictures", fix)
    numbers = iter(order)
    return tuple(Turn(role=role, items=marked_items(text, numbers)) for role, text in turns)


def marked_items(text: str, numbers: Iterator[int]) -> tuple[Item, ...]:
    """Items of one text; each marker takes the next picture number."""
    first, *rest = text.split(MARKER)
    if not rest:
        return (Text(text=text),) if text else ()
    pieces = [first, *(piece.removeprefix("\n") for piece in rest)]
    last = max((k for k, piece in enumerate(pieces) if piece), default=-1)
    if 0 <= last < len(rest):
        pieces[last] = pieces[last].removesuffix("\n")
    items: list[Item] = [Text(text=pieces[0])] if pieces[0] else []
    for piece in pieces[1:]:
        items.append(Show(picture=next(numbers)))
        if piece:
            items.append(Text(text=piece))
    return tuple(items)


def marked_text(items: tuple[Item, ...]) -> str:
    """The text that `marked_items` reads back as these items, whose texts must be joined."""
    parts: list[str] = []
    last = max((k for k, item in enumerate(items) if isinstance(item, Text)), default=-1)
    for k, item in enumerate(items):
        if isinstance(item, Text):
            parts.append(item.text)
            if k == last < len(items) - 1:
                parts.append("\n")
        else:
            following = items[k + 1] if k + 1 < len(items) else None
            inside = k > 0 and isinstance(items[k - 1], Text) and isinstance(following, Text) and not following.text.startswith("\n")
            parts.append(MARKER if following is None or inside else MARKER + "\n")
    return "".join(parts)
