"""Where is it? Boxes that a model names, beside those of a set, in px of the source picture: grounding, referring, and rotated mean average precision."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from sightline.data.readers.dota import quad_of
from sightline.evaluate.localisation import Flags, Found, Truth, average_precision, compare, detection_flags, localisation_metrics, merged, overlaps, ratio
from sightline.evaluate.metrics import Value, resamples
from sightline.evaluate.question_files import ANSWERS
from sightline.evaluate.region_benchmarks import RegionAnswer, RegionKind, RegionRow
from sightline.samples.codecs import regions_in, rotated
from sightline.samples.exchange import Decoding
from sightline.samples.geometry import Points, corners
from sightline.samples.grammar import GrammarName
from sightline.samples.sample import Region, RotatedBox, Sample

ASK = "Where is each {label} in the picture? Answer with the box of every one."
_SEED = 20
_SAME = 0.5
"""IoU from which a box is taken for an ignored object."""


class Grounding(RegionKind):
    """All boxes of a phrase: pairs of a set whose answers are regions, or one question for each label of a picture with annotated regions."""

    kind: Literal["grounding"] = "grounding"
    ask: str = ASK
    """Question about the annotations of a label, with {label}; questions that a set has are asked as they stand."""
    grammar: bool = False
    """Whether a model may answer nothing but regions, in its own codec. A word it would have said, or that nothing is there, is then not counted as a format error: it cannot be."""

    grammar_name: ClassVar[GrammarName] = "regions"

    def decoding(self) -> Decoding:
        """See PublishedKind."""
        return replace(super().decoding(), grammar=self.grammar_name if self.grammar else None)

    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """See RegionKind. Crowds are left out, difficult objects are ignored."""
        asked = list(_told(sample))
        yield from asked or self._annotated(sample)

    def _annotated(self, sample: Sample) -> Iterator[RegionRow]:
        if len(sample.pictures) != 1:
            return
        by_label: dict[str, list[Region]] = {}
        for region in sample.annotations:
            if region.label is not None and rotated(region.shape) is not None:
                by_label.setdefault(region.label, []).append(region)
        for label, regions in by_label.items():
            clear = tuple(region for region in regions if not _ignored(region))
            if clear:
                row = _row(sample, f"{sample.id}#{label}", self.ask.replace("{label}", label), clear, label)
                yield replace(row, ignored=tuple(filter(_ignored, regions)))

    def scored(self, rows: Sequence[RegionRow], found: Sequence[RegionAnswer]) -> tuple[dict[str, Value], list[float]]:
        """See `localisation_metrics`; a row's score is the mean of the largest IoU of each of its boxes."""
        results = [self._compared(row, one) for row, one in zip(rows, found, strict=True)]
        metrics = localisation_metrics(results, [row.shown for row in rows])
        kinds = [row.told("category") for row in rows]
        for kind in dict.fromkeys(filter(None, kinds)):
            own = [number for number, one in enumerate(kinds) if one == kind]
            metrics[f"{kind} acc@0.5"] = ratio([results[k].right(0.5) for k in own], [1] * len(own), [rows[k].shown for k in own])
        return metrics, [sum(one.best) / len(one.best) for one in results]

    def _compared(self, row: RegionRow, said: RegionAnswer) -> Found:
        true, ignored = boxes_of(row.regions), boxes_of(row.ignored)
        told = boxes_of(said.regions)
        if ignored:  # a box that fits an ignored object better than any true one is no mistake
            own, other = (overlaps(boxes, told).max(axis=0, initial=0.0) for boxes in (true, ignored))
            told = [box for box, a, b in zip(told, own, other, strict=True) if b <= a or b < _SAME]
        return compare(true, told, said.format_error)


class Referring(Grounding):
    """One box of one phrase: the questions of `grounding` whose right answer is a single box. acc@0.5 is the usual figure of referring expressions."""

    kind: Literal["referring"] = "referring"  # pyright: ignore[reportIncompatibleVariableOverride]
    grammar_name: ClassVar[GrammarName] = "region"

    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """See RegionKind."""
        return (row for row in super().questions_of(sample, labels) if len(row.regions) == 1 and not row.ignored)


class RotatedMap(RegionKind):
    """Mean average precision of objects on pictures by the rule of DOTA's task 1: IoU of outlines above one half, difficult objects left out.

    Every label of the set is asked of every picture. A model has no score for a box: all boxes of an answer have the mean log-probability of its tokens, in the order in which they are said.
    Found objects of a detector (`--answers FOLDER` with Task1_CLASS.txt) have their own.
    """

    headlines: ClassVar[tuple[str, ...]] = ("map", "f1@0.5")
    kind: Literal["rotated-map"] = "rotated-map"
    ask: str = ASK
    """Question about a label, with {label}."""
    max_tokens: int = 1024
    """Longest answer."""

    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """See RegionKind."""
        if len(sample.pictures) != 1:
            return
        for label in labels:
            own = tuple(region for region in sample.annotations if region.label == label and rotated(region.shape) is not None)
            row = _row(sample, f"{sample.id}#{label}", self.ask.replace("{label}", label), tuple(one for one in own if not _ignored(one)), label)
            yield replace(row, ignored=tuple(filter(_ignored, own)))

    def scored(self, rows: Sequence[RegionRow], found: Sequence[RegionAnswer]) -> tuple[dict[str, Value], list[float]]:
        """`map` (11 points of VOC 2007, as DOTA), `map-area` (area under the curve), f1@0.5, AP of each label; intervals of both means from resampled pictures."""
        tables = {label: _by_picture(rows, found, label) for label in dict.fromkeys(row.told("label") for row in rows if row.regions)}
        once = {label: _precision(table, None) for label, table in tables.items()}
        names = sorted({row.shown for row in rows})
        drawn = [dict(zip(names, times.tolist(), strict=True)) for times in resamples(names, np.random.default_rng(_SEED))]
        again = np.array([_means([_precision(table, times) for table in tables.values()]) for times in drawn])
        low, high = np.nanpercentile(again, (2.5, 97.5), axis=0)
        metrics: dict[str, Value] = {}
        for place, name in enumerate(("map", "map-area")):
            value = _means(list(once.values()))[place]
            metrics[name] = Value(value=value, low=float(min(low[place], value)), high=float(max(high[place], value)), n=len(tables))
        results = [compare(boxes_of(row.regions), boxes_of(one.regions), one.format_error) for row, one in zip(rows, found, strict=True)]
        figures = localisation_metrics(results, [row.shown for row in rows])
        metrics |= {name: figures[name] for name in ("f1@0.5", "format-error") if name in figures}
        for label, own in once.items():
            true = sum(counted for _, counted in tables[label].values())
            metrics[f"ap {label}"] = Value(value=own[0], low=own[0], high=own[0], n=true)
        return metrics, [_f1(one) for one in results]


def _f1(one: Found) -> float:
    """Of one question; 1 where nothing is there and nothing was said."""
    below = len(one.best) + one.found
    return 2 * one.hits(0.5) / below if below else 1.0


Table = dict[str, tuple[Flags, int]]
"""Picture -> its detections of a label, and how many true objects count."""


def _by_picture(rows: Sequence[RegionRow], found: Sequence[RegionAnswer], label: str) -> Table:
    table: Table = {}
    for row, said in zip(rows, found, strict=True):
        if row.told("label") != label:
            continue
        regions = (*row.regions, *row.ignored)
        truth = Truth(outlines=tuple(map(outline_of, regions)), difficult=tuple(map(_ignored, regions)))
        logps = said.answer.logps
        mean = sum(logps) / len(logps) if logps else 0.0
        told = [region for region in said.regions if rotated(region.shape) is not None]
        scores = [float(region.attributes.get("score", mean)) for region in told]
        table[row.shown] = detection_flags(scores, [outline_of(region) for region in told], truth), truth.counted
    return table


def _precision(table: Table, times: Mapping[str, int] | None) -> tuple[float, float]:
    """AP of a label at 11 points and as an area, each picture counted as often as `times` says; nan where no true object is left."""
    many = [(flags, true, 1 if times is None else times[name]) for name, (flags, true) in table.items()]
    true = sum(count * often for _, count, often in many)
    flags = merged(one for one, _, often in many for _ in range(often))
    return (average_precision(flags, true), average_precision(flags, true, eleven=False)) if true else (math.nan, math.nan)


def _means(precisions: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Both means over the labels that have one; nan where none has."""
    known = [one for one in precisions if not math.isnan(one[0])]
    return (sum(one for one, _ in known) / len(known), sum(other for _, other in known) / len(known)) if known else (math.nan, math.nan)


def outline_of(region: Region) -> Points:
    """Four corners: those that were published with a region, else those of its box."""
    quad = quad_of(region)
    box = rotated(region.shape)
    assert box is not None
    return np.array(quad, np.float64).reshape(4, 2) if quad is not None else corners(box)


def boxes_of(regions: Sequence[Region]) -> list[RotatedBox]:
    """The rectangles of regions, le90; points and other shapes without an area have none."""
    return [box for region in regions if (box := rotated(region.shape)) is not None]


def _ignored(region: Region) -> bool:
    return any(region.attributes.get(name) for name in ("difficult", "crowd", "iscrowd", "ignore"))


def _told(sample: Sample) -> Iterator[RegionRow]:
    """Pairs of one picture whose answer holds regions."""
    if len(sample.pictures) != 1:
        return
    kinds = str(sample.attributes.get("kind", "")).split(",")
    for number in range(0, len(sample.turns) - 1, 1):
        asked, answer = sample.turns[number], sample.turns[number + 1]
        regions = tuple(region for region in regions_in(answer.items) if rotated(region.shape) is not None) if answer.role == "assistant" else ()
        if asked.role == "user" and regions and not regions_in(asked.items):
            pair = sum(turn.role == "user" for turn in sample.turns[:number])
            row = _row(sample, f"{sample.id}#{pair}", sample.text(number), regions, "")
            yield replace(row, fields={**row.fields, "category": kinds[pair % len(kinds)]})


def _row(sample: Sample, index: str, question: str, regions: tuple[Region, ...], label: str) -> RegionRow:
    return RegionRow(
        index=index,
        place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
        question=question,
        answer=str(len(regions)),
        pictures=sample.pictures,
        fields={"label": label, ANSWERS: json.dumps([len(regions)])},
        regions=regions,
        sample=sample.id,
    )
