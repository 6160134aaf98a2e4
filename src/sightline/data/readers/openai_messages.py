"""OpenAI messages, and the `messages` + `images` rows of the Hugging Face tools.

    {"id"?, "messages": [{"role", "content": "text" | [{"type": "text", "text"} | {"type": "image_url", "image_url": {"url"}} | {"type": "image"}]}], "images"?: ["path", ..]}

A url is a path inside the folder or a `data:` URL; nothing is fetched. With `images`, each `<image>` in a text (as in llava_json.py) and each part {"type": "image"} shows the next one of them;
without, text is text. Rows are a JSON array, one object a line, or a Parquet file whose column `images` holds {"bytes", "path"}.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import unquote_to_bytes

from sightline.data.readers.dialogue_reader import DialogueReader
from sightline.data.readers.files import refuse, within
from sightline.data.readers.llava_json import MARKER, marked_items
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder, conversations, shown, unsayable
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Item, Origin, Picture, Role, Sample, Show, Text, Turn

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_PARTS = ("text", "image_url", "image")
FILE = "messages.jsonl"


class OpenaiMessages(DialogueReader):
    """OpenAI chat rows, LLaMA-Factory's and ms-swift's multimodal rows, Hugging Face's Parquet files of them."""

    kind: Literal["openai-messages"] = "openai-messages"
    columns: ClassVar[tuple[str, ...]] = ("messages",)
    wanted: ClassVar[str] = "a JSON array, JSON lines or a Parquet file with `messages`"

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Messages with role and content."""
        messages = row["messages"]
        return isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and {"role", "content"} <= messages[0].keys()

    def names(self, value: Any) -> Iterator[object]:
        """Paths in `images` and in the parts of messages."""
        yield from _paths(value)

    def row(self, value: Any, identity: str, number: int, place: str, root: Path) -> Row | Problem:
        """One conversation."""
        messages = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return refuse("wrong-shape", place, "a row without a list `messages`", '{"messages": [{"role", "content"}]}', "mend the row")
        listed = value.get("images") or []
        if not isinstance(listed, list):
            return refuse("wrong-shape", place, f"{str(listed)[:60]} as `images`", "a list of paths", "mend the row")
        pictures: list[str | bytes] = []
        for name in listed:
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
            named = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
            parts.append(("image", "") if named is None else ("image_url", named))
        else:
            return refuse(
                "unknown-part", place, f"content part {json.dumps(given)[:80]}", f"a text, or parts of type {', '.join(_PARTS)}", "leave the part out"
            )
    return parts


def _source(url: Any, place: str, root: Path) -> str | bytes | Problem:
    """A path, or the bytes of a data URL or of an image column."""
    if isinstance(url, dict):
        if isinstance(url.get("bytes"), bytes):
            return url["bytes"]
        url = url.get("path")
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
    named = [name.get("path") if isinstance(name, dict) and not name.get("bytes") else name for name in named]
    yield from (name for name in named if isinstance(name, str) and not name.startswith("data:") and "://" not in name)
