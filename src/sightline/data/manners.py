"""Manners of rewriting: what of a row a model is told, when its text is taken, and what the row becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sightline.data.captioning import SYNTHETIC, WEB
from sightline.data.filters import words
from sightline.data.labels import LabelTable
from sightline.data.preservation import MARK, is_chinese, mentions, preserved
from sightline.data.questions import captions_in
from sightline.data.writing_checks import Pairs, Written, fused_fault, parsed_pairs, repaired_fault, strangers, tells_source, unfit
from sightline.errors import Refused
from sightline.samples.codecs import converted
from sightline.samples.sample import Box, Item, Region, Regions, Sample, Show, Text, Turn

MOST_BOXES = 100
"""Boxes that a model is told of one picture, the largest first; the others are told by their number."""
MOST_RAW = 160
"""Words of a caption from the web that a model is told; it is cut at its end, the other caption never (CapFusion keeps the whole prompt within 256 tokens)."""
_PLACE = {"en": "this place", "zh": "此处"}
_MARKED = re.compile(r"\[region-(\d+)\]")
_FUSED_FROM = ("laion_2b", "laion_coco")
"""Attributes in which published rows bring both captions."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a model is told of one text of a row."""

    slots: Mapping[str, str]
    turn: int = -1
    """The assistant turn that is rewritten; -1: the whole row."""
    regions: tuple[Regions, ...] = ()
    """Regions of that turn, by the numbers of their marks."""


Made = tuple[Turn, ...]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """One way of rewriting."""

    asked: Callable[[Sample, str], list[Asked]]
    """From a row and its language to what is asked about it."""
    judged: Callable[[Sample, Asked, str, LabelTable], list[Written]]
    """From a row, what was asked and what was written to what is taken of it, and what is not."""
    max_tokens: int
    """Longest text, unless the user says otherwise."""


def of_answers(sample: Sample, language: str) -> list[Asked]:
    """Each answer of text and regions with its question; regions of the answer are told as marks. Answers that show pictures, or hold what looks like a mark, are left as they are."""
    found: list[Asked] = []
    question = ""
    for number, turn in enumerate(sample.turns):
        if turn.role == "user":
            question = "".join(item.text if isinstance(item, Text) else _PLACE[language] if isinstance(item, Regions) else "" for item in turn.items).strip()
        elif turn.role == "assistant" and all(isinstance(item, Text | Regions) for item in turn.items):
            regions = tuple(item for item in turn.items if isinstance(item, Regions))
            told = marked(turn.items)
            if _MARKED.findall(told) != [str(count) for count in range(1, len(regions) + 1)]:
                continue  # its own text looks like a mark
            found.append(Asked(slots={"question": question, "answer": told, "text": told}, turn=number, regions=regions))
    return found


def marked(items: Iterable[Item]) -> str:
    """Text of items in which regions stand as numbered marks, after their label."""
    said: list[str] = []
    count = 0
    for item in items:
        if isinstance(item, Regions):
            count += 1
            said.append(f"{item.label} {MARK.format(count)}" if item.label else MARK.format(count))
        elif isinstance(item, Text):
            said.append(item.text)
    return "".join(said).strip()


def unmarked(text: str, regions: Sequence[Regions]) -> tuple[Item, ...]:
    """The items of a text with marks; a label that stands right before its mark stays with the regions, else the words say what they are."""
    items: list[Item] = []
    done = 0
    for match in _MARKED.finditer(text):
        region = regions[int(match[1]) - 1]
        before = text[done : match.start()]
        if region.label and before.rstrip().endswith(region.label):
            before = before.rstrip().removesuffix(region.label)
        else:
            region = replace(region, label=None)
        items += [Text(text=before)] if before else []
        items.append(region)
        done = match.end()
    return (*items, Text(text=text[done:])) if done < len(text) else tuple(items)


def enriched(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """A short answer as a sentence: taken where it preserves the answer."""
    question, answer = asked.slots["question"], asked.slots["answer"]
    reason = unfit(text) or ("language" if is_chinese(question + answer) != is_chinese(text) else preserved(question, answer, text, table))
    return [Written(text=text, reason=reason)]


def polished(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """A repaired description: it may lose what was said twice or broken, and gain nothing."""
    return [Written(text=text, reason=_retold(asked, text, repaired_fault(asked.slots["text"], text, table)))]


def spoken(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """A description as it is said aloud: it may be longer, with the same numbers and labels."""
    return [Written(text=text, reason=_retold(asked, text, repaired_fault(asked.slots["text"], text, table, times=2.0, whole=True)))]


def _retold(asked: Asked, text: str, fault: str | None) -> str | None:
    """The fault, or that regions or the language did not come back."""
    if _MARKED.findall(text) != _MARKED.findall(asked.slots["text"]):
        return "boxes"
    return fault or ("language" if is_chinese(asked.slots["text"]) != is_chinese(text) else None)


def of_captions_and_boxes(sample: Sample, language: str) -> list[Asked]:
    """All that is known of the first picture, as notes; nothing where nothing is."""
    notes = "\n\n".join(part for part in ("\n".join(captions_of(sample)), box_notes(sample)) if part)
    return [Asked(slots={"known": notes})] if notes else []


def of_captions(sample: Sample, language: str) -> list[Asked]:
    """The captions as notes; where there are none, the boxes."""
    captions = captions_of(sample)
    return [Asked(slots={"known": "\n".join(captions)})] if captions else of_captions_and_boxes(sample, language)


def captions_of(sample: Sample) -> list[str]:
    """Captions of a row: all that were published with it, or what is said where nothing was asked in words."""
    published: Any = sample.attributes.get("references", ())
    if published and isinstance(published, list | tuple):
        return [text for text in published if isinstance(text, str) and text.strip()]
    plain = sample.attributes.get("kind") == "caption" or not any(
        isinstance(item, Text) for turn in sample.turns if turn.role != "assistant" for item in turn.items
    )
    return captions_in(sample) if plain else []


def box_notes(sample: Sample) -> str:
    """One line per labelled region of the first picture: `label: [left, top, right, bottom]` as shares of its sides; a label alone where there is no box."""
    if not sample.pictures:
        return ""
    width, height = sample.pictures[0].width, sample.pictures[0].height
    known = [(region, _upright(region)) for region in sample.annotations if region.picture == 0 and region.label]
    known.sort(key=lambda pair: -((pair[1].x1 - pair[1].x0) * (pair[1].y1 - pair[1].y0)) if pair[1] else 0.0)
    lines = [
        f"{region.label}: [{box.x0 / width:.3f}, {box.y0 / height:.3f}, {box.x1 / width:.3f}, {box.y1 / height:.3f}]" if box else str(region.label)
        for region, box in known[:MOST_BOXES]
    ]
    rest: dict[str, int] = {}
    for region, _ in known[MOST_BOXES:]:
        rest[str(region.label)] = rest.get(str(region.label), 0) + 1
    return "\n".join([*dict.fromkeys(lines), *(f"{label}: {count} more" for label, count in rest.items())])


def _upright(region: Region) -> Box | None:
    """The upright box of a region; None for the whole picture and shapes without an area."""
    try:
        box = converted(region.shape, (Box,), True)
    except Refused:
        return None
    return box if isinstance(box, Box) else None


def conversed(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """A conversation about what is known: strict blocks, nothing about notes, no label that is not known."""
    return _paired(sample, asked, text, table, parsed_pairs(text))


def reasoned(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """One question with a long answer. Labels are not compared: what follows from a picture is not in it."""
    pairs = parsed_pairs(text)
    return _paired(sample, asked, text, None, pairs if pairs and len(pairs) == 1 else None)


def detailed(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """A description: the answer only, without blocks."""
    pairs = (("", text),) if text and "===" not in text else None
    return _paired(sample, asked, text, table, pairs)


def _paired(sample: Sample, asked: Asked, text: str, table: LabelTable | None, pairs: Pairs | None) -> list[Written]:
    """The pairs before the first that names a label which is not known, for the beginning of a conversation is one; the rest is rejected, and all of it for any other fault."""
    fault = "empty" if not text else "format" if pairs is None else next(filter(None, (unfit(answer) for _, answer in pairs)), None)
    if fault is None and tells_source(text):
        fault = "source"
    if fault is not None or pairs is None:
        return [Written(text=text, reason=fault)]
    left = len(pairs)
    if table is not None:
        known = [*sample.annotations, *(Region(label=label) for _, _, label in mentions(asked.slots["known"], table))]
        left = next((number for number, (_, answer) in enumerate(pairs) if strangers(answer, known, table)), left)
    rest = "\n".join(f"{question}\n{answer}".strip() for question, answer in pairs[left:])
    return [*([Written(text=text, pairs=pairs[:left])] if left else []), *([Written(text=rest, reason="labels")] if rest else [])]


def of_two_captions(sample: Sample, language: str) -> list[Asked]:
    """A caption from the web, cut at its end, and one that a model wrote; nothing where one is missing."""
    sides: Any = sample.attributes.get("captions_from", ())
    said = dict(zip(map(str, sides), captions_in(sample), strict=False)) if isinstance(sides, list | tuple) else {}
    raw, synthetic = (said.get(WEB), said.get(SYNTHETIC)) if WEB in said else tuple(sample.attributes.get(name) for name in _FUSED_FROM)
    if not (isinstance(raw, str) and isinstance(synthetic, str) and raw.strip() and synthetic.strip()):
        return []
    return [Asked(slots={"raw": cut(raw, max(1, MOST_RAW - len(words(synthetic)))), "synthetic": synthetic.strip()})]


def cut(text: str, most: int) -> str:
    """The first `most` words of a text; a Chinese character is one."""
    said = words(text)
    if len(said) <= most:
        return text.strip()
    end = 0
    for word in said[:most]:
        end = text.index(word, end) + len(word)
    return text[:end]


def fused(sample: Sample, asked: Asked, text: str, table: LabelTable) -> list[Written]:
    """One caption out of two."""
    return [Written(text=text, reason=fused_fault(asked.slots["raw"], asked.slots["synthetic"], text))]


MANNERS = {
    "enrich": Manner(asked=of_answers, judged=enriched, max_tokens=256),
    "conversation": Manner(asked=of_captions, judged=conversed, max_tokens=1024),
    "detail": Manner(asked=of_captions_and_boxes, judged=detailed, max_tokens=512),
    "reasoning": Manner(asked=of_captions_and_boxes, judged=reasoned, max_tokens=768),
    "fuse": Manner(asked=of_two_captions, judged=fused, max_tokens=128),
    "polish": Manner(asked=of_answers, judged=polished, max_tokens=512),
    "spoken": Manner(asked=of_answers, judged=spoken, max_tokens=768),
}


def said_of(sample: Sample, pairs: Pairs) -> Made:
    """Pairs as turns; the pictures are shown in the first question."""
    shown = tuple(Show(picture=number) for number in range(len(sample.pictures)))
    turns: list[Turn] = []
    for number, (question, answer) in enumerate(pairs):
        turns.append(Turn(role="user", items=(*(shown if number == 0 else ()), *((Text(text=question),) if question else ()))))
        turns.append(Turn(role="assistant", items=(Text(text=answer),)))
    return tuple(turns)


def captioned(sample: Sample, text: str) -> Made:
    """A caption as the answer to what the row asked first, or to its pictures."""
    asked = next((turn for turn in sample.turns if turn.role == "user"), said_of(sample, (("", ""),))[0])
    return (asked, Turn(role="assistant", items=(Text(text=text),)))


def retold(sample: Sample, asked: Sequence[Asked], written: Sequence[Written]) -> Made:
    """The row's turns with the answers that were taken; other right answers in the old wording go with it."""
    turns = list(sample.turns)
    for one, text in zip(asked, written, strict=True):
        if text.reason is None:
            turns[one.turn] = replace(turns[one.turn], items=unmarked(text.text, one.regions), alternatives=())
    return tuple(turns)
