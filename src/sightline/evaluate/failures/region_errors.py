"""Boxes in answers: missed, extra, off in centre, size or angle, and written in another convention than they are read in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.errors import Refused
from sightline.evaluate.failures.conventions import CONVENTIONS
from sightline.evaluate.failures.evidence import Case, Evidence, boxes_of
from sightline.evaluate.failures.finding import LEAST, Failure, Shown, mean_of, resampled_by, share_by, worst
from sightline.evaluate.localisation import compare
from sightline.evaluate.metrics import Value
from sightline.evaluate.region_matching import BoxErrors, Matching, errors, match, mean_iou
from sightline.kinds import Config
from sightline.samples.codec_table import CODEC, PRESETS
from sightline.samples.codecs import regions_in
from sightline.samples.frames import frame_of
from sightline.samples.sample import RotatedBox

_NONE = "no question whose right answer holds a box"
_READ = 1000
"""Answers, evenly drawn, that are read in all other conventions: each is matched anew by every one."""
_FIXES = {
    "centre": "look whether pictures are resampled too small for what is asked, and whether the codec's frame is that of the pictures",
    "size": "look at the order of width and height in rows, and at boxes around groups",
    "angle": "look whether the angles of all sets turn the same way (data check)",
}


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One case with its boxes matched."""

    case: Case
    matching: Matching
    errors: tuple[BoxErrors, ...]


class RegionErrors(Config):
    """Boxes matched by the Hungarian method on rotated IoU, and what is wrong with the pairs."""

    kind: Literal["region-errors"] = "region-errors"
    missed: float = Field(default=0.25, ge=0, le=1)
    """Share of the boxes that are there that may be missed."""
    extra: float = Field(default=0.25, ge=0, le=1)
    """Share of the boxes found that may be of nothing."""
    centre: float = Field(default=0.25, gt=0)
    """Distance of the centres, over the square root of the true area, from which a centre is off."""
    size: float = Field(default=1.5, gt=1)
    """Ratio of the areas from which a size is off."""
    angle: float = Field(default=15.0, gt=0, lt=90)
    """Degrees from which an angle is off."""
    most: float = Field(default=0.25, ge=0, le=1)
    """Share of pairs that may be off, for centre, size and angle each."""
    explained: float = Field(default=0.3, ge=0, le=1)
    """Share of the mean IoU with another convention that must be lost without it."""
    least_iou: float = Field(default=0.1, gt=0, le=1)
    """Mean IoU that a convention must reach to explain anything."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner."""
        seen = []
        for case in evidence.written:
            if case.asks_boxes:
                matching = match(case.wanted_boxes, case.found_boxes)
                found = tuple(errors(case.wanted_boxes[pair.truth], case.found_boxes[pair.found]) for pair in matching.pairs)
                seen.append(_Seen(case=case, matching=matching, errors=found))
        return [self._missed(seen), self._extra(seen), *self._off(seen), self._convention(seen)]

    def _missed(self, seen: Sequence[_Seen]) -> Failure:
        lost, there = [len(one.matching.missed) for one in seen], [len(one.case.wanted_boxes) for one in seen]
        pictures = [one.case.picture for one in seen]
        figures = {"mean IoU of answers": mean_of([mean_iou(one.case.wanted_boxes, one.case.found_boxes) for one in seen], pictures)} if seen else {}
        for least in (0.5, 0.75) if sum(there) else ():
            figures[f"found at IoU {least:g}"] = share_by(pictures, [sum(pair.iou >= least for pair in one.matching.pairs) for one in seen], there)
        return Failure(
            code="failure/region-missed",
            title="Boxes are missing",
            meaning="Share of the boxes of right answers that no box of the answer overlaps with an IoU of 0.1.",
            fix="look at answers with many boxes, and at small ones: the codec's grid may be too coarse for them",
            count=sum(map(bool, lost)),
            rate=share_by(pictures, lost, there),
            limit=self.missed,
            figures=figures,
            worst=worst(
                Shown(case=one.case, badness=float(n), note=f"{n} of {m} missed", marked=tuple(one.case.wanted_boxes[k] for k in one.matching.missed))
                for one, n, m in zip(seen, lost, there)
                if n
            ),
            note="" if sum(there) else _NONE,
        )

    def _extra(self, seen: Sequence[_Seen]) -> Failure:
        more = [len(one.matching.extra) for one in seen]
        found = [len(one.case.found_boxes) for one in seen]
        pictures = [one.case.picture for one in seen]
        areas = [compare(one.case.wanted_boxes, one.case.found_boxes) for one in seen]
        outside = [one.excess / one.covered if one.covered else 0.0 for one in areas]
        figures = {"area outside of all right boxes": mean_of([part for part, n in zip(outside, found) if n], [name for name, n in zip(pictures, found) if n])}
        return Failure(
            code="failure/region-extra",
            title="Boxes of nothing",
            meaning="Share of the boxes in answers that overlap no right box with an IoU of 0.1.",
            fix="look whether rows ask for things that are not there, and whether annotations leave things out",
            count=sum(map(bool, more)),
            rate=share_by(pictures, more, found),
            limit=self.extra,
            figures=figures if sum(found) else {},
            worst=worst(
                Shown(case=one.case, badness=float(n), note=f"{n} of {m} of nothing", marked=tuple(one.case.found_boxes[k] for k in one.matching.extra))
                for one, n, m in zip(seen, more, found)
                if n
            ),
            note="" if sum(found) else "no answer holds a box" if seen else _NONE,
        )

    def _off(self, seen: Sequence[_Seen]) -> list[Failure]:
        area = f"from {self.centre:g} of the square root of the true area on"
        sizes = f"areas that differ by a factor of {self.size:g} and more"
        angles = f"from {self.angle:g} degrees on, of boxes at least 1.5 times as long as wide"
        return [
            self._split(seen, "centre", lambda one: one.centre, self.centre, ("Centres are off", area, "", "{:.2f} of the square root of the true area")),
            self._split(seen, "size", lambda one: math.exp(one.size), self.size, ("Sizes are off", sizes, "times", "a factor of {:.2f}")),
            self._split(seen, "angle", lambda one: one.angle, self.angle, ("Angles are off", angles, "degrees", "{:.0f} degrees")),
        ]

    def _split(self, seen: Sequence[_Seen], name: str, value: Callable[[BoxErrors], float | None], limit: float, words: tuple[str, str, str, str]) -> Failure:
        """One sort of error of matched boxes. `words`: title, what counts, unit of the mean, and how one error is told."""
        title, meaning, unit, said = words
        measured = [(one.case, pair, found) for one in seen for pair, each in zip(one.matching.pairs, one.errors) if (found := value(each)) is not None]
        pictures, mean = [case.picture for case, *_ in measured], f"mean error of {name}" if name != "size" else "mean ratio of the larger area to the smaller"
        bad = [found >= limit for *_, found in measured]
        worst_of: dict[tuple[str, str], Shown] = {}  # the pair of each answer that is farthest off
        for (case, pair, found), flag in zip(measured, bad):
            name_of = (case.evaluation, case.name)
            if flag and (name_of not in worst_of or worst_of[name_of].badness < found):
                both = (case.wanted_boxes[pair.truth], case.found_boxes[pair.found])
                worst_of[name_of] = Shown(case=case, badness=found, note=f"{name} off by {said.format(found)}", marked=both)
        return Failure(
            code=f"failure/region-{name}",
            title=title,
            meaning=f"Share of matched boxes whose {name} is off: {meaning}.",
            fix=_FIXES[name],
            count=len(worst_of),
            rate=share_by(pictures, [float(flag) for flag in bad], [1.0] * len(bad)),
            limit=self.most,
            figures={mean: mean_of([found for *_, found in measured], pictures)} if measured else {},
            units={mean: unit},
            worst=worst(worst_of.values()),
            note="" if measured else "no matched box to measure it on" if seen else _NONE,
        )

    def _convention(self, seen: Sequence[_Seen]) -> Failure:
        every = [one.case for one in seen if one.case.wanted_boxes and (one.case.found_boxes or one.case.answer.problems)]
        cases = every[:: max(1, math.ceil(len(every) / _READ))]
        groups = [case.picture for case in cases]
        as_read = np.array([mean_iou(case.wanted_boxes, case.found_boxes) for case in cases], float)
        tried = {name: np.array([mean_iou(case.wanted_boxes, boxes) for case, boxes in zip(cases, read)], float) for name, read in _readings(cases)}
        explains = {
            name: resampled_by(groups, lambda times, iou=iou: 1 - (times @ as_read) / np.maximum(times @ iou, 1e-9))
            for name, iou in tried.items()
            if len(iou) >= LEAST and iou.mean() >= self.least_iou
        }
        best = max(explains, key=lambda name: explains[name].low, default=None)
        figures = {"mean IoU as read": mean_of(as_read.tolist(), groups)} if cases else {}
        for name in sorted(tried, key=lambda name: -tried[name].sum())[:3] if cases else ():
            figures[f"mean IoU with: {name}"] = mean_of(tried[name].tolist(), groups)
        named = f"Best explained by: {best}." if best is not None and explains[best].low > self.explained else ""
        drawn = f"{len(cases):,} of {len(every):,} answers were read in the other conventions." if len(cases) < len(every) else ""
        few = f"{len(cases)} answers with boxes, at least {LEAST} are needed"
        gain = tried[best] - as_read if best is not None else np.zeros(0)
        return Failure(
            code="failure/region-convention",
            title="Boxes are in another convention",
            meaning="Share of the mean IoU that is lost because the numbers are not taken for what another convention means by them; the convention that explains most.",
            fix="compare a row's box with its picture (data show), and set the codec or the reader to what the numbers mean",
            count=int((gain > 0).sum()),
            rate=_from_zero(explains[best]) if best is not None else Value(value=0.0, low=0.0, high=0.0, n=len(cases)) if len(cases) >= LEAST else Failure.rate,
            limit=self.explained,
            figures=figures,
            worst=worst(Shown(case=case, badness=float(more), note=f"IoU higher by {more:.2f} with: {best}") for case, more in zip(cases, gain) if more > 0),
            note=" ".join(filter(None, (named, drawn))) if len(cases) >= LEAST else few if cases else _NONE,
        )


def _from_zero(value: Value) -> Value:
    """Less than nothing is lost where a convention explains less than the codec itself does."""
    return Value(*(max(0.0, each) for each in value[:3]), n=value.n)


def _readings(cases: Sequence[Case]) -> list[tuple[str, list[tuple[RotatedBox, ...]]]]:
    """Each convention with the boxes that it makes of every answer: other meanings of the numbers, and other codecs where they read anything."""
    readings = []
    sizes = [(float(case.asked.pictures[0].width), float(case.asked.pictures[0].height)) if case.asked.pictures else (1000.0, 1000.0) for case in cases]
    for name, meant in CONVENTIONS.items():
        readings.append((name, [tuple(meant(box, *size) for box in case.found_boxes) for case, size in zip(cases, sizes)]))
    named = {**{kind: {"kind": kind} for kind in CODEC.table()}, **PRESETS}
    for name, said in named.items():
        codec = CODEC.parse(dict(said))
        boxes = []
        for case, size in zip(cases, sizes):
            try:
                boxes.append(boxes_of(regions_in(codec.parse(case.answer.text, frame_of(codec.frame, int(size[0]), int(size[1])))[0])))  # pyright: ignore[reportAttributeAccessIssue]
            except Refused:  # a frame that only a model knows
                break
        if len(boxes) == len(cases) and any(boxes):
            readings.append((f"codec {name}", boxes))
    return readings
