"""What a text that a model wrote must hold before it may become data. Every check gives a reason, or None where there is nothing against the text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sightline.data.filters import COUNT, strange_labels, words
from sightline.data.labels import NEVER_SAID, LabelTable
from sightline.data.preservation import denied, mentions, numbers, plain, without_idioms
from sightline.samples.exchange import Answer
from sightline.samples.sample import Box, Point, Polygon, Region, RotatedBox

Pairs = tuple[tuple[str, str], ...]
"""Questions with their answers."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A text that a model wrote: taken where `reason` is None."""

    text: str
    reason: str | None = None
    pairs: Pairs = ()
    """Questions and answers read from it."""
    checked: bool = True
    """Whether anything was known to check it against."""


LONGEST_TEXT = 20_000
"""Characters; an endpoint may send more than it was asked for."""
MOST_FUSED = 80
"""Words of a fused caption; each Chinese character is one."""
_RULE = re.compile(r"^\s*={3,}\s*$", re.MULTILINE)
_QUESTION = re.compile(r"(?:question|问题?|提问)\s*[::]\s*", re.IGNORECASE)
_ANSWER = re.compile(r"(?:answer|回?答案?|回答)\s*[::]\s*", re.IGNORECASE)
_INSIDE = re.compile(r"^(?:question|answer|问题|回答|答案)\s*[::]", re.IGNORECASE | re.MULTILINE)
_MACHINE = re.compile(
    r"\bas an? (?:ai|artificial|language model)|\bi(?:'m| am) (?:sorry|unable)|\bi (?:cannot|can't|can not) (?:see|view|help|assist)|language model|作为(?:一个|一名)?(?:人工智能|ai|语言模型)|抱歉|无法(?:查看|看到图)",
    re.IGNORECASE,
)
_SOURCE = re.compile(
    r"\bcaptions?\b|\bbounding box|\bcoordinates?\b|\bannotations?\b|\bgiven (?:sentences|descriptions?|information)|\bprovided (?:sentences|descriptions?|information|text)"
    r"|\[\s*[01]?\.\d+\s*,|标题|边界框|坐标|标注|(?:给出|提供)的(?:句子|描述|信息)",
    re.IGNORECASE,
)
_ECHO = re.compile(r"\b(?:new )?sentence(?: [12])?\s*:|句子\s*[12一二]?\s*[::]|^(?:rewritten|improved|answer)\b[^.]{0,30}:|转化后的答案|改写后", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?。!?])\s*")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_QUOTES = {'"': '"', "\u201c": "\u201d", "「": "」"}
_BROKEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")
_LOOP = 3
"""So many times in a row a run of words may not stand."""


def parsed_pairs(text: str) -> Pairs | None:
    """Question and answer blocks between lines of `===`, strictly in turn; None where the text is anything else."""
    blocks = [block.strip() for block in _RULE.split(text)]
    blocks = blocks[1:] if blocks and not blocks[0] else blocks
    blocks = blocks[:-1] if blocks and not blocks[-1] else blocks
    if len(blocks) % 2 or not blocks:
        return None
    told: list[str] = []
    for number, block in enumerate(blocks):
        match = (_ANSWER if number % 2 else _QUESTION).match(block)
        body = block[match.end() :].strip() if match else ""
        if not body or _INSIDE.search(body):
            return None
        told.append(body)
    return tuple(zip(told[::2], told[1::2], strict=True))


def unfit(text: str) -> str | None:
    """empty; characters: control characters or broken ones; self: the writer speaks of itself or begs off; echo: words of the task come back; repetition: a sentence twice, or a run of words three times in a row."""
    if not text.strip():
        return "empty"
    if _BROKEN.search(text):
        return "characters"
    if _MACHINE.search(text):
        return "self"
    if _ECHO.search(text):
        return "echo"
    return "repetition" if repeats(text) else None


def tells_source(text: str) -> bool:
    """Whether a text speaks of captions, boxes or coordinates instead of what is seen."""
    return bool(_SOURCE.search(text))


def repeats(text: str) -> bool:
    """Whether a sentence of three words or more stands twice, or one to ten words stand three times in a row."""
    sentences = [" ".join(words(plain(sentence))) for sentence in _SENTENCE.split(text)]
    long = [sentence for sentence in sentences if sentence.count(" ") >= 2]
    if len(set(long)) < len(long):
        return True
    said = words(plain(text))
    return any(_looped(said, length) for length in range(1, 11))


def _looped(said: Sequence[str], length: int) -> bool:
    run = 0
    for one, other in zip(said, said[length:], strict=False):
        run = run + 1 if one == other else 0
        if run == length * (_LOOP - 1):
            return True
    return False


def fused_fault(raw: str, synthetic: str, text: str) -> str | None:
    """Why a caption fused of two may not stand for them (the checks of section 2 of CapFusion's contract, Yu et al. 2024, and ours).

    Beyond `unfit`: long (more than 80 words), short (less than half of the longer input), numbers or names that neither input has. A name is a word with a capital; at the
    beginning of a sentence any word may have one.
    """
    if (fault := unfit(text)) is not None:
        return fault
    if len(words(text)) > MOST_FUSED:
        return "long"
    if len(text) < 0.5 * max(len(raw), len(synthetic)):
        return "short"
    if not set(numbers(text)) <= set(numbers(raw)) | set(numbers(synthetic)):
        return "numbers"
    known = {plain(word).removesuffix("'s") for given in (raw, synthetic) for word in _WORD.findall(given)}
    return None if {plain(name).removesuffix("'s") for name in _names(text)} <= known else "names"


def _names(text: str) -> Iterator[str]:
    """Words with a capital that do not open a sentence."""
    for sentence in _SENTENCE.split(unicodedata.normalize("NFKC", text)):
        yield from (word for word in _WORD.findall(sentence)[1:] if word[0].isupper() and word != "I")


def repaired_fault(before: str, text: str, table: LabelTable, *, times: float = 1.25, whole: bool = False) -> str | None:
    """Why a repaired or retold text may not stand for the one before: beyond `unfit`, long (`times` as much, and 20 characters), numbers or labels that it did not have, other things denied.

    With `whole` none of those that it had may be lost either.
    """
    if (fault := unfit(text)) is not None:
        return fault
    if len(text) > times * len(before) + 20:
        return "long"
    pairs = (
        ("numbers", set(numbers(text)), set(numbers(before))),
        ("labels", _labels(text, table), _labels(before, table)),
        ("polarity", denied(text, table), denied(before, table)),
    )
    return next((reason for reason, has, had in pairs if not has <= had or (whole and has != had)), None)


def _labels(text: str, table: LabelTable) -> set[str]:
    return {label for _, _, label in mentions(text, table)}


def strangers(text: str, known: Sequence[Region], table: LabelTable) -> set[str]:
    """Labels that a text affirms and no known region has: CHAIR's hallucinated objects (Rohrbach et al. 2018). What it denies is no object."""
    return strange_labels(without_idioms(text), known, table) - denied(text, table) - NEVER_SAID


def pair_fault(question: str, answer: str, known: Sequence[Region], table: LabelTable) -> str | None:
    """Why a question about a picture may not stay, given all that is annotated there: labels (it affirms what is not there), denial (it denies what is), count (another number)."""
    if not any(region.label for region in known):
        return None
    opening = plain(answer).lstrip()
    asked = {label for _, _, label in mentions(without_idioms(question), table)}
    said_no = opening.startswith(("no", "不", "没", "否", "无")) and not opening.startswith(("not", "nor", "now"))
    have = {table.canonical(region.label) for region in known if region.label}
    if strangers(answer, known, table) or (not said_no and asked and _affirms(opening) and strangers(question, known, table)):
        return "labels"
    if any(
        any(table.within(own, label) for own in have)
        for label in denied(answer, table) | (asked if said_no and len(asked) == 1 and not COUNT.search(question) else set())
    ):
        return "denial"
    counted = set(numbers(answer))
    if COUNT.search(question) and len(asked) == 1 and len(counted) == 1:
        label = next(iter(asked))
        shapes = [region.shape for region in known if region.label and table.within(region.label, label)]
        countable = all(isinstance(shape, Box | RotatedBox | Point | Polygon) for shape in shapes)
        return None if not countable or counted == {len(shapes)} else "count"
    return None


def _affirms(opening: str) -> bool:
    return opening.startswith(("yes", "there ", "是", "有", "对"))


def unfinished(answer: Answer) -> str | None:
    """refused: the endpoint or its model would not; cut: the text ends at the largest number of tokens; long: more characters than anybody reads."""
    return {"refused": "refused", "length": "cut"}.get(answer.finish) or ("long" if len(answer.text) > LONGEST_TEXT else None)


def tidy(text: str) -> str:
    """A reply without a model's thoughts, white space at its ends, quotation marks around the whole, and halves of surrogate pairs, which no file holds."""
    said = re.sub("[\ud800-\udfff]", "\ufffd", _THOUGHT.sub("", text)).strip()
    if len(said) > 1 and _QUOTES.get(said[0]) == said[-1] and said.count(said[-1]) == (2 if said[0] == said[-1] else 1):
        return said[1:-1].strip()
    return said


@lru_cache(maxsize=8)
def table_of(path: str | None) -> LabelTable:
    """The table of a file, read once, or the one that Sightline brings."""
    return LabelTable.load(Path(path) if path else None)
