"""OpenAI messages, and the `messages` + `images` rows of the Hugging Face tools.

    {"id"?, "messages": [{"role", "content": "text" | [{"type": "text", "text"} | {"type": "image_url", "image_url": {"url"}} | {"type": "image"}]}], "images"?: ["path", ..]}

A url is a path inside the folder or a `data:` URL; nothing is fetched. With `images`, each `<image>` in a text (as in llava_json.py) and each part {"type": "image"} shows the next one of them;
without, text is text. Rows are a JSON array or one object a line.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from sightline.data.readers.files import first_row, json_files, picture_folder, read_json_rows, refuse, within
from sightline.data.readers.llava_json import MARKER, USUAL, marked_items
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder, conversations, shown, unsayable
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Item, Origin, Picture, Role, Sample, Show, Text, Turn

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PARTS = ("text", "image_url", "image")
FILE = "messages.jsonl"


class OpenaiMessages(Reader):
    """OpenAI chat rows, LLaMA-Factory's and ms-swift's multimodal rows."""

    kind: Literal["openai-messages"] = "openai-messages"
    pictures: str | None = None
    """Folder that paths start from, relative to the file; found beside it when absent."""
    ids: Literal["file", "row"] = "file"
    """`row` numbers the rows, for files that repeat their ids."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A JSON file whose first row has `messages` with role and content."""
        for file in json_files(path, (".json", ".jsonl")):
            row = first_row(file)
            messages = row.get("messages") if row is not None else None
            if isinstance(messages, list) and messages and isinstance(messages[0], dict) and {"role", "content"} <= messages[0].keys():
                return 0.9, f"the first row of {file.name} has messages with role and content"
        return None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per conversation, over all message files at `path`."""
        files = [path] if path.is_file() else [file for file in json_files(path, (".json", ".jsonl")) if self.recognise(file)]
        if not files:
            raise Refused(refuse("no-messages", str(path), "no file of messages", "a JSON array or JSON lines with `messages`", "correct the path"))
        for file in files:
            rows = read_json_rows(file)
            root = picture_folder(file.parent, self.pictures, (name for _, row in rows for name in _paths(row)), USUAL)
            for number, (place, value) in enumerate(rows):
                yield self._row(value, number, place, root)

    def _row(self, value: Any, number: int, place: str, root: Path) -> Row | Problem:
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return refuse("wrong-shape", place, "a row without a list `messages`", '{"messages": [{"role", "content"}]}', "mend the row")
        column_of_pictures = value.get("images") or []
        if not isinstance(column_of_pictures, list):
            return refuse("wrong-shape", place, f"{str(column_of_pictures)[:60]} as `images`", "a list of paths", "mend the row")
        pictures: list[str | bytes] = []
        for name in column_of_pictures:
            picture = _source(name, place, root)
            if isinstance(picture, Problem):
                return picture
            pictures.append(picture)
        column = len(pictures)
        turns: list[tuple[Role, list[tuple[str, Any]]]] = []
        for message in messages:
            parts = _parts(message, place)
            if isinstance(parts, Problem):
                return parts
            for k, (kind, found) in enumerate(parts):
                if kind == "image_url":
                    picture = _source(found, place, root)
                    if isinstance(picture, Problem):
                        return picture
                    pictures.append(picture)
                    parts[k] = ("picture", len(pictures) - 1)
            turns.append((_ROLES[message["role"]], parts))
        distinct = tuple(dict.fromkeys(pictures))
        data = {"turns": turns, "column": column, "order": [distinct.index(picture) for picture in pictures]}
        identity = str(value["id"]) if self.ids == "file" and value.get("id") is not None else str(number)
        return Row(id=identity, place=place, number=str(number), pictures=distinct, data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The conversation."""
        order, column = row.data["order"], row.data["column"]
        parts = [part for _, listed in row.data["turns"] for part in listed]
        marks = sum(1 if kind == "image" else text.count(MARKER) if kind == "text" and column else 0 for kind, text in parts)
        if marks != column:
            fix = f"give each picture of `images` one {MARKER} or one part of type image"
            return [refuse("marker-count", row.place, f"{marks} places for {column} pictures of `images`", "as many places as pictures", fix)]
        numbers = iter(order[:column])
        turns: list[Turn] = []
        for role, listed in row.data["turns"]:
            items: list[Item] = []
            for kind, found in listed:
                if kind == "text":
                    items.extend(marked_items(found, numbers) if column else (Text(text=found),))
                else:
                    items.append(Show(picture=next(numbers) if kind == "image" else order[found]))
            turns.append(Turn(role=role, items=tuple(items)))
        return [Sample(id=row.id, pictures=pictures, turns=tuple(turns), origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/messages.jsonl (or PATH itself when it ends in .jsonl), pictures as paths under images/ beside it."""
        file = path if path.suffix == ".jsonl" else path / FILE
        losses, folder = Losses("openai-messages"), PictureFolder(file.parent)
        lines: list[str] = []
        for sample in samples:
            if what := "no turns" if not sample.turns else unsayable(sample.turns, None):
                losses.refuse(what, sample)
                continue
            losses.of(sample, "annotations", "alternatives", "weights", "attributes", "origin")
            if set(shown(sample.turns)) != set(range(len(sample.pictures))):
                losses.warn("pictures that no turn shows", sample)
            for identity, turns in conversations(sample):
                messages = [{"role": turn.role, "content": _content(turn, sample, folder)} for turn in turns]
                lines.append(json.dumps({"id": identity, "messages": messages}, ensure_ascii=False))
        write_text(file, "".join(line + "\n" for line in lines))
        return losses.problems()


def _content(turn: Turn, sample: Sample, folder: PictureFolder) -> str | list[dict[str, Any]]:
    if len(turn.items) == 1 and isinstance(turn.items[0], Text):
        return turn.items[0].text
    parts: list[dict[str, Any]] = []
    for item in turn.items:
        if isinstance(item, Text):
            parts.append({"type": "text", "text": item.text})
        elif isinstance(item, Show):
            parts.append({"type": "image_url", "image_url": {"url": folder.add(sample.pictures[item.picture], "images")}})
    return parts


def _parts(message: dict[str, Any], place: str) -> list[tuple[str, Any]] | Problem:
    """(type, text or url) of each part of a message."""
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        return refuse("unknown-role", place, f"role {repr(role)[:60]}", ", ".join(_ROLES), "rename the role, or leave the message out")
    content = message.get("content")
    if isinstance(content, str):
        return [("text", content)]
    parts: list[tuple[str, Any]] = []
    for given in content if isinstance(content, list) else [content]:
        part: dict[str, Any] = given if isinstance(given, dict) else {}
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(("text", part["text"]))
        elif kind == "image_url":
            url = part.get("image_url")
            parts.append(("image_url", url.get("url") if isinstance(url, dict) else url))
        elif kind == "image":
            named = next((part[key] for key in ("image", "path", "url") if key in part), None)
            parts.append(("image", "") if named is None else ("image_url", named))
        else:
            return refuse(
                "unknown-part", place, f"content part {json.dumps(given)[:80]}", f"a text, or parts of type {', '.join(_PARTS)}", "leave the part out"
            )
    return parts


def _source(url: Any, place: str, root: Path) -> str | bytes | Problem:
    """A path, or the bytes of a data URL."""
    if not isinstance(url, str) or not url.startswith("data:"):
        scheme = url.partition("://")[0] if isinstance(url, str) and "://" in url else ""
        if scheme:
            return refuse(
                "remote-picture",
                place,
                f"a {scheme}: address ({url[:80]})",
                "a relative path or a data: URL; nothing is fetched",
                "download the picture and name its file",
            )
        path = within(root, url, place)
        return path if isinstance(path, Problem) else str(path)
    head, comma, body = url.partition(",")
    try:
        if not comma:
            raise ValueError("no comma after the media type")
        return base64.b64decode(unquote_to_bytes(body), validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except (ValueError, binascii.Error) as error:
        return refuse("data-url", place, f"{url[:40]}..: {error}", "data:image/png;base64,..", "encode the picture again")


def _paths(row: Any) -> Iterator[str]:
    """Pictures that a row names by path."""
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        return
    named: list[Any] = list(row["images"]) if isinstance(row.get("images"), list) else []
    for message in row["messages"]:
        if isinstance(message, dict):
            parts = _parts(message, "")
            named.extend(found for kind, found in (parts if isinstance(parts, list) else []) if kind == "image_url")
    yield from (name for name in named if isinstance(name, str) and not name.startswith("data:") and "://" not in name)
