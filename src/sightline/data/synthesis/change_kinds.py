"""Questions about a pair of pictures of one place: whether it has changed, and where."""

from __future__ import annotations

import numpy as np

from sightline.data.synthesis.asked import Asked, Subject, exchange
from sightline.data.synthesis.region_kinds import located


def change(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Whether anything has changed. Too small a change is asked about neither way."""
    if not most or not subject.change or subject.known.doubtful:
        return []
    asking = subject.asking("change", rng)
    side = "yes" if subject.known.shares else "no"
    question, bare = asking.say("ask", {}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say(f"bare-{side}" if bare else side, {})
    return [Asked(kind="change", language=asking.words.language, template=asking.template, turns=exchange(subject, question, answer), answers=(side,))]


def change_where(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Where it has changed: boxes on the later picture."""
    things = subject.known.of(subject.change)
    if not most or not subject.change or all(thing.fault for thing in things):
        return []
    return [located(subject.asking("change-where", rng), subject.change, things)]
