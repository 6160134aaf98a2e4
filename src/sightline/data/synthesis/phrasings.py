"""Wordings of questions and answers: one YAML table, checked before use, and the words that fill it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from sightline.data.labels import LabelTable
from sightline.data.wording import NUMBERS, listed, plural, with_article
from sightline.errors import Problem, Refused
from sightline.samples.sample import Item, Regions, Text

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
_IRREGULAR = {"person": "people"}
TABLE = Path(__file__).parent / "phrasings.yaml"

_LABEL = frozenset(("label", "labels", "a_label"))
_PART = "label boxes! shown rest! hidden"
_REST = "label boxes! shown rest hidden!"
FORMS: dict[str, dict[str, str]] = {
    "list": {"ask": "", "say": "things!"},
    "yes-no": {"ask": "label!", "cue": "", "yes": "label!", "no": "label! things", "bare-yes": "", "bare-no": ""},
    "choice": {"ask": "options!", "ask-many": "options! number", "cue": "", "cue-many": "", "say": "answer! things", "bare": "answer!"},
    "scene": {"ask": "", "cue": "", "say": "label!", "bare": "label!"},
    "scene-choice": {"ask": "options!", "cue": "", "say": "answer! label", "bare": "answer!"},
    "grounding": {"ask": "label!", "say": "label boxes!", "say-part": _PART, "say-next": _PART, "say-unboxed": _REST, "more": "label"},
    "naming": {"ask": "box!", "cue": "", "say": "label!", "bare": "label!"},
    "counting": {"ask": "label!", "cue": "", "say": "label counted number", "bare": "number!"},
    "caption": {"ask": "", "say": "things!"},
    "vqa": {"ask": "question!"},
    "question": {"ask": "answer!"},
    "reading": {"ask": "box!", "say": "text!"},
    "spotting": {"ask": "text!", "say": "boxes! text"},
    "transcription": {"ask": "", "say": "text!"},
    "change": {"ask": "", "cue": "", "yes": "", "no": "", "bare-yes": "", "bare-no": ""},
    "change-kind": {"ask": "", "cue": "", "say": "events!", "bare": "events!"},
    "change-where": {"ask": "", "say": "boxes!", "say-part": _PART, "say-next": _PART, "say-unboxed": _REST, "more": ""},
    "quality": {"ask": "", "cue": "", "yes": "fault!", "no": "", "bare-yes": "", "bare-no": ""},
    "quality-kind": {"ask": "", "cue": "", "say": "fault!", "bare": "fault!"},
    "quality-choice": {"ask": "options!", "cue": "", "say": "answer! fault", "bare": "answer!"},
}
"""Kinds, the forms that each is worded in, and the slots of a form: with `!` every wording has it. `label` stands for {label}, {labels} and {a_label}."""

Slots = Mapping[str, str | Regions]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One wording, and its number among those of its form."""

    wording: str
    number: int


class Phrasings:
    """Wordings by language, kind and form."""

    def __init__(self, table: Mapping[str, Any], place: str) -> None:
        """Refused with every wording that does not fit its form; kinds and forms that a language leaves out are refused too."""
        problems = [problem for language in LANGUAGES for problem in _faults(table.get(language), f"{place}:{language}")]
        if problems:
            raise Refused(problems)
        self._table = table

    @classmethod
    def load(cls, path: Path | None = None) -> Phrasings:
        """The wordings of a YAML file, or those that Sightline brings."""
        return _brought() if path is None else cls(_read(path), str(path))

    def all(self, language: str, kind: str, form: str) -> Sequence[str]:
        """All wordings of a form."""
        return self._table[language][kind][form]

    def draw(self, language: str, kind: str, form: str, rng: np.random.Generator) -> Drawn:
        """One of them."""
        wordings = self.all(language, kind, form)
        number = int(rng.integers(len(wordings)))
        return Drawn(wording=wordings[number], number=number)


@cache
def _brought() -> Phrasings:
    return Phrasings(_read(TABLE), "phrasings")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Refused(_problem(str(path), str(error)[:200], "a YAML file in UTF-8", "correct the path or the file")) from None
    if not isinstance(table, dict):
        raise Refused(_problem(str(path), type(table).__name__, "LANGUAGE: KIND: FORM: [wordings]", "start from the table that Sightline brings"))
    return table


def _faults(kinds: Any, place: str) -> list[Problem]:
    if not isinstance(kinds, dict):
        return [_problem(place, "no wordings of this language", ", ".join(FORMS), "add the language")]
    found = [_problem(place, f"kind {kind!r}", ", ".join(FORMS), "correct the name") for kind in kinds if kind not in FORMS]
    for kind, forms in FORMS.items():
        given = kinds.get(kind)
        if not isinstance(given, dict) or set(given) != set(forms):
            said = ", ".join(map(str, given)) if isinstance(given, dict) else "nothing"
            found.append(_problem(f"{place}.{kind}", said, ", ".join(forms), "give each form its wordings"))
            continue
        for form, slots in forms.items():
            found += _wrong(given[form], slots, f"{place}.{kind}.{form}")
    return found


def _wrong(wordings: Any, slots: str, place: str) -> list[Problem]:
    if not isinstance(wordings, list) or not wordings or not all(isinstance(wording, str) and wording for wording in wordings):
        return [_problem(place, str(wordings)[:80], "a list of texts", "write at least one wording")]
    return [problem for wording in wordings for problem in _wrong_wording(wording, slots, place)]


def _wrong_wording(wording: str, slots: str, place: str) -> list[Problem]:
    named = [(slot.rstrip("!"), slot.endswith("!")) for slot in slots.split()]
    meant = {name: _LABEL if name == "label" else frozenset((name,)) for name, _ in named}
    allowed = " ".join(f"{{{slot}}}" for names in meant.values() for slot in sorted(names)) or "no slots"
    try:
        fields = [field for field in string.Formatter().parse(wording) if field[1] is not None]
    except ValueError as error:
        return [_problem(place, f"{wording!r}: {error}", allowed, "close the brace")]
    used = {str(name) for _, name, _, _ in fields}
    if any(spec or conversion for _, _, spec, conversion in fields) or used - frozenset().union(*meant.values()):
        return [_problem(place, repr(wording), allowed, "use the slots of this form, without formats")]
    missing = [name for name, needed in named if needed and not used & meant[name]]
    return [_problem(place, f"{wording!r} lacks {{{name}}}", allowed, "add the slot") for name in missing]


def _problem(place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code="data/phrasings", place=place, found=found, allowed=allowed, fix=fix)


def filled(wording: str, slots: Slots) -> tuple[Item, ...]:
    """A wording with its slots filled: text, and Regions items where a slot holds regions."""
    items: list[Item] = []
    for text, name, _, _ in string.Formatter().parse(wording):
        value = slots[name] if name is not None else ""
        said = text + (value if isinstance(value, str) else "")
        if said and items and isinstance(last := items[-1], Text):
            items[-1] = Text(text=last.text + said)
        elif said:
            items.append(Text(text=said))
        if isinstance(value, Regions):
            items.append(value)
    return tuple(items)


class Words:
    """Labels in one language, with articles, plurals and lists as that language has them."""

    def __init__(self, table: LabelTable, language: str) -> None:
        self._table, self.language = table, language

    def label(self, label: str) -> str:
        """`storage tank`, `储罐`."""
        return self._table.said(label, self.language)

    def _mass(self, label: str) -> bool:
        """Whether it is a substance or a surface, which has neither article nor plural."""
        found = self._table.find(label)
        return found is not None and (found.stuff or not found.countable)

    def slots(self, label: str) -> dict[str, str]:
        """`label`, `a_label` and `labels` of a label."""
        said = self.label(label)
        if self.language == "zh" or self._mass(label):
            return {"label": said, "a_label": said, "labels": said}
        article = f"some {said}" if said.startswith("other ") else with_article(said)
        return {"label": said, "a_label": article, "labels": _IRREGULAR.get(said) or plural(said)}

    def things(self, labels: Sequence[str], counts: Mapping[str, int] | None = None) -> str:
        """`one car, two buses and water`: with counts where they are known and the language needs no measure word."""
        if self.language == "zh":
            return "、".join(self.label(label) for label in labels)
        counts = counts or {}
        return listed([self.counted(label, counts[label]) if label in counts else self.slots(label)["labels"] for label in labels])

    def counted(self, label: str, count: int) -> str:
        """`three cars`; `no cars`; in Chinese the number alone."""
        if self.language == "zh":
            return str(count)
        slots = self.slots(label)
        return f"{NUMBERS[count] if count < len(NUMBERS) else count} {slots['label' if count == 1 else 'labels']}"
