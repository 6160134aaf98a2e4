"""Facts: what annotations say, and what they leave in doubt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from sightline.data.facts import Facts, facts_of
from sightline.samples.sample import Box, Mask, Origin, Picture, Point, Polygon, Region, RotatedBox, Sample, Shape

SIDE = 100


def mask_of(pixels: np.ndarray) -> Mask:
    """Column-major runs, zero run first, counted one pixel after the other."""
    runs, value = [0], False
    for pixel in pixels.T.ravel():
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return Mask(width=pixels.shape[1], height=pixels.shape[0], runs=tuple(runs))


def block(x0: int, y0: int, x1: int, y1: int) -> Mask:
    pixels = np.zeros((SIDE, SIDE), bool)
    pixels[y0:y1, x0:x1] = True
    return mask_of(pixels)


def facts(*regions: Region, margin: float = 0.05, least_share: float = 0.005) -> Facts:
    picture = Picture(hash="h", width=SIDE, height=SIDE, data=b"")
    sample = Sample(id="s", pictures=(picture, picture), annotations=regions, origin=Origin(source="test"))
    return facts_of(sample, ground=("grass", "bare"), margin=margin, least_share=least_share)


def region(label: str | None, shape: Shape | None, **attributes: Any) -> Region:
    return Region(label=label, shape=shape, attributes=attributes)


@pytest.mark.parametrize(
    ("shape", "place"),
    [
        (Box(x0=0, y0=0, x1=20, y1=80), "northwest"),
        (RotatedBox(cx=80, cy=20, w=10, h=5, theta=30), "northeast"),
        (Point(x=10, y=90), "southwest"),
        (Polygon(points=((60, 60), (90, 60), (60, 90))), "southeast"),
        (block(60, 0, 70, 30), "northeast"),
        (Point(x=46, y=90), None),
        (Point(x=10, y=54.9), None),
    ],
)
def test_places(shape: Shape, place: str | None) -> None:
    (thing,) = facts(region("pond", shape, instance=1)).objects
    assert (thing.label, thing.place) == ("pond", place)


@given(arrays(bool, (8, 6)).filter(lambda pixels: pixels.any()))
def test_an_instance_lies_where_its_pixels_are(pixels: np.ndarray) -> None:
    picture = Picture(hash="h", width=6, height=8, data=b"")
    sample = Sample(id="s", pictures=(picture,), annotations=(region("pond", mask_of(pixels), instance=1),), origin=Origin(source="test"))
    rows, columns = np.nonzero(pixels)
    y, x = rows.mean() + 0.5 - 4, columns.mean() + 0.5 - 3
    (thing,) = facts_of(sample, ground=(), margin=1e-9, least_share=0).objects
    if abs(x) > 1e-6 and abs(y) > 1e-6:
        assert thing.place == ("north" if y < 0 else "south") + ("west" if x < 0 else "east")
    else:
        assert thing.place is None


def test_the_largest_ground_wins_and_is_no_object() -> None:
    known = facts(region("grass", block(0, 0, 100, 40)), region("bare", block(0, 40, 100, 100)))
    assert known.ground == "bare" and not known.present
    assert facts(region("grass", None)).ground == "grass"
    assert facts().ground is None


def test_boxes_are_counted_once_beside_masks_of_the_same_objects() -> None:
    boxes = [region("pond", Box(x0=10, y0=10, x1=20, y1=20)), region("pond", Box(x0=70, y0=70, x1=90, y1=90))]
    masks = [region("pond", block(10, 10, 20, 20), instance=1), region("pond", block(70, 70, 90, 90), instance=2), region("pond", block(10, 10, 90, 90))]
    assert len(facts(*boxes, *masks).objects) == len(facts(*masks).objects) == 2
    assert not facts(*boxes, *masks).uncounted


def test_areas_are_present_but_not_counted_and_small_ones_doubtful() -> None:
    known = facts(region("water", block(0, 0, 10, 10)), region("road", block(50, 50, 57, 57)), region("beach", None))
    assert known.present == known.uncounted == {"water", "beach"}
    assert known.doubtful == {"road"} and not known.objects


def test_difficult_objects_are_there_but_not_counted() -> None:
    known = facts(region("ship", Point(x=10, y=10)), region("ship", Point(x=90, y=10), difficult=True))
    assert known.present == known.uncounted == {"ship"}


def test_text_is_known_when_there_is_one() -> None:
    one = region("marking", Point(x=10, y=10), text="7A")
    assert facts(one).text == "7A" and facts(one, region(None, Point(x=10, y=10), text="7A")).text == "7A"
    assert facts(one, region(None, Point(x=80, y=80), text="B")).text is None
    assert facts(region("marking", Point(x=10, y=10))).text is None


def test_only_the_first_picture_counts() -> None:
    assert facts(Region(picture=1, label="pond", shape=Point(x=10, y=10))).present == frozenset()


def test_nothing_is_counted_or_denied_beside_what_is_ignored() -> None:
    car = Region(label="car", shape=Box(x0=1, y0=1, x1=9, y1=9))
    crowd = Region(label="crowd", attributes={"ignore": True}, shape=Box(x0=20, y0=20, x1=60, y1=60))
    found = facts(car, crowd)
    assert found.partial and found.present == found.uncounted == {"car"}
    assert not facts(car).partial and facts(car).uncounted == set()
