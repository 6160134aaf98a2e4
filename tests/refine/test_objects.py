"""Objects with known masks, what is left out, and boxes that are off."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_refine_pictures import coloured

from conftest import CHOICE
from sightline.errors import Refused
from sightline.refine.objects import Jitter, Looking, ObjectChoice, find_objects, jittered, shape_of, upright
from sightline.samples.geometry import encode_mask
from sightline.samples.sample import Box, Origin, Polygon, Region, RotatedBox, Sample
from sightline.samples.store import Store
from sightline.samples.upright_crops import TurnedBox, Window


def store_of(folder: Path, *samples: Sample) -> Store:
    with Store.writer(folder) as writer:
        for sample in samples:
            writer.add(sample)
    return Store.open(folder)


def test_instances_are_objects_and_their_classes_are_not(scenes_store: Store) -> None:
    objects = find_objects([scenes_store], CHOICE)
    known = Counter(one.label for one in objects.found)
    singles = [region for row in scenes_store for region in row.annotations if "instance" in region.attributes]
    assert sum(known.values()) + objects.left.get("too small", 0) == len(singles) and "grass" not in known
    looking = Looking([scenes_store], ("red", "green", "blue"), CHOICE)
    one = objects.found[3]
    mask, looked = looking.mask(one), looking.at(one)
    assert looked.pixels.shape == (64, 64, 3) and not looked.ignored.any()
    window = Window(cx=one.box.cx, cy=one.box.cy, theta=one.box.theta, scale=1.0, width=0, height=0)
    places = np.abs(window.to_crop(np.argwhere(mask)[:, ::-1].astype(np.float64) + 0.5))
    assert (places <= np.array([one.box.w, one.box.h]) / 2).all()


def test_a_mask_of_a_class_is_cut_into_pieces(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40), bool)
    pixels[2:8, 3:13] = pixels[15:25, 20:38] = True
    pixels[28, 1] = True
    outline = Polygon(points=((1, 1), (9, 1), (9, 6), (1, 6)))
    crowd = Region(label="roof", attributes={"crowd": True, "instance": 4}, shape=encode_mask(pixels))
    said = (
        Region(label="road", shape=encode_mask(pixels)),
        Region(label="roof", shape=outline),
        crowd,
        Region(label="roof", shape=Box(x0=0, y0=0, x1=4, y1=4)),
    )
    store = store_of(tmp_path / "store", Sample(id="a", pictures=(coloured(40, 30),), annotations=said, origin=Origin(source="t")))
    objects = find_objects([store], ObjectChoice())
    assert [(one.label, one.box.w, one.box.h) for one in objects.found] == [("road", 10, 6), ("road", 18, 10), ("roof", 8, 5)]
    assert objects.left == {"specks": 1, "crowds": 1, "without a mask": 1}
    looking = Looking([store], (), ObjectChoice())
    assert [int(looking.mask(one).sum()) for one in objects.found] == [60, 180, 40]
    assert int(looking.at(objects.found[0]).ignored.sum()) == int(pixels.sum())  # the crowd
    unknown = Looking([store], (), ObjectChoice(unlabelled="ignore")).at(objects.found[0]).ignored
    assert unknown[0, 0] and not unknown[1, 2] and unknown[3, 4]  # no label; a roof; the crowd
    classes = Looking([store], (), ObjectChoice()).classes(objects.found[0], ("road", "roof"))
    assert classes[3, 4] == -1 and classes[1, 2] == 1 and classes[29, 39] == -1
    assert upright(objects.found[1], looking.mask(objects.found[1])) == TurnedBox(cx=29, cy=20, w=18, h=10)
    few = find_objects([store], ObjectChoice(labels=("road",), most_share=0.1))
    assert [one.box.w for one in few.found] == [10] and few.left == {"specks": 1, "too large": 1, "of other labels": 1, "crowds": 1, "without a mask": 1}


def test_nothing_to_learn_from_is_refused(scenes_store: Store) -> None:
    with pytest.raises(Refused, match="refine/no-objects"):
        find_objects([scenes_store], ObjectChoice(labels=("zebra",)))


def test_jitter_stays_in_its_bounds_and_follows_the_seed() -> None:
    box, jitter = TurnedBox(cx=50, cy=40, w=30, h=10, theta=20), Jitter(centre=0.1, size=0.2, angle=5)
    drawn = [jittered(box, jitter, np.random.default_rng(k)) for k in range(300)]
    assert drawn[4] == jittered(box, jitter, np.random.default_rng(4)) != drawn[5]
    frame = Window(cx=50, cy=40, theta=20, scale=1.0, width=0, height=0)
    moved = np.abs(frame.to_crop(np.array([(one.cx, one.cy) for one in drawn])))
    assert (moved <= (3 + 1e-9, 1 + 1e-9)).all() and moved.max(0) == pytest.approx((3, 1), abs=0.2)
    sizes = np.array([(one.w / 30, one.h / 10, one.theta - 20) for one in drawn])
    assert (np.abs(sizes - (1, 1, 0)) <= (0.2, 0.2, 5)).all() and np.abs(sizes[:, 2]).max() > 4.5
    assert {jittered(TurnedBox(cx=5, cy=4, w=3, h=1), jitter, np.random.default_rng(k)).theta for k in range(9)} == {0.0}


def test_shapes_of_boxes() -> None:
    assert shape_of(TurnedBox(cx=5, cy=4, w=4, h=2)) == Box(x0=3, y0=3, x1=7, y1=5)
    assert shape_of(TurnedBox(cx=5, cy=4, w=2, h=4, theta=10)) == RotatedBox(cx=5, cy=4, w=4, h=2, theta=-80)
