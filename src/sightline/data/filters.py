"""Operators that set aside what people could not answer, what is no caption, and what is said again and again: the rules that the post-mortem of a remote-sensing model asks for.

A dialogue of independent pairs loses the pairs that a rule hits and keeps the others; any other row goes as a whole. Every rule has its name in the verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from sightline.data.hashing import text_key
from sightline.data.labels import LabelTable, spelled
from sightline.data.operators import Decision, Outcome
from sightline.data.questions import captions_in
from sightline.kinds import Config
from sightline.samples.exchange import Answer
from sightline.samples.sample import Region, Sample, Show, Text, Turn

AREA = re.compile(r"面积|多大|平方|\bhow (?:large|big)\b|\barea of\b|\bsquare (?:met|kilomet|feet)", re.IGNORECASE)
"""Questions about an extent, which nobody can read off a picture without a scale."""
COUNT = re.compile(r"有(?:多少|几)|数量|\bhow many\b|\b(?:number|amount) of\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_ADDRESS = re.compile(r"https?://|www\.|[\w.]+@[\w.]+\.\w+", re.IGNORECASE)
BOILERPLATE = (
    "click here",
    "all rights reserved",
    "stock photo",
    "sign up",
    "download now",
    "read more",
    "copyright",
    "shutterstock",
    "getty images",
    "点击",
    "版权所有",
    "下载",
)
_CHINESE = re.compile(r"[一-鿿]")
_WORD = re.compile(r"[一-鿿]|[^\W_]+(?:['-][^\W_]+)*")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")


def words(text: str) -> list[str]:
    """Words of a text; each Chinese character counts as one."""
    return _WORD.findall(text)


def pairs(sample: Sample) -> Iterator[tuple[Turn, ...]]:
    """The parts of a sample that a rule judges: each user/assistant pair where pairs are independent, else the whole dialogue."""
    if sample.attributes.get("turns") != "independent":
        yield sample.turns
        return
    lead = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    body = sample.turns[len(lead) :]
    yield from (body[start : start + 2] for start in range(0, len(body), 2))


def drop_pairs(sample: Sample, rule_of: Callable[[tuple[Turn, ...]], str | None]) -> Outcome:
    """The sample without the pairs that break a rule; quarantined under the commonest rule when nothing is left."""
    parts = list(pairs(sample))
    rules = [rule_of(part) for part in parts]
    if not any(rules):
        return Outcome(samples=(sample,))
    left = [number for number, rule in enumerate(rules) if rule is None]
    if not left:
        return Outcome(verdict="quarantined", rule=Counter(rule for rule in rules if rule).most_common(1)[0][0])
    lead = sample.turns[:1] if sample.turns[0].role == "system" else ()
    kept = [parts[number] for number in left]
    if not any(isinstance(item, Show) for item in kept[0][0].items):
        # The picture was shown in a pair that went.
        shown = tuple(item for turn in sample.turns for item in turn.items if isinstance(item, Show))[:1]
        kept[0] = (replace(kept[0][0], items=(*shown, *kept[0][0].items)), *kept[0][1:])
    attributes = dict(sample.attributes)
    kinds = str(attributes.get("kind", "")).split(",")
    if len(kinds) == len(parts):
        attributes["kind"] = ",".join(kinds[number] for number in left)
    attributes["dropped"] = dict(sorted(Counter(rule for rule in rules if rule).items()))
    return Outcome(samples=(replace(sample, turns=(*lead, *(turn for part in kept for turn in part)), attributes=attributes),))


def _text(turns: Sequence[Turn], role: str) -> str:
    return " ".join(item.text for turn in turns if turn.role == role for item in turn.items if isinstance(item, Text))


class DropQuestions(Config):
    """Drops questions that a person looking at the picture could not answer."""

    kind: Literal["drop-questions"] = "drop-questions"
    area: bool = True
    """Drop questions about areas (in English or Chinese)."""
    kinds: tuple[str, ...] = Field(default=("area",), strict=False)
    """Question kinds (attribute `kind`) that go, whatever they say."""
    most: int | None = Field(default=10, ge=0)
    """Largest count that an answer may give; counts above are guessed, not counted. Absent: any."""
    matching: tuple[str, ...] = Field(default=(), strict=False)
    """Further regular expressions of questions that go."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample without such questions; rules drop-questions/kind, /area, /count, /matching."""
        if sample.attributes.get("turns") != "independent" and sample.attributes.get("kind") in self.kinds:
            return Outcome(verdict="quarantined", rule="drop-questions/kind")
        return drop_pairs(sample, self._rule)

    def _rule(self, turns: tuple[Turn, ...]) -> str | None:
        question, answer = _text(turns, "user"), _text(turns, "assistant")
        if self.area and AREA.search(question):
            return "drop-questions/area"
        numbers = [int(number) for number in _NUMBER.findall(answer)] if self.most is not None and COUNT.search(question) else []
        if numbers and self.most is not None and max(numbers) > self.most:
            return "drop-questions/count"
        return "drop-questions/matching" if any(re.search(pattern, question, re.IGNORECASE) for pattern in self.matching) else None


class DropCaptions(Config):
    """Drops captions that are too short, too long, mostly signs, or text of a web page; a row goes when none is left."""

    kind: Literal["drop-captions"] = "drop-captions"
    least: int = Field(default=3, ge=1)
    """Fewest words; each Chinese character counts as one."""
    most: int = Field(default=80, ge=1)
    """Most words."""
    letters: float = Field(default=0.5, ge=0, le=1)
    """Least share of letters and digits among the characters that are no space."""
    boilerplate: bool = True
    """Drop captions with an address of the web or phrases of its pages."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with its good captions; rules drop-captions/length, /letters, /boilerplate."""
        if len(sample.turns) != 2:
            return Outcome(samples=(sample,))
        user, assistant = sample.turns
        options = [assistant.items, *assistant.alternatives]
        rules = [self.rule("".join(item.text for item in items if isinstance(item, Text))) for items in options]
        good = [items for items, rule in zip(options, rules, strict=True) if rule is None]
        if len(good) == len(options):
            return Outcome(samples=(sample,))
        if not good:
            return Outcome(verdict="quarantined", rule=next(rule for rule in rules if rule))
        return Outcome(samples=(replace(sample, turns=(user, replace(assistant, items=good[0], alternatives=tuple(good[1:])))),))

    def rule(self, text: str) -> str | None:
        """The rule that a caption breaks, or None."""
        solid = "".join(text.split())
        if not self.least <= len(words(text)) <= self.most:
            return "drop-captions/length"
        if sum(character.isalnum() for character in solid) < self.letters * len(solid):
            return "drop-captions/letters"
        lowered = text.casefold()
        return "drop-captions/boilerplate" if self.boilerplate and (_ADDRESS.search(text) or any(phrase in lowered for phrase in BOILERPLATE)) else None


class KnownLabels(Config):
    """Drops texts that name a label which the picture's annotations do not have (CHAIR above 0, Rohrbach et al. 2018, equation 1)."""

    kind: Literal["known-labels"] = "known-labels"
    written_only: bool = True
    """Judge texts that a model wrote only; people may name what nobody annotated."""
    table: str | None = None
    """CSV file of labels; the table that Sightline brings when absent."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, or quarantined under known-labels/unknown. Rows without annotations are kept: nothing is known of them."""
        if (self.written_only and not sample.origin.maker.startswith("model:")) or not any(region.label for region in sample.annotations):
            return Outcome(samples=(sample,))
        table = LabelTable.load(Path(self.table) if self.table else None)
        strange = {label for text in captions_in(sample) for label in strange_labels(text, sample.annotations, table)}
        return Outcome(verdict="quarantined", rule="known-labels/unknown") if strange else Outcome(samples=(sample,))


def labels_in(text: str, table: LabelTable) -> set[str]:
    """Ids of the table's labels that a text names, in English (words, plurals) or Chinese (characters); the longest name wins: `small vehicle` names no `vehicle`."""
    found: set[str] = set()
    spoken = re.split(r"[^\w]+", spelled(text))
    taken = 0
    for start in range(len(spoken)):
        for end in range(min(len(spoken), start + 4), max(start, taken), -1):
            label = table.find(" ".join(spoken[start:end])) if start >= taken else None
            if label is not None:
                found.add(label.id)
                taken = end
                break
    names = {name: label.id for label in table.labels.values() for name in (label.zh, *label.aliases) if _CHINESE.search(name) and len(name) > 1}
    left = text
    for name in sorted(names, key=len, reverse=True):
        if name in left:
            found.add(names[name])
            left = left.replace(name, " ")
    return found


def strange_labels(text: str, known: Sequence[Region], table: LabelTable) -> set[str]:
    """Labels that a text names and none of the known regions has, neither by itself nor by a wider or narrower one."""
    have = {table.canonical(region.label) for region in known if region.label}
    return {label for label in labels_in(text, table) if not any(table.within(label, other) or table.within(other, label) for other in have)}


class Variety(Config):
    """Caps how often one answer, or one way of saying it, may occur in the set: what is said alike a thousand times is learnt as the only thing to say."""

    kind: Literal["variety"] = "variety"
    most: float = Field(default=0.02, gt=0, le=1)
    """Largest share of the kept rows that one template may have; beyond it rows are set aside, drawn at random."""
    least: int = Field(default=50, ge=1)
    """Sets in which the share comes to fewer rows than this may have this many of each."""
    exempt: int = Field(default=3, ge=0)
    """Answers of up to this many words are exempt: short answers repeat by nature."""

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is, with its template and a random rank as columns."""
        said = _text(sample.turns, "assistant")
        template = answer_template(said, sample.annotations) if len(words(said)) > self.exempt else ""
        return Outcome(samples=(sample,), columns={"template": template, "drawn": repr(float(rng.random()))})

    def decide(self, index: pa.Table) -> list[Decision]:
        """Rule variety/template for rows beyond the cap."""
        templates, drawn = index["template"].to_pylist(), [float(value) for value in index["drawn"].to_pylist()]
        cap = max(self.least, int(self.most * len(templates)))
        decisions = [Decision() for _ in templates]
        rows: dict[str, list[int]] = {}
        for row, template in enumerate(templates):
            if template:
                rows.setdefault(template, []).append(row)
        for members in rows.values():
            for row in sorted(members, key=lambda row: drawn[row])[cap:]:
                decisions[row] = Decision(verdict="quarantined", rule="variety/template")
        return decisions


def answer_template(text: str, known: Sequence[Region] = ()) -> str:
    """An answer without its particulars: known labels and numbers become slots."""
    template = text_key(_DIGITS.sub("#", text))
    for label in sorted({spelled(region.label) for region in known if region.label}, key=len, reverse=True):
        template = template.replace(label, "*")
    return template
