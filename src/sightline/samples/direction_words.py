"""Words of direction, English and Chinese, and what becomes of them when a picture is turned or mirrored.

Turn numbers are those of `dihedral`: number % 4 quarter turns clockwise, after a mirroring left to right where number >= 4.
"""

from __future__ import annotations

import re
from functools import cache

DIRECTIONS = ("up", "right", "down", "left")
_STYLES = (
    ("above", "to the right of", "below", "to the left of"),
    ("uppermost", "rightmost", "lowermost", "leftmost"),
    ("topmost", "rightmost", "bottommost", "leftmost"),
    ("northernmost", "easternmost", "southernmost", "westernmost"),
    ("northern", "eastern", "southern", "western"),
    ("north", "east", "south", "west"),
    ("upper", "right", "lower", "left"),
    ("top", "right", "bottom", "left"),
)
"""Parallel words, clockwise from up; of two styles that share a word the later one turns it."""
_CHINESE = ("上北", "右东", "下南", "左西")
_CHINESE_ORDER = "左右东西上下南北"
"""In a pair (左上, 东北) the sign that stands earlier here is said first."""
_CHINESE_WORD = re.compile(r"([左右东西][上下南北])|([上下左右东西南北])(?=[边侧方面部端角半])")
_CORNER = re.compile(r"\b(top|upper|bottom|lower)([ -])(left|right)(?![a-z])|\b(north|south)(-?)(east|west)(ern)?\b", re.IGNORECASE)
_RELATION = re.compile(r"\b(?:(?:to|on|at) the (left|right) of|(above|below))\b", re.IGNORECASE)
_SURE = re.compile(
    r"\b(?:(?:top|bottom|upper|lower|left|right|northern|eastern|southern|western)most|(?:north|east|south|west)(?:ern)?|upper|lower)\b", re.IGNORECASE
)
# `left`, `right`, `top` and `bottom` are directions only in such company: what is left, and the right answer, are not.
_BESIDE = r"(?=[ -](?:side|corner|part|half|edge|hand|portion|area|end|quarter|third|region|section|of)\b)"
_ALONE = r"(?<=\bthe )(?:left|right|top|bottom)(?=\s*(?:[.,;:?!)]|$|and\b|or\b|is\b|are\b|there\b))"
_COMPANY = re.compile(rf"\b(?:left|right|top|bottom){_BESIDE}|{_ALONE}", re.IGNORECASE)
_NEUTRAL = re.compile(
    r"\bon top of\b|\bright (?:next|beside|behind|in front|answer|option|choice|word|now)\b|\b(?:is|are|was|were|has|have) left\b(?! of)", re.IGNORECASE
)
_DOUBTFUL = re.compile(
    r"\b(?:left|right|top|bottom|upwards?|downwards?|leftwards?|rightwards?|clockwise|o'clock|horizontal(?:ly)?|vertical(?:ly)?|eastwards?|westwards?|northwards?|southwards?)\b|顺时针|逆时针|水平|垂直",
    re.IGNORECASE,
)
_HELD = "\x00"


def turned_direction(direction: str, number: int) -> str:
    """Where up, right, down or left of a picture points after turn `number`."""
    place = DIRECTIONS.index(direction)
    if number >= 4 and direction in ("left", "right"):
        place = (place + 2) % 4
    return DIRECTIONS[(place + number) % 4]


@cache
def _places() -> dict[str, tuple[int, int]]:
    """Word -> (style, direction)."""
    return {word: (style, place) for style, words in enumerate(_STYLES) for place, word in enumerate(words)}


def _word(word: str, number: int) -> str:
    style, place = _places()[word.lower()]
    turned = _STYLES[style][DIRECTIONS.index(turned_direction(DIRECTIONS[place], number))]
    return turned.capitalize() if word[0].isupper() else turned


def _corner(found: re.Match[str], number: int) -> str:
    """Two words, the vertical one first: `upper left`, `northeast`, `southwestern`."""
    if found[1]:
        style, between, words, end = 6 if found[1].lower() in ("upper", "lower") else 7, found[2], (found[1], found[3]), ""
    else:
        style, between, words, end = 5, found[5], (found[4], found[6]), found[7] or ""
    directions = [turned_direction(DIRECTIONS[_STYLES[style].index(word.lower())], number) for word in words]
    vertical, side = sorted(directions, key=lambda direction: direction in ("left", "right"))
    made = f"{_STYLES[style][DIRECTIONS.index(vertical)]}{between}{_STYLES[style][DIRECTIONS.index(side)]}{end}"
    return made.capitalize() if found[0][0].isupper() else made


def _relation(found: re.Match[str], number: int) -> str:
    word = f"to the {found[1].lower()} of" if found[1] else found[2]
    return _word(word.capitalize() if found[0][0].isupper() else word, number)


def _chinese(found: re.Match[str], number: int) -> str:
    turned = []
    for sign in found[0]:
        place = next(place for place, signs in enumerate(_CHINESE) if sign in signs)
        turned.append(_CHINESE[DIRECTIONS.index(turned_direction(DIRECTIONS[place], number))][_CHINESE[place].index(sign)])
    return "".join(sorted(turned, key=_CHINESE_ORDER.index))


def turned_text(text: str, number: int) -> str | None:
    """A text with its words of direction as they are after turn `number`.

    None when it holds a word that may be a direction and may be something else (`left` without company, clock times, horizontal and vertical): such a text must not be turned.
    """
    if number == 0:
        return text
    done: list[str] = []

    def hold(words: str) -> str:
        """What is done is taken out, so that no later pattern turns it again."""
        done.append(words)
        return f"{_HELD}{len(done) - 1}{_HELD}"

    left = _NEUTRAL.sub(lambda found: hold(found[0]), text.replace(_HELD, ""))
    left = _CORNER.sub(lambda found: hold(_corner(found, number)), left)
    left = _RELATION.sub(lambda found: hold(_relation(found, number)), left)
    left = _SURE.sub(lambda found: hold(_word(found[0], number)), left)
    left = _COMPANY.sub(lambda found: hold(_word(found[0], number)), left)
    left = _CHINESE_WORD.sub(lambda found: hold(_chinese(found, number)), left)
    if _DOUBTFUL.search(left):
        return None
    return re.sub(f"{_HELD}(\\d+){_HELD}", lambda found: done[int(found[1])], left)
