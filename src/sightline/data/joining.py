"""Samples on the same pictures from several sets: which become one, and what contradicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from sightline.errors import Problem, Refused
from sightline.samples.sample import Region, Sample

SHOWN = 20
"""Problems that a refusal lists in full; the rest is counted by code."""


def summary(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems in full, and one line per code for the others."""
    rest = Counter(problem.code for problem in problems[SHOWN:])
    fix = "read with `on_problem: quarantine` to list all of them in problems.jsonl"
    return [*problems[:SHOWN], *(Problem(code=code, place="further rows", found=f"{count} more of this kind", fix=fix) for code, count in sorted(rest.items()))]


def merge(samples: Sequence[Sample]) -> Sample:
    """Samples on the same pictures as one: id, origin and turns of the one that has turns (without turns: of the first), all annotations.

    Regions of equal label and shape become one with the attributes of both. Refused when two have turns, or when they disagree in an attribute.
    """
    spoken = [sample for sample in samples if sample.turns]
    first = spoken[0] if spoken else samples[0]
    if len(samples) == 1:
        return first
    problems: list[Problem] = []
    if len(spoken) > 1:
        found = f"samples {', '.join(sample.id for sample in spoken)} all have turns"
        problems.append(_conflict("two-dialogues", first, found, "one sample with turns", "join only one set of dialogues or captions"))
    attributes: dict[str, Any] = {}
    for sample in samples:
        for key, value in sample.attributes.items():
            if attributes.setdefault(key, value) != value:
                problems.append(_conflict("join-conflict", first, f"{key} is {attributes[key]!r} and {value!r}", "equal values", "leave one of the sets out"))
    if problems:
        raise Refused(problems)
    parents = tuple(f"{sample.origin.source}:{sample.origin.row}" for sample in samples if sample is not first and sample.origin != first.origin)
    origin = replace(first.origin, parents=(*first.origin.parents, *parents))
    annotations = _united([sample.annotations for sample in samples])
    return replace(first, annotations=annotations, attributes=attributes, origin=origin)


def together(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Which of the samples on the same pictures become one: those with turns stay rows of their own, each with what the others know about the pictures."""
    spoken = [sample for sample in samples if sample.turns]
    if len(spoken) < 2:
        return [list(samples)] if samples else []
    silent = [sample for sample in samples if not sample.turns]
    return [[one, *silent] for one in spoken]


def _conflict(code: str, sample: Sample, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code=f"data/{code}", place=f"{sample.origin.source}:{sample.id}", found=found, allowed=allowed, fix=fix)


def _united(sets: Sequence[Sequence[Region]]) -> tuple[Region, ...]:
    """All regions; the k-th of equal label and shape in one set is the k-th in another."""
    known = [regions for regions in sets if regions]
    if len(known) < 2:
        return tuple(known[0]) if known else ()
    united: dict[Any, Region] = {}
    for regions in known:
        times: Counter[Any] = Counter()
        for region in regions:
            # A class mask and the mask of its only instance have equal shapes and are two facts.
            what = (region.picture, region.label, region.shape, region.attributes.get("instance"))
            key = (what, times[what])
            times[what] += 1
            same = united.get(key)
            united[key] = region if same is None else replace(same, attributes={**same.attributes, **region.attributes})
    return tuple(united.values())


def join(sets: Sequence[Iterable[Sample]]) -> Iterator[Sample]:
    """Samples of several sets (stores, iterators), those with the same pictures by hash merged, in the order of first appearance; samples without pictures pass as they are.

    Refused with all conflicts: a set that holds the same pictures twice, and what `merge` refuses.
    """
    groups: dict[tuple[str, ...], list[Sample]] = {}
    problems: list[Problem] = []
    for number, samples in enumerate(sets):
        seen: dict[tuple[str, ...], str] = {}
        for sample in samples:
            key = tuple(picture.hash for picture in sample.pictures) or (f"no picture {number} {sample.id}",)
            if key in seen:
                found = f"the same pictures as {seen[key]}: it is not clear which of them is meant"
                problems.append(_conflict("join-ambiguous", sample, found, "each picture once in a set", "remove the duplicate first"))
            seen[key] = sample.id
            groups.setdefault(key, []).append(sample)
    joined: list[Sample] = []
    for group in groups.values() if not problems else ():
        try:
            joined.append(merge(group))
        except Refused as refused:
            problems.extend(refused.problems)
    if problems:
        raise Refused(summary(problems))
    yield from joined
