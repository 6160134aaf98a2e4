"""English of labels and numbers, for captions and questions written from annotations."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def said(label: str) -> str:
    """A label as words: `storage-tank` -> `storage tank`."""
    return label.replace("-", " ").replace("_", " ")


def with_article(words: str) -> str:
    """`a pond`, `an airport`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(words: str) -> str:
    """Regular English plural of the last word: ponds, buses, bodies."""
    if words.endswith(("s", "x", "z", "ch", "sh")):
        return f"{words}es"
    if words.endswith("y") and words[-2:-1] not in ("a", "e", "i", "o", "u", ""):
        return f"{words[:-1]}ies"
    return f"{words}s"


def counted(words: str, count: int) -> str:
    """`a pond`, `two ponds`."""
    if count == 1:
        return with_article(words)
    return f"{NUMBERS[count] if count < len(NUMBERS) else count} {plural(words)}"


def listed(phrases: Sequence[str]) -> str:
    """`a pond, a road and two tanks`."""
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
