"""Boxes filled, and the answerer whose regions are masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.refine.box_masks import FillBox, Refined, filled, prompts_of
from sightline.refine.objects import shape_of
from sightline.samples.exchange import Answer, Request
from sightline.samples.geometry import decode_mask
from sightline.samples.painting import painted
from sightline.samples.sample import Box, Mask, Origin, Picture, Point, Region, Regions, RotatedBox, Sample, Text
from sightline.samples.upright_crops import TurnedBox, box_around

near = st.floats(-20, 60)


def picture(name: str = "a") -> Picture:
    return Picture(hash=name * 64, width=30, height=20, data=b"", name=name)


@given(near, near, st.floats(0.5, 50), st.floats(0.5, 50), st.sampled_from([0.0, 17.0, 45.0, -63.0, 89.5]))
def test_a_filled_box_is_what_the_judge_paints(cx: float, cy: float, w: float, h: float, theta: float) -> None:
    box = TurnedBox(cx=cx, cy=cy, w=w, h=h, theta=theta)
    expected = painted([Region(shape=shape_of(box))], 30, 20)
    assert (filled(box, 30, 20) != expected).sum() <= (4 if theta == 0 else 0)  # a centre on an edge is inside here


def test_boxes_come_back_as_masks_in_their_order() -> None:
    shapes = [Box(x0=2, y0=3, x1=6, y1=5), RotatedBox(cx=10, cy=10, w=6, h=2, theta=-90)]
    found = FillBox().refine(picture(), [Region(label=str(k), attributes={"score": k}, shape=shape) for k, shape in enumerate(shapes)])
    assert [(one.label, one.attributes) for one in found] == [("0", {"score": 0}), ("1", {"score": 1})]
    masks = [decode_mask(one.shape) for one in found if isinstance(one.shape, Mask)]
    assert [(mask.shape, int(mask.sum())) for mask in masks] == [((20, 30), 8), ((20, 30), 12)] and masks[1][7:13, 9:11].all()
    assert FillBox().refine(picture(), []) == []


def test_shapes_without_an_area_are_refused_all_at_once() -> None:
    with pytest.raises(Refused) as caught:
        prompts_of(picture(), [Region(shape=Point(x=1, y=1)), Region(label="pond", shape=Box(x0=0, y0=0, x1=2, y1=2)), Region(label="road")])
    assert [(one.code, one.place) for one in caught.value.problems] == [("refine/no-box", "a, region 0"), ("refine/no-box", "a, region 2")]


class Scripted:
    """Answers every request with the same items."""

    def __init__(self, *items: Text | Regions) -> None:
        self.items = items

    def key(self, request: Request) -> str:
        return f"key of {request.sample.id}"

    def measure(self, sample: Sample) -> int:
        return 7

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in reversed(list(requests)):
            yield Answer(key=self.key(request), sample=request.sample.id, weights="w", text="said", items=self.items)


def request(name: str, *pictures: Picture) -> Request:
    return Request(sample=Sample(id=name, pictures=pictures, origin=Origin(source="test")))


def test_a_refined_answerer_gives_masks_and_keys_of_its_own() -> None:
    boxes = (Region(label="pond", shape=Box(x0=0, y0=0, x1=4, y1=4)), Region(picture=1, shape=Box(x0=5, y0=5, x1=9, y1=6)), Region(shape=Point(x=1, y=1)))
    plain = Scripted(Text(text="there"), Regions(regions=boxes, label="pond"))
    refined = Refined(plain, FillBox())
    asked = [request("one", picture("a"), picture("b")), request("two", picture("c"), picture("a"))]
    answers = {answer.sample: answer for answer in refined.answer(iter(asked))}
    assert answers.keys() == {"one", "two"} and refined.measure(asked[0].sample) == 7
    text, said = answers["one"].items
    assert text == Text(text="there") and isinstance(said, Regions) and said.label == "pond"
    assert [int(decode_mask(one.shape).sum()) for one in said.regions if isinstance(one.shape, Mask)] == [16, 4]
    assert said.regions[2].shape == Point(x=1, y=1) and [one.code for one in answers["one"].problems] == ["refine/no-box"]
    assert answers["one"].key == refined.key(asked[0]) != plain.key(asked[0]) and answers["one"].weights != "w"
    other = FillBox()
    other.id = "another"  # pyright: ignore[reportAttributeAccessIssue]
    assert Refined(plain, other).key(asked[0]) != refined.key(asked[0])


def test_answers_that_could_be_of_two_pictures_are_refused() -> None:
    with pytest.raises(Refused, match="refine/same-id"):
        list(Refined(Scripted(), FillBox()).answer([request("one", picture("a")), request("one", picture("b"))]))
    assert len(list(Refined(Scripted(), FillBox()).answer([request("one", picture("a")), request("one", picture("a"))]))) == 2


def test_the_box_of_a_filled_box_is_the_box() -> None:
    [region] = FillBox().refine(picture(), [Region(shape=Box(x0=3, y0=4, x1=11, y1=9))])
    found = box_around(region.shape)
    assert found is not None and np.allclose((found.cx, found.cy, found.w, found.h), (7, 6.5, 8, 5))
