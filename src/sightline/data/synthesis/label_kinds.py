"""Questions about which labels a picture has: list, yes or no, multiple choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sightline.data.synthesis.asked import Asked, Asking, Subject, exchange, favourite

LETTERS = "ABCDEFGH"


def listing(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What is in the picture: every label that is certainly there, largest first. Not asked where the answer would leave out objects that are only hard to see."""
    shares = subject.known.shares
    if not most or not shares or subject.known.hard or len(shares) > subject.limits.most_labels or not subject.known.closed:
        return []
    asking = subject.asking("list", rng)
    question = asking.say("ask", {})
    answer = asking.say("say", {"things": asking.words.things(list(shares))})
    return [Asked(kind="list", language=asking.words.language, template=asking.template, turns=exchange(subject, question, answer))]


def yes_no(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Whether a label is there.

    A coin is thrown for each question, and only where both answers could be given, so that yes and no are equally frequent over any set of pictures. Of the negatives a
    third are drawn at random from what the set annotates, a third are the commonest absent label, a third the one that most often comes with what is there (POPE, Li et al. 2023).
    """
    there, absent = list(subject.known.shares), subject.said_absent()
    asked: list[Asked] = []
    while len(asked) < most and there and absent:
        asking = subject.asking("yes-no", rng)
        yes = rng.random() < 0.5
        label = favourite(there, int(rng.integers(2**31))) if yes else negative(subject, absent, rng)
        (there if yes else absent).remove(label)
        asked.append(_yes_no(asking, label, yes))
    return asked


def negative(subject: Subject, absent: Sequence[str], rng: np.random.Generator) -> str:
    """An absent label, by one of the three ways of POPE."""
    way, key = int(rng.integers(3)), int(rng.integers(2**31))
    seen = subject.statistics.of(subject.known.source)
    counts = seen.labels
    if way == 2:
        counts = sum((seen.together.get(label, Counter()) for label in subject.known.shares), Counter())
    if way == 0 or not any(counts[label] for label in absent):
        return favourite(absent, key)
    return max(absent, key=lambda label: (counts[label], label))


def _yes_no(asking: Asking, label: str, yes: bool) -> Asked:
    subject, slots = asking.subject, asking.words.slots(label)
    question, side = asking.say("ask", slots), "yes" if yes else "no"
    short = asking.say(f"bare-{side}", {}, keep=False)
    if asking.bare():
        question, answer = asking.cued(question), short
    else:
        answer = asking.say(side, {**slots, "things": asking.words.things(list(subject.known.shares)[: subject.limits.most_labels])})
    return Asked(kind="yes-no", language=asking.words.language, template=asking.template, turns=exchange(subject, question, answer), answers=(side,))


def choice(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Which of lettered options are in the picture: exactly one, or several where the question says so. No option is another name, or a kind, of another."""
    asked: list[Asked] = []
    for _ in range(most):
        asking = subject.asking("choice", rng)
        several = rng.random() < subject.limits.several
        right = _apart(subject, [str(label) for label in rng.permutation(list(subject.known.shares))], subject.limits.options - 1 if several else 1)
        wrong = _wrong(subject, rng, subject.limits.options - len(right))
        if not right or not wrong or (several and len(right) < 2):
            continue
        asked.append(_choice(asking, right, wrong))
    return asked


def _apart(subject: Subject, labels: Sequence[str], most: int) -> list[str]:
    """The first labels of which none is a kind of another."""
    chosen: list[str] = []
    for label in labels:
        if len(chosen) < most and not any(subject.rules.related(label, other) for other in chosen):
            chosen.append(label)
    return chosen


def _wrong(subject: Subject, rng: np.random.Generator, most: int) -> list[str]:
    """Absent labels, drawn as negatives are."""
    absent, chosen = subject.said_absent(), []
    while absent and len(chosen) < most:
        chosen.append(negative(subject, absent, rng))
        absent = [label for label in absent if not subject.rules.related(label, chosen[-1])]
    return chosen


def lettered(options: Sequence[str], language: str) -> str:
    """`A. car; B. bus.`"""
    gap, between, stop = ("", "；", "。") if language == "zh" else (" ", "; ", ".")
    return between.join(f"{letter}.{gap}{option}" for letter, option in zip(LETTERS, options, strict=False)) + stop


def _choice(asking: Asking, right: Sequence[str], wrong: Sequence[str]) -> Asked:
    subject, words = asking.subject, asking.words
    order = [[*right, *wrong][place] for place in asking.rng.permutation(len(right) + len(wrong))]
    options = tuple(words.label(label) for label in order)
    letters = [LETTERS[place] for place, label in enumerate(order) if label in right]
    listed = lettered(options, words.language)
    many = "-many" if len(right) > 1 else ""
    answer = ("、" if words.language == "zh" else ", ").join(letters)
    question = asking.say(f"ask{many}", {"options": listed, "number": str(len(right))})
    shown = [label for label in order if label in right]
    if asking.bare():
        question, said = asking.cued(question, f"cue{many}"), asking.say("bare", {"answer": answer})
    else:
        said = asking.say("say", {"answer": answer, "things": words.things(shown)})
    return Asked(
        kind="choice",
        language=words.language,
        template=asking.template,
        turns=exchange(subject, question, said),
        options=options,
        answers=tuple(letters),
    )
