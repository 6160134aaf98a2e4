"""Records give back what they were made from."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.samples.records import item_of, item_record, pack, region_of, region_record, turn_of, turn_record, unpack
from sightline.samples.sample import (
    Box,
    Film,
    Geo,
    Mask,
    Origin,
    Picture,
    Point,
    Polygon,
    Region,
    Regions,
    RotatedBox,
    Sample,
    Show,
    Tap,
    Text,
    Turn,
)
from sightline.samples.store import TEXTS

number = st.floats(-1e6, 1e6, allow_nan=False)
word = st.text(max_size=12)
plain: Any = st.none() | st.booleans() | st.integers() | number | word
attributes = st.dictionaries(word, plain | st.lists(plain, max_size=3), max_size=3)
index = st.integers(0, 2)
shapes = st.one_of(
    st.none(),
    st.builds(Box, x0=number, y0=number, x1=number, y1=number),
    st.builds(RotatedBox, cx=number, cy=number, w=number, h=number, theta=number),
    st.builds(Point, x=number, y=number),
    st.builds(Polygon, points=st.lists(st.tuples(number, number), max_size=4).map(tuple)),
    st.builds(Mask, width=st.integers(0, 9), height=st.integers(0, 9), runs=st.lists(st.integers(0, 99), max_size=5).map(tuple)),
    st.builds(Tap, index=index),
)
regions = st.builds(Region, picture=index, label=st.none() | word, attributes=attributes, shape=shapes)
items = st.one_of(
    st.builds(Text, text=word),
    st.builds(Show, picture=index),
    st.builds(Film, pictures=st.lists(index, max_size=3).map(tuple), times=st.lists(number, max_size=3).map(tuple)),
    st.builds(Regions, regions=st.lists(regions, max_size=2).map(tuple), label=st.none() | word),
)
contents = st.lists(items, max_size=3).map(tuple)
turns = st.builds(
    Turn, role=st.sampled_from(["system", "user", "assistant"]), items=contents, weight=number, alternatives=st.lists(contents, max_size=2).map(tuple)
)
geos = st.none() | st.builds(Geo, crs=word, affine=st.tuples(*[number] * 6))


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    data = draw(st.binary(max_size=20))
    depth: Any
    bands, depth = draw(st.sampled_from([("red", "green", "blue"), ("nir",)])), draw(st.sampled_from(["uint8", "uint16", "float32"]))
    return Picture(
        hash=hashlib.sha256(data).hexdigest(), width=draw(index), height=draw(index), bands=bands, depth=depth, data=data, geo=draw(geos), name=draw(word)
    )


origins = st.builds(Origin, source=word, row=word, licence=word, parents=st.lists(word, max_size=2).map(tuple), maker=st.just("human") | word)
samples = st.builds(
    Sample,
    id=word,
    pictures=st.lists(pictures(), max_size=2).map(tuple),
    turns=st.lists(turns, max_size=3).map(tuple),
    annotations=st.lists(regions, max_size=3).map(tuple),
    attributes=attributes,
    origin=origins,
)


@given(samples)
@settings(deadline=None)
def test_a_sample_comes_back_whole(sample: Sample) -> None:
    packed = pack(sample)
    assert unpack({name: getattr(packed, name) for name in TEXTS}, packed.data) == sample


@given(regions, items, turns)
@settings(deadline=None)
def test_parts_come_back_through_json(region: Region, item: Any, turn: Turn) -> None:
    assert region_of(json.loads(json.dumps(region_record(region)))) == region
    assert item_of(json.loads(json.dumps(item_record(item)))) == item
    assert turn_of(json.loads(json.dumps(turn_record(turn)))) == turn


def test_defaults_are_left_out() -> None:
    assert turn_record(Turn(role="user", items=(Show(), Text(text="hi")))) == {
        "role": "user",
        "content": [{"type": "picture", "picture": 0}, {"type": "text", "text": "hi"}],
    }
    assert region_record(Region(label="ship", shape=Box(x0=1, y0=2, x1=3, y1=4))) == {"box": (1, 2, 3, 4), "label": "ship"}


def test_the_hash_tells_any_change() -> None:
    first = Sample(id="a", turns=(Turn(role="user", items=(Text(text="x"),)),), origin=Origin(source="s"))
    other = Sample(id="a", turns=(Turn(role="user", items=(Text(text="y"),)),), origin=Origin(source="s"))
    assert pack(first).hash == pack(first).hash != pack(other).hash


def test_an_attribute_that_is_no_json_is_an_error_here() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        pack(Sample(id="a", attributes={"score": float("nan")}, origin=Origin(source="s")))
