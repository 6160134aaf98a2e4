"""What an answer to a yes/no question says: our reader for English and Chinese, and the published rules beside it, each under its name.

An answer that says neither is None: it is counted as unparsed and never guessed. The same answers score differently under each rule, so a score names its rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

Said = Literal["yes", "no"]
Rule = Literal["tolerant", "mme", "pope", "word"]

_END = r"(?=$|[\s.,;:!?()\-])"
_YES = r"(?:yes|yeah|yep|yup|true|correct|indeed|certainly|absolutely|definitely|of course|sure)"
_NO = r"(?:no|nope|nah|false|incorrect|not)"
_SUBJECT = r"(?:it|this|that|these|those|they|he|she)"
_VERB = r"(?:is|are|was|were|do|does|did|has|have|can|could|will|would)"
_PICTURED = "(?:这?张?(?:图|图片|图像|画面|照片|影像)(?:中|里|上|内)?)"
_MARKS = str.maketrans(dict.fromkeys('*_"`\u201c\u201d\u300c\u300d'))
"""Emphasis and quotation marks, which say nothing."""
_STOP = r"(?=$|[\s,.;:!?])"

_BEGINNINGS: tuple[tuple[Said | None, str], ...] = (
    (None, rf"{_YES}\s*(?:,?\s*(?:and|or|but)|/)\s*{_NO}{_END}|{_NO}\s*(?:,?\s*(?:and|or|but)|/)\s*{_YES}{_END}"),
    (
        None,
        r"not (?:sure|certain|clear|possible to|enough)|no (?:doubt|problem|idea|way to (?:tell|know)|information)|(?:i )?(?:do not|don't|cannot|can't) (?:know|tell|say)",
    ),
    ("yes", rf"{_YES}{_END}"),
    ("no", rf"{_NO}{_END}"),
    ("yes", rf"y{_STOP}\W*$"),
    ("no", rf"n{_STOP}\W*$"),
    ("no", rf"there {_VERB}(?: not|n't| no| never)\b"),
    ("yes", r"there (?:is|are|was|were) (?:an?|some|one|two|three|several|many|at least|indeed)\b"),
    ("no", rf"{_SUBJECT} (?:{_VERB}(?: not|n't)|cannot)\b"),
    ("yes", rf"{_SUBJECT} {_VERB}\s*(?:$|[.,;!])"),
    (None, "无法|不能确定|不能判断|不确定|不知道|不清楚|不一定|不好说|难以|是不是|是否|有没有|对不对|有可能|没问题|没关系"),
    ("yes", "没错|没有错|不错"),
    ("no", f"(?:{_PICTURED}|这里?|那里?|它们?|他们?|她们?)?(?:并|都)?(?:不|没|无|非|否|未)|错{_STOP}|错误|错的|否"),
    ("yes", f"是(?:的|啊|呀)?{_STOP}|对(?:的|啊|呀)?{_STOP}|正确|存在|有|{_PICTURED}(?:确实)?(?:有|存在)|当然|确实|可以{_STOP}"),
)
"""The first pattern that fits the beginning of an answer tells what it says; None says that it says neither."""
_COMPILED: tuple[tuple[Said | None, re.Pattern[str]], ...] = tuple((said, re.compile(pattern)) for said, pattern in _BEGINNINGS)
_STATED = re.compile(rf"(?:answer|conclusion)(?:\s+is|\s*:)+\s*\W*(?:({_YES})|({_NO})){_END}|答案\s*(?:是|为|:)+\s*\W*(?:(是|有|对|正确)|(否|不|没|无|错))")
_LAST = re.compile(rf"(?:^|[.!?;:\n,]\s*)(?:(?:so|thus|therefore|hence),?\s*)?(?:({_YES})|({_NO})|(是的?|有|对的?)|(否|不是|没有|不对))\W*$")


def tolerant(answer: str) -> Said | None:
    """Our rule: how the answer begins (yes, no, `there is no ..`, 是/不是, 有/没有, 对/错 ..), else what it states as its answer, else its last words. Both or neither: None."""
    text = unicodedata.normalize("NFKC", answer).replace("\u2019", "'").replace("\u3002", ".").replace("\u3001", ",").casefold()
    text = text.translate(_MARKS).strip().lstrip("'#>([{-. \n\t")
    for said, pattern in _COMPILED:
        if pattern.match(text):
            return said
    stated: set[Said] = {"yes" if found[1] or found[3] else "no" for found in _STATED.finditer(text)}
    if stated:
        return stated.pop() if len(stated) == 1 else None
    last = _LAST.search(text)
    return None if last is None else "yes" if last[1] or last[3] else "no"


def mme(answer: str) -> Said | None:
    """MME's official rule: lower case, nothing stripped; exactly yes or no, else the first four characters: with `yes` in them yes, else with `no` in them no."""
    text = answer.lower()
    if text in ("yes", "no"):
        return "yes" if text == "yes" else "no"
    return "yes" if text.find("yes", 0, 4) >= 0 else "no" if text.find("no", 0, 4) >= 0 else None


def pope(answer: str) -> Said:
    """POPE's official rule: of the words before the first period, commas taken out, one that is exactly `No`, `not` or `no` says no; anything else is a yes."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def word(answer: str) -> Said | None:
    """The whole word yes or the whole word no anywhere, in any case, and not both."""
    words = set(re.findall(r"\w+", answer.lower()))
    return None if ("yes" in words) == ("no" in words) else "yes" if "yes" in words else "no"


RULES: dict[Rule, Callable[[str], Said | None]] = {"tolerant": tolerant, "mme": mme, "pope": pope, "word": word}
"""Rules by the names that a recipe gives them."""
