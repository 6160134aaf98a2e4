"""What writers share: pictures under names of their own, independent turns as conversations, and the list of what a format could not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from sightline.errors import Problem
from sightline.samples.pictures import ending
from sightline.samples.sample import Film, Item, Picture, Region, Regions, Sample, Show, Text, Turn


class PictureFolder:
    """Writes pictures below a folder, each once, under its own name where that is free."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def add(self, picture: Picture, folder: str) -> str:
        """The picture's path relative to the root; the bytes are written when they are new to that folder."""
        assert isinstance(picture.data, bytes), "a picture that is a path of a store"
        key = (folder, picture.hash)
        if key not in self._names:
            suffix = ending(picture.data, ".png")
            plain = PurePosixPath(picture.name.replace("\\", "/")).name or picture.hash[:16] + suffix
            name = f"{folder}/{plain}"
            if name.lower() in self._taken:
                name = f"{folder}/{picture.hash[:16]}-{plain}"
            self._taken.add(name.lower())
            self._names[key] = name
            target = self._root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(picture.data)
        return self._names[key]


class Losses:
    """Counts what a format cannot hold, with the first sample of each sort."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._found: dict[tuple[str, bool], list[str]] = {}

    def warn(self, what: str, sample: Sample) -> None:
        """A part of the sample is left out."""
        self._found.setdefault((what, False), []).append(sample.id)

    def refuse(self, what: str, sample: Sample) -> None:
        """The sample is not written."""
        self._found.setdefault((what, True), []).append(sample.id)

    def of(self, sample: Sample, *cannot: str) -> None:
        """Count those of `cannot` (turns, regions, alternatives, weights, attributes, origin) that the sample has."""
        known = {"split", "class", "turns"}
        has = {
            "turns": bool(sample.turns),
            "regions": any(region.shape is not None for region in sample.annotations),
            "annotations": bool(sample.annotations),
            "alternatives": any(turn.alternatives for turn in sample.turns),
            "weights": any(turn.weight != 1.0 for turn in sample.turns),
            "attributes": bool(set(sample.attributes) - (known if "turns" in cannot else {"turns"})),
            "origin": bool(sample.origin.licence or sample.origin.parents or sample.origin.maker != "human"),
        }
        for what in cannot:
            if has[what]:
                self.warn(what, sample)

    def problems(self) -> list[Problem]:
        """One problem per sort of loss, with its count; severity refuse where whole samples were not written."""
        found = []
        for (what, whole), samples in self._found.items():
            text = f"{what}: {len(samples)} sample{'s' if len(samples) > 1 else ''} {'not written' if whole else 'written without'}"
            fix = "keep the store, or write a format that holds it"
            severity = "refuse" if whole else "warn"
            found.append(
                Problem(code="data/cannot-hold", place=f"sample {samples[0]}", found=text, allowed=f"what {self._kind} holds", fix=fix, severity=severity)
            )
        return found


def flag_of(region: Region, name: str) -> int | None:
    """A flag of a region as the number that formats of objects write: 0 where it has none; None where it is neither true, false nor a natural number."""
    value = region.attributes.get(name, 0)
    return int(value) if isinstance(value, int) and value >= 0 else None


def conversations(sample: Sample) -> Iterator[tuple[str, tuple[Turn, ...]]]:
    """(id, turns) of each conversation: one per user/assistant pair where a sample's pairs are independent, else the whole dialogue."""
    head = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    body = sample.turns[len(head) :]
    if sample.attributes.get("turns") != "independent" or len(body) <= 2:
        yield sample.id, sample.turns
        return
    for number in range(0, len(body), 2):
        yield f"{sample.id}#{number // 2}", (*head, *body[number : number + 2])


def unsayable(turns: tuple[Turn, ...], marker: str | None) -> str:
    """What in the turns no text format holds: films, regions, and text that holds `marker`; empty when all can be written."""
    for item in (item for turn in turns for item in turn.items):
        if isinstance(item, Film):
            return "films"
        if isinstance(item, Regions):
            return "regions inside turns"
        if marker and isinstance(item, Text) and marker in item.text:
            return f"text that contains {marker}"
    return ""


def shown(turns: tuple[Turn, ...]) -> list[int]:
    """Numbers of the pictures in the order in which the turns show them, repeats included."""
    return [item.picture for turn in turns for item in turn.items if isinstance(item, Show)]


def joined(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The same items without empty texts, and neighbouring texts as one: the form in which formats without items give them back."""
    result: list[Item] = []
    for item in items:
        if isinstance(item, Text) and result and isinstance(result[-1], Text):
            result[-1] = Text(text=result[-1].text + item.text)
        elif not isinstance(item, Text) or item.text:
            result.append(item)
    return tuple(result)


def normal(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Turns whose items are `joined`."""
    return tuple(replace(turn, items=joined(turn.items)) for turn in turns)
