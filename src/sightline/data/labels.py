"""One name for each thing, in two languages: the table that unifies the labels of different sets, and what it does not know.

The table is a CSV file that people can edit in a spreadsheet: `id, en, zh, aliases (joined by |), countable, stuff, parent`. Names that differ only in case, in `_`, `-`, a space or a capital
between their words, or in a regular English plural, are one name. What is not in the table is never guessed: `proposals` lists merges for a person to accept.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sightline.errors import Problem, Refused, nearest

TABLE = Path(__file__).parent / "tables" / "labels.csv"
COLUMNS = ("id", "en", "zh", "aliases", "countable", "stuff", "parent")
NEVER_SAID = frozenset(("background", "clutter", "unknown"))
"""Ids that mean "nothing in particular": never a label in a text."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_BREAKS = re.compile(r"[\s_\-/]+")
_CLOSE = 0.84
"""Similarity (difflib ratio) from which an unknown name is proposed as a spelling of a known one."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One thing."""

    id: str
    en: str
    zh: str
    aliases: tuple[str, ...] = ()
    countable: bool = False
    """Its single objects can be counted."""
    stuff: bool = False
    """It has an extent, but no single objects (water, road)."""
    parent: str | None = None
    """Id of the wider thing (a car is a vehicle)."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A merge for a person to decide on: `name` (seen `count` times) may be a spelling of `label`."""

    name: str
    count: int
    label: str
    why: str


def spelled(name: str) -> str:
    """A name's key: words in lower case with single spaces, CamelCase split."""
    return _BREAKS.sub(" ", _CAMEL.sub(" ", name)).strip().casefold()


def singular(words: str) -> str:
    """The last word without a regular English plural: `storage tanks` -> `storage tank`, `bodies` -> `body`; `glass` and `bus` stay."""
    if words.endswith("ies") and len(words) > 4:
        return f"{words[:-3]}y"
    if words.endswith(("ches", "shes", "xes", "sses", "uses")):
        return words[:-2]
    return words[:-1] if words.endswith("s") and not words.endswith(("ss", "us", "is")) else words


class LabelTable:
    """Labels by every name that they have."""

    def __init__(self, labels: Iterable[Label], place: str) -> None:
        self.labels = {label.id: label for label in labels}
        self._by_name: dict[str, Label] = {}
        problems: list[Problem] = []
        for label in self.labels.values():
            for name in (label.id, label.en, label.zh, *label.aliases):
                for key in {spelled(name), singular(spelled(name))}:
                    other = self._by_name.setdefault(key, label)
                    if other is not label:
                        problems.append(_problem(place, f"{name!r} is a name of {other.id} and of {label.id}", "each name for one label", "remove one of them"))
            if label.parent is not None and label.parent not in self.labels:
                fix = nearest(label.parent, list(self.labels))
                problems.append(_problem(place, f"{label.id} has the parent {label.parent!r}", "an id of the table", fix))
        if problems:
            raise Refused(problems)

    @classmethod
    def load(cls, path: Path | None = None) -> LabelTable:
        """The table of a CSV file, or the one that Sightline brings. Refused with every row that is wrong."""
        return _known() if path is None else cls(_read(path), str(path))

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, name: str) -> Label | None:
        """The label with this name in either language, or None."""
        key = spelled(name)
        return self._by_name.get(key) or self._by_name.get(singular(key))

    def canonical(self, name: str) -> str:
        """Id of the label with this name; the name itself, spelled as a key, when the table does not know it."""
        found = self.find(name)
        return found.id if found else spelled(name)

    def said(self, name: str, language: str = "en") -> str:
        """What people call it in `en` or `zh`; the name itself, spelled as words, when the table does not know it."""
        found = self.find(name)
        if found is None:
            return spelled(name)
        return found.zh if language == "zh" else found.en

    def within(self, name: str, wider: str) -> bool:
        """Whether `name` is `wider`, or one of its kinds (car, vehicle)."""
        found, goal = self.find(name), self.canonical(wider)
        while found is not None:
            if found.id == goal:
                return True
            found = self.labels.get(found.parent) if found.parent else None
        return spelled(name) == spelled(wider)

    def proposals(self, counts: Mapping[str, int]) -> list[Proposal]:
        """Merges for names that the table does not know, or that it knows under another spelling than the commonest, most frequent first.

        `counts`: how often each name occurs. Nothing is merged: a person accepts a proposal by adding an alias to a table.
        """
        proposed: list[Proposal] = []
        unknown = {name: count for name, count in counts.items() if self.find(name) is None}
        keys = {key: label.id for key, label in self._by_name.items()}
        for name, count in unknown.items():
            key = singular(spelled(name))
            close = difflib.get_close_matches(key, list(keys), n=1, cutoff=_CLOSE)
            if close:
                proposed.append(Proposal(name=name, count=count, label=keys[close[0]], why=f"spelled almost like {close[0]!r}"))
        by_key: dict[str, list[str]] = {}
        for name in unknown:
            by_key.setdefault(singular(spelled(name)), []).append(name)
        for names in by_key.values():
            first = max(names, key=lambda name: (unknown[name], name))
            proposed += [Proposal(name=name, count=unknown[name], label=first, why="the same words in another spelling") for name in names if name != first]
        return sorted(proposed, key=lambda proposal: (-proposal.count, proposal.name))


@cache
def _known() -> LabelTable:
    return LabelTable(_read(TABLE), "the table of Sightline")


def _read(path: Path) -> list[Label]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(_problem(str(path), str(error), "a CSV file in UTF-8", "correct the path, or save the table as UTF-8")) from None
    rows = csv.DictReader(io.StringIO(text))
    missing = [column for column in ("id", "en", "zh") if column not in (rows.fieldnames or ())]
    if missing:
        fix = f"name the columns {', '.join(COLUMNS)} in the first line"
        raise Refused(_problem(f"{path}:1", f"no column {' and no '.join(missing)}", ", ".join(COLUMNS), fix))
    labels: dict[str, Label] = {}
    problems: list[Problem] = []
    for row in rows:
        place = f"{path}:{rows.line_num}"
        values = {column: (row.get(column) or "").strip() for column in COLUMNS}
        if not (values["id"] and values["en"] and values["zh"]):
            problems.append(_problem(place, f"id {values['id']!r}, en {values['en']!r}, zh {values['zh']!r}", "all three", "fill in the names"))
        elif values["id"] in labels:
            problems.append(_problem(place, f"id {values['id']!r} a second time", "each id once", "join the rows"))
        elif wrong := [f"{column} {values[column]!r}" for column in ("countable", "stuff") if values[column] not in ("yes", "no", "")]:
            problems.append(_problem(place, ", ".join(wrong), "yes, no or nothing", "mend the row"))
        else:
            aliases = tuple(alias.strip() for alias in values["aliases"].split("|") if alias.strip())
            countable, stuff = values["countable"] == "yes", values["stuff"] == "yes"
            made = Label(id=values["id"], en=values["en"], zh=values["zh"], aliases=aliases, countable=countable, stuff=stuff, parent=values["parent"] or None)
            labels[made.id] = made
    if problems:
        raise Refused(problems)
    return list(labels.values())


def _problem(place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code="data/label-table", place=place, found=found, allowed=allowed, fix=fix)
