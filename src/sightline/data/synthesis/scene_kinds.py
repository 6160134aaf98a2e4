"""Questions about the scene class of a picture: the one label that a set gives to the whole of it, as AID and other sets of class folders do."""

from __future__ import annotations

import numpy as np

from sightline.data.synthesis.asked import Asked, Subject, exchange, favourite
from sightline.data.synthesis.label_kinds import LETTERS, lettered


def scene(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What kind of scene it is: the label alone, or in a sentence."""
    label = _scene(subject)
    if not most or label is None:
        return []
    asking = subject.asking("scene", rng)
    slots = asking.words.slots(label)
    question, bare = asking.say("ask", {}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", slots)
    turns = exchange(subject, question, answer)
    return [Asked(kind="scene", language=asking.words.language, template=asking.template, turns=turns, answers=(slots["label"],))]


def scene_choice(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Which of lettered classes: its own among others of the set, of which none is another name for it, or wider or narrower."""
    label = _scene(subject)
    classes = sorted(subject.statistics.of(subject.known.source).labels)
    others = [other for other in classes if label is not None and subject.rules.said(other) and not subject.rules.related(other, label)]
    if not most or label is None or not others:
        return []
    asking = subject.asking("scene-choice", rng)
    wrong: list[str] = []
    while others and len(wrong) < subject.limits.options - 1:
        wrong.append(favourite(others, int(rng.integers(2**31))))
        others = [other for other in others if not subject.rules.related(other, wrong[-1])]
    order = [[label, *wrong][place] for place in rng.permutation(len(wrong) + 1)]
    options, letter = tuple(asking.words.label(one) for one in order), LETTERS[order.index(label)]
    question, bare = asking.say("ask", {"options": lettered(options, asking.words.language)}), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", {"answer": letter, **asking.words.slots(label)})
    turns = exchange(subject, question, answer)
    return [Asked(kind="scene-choice", language=asking.words.language, template=asking.template, turns=turns, options=options, answers=(letter,))]


def _scene(subject: Subject) -> str | None:
    """The one label of the whole picture; None where there is none, or several: then none of them is the class of the scene."""
    table = subject.rules.table
    labels = {
        table.canonical(region.label) for region in subject.sample.annotations if region.picture == 0 and region.shape is None and region.label is not None
    }
    return next(iter(labels)) if len(labels) == 1 and all(subject.rules.said(label) for label in labels) else None
