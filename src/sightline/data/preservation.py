"""Whether a rewritten answer still says what the answer said: numbers, labels, yes or no, boxes, option letters and single words, in English and Chinese.

Every doubt goes against the rewritten text, whose loss costs a row its nicer wording; a changed fact costs more. Texts are compared after Unicode normalisation (NFKC).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache

from sightline.data.filters import words
from sightline.data.labels import NEVER_SAID, LabelTable, singular

LONGEST = 6, 80
"""A rewritten answer has at most 6 x the characters of the answer, and 80 more."""
SHORT = 8
"""Answers of up to so many words (a Chinese character is one) must come back word by word, apart from what the other rules compare."""
MARK = "[region-{}]"
"""How a region of an answer is told to a model that reads text only: numbered, from 1."""

_BOX = re.compile(
    r"\[region-\d+\]|<[a-z]+[-_]?\d+>"
    r"|(?:[\[({<]\s*){1,4}-?\d+(?:\.\d+)?(?:[\s,;|]+-?\d+(?:\.\d+)?|[\])}>]{1,4}[\s,]*[\[({<]{1,4}-?\d+(?:\.\d+)?)+(?:\s*[\])}>]){1,4}"
)
_LETTER = re.compile(r"^\s*([A-H])\s*$|\(([A-H])\)|(?<![A-Za-z])([A-H])(?=[.):、]|\s*$)|(?:option|answer is|选项?|答案[是为]?)\s*:?\s*([A-H])(?![A-Za-z])")
_DIGITS = {character: value for value, characters in enumerate(("零〇", "一", "二两", "三", "四", "五", "六", "七", "八", "九")) for character in characters}
_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_POWERS = {"hundred": 100, "thousand": 1000, "million": 10**6}
_NAMES = {"zero": 0} | {name: value for value, name in enumerate(_ONES + _TEENS, 1)} | {name: 10 * value for value, name in enumerate(_TENS, 2)} | _POWERS
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{'|'.join(_ONES)}))?|{'|'.join(['zero', *_TEENS, *_ONES])})"
_BELOW_1000 = rf"(?:(?:{_BELOW_100}\s+)?hundred(?:\s+(?:and\s+)?{_BELOW_100})?|{_BELOW_100})"
_NUMBER = re.compile(
    r"(?P<arabic>(?:(?<![\w.])-)?\d{1,40}(?:,\d{3}){0,12}(?:\.\d{1,40})?\s*[万亿]?)"
    rf"|(?P<han>[{''.join(_DIGITS)}{''.join(_UNITS)}]{{1,40}})"
    rf"|\b(?P<name>(?:{_BELOW_1000}\s+)?(?:thousand|million)(?:\s+(?:and\s+)?{_BELOW_1000})?|{_BELOW_1000})\b"
)
_NO_NUMBER = re.compile(
    r"第\s*(?:\d+|[零一二两三四五六七八九十百千万]+)|\d+(?:st|nd|rd|th)\b|百分之|五颜六色|千万别"
    rf"|(?<![{''.join(_DIGITS)}{''.join(_UNITS)}])(?:一(?:些|起|般|样|定|直|共|侧|边|旁|带|致|同|切|眼|目了然)|十分|十字|四[周处面]|三角|万一(?![零二三四五六七八九千百])|两[侧旁边])"
    r"|[统单唯之逐]一|\b(?:no|any|some|every)[ -]?one\b|\b(?:this|that|the|which|each|another|other|only) one\b|\bone (?:of|another|can|could|may|might|side|end)\b"
)
_ONE = re.compile(r"一[个座条艘架辆块片处栋只棵张名位幢道群排]")
_YES = re.compile(r"(?:yes|yeah|correct|indeed|true)\b|是的?|对|有|能|可以|存在|包含|正确")
_NEGATION = re.compile(r"\b(?:no|not|none|never|neither|nor|nothing|without|cannot|false|absent)\b|n't\b|[不没无未非否]")
_NO_NEGATION = re.compile(r"\b(?:no doubt|not only)\b|不(?:同|仅|过|少|断|规则|错|透水)|无(?:人机|论|疑)|未来|非(?:常|洲)|是否|有没有|能不能|是不是")
_CLAUSE = re.compile(r"[,.;:!?。!?\n]|\b(?:but|however|although|though|while)\b|但是?|不过|然而|而是")
_NO_LABEL = (
    r"remote sensing|cent(?:er|re)s?(?!\w)|other (?=vehicle)|on the ground|square (?:met\w+|kilomet\w+|feet|shape)|bird'?s[- ]eye|orange (?:roofs?|colou?r)"
    "|鸟瞰|人工|人们|人类|水平|分钟|地球|车道|马上|书写|树立"
)
"""Phrases that hold a label's word and name nothing, or a place."""
_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "it",
        "its",
        "there",
        "this",
        "that",
        "of",
        "in",
        "on",
        "at",
        "to",
        "and",
        "or",
        "with",
        "yes",
        "no",
        "not",
        "true",
        "false",
        "some",
    ]
)
_EMPTY_HAN = re.compile(r"图中|包含|存在|[是的有没不否无对在了着和与个座条艘架辆块片处栋只棵张]")
_RUN = re.compile(r"[一-鿿]+|[^\W_一-鿿]+(?:['-][^\W_一-鿿]+)*")
"""A run of Chinese characters, or one word of another script."""


def plain(text: str) -> str:
    """Text for comparing: NFKC, lower case."""
    return unicodedata.normalize("NFKC", text).casefold()


def is_chinese(text: str) -> bool:
    """Whether a text has a Chinese character."""
    return any("一" <= character <= "鿿" for character in text)


def numbers(text: str) -> Counter[Decimal]:
    """The numbers that a text says, in digits, Chinese numerals or English words. Ordinals, and words such as 一些 and 十分 that only look like numbers, are none.

    A number that is part of a known label's name (十字路口) is counted too: give the text without it where that matters.
    """
    return Counter(_numbers(_NO_NUMBER.sub(" ", plain(text))))


def _numbers(text: str) -> Iterator[Decimal]:
    """Each number of a plain text, in order."""
    for match in _NUMBER.finditer(text):
        if match["arabic"]:
            said = match["arabic"].replace(",", "")
            yield Decimal(said.rstrip("万亿 \t\n")) * _UNITS.get(said[-1], 1)
        else:
            yield Decimal(_han(match["han"]) if match["han"] else _named(match["name"]))


def _named(text: str) -> int:
    """Value of English number words: two hundred and five."""
    total = part = 0
    for word in re.findall(r"[a-z]+", text):
        value = _NAMES.get(word, 0)
        if value >= 1000:
            total, part = total + (part or 1) * value, 0
        else:
            part = (part or 1) * value if value == 100 else part + value
    return total + part


def _han(text: str) -> int:
    """Value of Chinese numerals: 二十五, 一百零五, 三万, 一百五 (150), 二〇二四 (digit by digit)."""
    if not any(character in _UNITS for character in text):
        return int("".join(str(_DIGITS[character]) for character in text))
    total = section = digit = 0
    step = 1
    for character in text:
        if character in _DIGITS:
            digit = _DIGITS[character]
            step = step if digit else 1
            continue
        unit = _UNITS[character]
        if unit < 10**4:
            section += (digit or 1) * unit
        else:
            part = section + digit
            total, section = ((total + part or 1) * unit if total < unit else total + part * unit), 0
        digit, step = 0, unit // 10
    return total + section + digit * step


def mentions(text: str, table: LabelTable) -> list[tuple[int, int, str]]:
    """(start, end, id) of the labels that `plain(text)` names, in order; the longest name wins.

    Single Chinese characters (桥, 船) count, which `labels_in` leaves out: here a wrong find keeps the answer as it was and accuses nobody.
    """
    told = plain(text)
    found = [(match.start(), match.end(), table.find(match["label"])) for match in _vocabulary(table).finditer(told) if match["label"]]
    return [(start, end, label.id) for start, end, label in found if label is not None and label.id not in NEVER_SAID]


@lru_cache(maxsize=8)
def _vocabulary(table: LabelTable) -> re.Pattern[str]:
    """What ordinary phrases and names of labels look like, in this order."""
    names = {plain(name) for label in table.labels.values() for name in (label.id, label.en, label.zh, *label.aliases)}
    han = [re.escape(name) for name in names if is_chinese(name)]
    latin = [re.escape(name).replace(r"\ ", "[ _-]").replace(r"\-", "[ _-]") for name in names if not is_chinese(name)]
    either = [rf"(?<!\w)(?:{'|'.join(sorted(latin, key=len, reverse=True))})(?:es|s)?(?!\w)"] if latin else []
    either += sorted(han, key=len, reverse=True)
    return re.compile(rf"(?:{_NO_LABEL})|(?P<label>{'|'.join(either) or '(?!)'})")


def without_idioms(text: str) -> str:
    """A text without the ordinary phrases that name no label though they hold a label's word: `remote sensing`, `in the center`."""
    return re.sub(_NO_LABEL, " ", text, flags=re.IGNORECASE)


def denied(text: str, table: LabelTable) -> set[str]:
    """Labels that stand in a clause with a negation: there is no water, 没有水体."""
    found: set[str] = set()
    for clause in _CLAUSE.split(plain(text)):
        if _negated(clause, table):
            found |= {label for _, _, label in mentions(clause, table)}
    return found


def _negated(text: str, table: LabelTable) -> bool:
    return bool(_NEGATION.search(_NO_NEGATION.sub(" ", _blanked(text, table))))


def _blanked(text: str, table: LabelTable) -> str:
    """Plain text with a space for each label: a name may hold a numeral (十字路口) or a negation (不透水面)."""
    told = plain(text)
    for start, end, _ in reversed(mentions(text, table)):
        told = f"{told[:start]} {told[end:]}"
    return told


def _says_no(text: str, table: LabelTable) -> bool:
    """Whether an answer denies something; one that begins with yes does not."""
    told = plain(text).lstrip(" \"'")
    return not _YES.match(told) and (_negated(told, table) or set(numbers(told)) == {Decimal(0)})


def boxes(text: str) -> list[str]:
    """What a text gives as places, without white space: bracketed lists of numbers, location tokens, marks of regions."""
    return ["".join(found.split()) for found in _BOX.findall(unicodedata.normalize("NFKC", text))]


def letters(text: str) -> set[str]:
    """The options that a text chooses, by letter."""
    return {next(filter(None, match.groups())) for match in _LETTER.finditer(unicodedata.normalize("NFKC", text))}


def preserved(question: str, answer: str, rewritten: str, table: LabelTable) -> str | None:
    """Why `rewritten` may not stand for `answer` to `question`; None where it may.

    length: nothing, or more than 6 x the answer + 80 characters. boxes: other places, or in another order. letters: another option. numbers: not the same ones, as a multiset; a single 一 with
    a classifier is allowed where the answer has no number, and no number where it is 0. labels: one of the answer is missing, or one is named that neither question nor answer names.
    polarity: the one denies and the other does not, or they deny different labels. order: several numbers or boxes with several labels, not in the same order. words: a word of a short
    answer is missing.
    """
    times, more = LONGEST
    if not rewritten.strip() or len(rewritten) > times * len(answer) + more:
        return "length"
    if boxes(answer) != boxes(rewritten):
        return "boxes"
    if letters(answer) != letters(rewritten):
        return "letters"
    before, after = (_BOX.sub(" ", unicodedata.normalize("NFKC", text)) for text in (answer, rewritten))
    if not _same_numbers(_blanked(before, table), _blanked(after, table)):
        return "numbers"
    asked, had, has = ({label for _, _, label in mentions(text, table)} for text in (question, before, after))
    if not had <= has or not has <= had | asked:
        return "labels"
    if _says_no(before, table) != _says_no(after, table) or denied(before, table) != denied(after, table) & had:
        return "polarity"
    if len(had) > 1 and _order(answer, table, had) != _order(rewritten, table, had):
        return "order"
    return "words" if _lost_words(before, after, table) else None


def _same_numbers(before: str, after: str) -> bool:
    had, has = numbers(before), numbers(after)
    if not had:
        has = numbers(_ONE.sub(" ", after, count=1))
    return had == has or (set(had) == {Decimal(0)} and not has)


def _order(text: str, table: LabelTable, known: set[str]) -> list[object]:
    """Numbers and boxes in order, then labels in the order of their first mention; nothing where there are fewer than two numbers and boxes."""
    told = _BOX.sub(" ", unicodedata.normalize("NFKC", text))
    values: list[object] = [*boxes(text), *_numbers(_NO_NUMBER.sub(" ", _blanked(told, table)))]
    return [*values, *dict.fromkeys(label for _, _, label in mentions(told, table) if label in known)] if len(values) > 1 else []


def _lost_words(before: str, after: str, table: LabelTable) -> list[str]:
    """Words of a short answer that the rewritten one does not say; labels, numbers, yes and no are compared elsewhere."""
    if len(words(before)) > SHORT:
        return []
    told, whole = _blanked(before, table), plain(after)
    rest = _EMPTY_HAN.sub(" ", _NUMBER.sub(" ", _NO_NUMBER.sub(" ", told)))
    needed = [match[0] for match in _NO_NUMBER.finditer(told)] + _RUN.findall(rest)
    spoken = (whole, _NUMBER.sub(" ", whole), _blanked(after, table))  # a word may be tied to a number or a label by a hyphen
    said = {form for text in spoken for word in _RUN.findall(text) for form in (word, singular(word))}
    return [word for word in needed if word not in _EMPTY_WORDS and not (word in whole if is_chinese(word) or " " in word else {word, singular(word)} & said)]
