"""Grammars of codecs: every rendering is in them, every text of them is read without a problem, and numbers keep to their ranges."""

from __future__ import annotations

import re
from typing import Any, cast

import numpy as np
import pytest

from sightline.errors import Refused
from sightline.samples.codec_table import CODEC, PRESETS
from sightline.samples.codecs import Codec, text_of
from sightline.samples.frames import frame_of
from sightline.samples.geometry import canonical
from sightline.samples.grammar import DEAD, Grammar, range_regex
from sightline.samples.sample import Box, Point, Region, Regions, RotatedBox, Shape, Text

SAID: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in sorted(CODEC.table()) if kind != "seg"} | {
    name: dict(said) for name, said in PRESETS.items()
}
SAID |= {
    "le45": {"kind": "xyhwt", "angle": "le45"},
    "ferret-tagged": {"kind": "ferret", "phrase": "tagged"},
    "geochat-plain": {"kind": "geochat", "phrase": "plain"},
}
LABELS = (
    None,
    "ship",
    "the ship's bow, left (2)",
    "\u6700\u5de6\u8fb9\u7684\u8239\uff08\u7ea2\uff09",
    "a  b",
    "5\u00b0 east \u2014 \u00e9t\u00e9",
    "\U0001f6a2",
)
FRAME = frame_of("source", 800, 600)


def codec(name: str) -> Codec:
    return cast(Codec, CODEC.parse(SAID[name]))


def grammar(name: str, *said: Any) -> Grammar:
    found = codec(name).grammar(*said)
    assert found is not None
    return found


def shape(rng: np.random.Generator, kinds: tuple[type[Shape], ...]) -> Shape:
    kind = kinds[rng.integers(len(kinds))]
    x, y, w, h = rng.uniform(-50, 850), rng.uniform(-50, 650), rng.exponential(80), rng.exponential(80)
    if kind is RotatedBox:
        return canonical(x, y, w, h, rng.uniform(-90, 90))
    return Box(x0=x, y0=y, x1=x + w, y1=y + h) if kind is Box else Point(x=x, y=y)


@pytest.mark.parametrize("name", SAID)
def test_every_rendering_is_in_the_grammar(name: str) -> None:
    """Regions inside the picture and past its edges, one and several, with phrases of two scripts; and in the regular expression, as one that is handed on must be."""
    one, rng = codec(name), np.random.default_rng(3)
    several, single = grammar(name), grammar(name, "region")
    for number in range(60):
        label = LABELS[number % len(LABELS)]
        shapes = [shape(rng, one.holds) for _ in range(1 + number % 3)]
        try:
            parts = one.render(Regions(regions=tuple(Region(shape=other, label=label) for other in shapes), label=label), FRAME)
        except Refused:  # a sign of the format in a phrase
            assert name == "molmo" and "'" in str(label)
            continue
        text = text_of(parts)
        assert several.accepts(text) and re.fullmatch(several.regex, text), text
        assert single.accepts(text) == (len(shapes) == 1) == bool(re.fullmatch(single.regex, text)), text


def walked(one: Grammar, rng: np.random.Generator, most: int) -> str:
    """A text of the grammar, drawn symbol by symbol, brought to an end after `most` of them."""
    automaton, state, found = one.automaton, 0, bytearray()
    while automaton.least[state] or (len(found) < most and rng.random() < 0.8):
        names = list(automaton.names(state).items())
        steps = [(bytes((byte,)), after) for byte in range(256) if (after := automaton.after(state, byte)) != DEAD]
        steps += [(name.encode(), after) for name, after in names]
        if not steps:
            break
        nearer = [step for step in steps if automaton.least[step[1]] == automaton.least[state] - 1]
        assert nearer or not automaton.least[state], "an end comes nearer along one path"
        sign, state = (nearer if len(found) >= most else steps)[rng.integers(len(nearer if len(found) >= most else steps))]
        found += sign
    return found.decode()


@pytest.mark.parametrize("name", SAID)
def test_every_text_of_the_grammar_is_read_without_a_problem(name: str) -> None:
    one, rng = codec(name), np.random.default_rng(5)
    for said in ("region", "regions"):
        language = grammar(name, said)
        for _ in range(20):
            text = walked(language, rng, 120)
            items, problems = one.parse(text, FRAME)
            regions = [item for item in items if isinstance(item, Regions)]
            assert not problems and len(regions) == 1 and regions[0].regions, text
            assert all(isinstance(item, Regions) or item is items[0] for item in items), text
            assert said == "regions" or len(regions[0].regions) == 1
            assert language.accepts(text) and re.fullmatch(language.regex, text), text


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("xyhwt", ["{0,0,1,1,0}", "{1000,1000,1000,1000,-90}", "{1,2,3,4,89}"], ["{0,0,0,1,0}", "{1001,0,1,1,0}", "{01,0,1,1,0}", "{1,2,3,4,90}", "{1,2,3,4,-0}"]),
        ("le45", ["{1,2,3,4,-45}", "{1,2,3,4,44}"], ["{1,2,3,4,45}", "{1,2,3,4}"]),
        ("geochat", ["{<0><0><1><100>|<89>}", "<p>a b</p> {<9><9><10><10>|<0>}"], ["{<9><0><9><1>|<0>}", "{<0><0><1><1>|<90>}", "<p> a</p> {<9><9><10><10>|<0>}", "<p></p> {<0><0><1><1>|<0>}"]),
        ("llava-box", ["[0.000, 0.000, 0.001, 1.000]"], ["[0.500, 0.000, 0.400, 1.000]", "[0.5, 0.0, 0.9, 1.0]", "[1.000, 0.000, 1.000, 1.000]"]),
        ("ferret", ["[0, 999]", "a dog [98, 0, 99, 999]"], ["[1000, 1]", "[99, 0, 98, 999]", "a dog[1, 2]"]),
        ("qwen2-vl", ["<|box_start|>(9,9),(10,10)<|box_end|>"], ["(9,9),(10,10)", "<|box_start|>(9,9),(9,10)<|box_end|>", "<|box_start|>(9,9),(10,1000)<|box_end|>"]),
        ("molmo", ['<points x1="0.0" y1="100.0" x2="5.5" y2="0.1" alt=""></points>'], ['<point x="100.1" y="0.0" alt=""></point>', '<points x1="0.0" y1="1.0" alt=""></points>', '<points x1="0.0" y1="1.0" x1="0.0" y1="1.0" alt=""></points>']),
    ],
)  # fmt: skip
def test_numbers_keep_to_their_ranges(name: str, right: list[str], wrong: list[str]) -> None:
    assert [text for text in right if not grammar(name).accepts(text)] == [] == [text for text in wrong if grammar(name).accepts(text)]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 9), (0, 1000), (1, 1000), (7, 7), (-90, 89), (-45, 44), (3, 998), (95, 1203), (-12, -3), (0, 1999)])
def test_ranges_as_expressions(low: int, high: int) -> None:
    expression = re.compile(range_regex(low, high))
    assert [value for value in range(-1300, 2300) if expression.fullmatch(str(value))] == list(range(low, high + 1))
    assert not expression.fullmatch(f"0{high}") and not expression.fullmatch("-0")


def test_a_phrase_with_brackets_is_written_and_not_constrained() -> None:
    """What a codec can tell from its signs it writes; a grammar leaves it out."""
    said = Regions(regions=(Region(shape=Box(x0=1, y0=1, x1=90, y1=90)),), label="the <b> one")
    assert text_of(codec("xyhwt").render(said, FRAME)).startswith("<p>the <b> one</p>") and not grammar("xyhwt").accepts(
        text_of(codec("xyhwt").render(said, FRAME))
    )
    assert codec("xyhwt").parse("a {1,2,3,4}", FRAME)[0][0] == Text(text="a ")
