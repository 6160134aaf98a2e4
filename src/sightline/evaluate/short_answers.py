"""Rules for short answers: VQA accuracy over ten answers with two published normalisers, relaxed numbers, edit similarity, exact match. All give 0..1."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

Normaliser = Literal["evalai", "vlmevalkit"]

_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"(?<=\d),+(?=\d)")
_PERIODS: dict[Normaliser, re.Pattern[str]] = {"evalai": re.compile(r"\.(?!\d)"), "vlmevalkit": re.compile(r"(?<!\d)\.(?!\d)")}
_MOST_PERIODS = 32
"""Periods that are taken out: the published code gives a flag of this value where the number of replacements stands."""
_SUBJECTS = ["he", "it", "she", "somebody", "someone", "something", "there", "they", "who", "you"]
_CONTRACTIONS: dict[str, str] = {}
_RIGHT = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "o'clock",
    "oughtn't",
    "shan't",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'll",
    "someone's",
    "something'd",
    "something'll",
    "that's",
    "there'd",
    "there're",
    "there's",
    "they'd",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "you'd",
    "you'll",
    "you're",
    "you've",
] + [f"{one}'d've" for one in (*_SUBJECTS, "we")]
for _word in _RIGHT:
    for _at in (place for place, sign in enumerate(_word) if sign == "'"):
        _CONTRACTIONS[_word[:_at] + _word[_at + 1 :]] = _word
FEWEST = 4
"""Answers from which on agreement can be counted; with fewer, one match is right."""
_FULL = 3
LEAST_SIMILAR = 0.5
"""Edit similarity below which an answer is worth nothing (Biten et al. 2019)."""
TOLERANCE = 0.05


def vqa_normal(answer: str, preset: Normaliser = "evalai") -> str:
    """An answer as VQA evaluation compares it: lower case, digits for number words, no articles, no punctuation, apostrophes put back.

    The presets differ as published: `evalai` takes a comma, a question mark and a period after a digit away and splits off `'s`; `vlmevalkit` keeps such a period and such a word.
    """
    text = answer
    if preset == "evalai":
        text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain, thousands = text, _THOUSANDS.search(text) is not None
    for sign in _PUNCTUATION:
        apart = f"{sign} " in text or f" {sign}" in text or thousands
        plain = plain.replace(sign, "" if apart else " ")
    plain = _PERIODS[preset].sub("", plain, count=_MOST_PERIODS)
    words = (_NUMBERS.get(word, word) for word in plain.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, right: Sequence[str], preset: Normaliser = "evalai") -> float:
    """Mean over all people, each left out once, of min(1, matches among the others / 3) (Antol et al. 2015): 0, .3, .6, .9, 1 for 0 to 4 of ten. Fewer than four answers: 1 for any match."""
    said = vqa_normal(answer, preset)
    matches = [vqa_normal(one, preset) == said for one in right]
    if len(right) < FEWEST:
        return float(any(matches))
    total = sum(matches)
    return sum(min(1.0, (total - own) / _FULL) for own in matches) / len(matches)


def exact(answer: str, right: Sequence[str]) -> float:
    """Equal to a right answer in lower case without blanks at its ends."""
    return float(answer.strip().lower() in {one.strip().lower() for one in right})


def loose(answer: str, right: Sequence[str]) -> float:
    """Equal to a right answer whatever their case, punctuation, articles and spaces."""
    return float(_bare(answer) in {_bare(one) for one in right})


def _bare(text: str) -> str:
    words = re.sub(r"[^\w\s.%]|(?<!\d)\.|\.(?!\d)", " ", text.lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def relaxed(answer: str, right: Sequence[str]) -> float:
    """Numbers within 5 % of a right one, a percentage being a hundredth; what is no number, or whose right value is 0, equal in lower case (Masry et al. 2022)."""
    return float(any(_close(answer.strip(), one.strip()) for one in right))


def _close(said: str, right: str) -> bool:
    found, wanted = _number(said), _number(right)
    if found is not None and wanted:
        return abs(found - wanted) <= TOLERANCE * abs(wanted)
    return said.lower() == right.lower()


def _number(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(answer: str, right: Sequence[str]) -> float:
    """Largest 1 - edits / length of the longer text over the right answers, in lower case with single blanks; 0 below one half (Biten et al. 2019)."""
    said = " ".join(answer.lower().split())
    best = max((_similar(said, " ".join(one.lower().split())) for one in right), default=0.0)
    return best if best >= LEAST_SIMILAR else 0.0


def _similar(a: str, b: str) -> float:
    return 1 - edits(a, b) / max(len(a), len(b)) if a or b else 1.0


def edits(a: str, b: str) -> int:
    """Fewest insertions, deletions and replacements of characters that make one text of the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def recall(answer: str, right: Sequence[str]) -> float:
    """Largest share of a right answer's words that the answer has, in lower case: how open medical questions are often scored."""
    said = set(_bare(answer).split())
    return max((sum(word in said for word in words) / len(words) for one in right if (words := _bare(one).split())), default=0.0)


Rule = Literal["exact", "loose", "relaxed", "anls", "vqa", "contains"]
RULES: dict[Rule, Callable[[str, Sequence[str]], float]] = {
    "exact": exact,
    "loose": loose,
    "relaxed": relaxed,
    "anls": anls,
    "vqa": vqa_accuracy,
    "contains": lambda answer, right: float(any(one.strip() and one.strip().lower() in answer.lower() for one in right)),
}
"""Rules by the names that a recipe gives them."""
