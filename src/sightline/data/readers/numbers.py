"""Numbers in text files of annotations."""

from __future__ import annotations

LARGEST = 1e7
"""Greater than any place in a picture; squares and products of such numbers are far from overflow."""


def number(text: str | None) -> float | None:
    """The number that a text says; None where it says none, or one that is not finite or beyond `LARGEST` either way."""
    try:
        value = float("_" if text is None or "_" in text else text)  # Python reads 1_0 as 10
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None
