"""Questions about regions and objects: where a label is, what is at a place, how many there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sightline.data.synthesis.asked import Asked, Asking, Subject, exchange
from sightline.data.synthesis.picture_facts import Thing
from sightline.samples.sample import Region, Regions, Turn


def grounding(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Where a label is: boxes in reading order, at most ten an answer.

    A longer answer says how many remain, and follow-up questions ask for the next ten. Objects without a usable box are named as such in the last answer. Labels with most
    objects come first.
    """
    found: list[Asked] = []
    for label in sorted(subject.known.shares, key=lambda label: (-len(subject.known.of(label)), label)):
        things = subject.known.of(label)
        if len(found) < most and any(not thing.fault for thing in things):
            found.append(located(subject.asking("grounding", rng), label, things))
    return found


def located(asking: Asking, label: str, things: Sequence[Thing]) -> Asked:
    """The conversation that gives the boxes of things, ten at a time."""
    subject, limits, slots = asking.subject, asking.subject.limits, asking.words.slots(label)
    usable = [thing for thing in things if not thing.fault]
    hidden = len(things) - len(usable)
    pages = [usable[start : start + limits.most_boxes] for start in range(0, len(usable), limits.most_boxes)][: limits.follow_ups + 1]
    turns: list[Turn] = []
    done = 0
    for page in pages:
        done += len(page)
        rest = len(things) - done
        boxes = Regions(regions=tuple(thing.boxed() for thing in page))
        filling = {**slots, "boxes": boxes, "shown": str(len(page)), "rest": str(rest), "hidden": str(hidden)}
        form = ("say-next" if turns else "say-part") if done < len(usable) else "say-unboxed" if hidden else "say"
        question = asking.say("more" if turns else "ask", slots, keep=not turns)
        asked, answered = exchange(subject, question, asking.say(form, filling, keep=not turns))
        turns += [Turn(role="user", items=question) if turns else asked, answered]
    reached = [thing for page in pages for thing in page]
    return Asked(
        kind=asking.kind,
        language=asking.words.language,
        template=asking.template,
        turns=tuple(turns),
        reached=tuple(thing.number for thing in reached),
        targets=targets(subject, reached),
    )


def targets(subject: Subject, things: Sequence[Thing]) -> tuple[Region, ...]:
    """Masks of things that are components, marked `target` with the number of their box in the answer."""
    return tuple(
        Region(
            picture=thing.region.picture,
            label=thing.label,
            attributes={"target": place},
            shape=thing.component.mask(subject.known.width, subject.known.height),
        )
        for place, thing in enumerate(things, 1)
        if thing.component is not None
    )


def naming(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What is at a box: the label that owns at least 60 % of its pixels."""
    asked: list[Asked] = []
    offered = [thing for thing in subject.known.things if not thing.fault]
    for place in rng.permutation(len(offered)):
        if len(asked) == most:
            break
        if subject.known.owned(offered[place]) >= subject.limits.least_owned:
            asked.append(_naming(subject.asking("naming", rng), offered[place]))
    return asked


def _naming(asking: Asking, thing: Thing) -> Asked:
    subject, slots = asking.subject, asking.words.slots(thing.label)
    question = asking.say("ask", {"box": Regions(regions=(Region(picture=thing.region.picture, shape=thing.box),))})
    bare = asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", slots)
    return Asked(
        kind="naming",
        language=asking.words.language,
        template=asking.template,
        turns=exchange(subject, question, answer),
        answers=(slots["label"],),
        reached=(thing.number,),
        targets=targets(subject, [thing]),
    )


def counting(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """How many objects a label has: 1 to 10 of them, all certain; one question in ten is about a label that is not there."""
    known, table = subject.known, subject.rules.table
    numbers = {label: len(known.of(label)) for label in known.shares}
    sure = [
        label for label, count in numbers.items() if label not in known.uncounted and 1 <= count <= subject.limits.most_counted and countable(subject, label)
    ]
    absent = [label for label in subject.said_absent() if (found := table.find(label)) is not None and found.countable]
    asked: list[Asked] = []
    while sure and len(asked) < most:
        none = rng.random() < subject.limits.zeros and bool(absent)
        labels = absent if none else sure
        label = labels.pop(int(rng.integers(len(labels))))
        asked.append(_counting(subject.asking("counting", rng), label, 0 if none else numbers[label]))
    return asked


def countable(subject: Subject, label: str) -> bool:
    """Whether the objects of a label may be counted; a label that the table does not know is countable where its objects are annotated one by one."""
    found = subject.rules.table.find(label)
    return found.countable if found is not None else all(thing.component is None for thing in subject.known.of(label))


def _counting(asking: Asking, label: str, count: int) -> Asked:
    subject, slots = asking.subject, asking.words.slots(label)
    question, bare = asking.say("ask", slots), asking.bare()
    question = asking.cued(question) if bare else question
    answer = asking.say("bare" if bare else "say", {**slots, "number": str(count), "counted": asking.words.counted(label, count)})
    return Asked(
        kind="counting",
        language=asking.words.language,
        template=asking.template,
        turns=exchange(subject, question, answer),
        answers=(str(count),),
        reached=tuple(thing.number for thing in subject.known.of(label)) if count else (),
    )
