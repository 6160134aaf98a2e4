"""Which option an answer chooses: published rules, each under its name. None = it could not be told; nothing is guessed here.

Rules: `match` (letter among the words, then the one option that the text holds), `letter` (a letter in one of three forms, else nothing), `last` (the last option named).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Rule = Literal["match", "letter", "last"]
Options = Mapping[str, str]
"""Letter -> text of the option."""

_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_STATED = re.compile(r"answer\s+is\s*:?\s*\W{0,3}([A-Z])(?![A-Za-z])")
_NEAR_END = 4
"""A letter counts when it first stands among the last so many words: an earlier `A` is an article."""
_NONE_OF_THEM = "Z"
_SHORT = 5
"""Words above which `last` also looks for the text of an option."""


def match(answer: str, options: Options) -> str | None:
    """The published heuristic of circular evaluation: exactly one letter among the words and near their end, then `answer is X`, then the only option whose text the answer holds.

    An answer longer than twice all options together is not searched for their text. `Z` is what an answer says that chooses none.
    """
    words = answer.translate(_SEPARATORS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _NEAR_END:
        return named[0]
    if not named and _NONE_OF_THEM in words:
        return _NONE_OF_THEM
    stated = _STATED.search(answer)
    if stated and stated[1] in options:
        return stated[1]
    text = answer.casefold()
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    held = [letter for letter, option in options.items() if option and text.find(option.casefold()) >= 0]
    return held[0] if len(held) == 1 else None


def letter(answer: str, options: Options) -> str | None:
    """ScienceQA's rule: the letter alone, `X. ` at the beginning, or `The answer is X.`, and nothing else."""
    text = answer.strip()
    if text in options:
        return text
    begun = re.match(r"([A-Z])\.(?=\s|$)", text)
    stated = re.findall(r"The answer is ([A-Z])\.", text)
    found = begun[1] if begun else stated[0] if len(stated) == 1 else None
    return found if found in options else None


def last(answer: str, options: Options) -> str | None:
    """MMMU's rule without its guess: `(A)`, else `A `, else `A.`, else, in answers of more than five words, the option's text; of several the one named last.

    `DNA shows` says A by this rule, as published.
    """
    text = answer
    for sign in ",.!?;:'":
        text = text.strip(sign)
    text = f" {text} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        named = [letter for letter in options if form.format(letter) in text]
        if named:
            return max(named, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) > _SHORT:
        low = text.lower()
        places = {letter: low.rfind(option.lower()) for letter, option in options.items() if option}
        held = [letter for letter, place in places.items() if place >= 0]
        if held:
            return max(held, key=lambda letter: places[letter])
    return None


RULES: dict[Rule, Callable[[str, Options], str | None]] = {"match": match, "letter": letter, "last": last}
"""Rules by the names that a recipe gives them."""

# open answers (MMMU)

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = tuple(
    re.compile(pattern) for pattern in (r"-?\b\d{1,3}(?:,\d{3})+\b", r"-?\d+(?:\.\d+)?[eE][+-]?\d+", r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
)


def _normal(text: str) -> list[str | float]:
    """A number rounded to two places, or the text in lower case; a single character keeps a blank beside it, so that it is not found inside words."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]


def _tails(answer: str) -> list[str]:
    """What follows the last word of each line that announces an answer (is, so, thus ..; `=` in the last line), the shortest of each line; the whole answer where none does."""
    text = answer.strip().strip(".").lower()
    lines, found = text.split("\n"), []
    for number, line in enumerate(lines):
        signs = (*_INDICATORS, "=") if number == len(lines) - 1 else _INDICATORS
        tails = [line.split(sign)[-1].strip() for sign in signs if sign in line]
        shortest = min(tails, key=len, default="")
        if shortest and shortest not in ":,.!?;'":
            found.append(shortest)
    return found or [text]


def open_right(answer: str, right: list[str]) -> bool:
    """MMMU's rule for open answers: a right text stands inside what the answer announces, or a number of it equals a right number after rounding to two places."""
    tails = _tails(answer)
    said = [one for tail in tails for text in (tail, *(number for pattern in _NUMBERS for number in pattern.findall(tail))) for one in _normal(text)]
    wanted = [one for text in right for one in _normal(text)]
    texts = [one for one in wanted if isinstance(one, str)]
    return any(any(text in one for text in texts) if isinstance(one, str) else one in wanted for one in said)
