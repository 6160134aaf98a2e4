"""How good masks from boxes are: overlap inside the box, F1, and the same over the whole picture, with 95 % intervals, for any refiners on the same boxes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sightline.evaluate.localisation import ratio
from sightline.evaluate.mask_figures import Pixels, count_pixels
from sightline.evaluate.metrics import Value
from sightline.evaluate.published import resampled
from sightline.progress import Progress
from sightline.refine.box_masks import Refiner, filled
from sightline.refine.objects import Jitter, KnownObject, Looking, ObjectChoice, Objects, find_objects, jittered, shape_of, upright
from sightline.samples.geometry import decode_mask
from sightline.samples.sample import Mask, Region
from sightline.samples.store import Store
from sightline.samples.upright_crops import TurnedBox

Prompt = Literal["rotated", "upright"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one refiner made of one way of prompting. Counts are object by object: `inside` those of pixels in the object's own box, `whole` those of the picture."""

    refiner: str
    boxes: str
    objects: tuple[KnownObject, ...]
    inside: tuple[Pixels, ...]
    whole: tuple[Pixels, ...]

    def pictures(self) -> list[Hashable]:
        """The picture of each object: what is resampled together."""
        return [(one.store, one.row) for one in self.objects]

    def metrics(self) -> dict[str, Value]:
        """miou: mean over objects of the IoU inside the box; label miou: mean over labels of that; f1: 2 both / (true + found) of all pixels inside; whole miou: mean IoU over the picture."""
        ious, whole = np.array([one.iou for one in self.inside]), np.array([one.iou for one in self.whole])
        groups = self.pictures()
        labels = [one.label for one in self.objects]
        found = {
            "miou": resampled(groups, lambda times: times @ ious / times.sum(1)),
            "label miou": resampled(groups, lambda times: _over_labels(ious, labels, times)),
            "f1": ratio([2 * one.both for one in self.inside], [one.union + one.both for one in self.inside], groups),
            "whole miou": resampled(groups, lambda times: times @ whole / times.sum(1)),
        }
        found["f1"] = found["f1"]._replace(n=len(ious))
        return {name: value._replace(n=len(ious)) for name, value in found.items()}

    def by_label(self) -> dict[str, Value]:
        """Mean IoU inside the box of each label's objects."""
        names = list(dict.fromkeys(one.label for one in self.objects))
        return {name: self._of([number for number, one in enumerate(self.objects) if one.label == name]) for name in names}

    def _of(self, chosen: Sequence[int]) -> Value:
        ious, groups = np.array([self.inside[k].iou for k in chosen]), [self.pictures()[k] for k in chosen]
        return resampled(groups, lambda times: times @ ious / times.sum(1))._replace(n=len(chosen))


def _over_labels(ious: np.ndarray, labels: Sequence[str], times: np.ndarray) -> np.ndarray:
    names = list(dict.fromkeys(labels))
    member = np.array([[label == name for name in names] for label in labels], float)
    counted = times @ member
    means = (times * ious) @ member / np.maximum(counted, 1e-12)
    return (means * (counted > 0)).sum(1) / (counted > 0).sum(1)


def above(one: Scored, floor: Scored) -> Value:
    """Mean over the same objects of the IoU inside the box by `one` less that by `floor`, with the 95 % interval of the paired difference."""
    assert one.objects == floor.objects and one.boxes == floor.boxes
    gaps = np.array([a.iou - b.iou for a, b in zip(one.inside, floor.inside, strict=True)])
    return resampled(one.pictures(), lambda times: times @ gaps / times.sum(1))._replace(n=len(gaps))


def score_refiners(
    refiners: Mapping[str, Refiner],
    stores: Sequence[Store],
    choice: ObjectChoice,
    *,
    prompts: Sequence[Prompt] = ("rotated",),
    jitter: Jitter | None,
    most: int | None,
    seed: int,
) -> tuple[list[Scored], Objects]:
    """Ask every refiner about the same boxes: exact ones and, with `jitter`, ones that are off; at most `most` objects, drawn evenly. Also the objects that were asked about."""
    objects = find_objects(stores, choice)
    if most is not None and len(objects.found) > most:
        drawn = np.sort(np.random.default_rng([seed, 7]).permutation(len(objects.found))[:most])
        left = {**objects.left, "not drawn": len(objects.found) - most}
        objects = Objects(found=tuple(objects.found[int(number)] for number in drawn), left=left)
    looking = Looking(stores, (), choice)
    ways: list[tuple[Prompt, Jitter | None]] = [(prompt, off) for prompt in prompts for off in ((None, jitter) if jitter is not None else (None,))]
    progress = Progress("refine eval", len(ways) * len(refiners) * len(objects.found), "masks")
    found: list[Scored] = []
    for prompt, off in ways:
        counts: dict[str, tuple[list[Pixels], list[Pixels]]] = {name: ([], []) for name in refiners}
        for known in objects.found:
            _ask(known, looking, prompt, off, np.random.default_rng([seed, known.store, known.row, known.region, known.piece + 1]), refiners, counts)
            progress.advance(len(refiners))
        said = f"{prompt}, {'exact' if off is None else 'off'}"
        found += [Scored(refiner=name, boxes=said, objects=objects.found, inside=tuple(inside), whole=tuple(whole)) for name, (inside, whole) in counts.items()]
    progress.close()
    return found, objects


def _ask(
    known: KnownObject,
    looking: Looking,
    prompt: Prompt,
    off: Jitter | None,
    rng: np.random.Generator,
    refiners: Mapping[str, Refiner],
    counts: Mapping[str, tuple[list[Pixels], list[Pixels]]],
) -> None:
    """One object by every refiner."""
    looked, mask = looking.at(known), looking.mask(known)
    box: TurnedBox = known.box if prompt == "rotated" else upright(known, mask)
    said = jittered(box, off, rng) if off is not None else box
    picture = looked.sample.pictures[looked.sample.annotations[known.region].picture]
    outside = ~filled(box, picture.width, picture.height)
    for name, refiner in refiners.items():
        [region] = refiner.refine(picture, [Region(label=known.label, shape=shape_of(said))])
        assert isinstance(region.shape, Mask)
        pixels = decode_mask(region.shape)
        counts[name][0].append(count_pixels(mask, pixels, outside | looked.ignored))
        counts[name][1].append(count_pixels(mask, pixels, looked.ignored))


def table_of(scored: Sequence[Scored]) -> list[tuple[str, ...]]:
    """Rows for people: boxes, refiner, each metric with its interval, and the gain over filling the box."""
    floors = {one.boxes: one for one in scored if one.refiner == "fill-box"}
    rows: list[tuple[str, ...]] = []
    for one in scored:
        told = [f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]" for value in one.metrics().values()]
        floor = floors.get(one.boxes)
        gain = above(one, floor) if floor is not None and floor is not one else None
        rows.append((one.boxes, one.refiner, *told, f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if gain else "", str(len(one.objects))))
    return [("boxes", "refiner", "miou in box", "label miou", "f1 in box", "whole miou", "miou above fill-box", "n"), *rows]


def record_of(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """The same as JSON, with every label."""
    return [
        {
            "boxes": one.boxes,
            "refiner": one.refiner,
            **{name: list(value) for name, value in one.metrics().items()},
            "labels": {name: list(value) for name, value in one.by_label().items()},
        }
        for one in scored
    ]
