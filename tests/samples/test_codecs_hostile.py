"""Answers that want to be a problem: tens of thousands of regions, and brackets that never close. Reading takes time in proportion to the text."""

from __future__ import annotations

import time
from typing import cast

import pytest

from sightline.errors import Refused
from sightline.samples.codec_table import PRESETS  # noqa: F401 - registers the kinds
from sightline.samples.codecs import CODEC, Codec, text_of
from sightline.samples.frames import frame_of
from sightline.samples.sample import Box, Point, Polygon, Region, Regions, RotatedBox, Shape

MANY = 20_000
SECONDS = 15.0
"""Ten times what it takes; a reading whose time grows with the square takes longer."""
SHAPES: tuple[Shape, ...] = (
    Box(x0=10, y0=10, x1=50, y1=60),
    RotatedBox(cx=100, cy=100, w=50, h=20, theta=10),
    Point(x=10, y=10),
    Polygon(points=((10, 10), (50, 10), (50, 60))),
)
FRAME = frame_of("source", 800, 600)
PIECES = (
    "<p>",
    "</p>",
    "{",
    "{<",
    "{<1>",
    "{<1><2><3><4>|<",
    "<box>",
    "[",
    "[1,2,3,",
    "(1,2)",
    "(1,2),",
    "1,",
    "<|box_start|>",
    "<ref>",
    "<points ",
    '<points x1="1" ',
    "<delim>",
    " ",
    "and ",
)


def written(codec: Codec, count: int) -> str:
    """So many regions as the codec writes them, of a shape that it holds."""
    for shape in SHAPES:
        try:
            parts = codec.render(Regions(regions=(Region(shape=shape),) * count), FRAME)
        except Refused:
            continue
        return text_of(parts)
    raise AssertionError("a codec that holds none of the shapes")


@pytest.mark.parametrize("kind", sorted(CODEC.table()))
def test_many_regions_are_read_in_time_that_grows_with_their_number(kind: str) -> None:
    codec = cast(Codec, CODEC.parse({"kind": kind}))
    text = written(codec, MANY)
    start = time.thread_time()
    items, problems = codec.parse(text, FRAME)
    assert time.thread_time() - start < SECONDS
    assert [len(item.regions) for item in items if isinstance(item, Regions)] == [MANY] and not problems


@pytest.mark.parametrize("kind", sorted(CODEC.table()))
def test_what_never_closes_is_read_in_time_that_grows_with_its_length(kind: str) -> None:
    codec = cast(Codec, CODEC.parse({"kind": kind}))
    begin = written(codec, 1)
    for piece in (*PIECES, *(begin[:length] for length in (3, 8, 13, 21))):
        start = time.thread_time()
        codec.parse(piece * (30_000 // len(piece)) + "x", FRAME)
        assert time.thread_time() - start < SECONDS, f"{piece!r} again and again"
