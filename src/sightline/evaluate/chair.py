"""CHAIR (Rohrbach et al. 2018, section 2.1): how much of what descriptions name is not in their pictures. Mentions count as often as they are made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from sightline.evaluate.failures.finding import share_by
from sightline.evaluate.metrics import Value, share

Holds = Callable[[Collection[str], str], bool]
"""Whether a label is among those that are there, perhaps as a narrower or a wider one."""


class Told(NamedTuple):
    """What one description names, beside what is there."""

    picture: str
    """What descriptions of one picture have in common."""
    named: int
    """Mentions of labels."""
    invented: tuple[str, ...]
    """Of them, those of labels that are not there."""
    found: int
    """Labels that should be named and are."""
    wanted: int
    """Labels that should be named."""


def told(picture: str, named: Sequence[str], present: Collection[str], wanted: Collection[str], holds: Holds) -> Told:
    """One description by the labels that it names, those that are there, and those that it should name."""
    invented = tuple(label for label in named if not holds(present, label))
    return Told(picture=picture, named=len(named), invented=invented, found=len(set(wanted) & set(named)), wanted=len(set(wanted)))


def chair(descriptions: Sequence[Told]) -> dict[str, Value]:
    """`chair-i`, invented mentions among all; `chair-s`, descriptions with one at least; `recall` of the labels that should be named; 0..1. Intervals of the first and the last from resampled pictures."""
    pictures = [one.picture for one in descriptions]

    return {
        "chair-i": share_by(pictures, [len(one.invented) for one in descriptions], [one.named for one in descriptions]),
        "chair-s": share(sum(bool(one.invented) for one in descriptions), len(descriptions)),
        "recall": share_by(pictures, [one.found for one in descriptions], [one.wanted for one in descriptions]),
    }
