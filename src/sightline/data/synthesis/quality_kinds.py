"""Questions about the quality of a picture whose fault is known: whether anything is wrong with it, and what."""

from __future__ import annotations

import numpy as np

from sightline.data.quality import QUALITY
from sightline.data.quality_faults import FAULTS, Fault
from sightline.data.synthesis.asked import Asked, Asking, Subject, exchange
from sightline.data.synthesis.label_kinds import LETTERS, lettered
from sightline.data.synthesis.phrasings import Language
from sightline.errors import Problem, Refused

FAULT_WORDS: dict[Language, dict[Fault, str]] = {
    "en": {
        "clean": "no fault",
        "cloud": "clouds",
        "blur": "blur",
        "stripes": "stripes",
        "misregistration": "misregistration of bands",
        "haze": "haze",
        "noise": "noise",
    },
    "zh": {"clean": "无异常", "cloud": "云层", "blur": "模糊", "stripes": "条纹", "misregistration": "波段错位", "haze": "薄雾", "noise": "噪声"},
}
"""What faults are called."""


def quality(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Whether anything is wrong with the picture. Rows whose quality nobody knows are not asked about."""
    fault = _fault(subject)
    if not most or fault is None:
        return []
    asking = subject.asking("quality", rng)
    side = "no" if fault == "clean" else "yes"
    question, bare = asking.say("ask", {}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say(f"bare-{side}" if bare else side, {} if bare or side == "no" else {"fault": _word(asking, fault)})
    return [_asked(asking, exchange(subject, question, answer), side)]


def quality_kind(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What is wrong with the picture, in a word; `no fault` for a clean one."""
    fault = _fault(subject)
    if not most or fault is None:
        return []
    asking = subject.asking("quality-kind", rng)
    word = _word(asking, fault)
    question, bare = asking.say("ask", {}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", {"fault": word})
    return [_asked(asking, exchange(subject, question, answer), word)]


def quality_choice(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Which of lettered faults the picture has: its own among others, or among them none at all."""
    fault = _fault(subject)
    if not most or fault is None:
        return []
    asking = subject.asking("quality-choice", rng)
    others = [other for other in FAULTS if other != fault]
    wrong = [others[place] for place in rng.permutation(len(others))[: subject.limits.options - 1]]
    order = [[fault, *wrong][place] for place in rng.permutation(len(wrong) + 1)]
    options = tuple(_word(asking, one) for one in order)
    letter = LETTERS[order.index(fault)]
    question, bare = asking.say("ask", {"options": lettered(options, asking.words.language)}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", {"answer": letter, "fault": _word(asking, fault)})
    return [_asked(asking, exchange(subject, question, answer), letter, options)]


def _fault(subject: Subject) -> Fault | None:
    """The fault of the row, None when it is not known. Refused when it is none that has a name."""
    said = subject.sample.attributes.get(QUALITY)
    if said is None:
        return None
    faults: dict[str, Fault] = {fault: fault for fault in FAULTS}
    if (found := faults.get(str(said))) is None:
        place, fix = f"{subject.sample.origin.source}:{subject.sample.id}", "correct the attribute `quality`, or take it away"
        raise Refused(Problem(code="data/unknown-quality", place=place, found=repr(said), allowed=", ".join(FAULTS), fix=fix))
    return found


def _word(asking: Asking, fault: Fault) -> str:
    return FAULT_WORDS["zh" if asking.words.language == "zh" else "en"][fault]


def _asked(asking: Asking, turns: tuple, answer: str, options: tuple[str, ...] = ()) -> Asked:
    return Asked(kind=asking.kind, language=asking.words.language, template=asking.template, turns=turns, options=options, answers=(answer,))
