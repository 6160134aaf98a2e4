"""LLaVA's conversations, and ShareGPT's text-only ones.

    [{"id", "image": "path" | ["path", ..], "conversations": [{"from": "human" | "gpt" | "system", "value": "<image>\\nDescribe."}]}]

`<image>` is the place of the next picture. It becomes a picture shown at that place: the text around it stays as it is, but for one newline directly after a marker, or before markers that
end a turn, which belong to the marker. A path that is listed twice is one picture shown twice. Rows are a JSON array or one object a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from sightline.data.readers.files import first_row, json_files, picture_folder, read_json_rows, refuse, within
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder, conversations, normal, shown, unsayable
from sightline.errors import Problem, Refused
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
USUAL = ("images", "imgs")
"""Folders beside a file from which its paths may start."""


class LlavaJson(Reader):
    """LLaVA pretraining and instruction files, ShareGPT text."""

    kind: Literal["llava-json"] = "llava-json"
    pictures: str | None = None
    """Folder that the paths in `image` start from, relative to the file; found beside it when absent."""
    ids: Literal["file", "row"] = "file"
    """`row` numbers the rows, for files that repeat their ids."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A JSON file whose first row has `conversations`."""
        for file in json_files(path, (".json", ".jsonl")):
            row = first_row(file)
            if row is not None and isinstance(row.get("conversations"), list):
                return 0.9, f"the first row of {file.name} has conversations"
        return None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per conversation, over all conversation files at `path`."""
        files = [path] if path.is_file() else [file for file in json_files(path, (".json", ".jsonl")) if self.recognise(file)]
        if not files:
            raise Refused(
                refuse("no-conversations", str(path), "no file of conversations", "a JSON array or JSON lines with `conversations`", "correct the path")
            )
        for file in files:
            rows = read_json_rows(file)
            root = picture_folder(file.parent, self.pictures, (name for _, row in rows if isinstance(row, dict) for name in _images(row)), USUAL)
            for number, (place, value) in enumerate(rows):
                yield self._row(value, number, place, root)

    def _row(self, value: Any, number: int, place: str, root: Path) -> Row | Problem:
        listed = value.get("conversations") if isinstance(value, dict) else None
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
        identity = str(value["id"]) if self.ids == "file" and value.get("id") is not None else str(number)
        turns = [(_ROLES[turn["from"]], turn["value"]) for turn in listed]
        distinct = tuple(dict.fromkeys(pictures))
        data = {"turns": turns, "order": [distinct.index(picture) for picture in pictures]}
        return Row(id=identity, place=place, number=str(number), pictures=distinct, data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The conversation; a leading assistant turn is dropped with a warning, as all readers of this format do."""
        turns: list[tuple[Role, str]] = row.data["turns"]
        made: list[Sample | Problem] = []
        head = 1 if turns and turns[0][0] == "system" else 0
        if turns[head:] and turns[head][0] == "assistant":
            dropped = turns[head]
            turns = [*turns[:head], *turns[head + 1 :]]
            found = f"the first turn is the assistant's: {dropped[1][:60]!r}"
            made.append(
                Problem(code="data/leading-assistant", place=row.place, found=found, allowed="a user turn first", fix="the turn was left out", severity="warn")
            )
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
    value = row.get("image")
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


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
