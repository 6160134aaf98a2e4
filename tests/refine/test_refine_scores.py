"""Figures of masks from boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from conftest import CHOICE
from sightline.evaluate.mask_figures import Pixels
from sightline.refine.box_masks import FillBox, masked
from sightline.refine.objects import Jitter, KnownObject, Looking, find_objects
from sightline.refine.refine_scores import Scored, above, record_of, score_refiners, table_of
from sightline.samples.sample import Picture, Region
from sightline.samples.store import Store
from sightline.samples.upright_crops import TurnedBox


class Knowing:
    """Gives the true mask of whichever object lies at the middle of the box."""

    id = "knowing"
    bands = ()

    def __init__(self, store: Store) -> None:
        self.looking = Looking([store], (), CHOICE)
        self.known = find_objects([store], CHOICE).found

    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        boxes = [FillBox().refine(picture, [region]) for region in regions]
        own = [one for one in self.known if self.looking.at(one).sample.pictures[0].hash == picture.hash]
        masks = [self.looking.mask(one) for one in own]
        filled = [np.asarray(painted_of(box[0])) for box in boxes]
        return masked(regions, [max(masks, key=lambda mask, box=box: (mask & box).sum() / (mask | box).sum()) for box in filled])


def painted_of(region: Region) -> np.ndarray:
    from sightline.samples.geometry import decode_mask
    from sightline.samples.sample import Mask

    assert isinstance(region.shape, Mask)
    return decode_mask(region.shape)


def known(row: int, label: str) -> KnownObject:
    return KnownObject(store=0, row=row, region=0, piece=-1, label=label, box=TurnedBox(cx=1, cy=1, w=2, h=2))


def scored(name: str, *inside: Pixels) -> Scored:
    return Scored(refiner=name, boxes="rotated, exact", objects=(known(0, "pond"), known(0, "road"), known(1, "road")), inside=inside, whole=inside)


def test_golden_figures() -> None:
    one = scored("refiner", Pixels(50, 25, 25), Pixels(10, 0, 10), Pixels(0, 20, 20))
    found = one.metrics()
    assert found["miou"].value == pytest.approx((0.5 + 0.5 + 0) / 3) and found["label miou"].value == pytest.approx((0.5 + 0.25) / 2)
    assert found["f1"].value == pytest.approx(2 * 60 / (160 + 60)) and {value.n for value in found.values()} == {3}
    assert all(value.low <= value.value <= value.high for value in found.values()) and found["miou"].low == 0
    assert {name: value.value for name, value in one.by_label().items()} == {"pond": 0.5, "road": 0.25}
    floor = scored("fill-box", Pixels(50, 0, 50), Pixels(5, 0, 15), Pixels(10, 10, 20))
    gain = above(one, floor)
    assert gain.value == pytest.approx((0 + 0.25 - 0.25) / 3) and gain.low == pytest.approx(-0.25) and gain.high == pytest.approx(0.125)
    rows = table_of([floor, one])
    assert rows[1][-2:] == ("", "3") and rows[2][-2].startswith("+0.000 [-0.250, +0.125]") and len({len(row) for row in rows}) == 1
    assert record_of([one])[0]["labels"]["road"][0] == 0.25


def test_refiners_are_asked_about_the_same_boxes(scenes_store: Store) -> None:
    found, objects = score_refiners(
        {"fill-box": FillBox(), "knowing": Knowing(scenes_store)}, [scenes_store], CHOICE, prompts=("rotated", "upright"), jitter=Jitter(), most=12, seed=1
    )
    assert [(one.boxes, one.refiner) for one in found] == [
        (boxes, name) for boxes in ("rotated, exact", "rotated, off", "upright, exact", "upright, off") for name in ("fill-box", "knowing")
    ]
    assert {len(one.inside) for one in found} == {12} and objects.left["not drawn"] == len(Knowing(scenes_store).known) - 12
    fill, best = found[0].metrics(), found[1].metrics()
    assert best["miou"].value == best["whole miou"].value == best["f1"].value == 1.0 and 0.5 < fill["miou"].value < 0.95
    off = found[2].metrics()
    assert off["whole miou"].value < fill["whole miou"].value and above(found[1], found[0]).low > 0
    again, _ = score_refiners({"fill-box": FillBox()}, [scenes_store], CHOICE, jitter=Jitter(), most=12, seed=1)
    assert [one.inside for one in again] == [found[0].inside, found[2].inside]
