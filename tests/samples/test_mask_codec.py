"""The codec of masks: a token for each, whatever its pixels; what comes back is the number of the token."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import Codec, ControlToken, Mark, regions_in, round_trip_iou, text_of
from sightline.samples.frames import frame_of
from sightline.samples.geometry import encode_mask
from sightline.samples.sample import Box, Mask, Point, Polygon, Region, Regions, Shape, Tap, Text

FRAME = frame_of("source", 16, 12)
LABELS = ["ship", "the red ship (2)", "\u8239", "car, left"]


def codec(**fields: Any) -> Codec:
    return cast(Codec, CODEC.parse({"kind": "seg", **fields}))


def masks(count: int, seed: int = 0) -> list[Shape]:
    rng = np.random.default_rng(seed)
    drawn: list[Shape] = []
    for number in range(count):
        pixels = rng.random((12, 16)) < 0.3
        pixels[number % 12, 3] = True
        drawn.append(encode_mask(pixels) if number % 2 else Polygon(points=((0.0, 0.0), (5.0, 0.0), (5.0, 3.0 + number))))
    return drawn


def item(count: int, label: str | None, seed: int = 0) -> Regions:
    return Regions(regions=tuple(Region(label=label, shape=shape) for shape in masks(count, seed)), label=label)


@settings(max_examples=150, deadline=None)
@given(
    said=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(LABELS)), min_size=1, max_size=4),
    token=st.sampled_from(["<seg>", "[SEG]", "<|mask|>"]),
    phrase=st.sampled_from(["tagged", "plain"]),
    between=st.sampled_from([" and, beside it, ", ". ", " "]),
)
def test_as_many_taps_come_back_in_order(said: list[tuple[int, str]], token: str, phrase: str, between: str) -> None:
    one = codec(token=token, phrase=phrase)
    rendered = [one.render(item(count, label, seed), FRAME) for seed, (count, label) in enumerate(said)]
    for (count, _), parts in zip(said, rendered):
        marks = [part for part in parts if isinstance(part, Mark)]
        assert [(mark.kind, mark.index) for mark in marks] == [("tap", number) for number in range(count)]
        assert all(isinstance(parts[place - 1], ControlToken) for place, part in enumerate(parts) if isinstance(part, Mark))
    items, problems = one.parse(between.join(text_of(parts) for parts in rendered), FRAME)
    assert not problems
    taps = [region.shape for region in regions_in(items)]
    assert taps == [Tap(index=number) for number in range(sum(count for count, _ in said))]
    if phrase == "tagged":
        assert [one.label for one in items if isinstance(one, Regions)] == [label for _, label in said]
        assert [len(one.regions) for one in items if isinstance(one, Regions)] == [count for count, _ in said]


@given(
    text=st.lists(st.one_of(st.sampled_from(["<seg>", "<p>", "</p>", " ", "<se", "g>", "\uff1cseg\uff1e", ","]), st.text(max_size=3)), max_size=30).map("".join)
)
def test_any_text_is_parsed(text: str) -> None:
    items, problems = codec().parse(text, FRAME)
    taps = [region.shape for region in regions_in(items)]
    assert taps == [Tap(index=number) for number in range(len(taps))] and not problems
    place = 0
    for one in items:
        if isinstance(one, Text):
            place = text.index(one.text, place) + len(one.text)


def test_its_text_is_a_label_and_tokens() -> None:
    assert text_of(codec(phrase="plain").render(item(2, "ship"), FRAME)) == "ship <seg><seg>"
    assert text_of(codec().render(item(1, "ship"), FRAME)) == "<p>ship</p> <seg>"
    assert codec(token="[SEG]").control == ("[SEG]",) and codec().marks == ("tap",) and codec().quantum == 0
    assert round_trip_iou(codec(), item(3, "ship"), FRAME) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("phrase", ["tagged", "plain"])
def test_its_grammar_is_what_it_writes(phrase: str) -> None:
    one = codec(phrase=phrase)
    several, single = one.grammar(), one.grammar("region")
    assert several is not None and single is not None
    for count, label in ((1, "ship"), (3, "\u8239"), (2, None)):
        text = text_of(one.render(item(count, label), FRAME))
        assert several.accepts(text) and re.fullmatch(several.regex, text), text
        assert single.accepts(text) == (count == 1)
    assert not several.accepts("ship") and not several.accepts("")


@pytest.mark.parametrize(
    ("regions", "code"),
    [
        (Regions(regions=(Region(shape=Box(x0=0, y0=0, x1=4, y1=4)),)), "samples/shape-not-held"),
        (Regions(regions=(Region(shape=Point(x=0, y=0)),)), "samples/shape-not-held"),
        (Regions(regions=(Region(shape=Mask(width=4, height=4, runs=(16,))),)), "samples/shape-unsound"),
        (Regions(regions=()), "samples/no-region"),
        (Regions(regions=(Region(shape=encode_mask(np.ones((12, 16), bool))),), label="a <seg> b"), "samples/label-not-sayable"),
    ],
)
def test_what_is_no_mask_is_refused(regions: Regions, code: str) -> None:
    with pytest.raises(Refused) as refused:
        codec().render(regions, FRAME)
    assert [problem.code for problem in refused.value.problems] == [code]
