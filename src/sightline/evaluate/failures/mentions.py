"""Labels that a text mentions: by every name that the table gives them, in two languages, double words before the words in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sightline.data.labels import NEVER_SAID, LabelTable, singular, spelled
from sightline.data.wording import plural, with_article
from sightline.samples.sample import Region

_HAN = re.compile("[\u4e00-\u9fff]")
_DENIED = re.compile(r"(?:\b(?:no|not|without|nor|neither|never)\s+(?:an?\s+|any\s+)?|没有|不包含|不含|未见|不存在|并无|无)$")
"""What stands right before a label that is said not to be there."""


class Mentions:
    """Finds the labels of a vocabulary in texts. Labels are told by the table's ids, those that it does not know by their own words."""

    def __init__(self, table: LabelTable, labels: Iterable[str]) -> None:
        self.table = table
        self.labels = tuple(sorted({table.canonical(label) for label in labels} - NEVER_SAID))
        names: dict[str, str] = {}
        for label in self.labels:
            known = table.find(label)
            for name in (label, known.en, known.zh, *known.aliases) if known is not None else (label,):
                for form in {spelled(name), plural(singular(spelled(name)))}:
                    if len(form) > 1 or not _HAN.match(form):  # one Chinese character is part of too many words
                        names.setdefault(form, label)
        self._names = names
        ordered = sorted(names, key=lambda name: (-len(name), name))
        written = [re.escape(name) if _HAN.search(name) else rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])" for name in ordered]
        self._pattern = re.compile("|".join(written)) if written else re.compile("(?!)")

    def of(self, text: str, denied: bool = False) -> list[str]:
        """Ids of the labels that a text says are there, as often as it says so, in order; with `denied`, also those that it says are not."""
        words = spelled(text)
        found = self._pattern.finditer(words)
        return [self._names[one[0]] for one in found if denied or not _DENIED.search(words[: one.start()])]

    def present(self, annotations: Iterable[Region]) -> frozenset[str]:
        """Ids of the annotated labels."""
        return frozenset(self.table.canonical(region.label) for region in annotations if region.label is not None)

    def holds(self, present: Iterable[str], label: str) -> bool:
        """Whether a label is there, as itself, as a narrower one (a car is a vehicle), or perhaps as a wider one, which nobody can deny."""
        return any(self.table.within(one, label) or self.table.within(label, one) for one in present)

    def asked(self, label: str, wording: str) -> str:
        """A question about a label: `{label}` and `{a_label}` stand for `storage tank`, `a storage tank`."""
        words = self.table.said(label, "zh" if _HAN.search(wording) else "en")
        return wording.format(label=words, a_label=words if _HAN.search(words) else with_article(words))


def vocabulary(annotations: Iterable[Sequence[Region]]) -> tuple[str, ...]:
    """Every label of the annotations of many samples, in alphabetical order."""
    return tuple(sorted({region.label for regions in annotations for region in regions if region.label is not None}))
