"""Questions about a pair of pictures of one place: whether it has changed, what happened, and where."""

from __future__ import annotations

import numpy as np

from sightline.data.synthesis.asked import Asked, Subject, exchange
from sightline.data.synthesis.phrasings import Language
from sightline.data.synthesis.region_kinds import located
from sightline.errors import Problem, Refused

EVENT_WORDS: dict[Language, dict[str, str]] = {"en": {"built": "built", "torn-down": "torn down"}, "zh": {"built": "新建", "torn-down": "拆除"}}
"""What can have happened to buildings, as the attribute `changes` of a pair says it."""
_JOINED: dict[Language, tuple[str, str]] = {"en": (" and ", "nothing"), "zh": ("和", "没有变化")}
"""Between two events, and what is said when there is none."""


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


def change_kind(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What happened to buildings: built, torn down, both or nothing. Asked where the set says it, in the attribute `changes`."""
    events = subject.sample.attributes.get("changes")
    if not most or events is None or subject.known.doubtful:
        return []
    asking = subject.asking("change-kind", rng)
    language: Language = "zh" if asking.words.language == "zh" else "en"
    words, (between, nothing) = EVENT_WORDS[language], _JOINED[language]
    if strange := [event for event in events if event not in words]:
        place, fix = f"{subject.sample.origin.source}:{subject.sample.id}", "correct the attribute `changes`, or take it away"
        raise Refused(Problem(code="data/unknown-change", place=place, found=repr(strange[0]), allowed=", ".join(words), fix=fix))
    said = between.join(word for event, word in words.items() if event in events) or nothing
    question, bare = asking.say("ask", {}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", {"events": said})
    return [Asked(kind="change-kind", language=asking.words.language, template=asking.template, turns=exchange(subject, question, answer), answers=(said,))]


def change_where(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Where it has changed: boxes on the later picture."""
    things = subject.known.of(subject.change)
    if not most or not subject.change or all(thing.fault for thing in things):
        return []
    return [located(subject.asking("change-where", rng), subject.change, things)]
