"""Which pixels? Masks and changes that a model marks, beside those of a set. A box or an outline in an answer is filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.data.segment_questions import ABSENT
from sightline.evaluate import yes_no
from sightline.evaluate.localisation import ratio
from sightline.evaluate.mask_figures import Pixels, count_pixels, mask_metrics
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.published import refused, resampled
from sightline.evaluate.region_benchmarks import RegionAnswer, RegionKind, RegionRow
from sightline.samples.codecs import regions_in, rotated
from sightline.samples.exchange import Answer
from sightline.samples.painting import painted
from sightline.samples.sample import Mask, Polygon, Region, Sample, Text


class Masks(RegionKind):
    """Masks of labels: every label of the set is asked of every picture, so that what is marked where nothing is counts too."""

    headlines: ClassVar[tuple[str, ...]] = ("miou", "dice")
    kind: Literal["masks"] = "masks"
    ask: str = "Mark every pixel of {label} in the picture."
    """Question about a label, with {label}."""
    absent: bool = True
    """Also ask about labels that a picture does not have. Off: as in referring segmentation."""
    ignore: tuple[str, ...] = ()
    """Labels whose pixels count nowhere, and which are not asked about."""
    unlabelled: Literal["background", "ignore"] = "background"
    """What pixels without any label are: background, which no one may mark, or pixels that count nowhere."""
    questions: Literal["labels", "own"] = "labels"
    """labels: `ask` about each label. own: the questions that the set has whose answers are masks, or that there is none (the operator `segment`), as they stand."""
    boxes: bool = False
    """Also figures inside the rotated boxes of objects, beside those of filling the boxes, as `refine eval` has them: for questions about single objects."""

    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """See RegionKind."""
        if len(sample.pictures) != 1:
            return
        if self.questions == "own":
            yield from _own(sample)
            return
        for label in labels:
            own = tuple(region for region in sample.annotations if region.label == label and isinstance(region.shape, Mask))
            if label not in self.ignore and (own or self.absent):
                yield RegionRow(
                    index=f"{sample.id}#{label}",
                    place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
                    question=self.ask.replace("{label}", label),
                    answer=label,
                    pictures=sample.pictures,
                    fields={"label": label},
                    regions=own,
                    ignored=tuple(region for region in sample.annotations if self._matters(region)),
                    sample=sample.id,
                )

    def _matters(self, region: Region) -> bool:
        """Whether `_left_out` needs a region: to leave its pixels out, or, where unlabelled pixels are, to know what is labelled."""
        return self._counts_nowhere(region) or (self.unlabelled == "ignore" and isinstance(region.shape, Mask))

    def _counts_nowhere(self, region: Region) -> bool:
        return region.label in self.ignore or any(region.attributes.get(name) for name in ("crowd", "iscrowd", "ignore"))

    def _left_out(self, row: RegionRow) -> NDArray[np.bool_]:
        """(height, width) pixels that count nowhere."""
        picture = row.pictures[-1]
        left_out = painted([region for region in row.ignored if self._counts_nowhere(region)], picture.width, picture.height)
        return left_out if self.unlabelled == "background" else left_out | ~painted(row.ignored, picture.width, picture.height)

    def scored(self, rows: Sequence[RegionRow], found: Sequence[RegionAnswer]) -> tuple[dict[str, Value], list[float]]:
        """See `mask_metrics`; a row's score is its IoU."""
        left_out = [self._left_out(row) for row in rows]
        counts = [_counted(row, one, out) for row, one, out in zip(rows, found, left_out, strict=True)]
        metrics = mask_metrics(counts, [row.told("label") for row in rows], [row.shown for row in rows])
        metrics |= _in_boxes(rows, found, left_out) if self.boxes else {}
        absent = [not one.regions for row, one in zip(rows, found, strict=True) if not row.regions]
        if self.questions == "own" and absent:
            metrics["rejected"] = share(sum(absent), len(absent))
        return metrics, [one.iou for one in counts]


def _own(sample: Sample) -> Iterator[RegionRow]:
    """Pairs of a sample whose answer is masks, or nothing of what was asked for."""
    asked = sample.attributes.get("asked", ())
    kinds = str(sample.attributes.get("kind", "")).split(",")
    for number, (user, reply) in enumerate(zip(sample.turns[::2], sample.turns[1::2])):
        regions = tuple(region for region in regions_in(reply.items) if isinstance(region.shape, Mask | Polygon))
        kind = kinds[number % len(kinds)]
        if not regions and kind != ABSENT:
            continue
        label = str(asked[number]) if number < len(asked) else next((region.label for region in regions if region.label), "")
        yield RegionRow(
            index=f"{sample.id}#{number}",
            place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
            question="".join(item.text for item in user.items if isinstance(item, Text)),
            answer=label or "none",
            pictures=sample.pictures,
            fields={"label": label, "category": kind},
            regions=regions,
            sample=sample.id,
        )


def _in_boxes(rows: Sequence[RegionRow], found: Sequence[RegionAnswer], left_out: Sequence[NDArray[np.bool_]]) -> dict[str, Value]:
    """Of questions about something that is there: mean IoU of pixels inside the boxes of least area around its objects, that of filling these boxes, and the difference."""
    inside: list[float] = []
    floor: list[float] = []
    pictures: list[str] = []
    for row, said, out in zip(rows, found, left_out, strict=True):
        if row.regions:
            size = row.pictures[-1].width, row.pictures[-1].height
            box = painted([replace(region, shape=rotated(region.shape)) for region in row.regions], *size)
            true, drawn = painted(row.regions, *size), painted(said.regions, *size)
            inside.append(count_pixels(true, drawn, out | ~box).iou)
            floor.append(count_pixels(true, box, out | ~box).iou)
            pictures.append(row.shown)
    if not pictures:
        return {}
    columns = {"miou in box": np.array(inside), "fill-box": np.array(floor), "miou above fill-box": np.array(inside) - np.array(floor)}
    return {name: _mean(pictures, values) for name, values in columns.items()}


def _mean(pictures: Sequence[str], values: NDArray[np.float64]) -> Value:
    return resampled(pictures, lambda times: times @ values / times.sum(axis=1))._replace(n=len(values))


class Change(RegionKind):
    """What changed between two pictures of one place: whether anything did, and which pixels of the later one."""

    files: ClassVar[str] = "a store, or a set of pairs with masks of what changed (folders A, B and label)"
    headlines: ClassVar[tuple[str, ...]] = ("f1", "changed accuracy")
    kind: Literal["change"] = "change"
    asks: tuple[Literal["whether", "where"], ...] = ("whether", "where")
    """What is asked about each pair."""
    ask: str = "Has anything changed between the two pictures? Please answer yes or no."
    """The question of `whether`."""
    ask_where: str = "Mark what has changed in the second picture."
    """The question of `where`."""
    rule: yes_no.Rule = "tolerant"
    """How answers to `whether` are read."""

    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """See RegionKind. Refused for a sample that is no pair of pictures of one size."""
        sizes = {(picture.width, picture.height) for picture in sample.pictures}
        if len(sample.pictures) != 2 or len(sizes) > 1:
            found = f"{sample.id}: {len(sample.pictures)} pictures of {len(sizes)} sizes"
            raise refused("not-a-pair", sample.origin.source, found, "two pictures of one size", "leave the sample out")
        changed = tuple(region for region in sample.annotations if region.picture == 1 and isinstance(region.shape, Mask))
        for part in self.asks:
            yield RegionRow(
                index=f"{sample.id}#{part}",
                place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
                question=self.ask if part == "whether" else self.ask_where,
                answer="yes" if changed else "no",
                pictures=sample.pictures,
                fields={"category": part},
                regions=changed,
                sample=sample.id,
            )

    def said(self, row: RegionRow, answer: Answer) -> RegionAnswer:
        """See RegionKind; whether anything changed is said in words, which no codec reads."""
        return RegionAnswer((), False, answer) if row.told("category") == "whether" else super().said(row, answer)

    def scored(self, rows: Sequence[RegionRow], found: Sequence[RegionAnswer]) -> tuple[dict[str, Value], list[float]]:
        """`f1`, `iou`, precision and recall of changed pixels over the whole set; `changed` accuracy, precision, recall and F1 of yes over pairs, with `changed unparsed`."""
        scores: list[float] = []
        counts: list[Pixels] = []
        places: list[str] = []
        said: list[tuple[str | None, str, str]] = []
        for row, one in zip(rows, found, strict=True):
            if row.told("category") == "where":
                picture = row.pictures[-1]
                counts.append(_counted(row, one, np.zeros((picture.height, picture.width), bool)))
                places.append(row.shown)
                scores.append(counts[-1].iou)
            else:
                said.append((yes_no.RULES[self.rule](one.answer.text), row.answer, row.shown))
                scores.append(float(said[-1][0] == row.answer))
        return (_pixels(counts, places) if counts else {}) | (_whether(said) if said else {}), scores


def _pixels(counts: Sequence[Pixels], places: Sequence[str]) -> dict[str, Value]:
    both, missed, extra = zip(*counts, strict=True)
    true, found = [b + m for b, m in zip(both, missed)], [b + e for b, e in zip(both, extra)]
    return {
        "f1": ratio([2 * one for one in both], [a + b for a, b in zip(true, found)], places),
        "iou": ratio(both, [one.union for one in counts], places),
        "precision": ratio(both, found, places),
        "recall": ratio(both, true, places),
    }


def _whether(said: Sequence[tuple[str | None, str, str]]) -> dict[str, Value]:
    right = [one == truth for one, truth, _ in said]
    yes, true = [one == "yes" for one, _, _ in said], [truth == "yes" for _, truth, _ in said]
    both = [a and b for a, b in zip(yes, true)]
    pictures = [shown for _, _, shown in said]
    return {
        "changed accuracy": share(sum(right), len(right)),
        "changed precision": share(sum(both), sum(yes)),
        "changed recall": share(sum(both), sum(true)),
        "changed f1": ratio([2 * one for one in both], [a + b for a, b in zip(yes, true)], pictures),
        "changed unparsed": share(sum(one is None for one, _, _ in said), len(said)),
    }


def _counted(row: RegionRow, said: RegionAnswer, left_out: NDArray[np.bool_]) -> Pixels:
    picture = row.pictures[-1]
    true, found = (painted(regions, picture.width, picture.height) for regions in (row.regions, said.regions))
    return count_pixels(true, found, left_out)
