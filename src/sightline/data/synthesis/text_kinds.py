"""Questions about what is written: reading a line at a box, finding a line, writing out all of them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sightline.data.synthesis.asked import Asked, Asking, Subject, exchange
from sightline.data.synthesis.picture_facts import Line
from sightline.samples.sample import Region, Regions

_ROW = 0.6
"""Lines whose centres are nearer than this share of their height stand in one row."""


def reading(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """What the text at a box says."""
    lines = [line for line in subject.known.lines if line.kept]
    return [_reading(subject.asking("reading", rng), lines[place]) for place in rng.permutation(len(lines))[:most]]


def _reading(asking: Asking, line: Line) -> Asked:
    question = asking.say("ask", {"box": _box(line)})
    answer = asking.say("say", {"text": line.text})
    return _asked(asking, question, answer, line)


def spotting(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """Where a text stands that is in the picture once."""
    times = Counter(line.text.casefold() for line in subject.known.lines)
    lines = [line for line in subject.known.lines if line.kept and times[line.text.casefold()] == 1]
    return [_spotting(subject.asking("spotting", rng), lines[place]) for place in rng.permutation(len(lines))[:most]]


def _spotting(asking: Asking, line: Line) -> Asked:
    question = asking.say("ask", {"text": line.text})
    answer = asking.say("say", {"text": line.text, "boxes": _box(line)})
    return _asked(asking, question, answer, line)


def _box(line: Line) -> Regions:
    return Regions(regions=(Region(picture=line.region.picture, shape=line.box),))


def _asked(asking: Asking, question: tuple, answer: tuple, line: Line) -> Asked:
    turns = exchange(asking.subject, question, answer)
    return Asked(kind=asking.kind, language=asking.words.language, template=asking.template, turns=turns, answers=(line.text,))


def transcription(subject: Subject, rng: np.random.Generator, most: int) -> list[Asked]:
    """All text in reading order; pictures with more lines than an answer should have are left to the other two kinds."""
    lines = subject.known.lines
    if not most or not lines or len(lines) > subject.limits.most_lines:
        return []
    asking = subject.asking("transcription", rng)
    text = "\n".join(" ".join(line.text for line in row) for row in rows_of(lines))
    turns = exchange(subject, asking.say("ask", {}), asking.say("say", {"text": text}))
    return [Asked(kind="transcription", language=asking.words.language, template=asking.template, turns=turns)]


def rows_of(lines: tuple[Line, ...]) -> list[list[Line]]:
    """Lines from top to bottom; those that stand beside each other are one row, from left to right."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: (line.box.cy, line.box.cx)):
        last = rows[-1][0].box if rows else None
        if last is not None and line.box.cy - last.cy < _ROW * min(_height(line), _height(rows[-1][0])):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: line.box.cx) for row in rows]


def _height(line: Line) -> float:
    """Upright height of a line's box, px."""
    angle = np.radians(line.box.theta)
    return float(line.box.w * abs(np.sin(angle)) + line.box.h * abs(np.cos(angle)))
