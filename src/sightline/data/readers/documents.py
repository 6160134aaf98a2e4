"""Documents in which pictures stand between texts: a user turn that says nothing, and an assistant turn that is the document, so that all of its text is learnt.

Their pictures are on the web. Nothing is fetched: the file of a picture is looked for in a folder under the sha256 of its URL, with any usual suffix.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sightline.data.readers.files import PICTURE_SUFFIXES, refuse, within
from sightline.data.readers.writing import joined, unsayable
from sightline.errors import Problem
from sightline.lineage import sha256_bytes
from sightline.samples.sample import Item, Sample, Show, Text, Turn

FOLDER = "images"
"""Folder beside a file in which its pictures are looked for."""


def document(items: Iterable[Item]) -> tuple[Turn, ...]:
    """The turns of a document."""
    return (Turn(role="user", items=()), Turn(role="assistant", items=joined(tuple(items))))


def items_of(sample: Sample) -> tuple[tuple[Item, ...], str]:
    """The items of a document, or what keeps a sample from being one: all of its pictures must be shown, each once."""
    if [turn.role for turn in sample.turns] != ["user", "assistant"] or sample.turns[0].items:
        return (), "a dialogue, or no turns"
    if what := unsayable(sample.turns, None):
        return (), what
    items = joined(sample.turns[1].items)
    once = sorted(item.picture for item in items if isinstance(item, Show)) == list(range(len(sample.pictures)))
    return (items, "") if once else ((), "pictures that are not shown, or several times")


def local_picture(root: Path, name: str, place: str) -> Path | Problem:
    """The file of a picture that is named by a path below `root`, or by a URL; a Problem for a URL of which there is no file."""
    if "://" not in name[:12]:
        return within(root, name, place)
    stem = sha256_bytes(name.encode())
    found = next((file for suffix in PICTURE_SUFFIXES if (file := root / f"{stem}{suffix}").is_file()), None)
    fix = f"fetch it yourself to {FOLDER}/{stem}.jpg, named by the sha256 of its URL, or remove the row"
    return found or refuse("picture-by-url", place, f"{name[:200]}, which is not in {root}", "pictures on this disk; nothing is fetched", fix)


def texts_joined(texts: Iterable[str]) -> Text:
    """Sentences that follow one another, as one text."""
    return Text(text=" ".join(texts))
