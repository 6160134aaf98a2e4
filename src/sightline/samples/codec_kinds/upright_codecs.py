"""Codecs of upright boxes by their corners, and of points beside them."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from sightline.samples.codecs import Mark, Part
from sightline.samples.frames import Frame, FrameName
from sightline.samples.grammar import Either, Node, Number, form
from sightline.samples.sample import Box, Point, Regions, Shape
from sightline.samples.text_codecs import CHARACTERS, PhrasedCodec, Reading, bracketed, corner_numbers, listed


class CornersCodec(PhrasedCodec):
    """What formats of two corners share: `form` is what is written, with the numbers x0, y0, x1, y1 in it."""

    holds: ClassVar[tuple[type[Shape], ...]] = (Box,)
    form: ClassVar[str]
    """What is written of a box."""
    digits: ClassVar[str] = ".0f"
    """How a number is written."""
    corners: ClassVar[bool] = True

    def write(self, shape: Shape, frame: Frame) -> str:
        """See PhrasedCodec."""
        assert isinstance(shape, Box)
        (left, top), (right, bottom) = frame.to(shape.x0, shape.y0), frame.to(shape.x1, shape.y1)
        (x0, x1), (y0, y1) = self.span(left / frame.width, right / frame.width), self.span(top / frame.height, bottom / frame.height)
        return self.form.format(*(format(value, self.digits) for value in (x0, y0, x1, y1)))

    def body(self, match: re.Match[str]) -> Reading | list[float]:
        """The four numbers of a match, or what is wrong with it."""
        return listed(match, (4,))

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See PhrasedCodec."""
        found = self.body(match)
        if isinstance(found, Reading):
            return found
        (x0, y0, x1, y1), faults = self.within(found)
        if x0 == x1 or y0 == y1:
            return Reading(faults=(*faults, "a side of nothing"))
        if x0 > x1 or y0 > y1:
            faults = (*faults, "corners in the wrong order")
        left, top = frame.back(min(x0, x1) * frame.width, min(y0, y1) * frame.height)
        right, bottom = frame.back(max(x0, x1) * frame.width, max(y0, y1) * frame.height)
        return Reading(shapes=(Box(x0=left, y0=top, x1=right, y1=bottom),), faults=faults)

    def one(self) -> Node:
        """See PhrasedCodec."""
        decimals = int(self.digits[1])
        return form(self.form.format("#", "#", "#", "#"), corner_numbers(round(self.limit * 10**decimals), decimals), self.control)


class MiniGptCodec(CornersCodec):
    """`<p>phrase</p> {<x1><y1><x2><y2>}` on a grid of 100 (MiniGPT-v2, https://arxiv.org/abs/2310.09478)."""

    kind: Literal["minigpt-v2"] = "minigpt-v2"

    joint: ClassVar[str] = "<delim>"
    top: ClassVar[float] = 100
    limit: ClassVar[float] = 100
    form: ClassVar[str] = "{{<{}><{}><{}><{}>}}"
    pattern: ClassVar[re.Pattern[str]] = re.compile(rf"\{{(?P<body>\s*<{CHARACTERS}{{1,40}}>(?:\s*<{CHARACTERS}{{1,40}}>){{0,7}})\s*(?P<close>\}})?")

    def body(self, match: re.Match[str]) -> Reading | list[float]:
        """See CornersCodec."""
        return bracketed(match, 4)


class FractionsCodec(CornersCodec):
    """`[x1, y1, x2, y2]` as parts 0..1 of the sides, three decimals (LLaVA-1.5 on its padded square, Shikra)."""

    kind: Literal["llava-box"] = "llava-box"
    frame: FrameName = "seen"
    """The frame whose sides are 1. Published models were trained on the padded square that their tiler shows."""
    phrase: Literal["tagged", "plain"] = "plain"
    """tagged: the phrase stands between `<p>` and `</p>` and is read back; plain: it is words before the shapes, and comes back as text."""

    top: ClassVar[float] = 1
    limit: ClassVar[float] = 1
    step: ClassVar[float] = 0.001
    form: ClassVar[str] = "[{}, {}, {}, {}]"
    digits: ClassVar[str] = ".3f"
    pattern: ClassVar[re.Pattern[str]] = re.compile(rf"\[(?P<body>{CHARACTERS}{{1,160}})(?P<close>\]|\Z)")


class FerretCodec(CornersCodec):
    """`phrase [x1, y1, x2, y2]` or `phrase [x, y]`, integers 0..999, and in questions the region's vector (Ferret-v2, https://arxiv.org/abs/2404.07973)."""

    kind: Literal["ferret"] = "ferret"
    phrase: Literal["tagged", "plain"] = "plain"
    """tagged: the phrase stands between `<p>` and `</p>` and is read back; plain: it is words before the shapes, and comes back as text."""
    feature: bool = False
    """Whether each region of a question is followed by its vector, which the model's region sampler makes."""

    holds: ClassVar[tuple[type[Shape], ...]] = (Box, Point)
    top: ClassVar[float] = 1000
    limit: ClassVar[float] = 999
    form: ClassVar[str] = "[{}, {}, {}, {}]"
    pattern: ClassVar[re.Pattern[str]] = FractionsCodec.pattern

    @property
    def marks(self) -> tuple[str, ...]:
        """A feature vector, where `feature` asks for it."""
        return ("feature",) if self.feature else ()

    def render(self, regions: Regions, frame: Frame) -> tuple[Part, ...]:
        """See Codec."""
        if not self.feature:
            return super().render(regions, frame)
        found: list[Part] = list(self.told(regions.label)) if regions.label is not None else []
        for number, shape in enumerate(self.held(regions)):
            found += [f"{self.joint if number else ''}{self.write(shape, frame)}", Mark(kind="feature", index=number)]
        return tuple(found)

    def write(self, shape: Shape, frame: Frame) -> str:
        """See PhrasedCodec."""
        if not isinstance(shape, Point):
            return super().write(shape, frame)
        x, y = frame.to(shape.x, shape.y)
        return f"[{self.number(x / frame.width):.0f}, {self.number(y / frame.height):.0f}]"

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See PhrasedCodec."""
        found = listed(match, (4, 2))
        if isinstance(found, Reading):
            return found
        if len(found) == 4:
            return super().read(match, frame)
        (x, y), faults = self.within(found)
        x, y = frame.back(x * frame.width, y * frame.height)
        return Reading(shapes=(Point(x=x, y=y),), faults=faults)

    def one(self) -> Node:
        """See PhrasedCodec. A box or a point."""
        number = Number(0, int(self.limit))
        return Either((super().one(), form("[#, #]", (number, number))))


class ControlledCodec(CornersCodec):
    """What formats with control tokens around phrase and box share: `(x1,y1),(x2,y2)`, integers 0..999 of 1000."""

    joint: ClassVar[str] = ""
    space: ClassVar[str] = ""
    signs: ClassVar[tuple[str, ...]] = ()
    top: ClassVar[float] = 1000
    limit: ClassVar[float] = 999

    def body(self, match: re.Match[str]) -> Reading | list[float]:
        """See CornersCodec."""
        return bracketed(match, 4)


class Qwen2VlCodec(ControlledCodec):
    """`<|object_ref_start|>phrase<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>` (Qwen2-VL, https://arxiv.org/abs/2409.12191)."""

    kind: Literal["qwen2-vl"] = "qwen2-vl"

    around: ClassVar[tuple[str, str]] = ("<|object_ref_start|>", "<|object_ref_end|>")
    form: ClassVar[str] = "<|box_start|>({},{}),({},{})<|box_end|>"
    control: ClassVar[tuple[str, ...]] = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"<\|box_start\|>(?P<body>[-+0-9.,\s()]{0,160})(?P<close><\|box_end\|>)?")


class InternVlCodec(ControlledCodec):
    """`<ref>phrase</ref><box>(x1,y1),(x2,y2)</box>` (Qwen-VL, https://arxiv.org/abs/2308.12966; InternVL and NVLM write the same)."""

    kind: Literal["internvl"] = "internvl"

    around: ClassVar[tuple[str, str]] = ("<ref>", "</ref>")
    form: ClassVar[str] = "<box>({},{}),({},{})</box>"
    control: ClassVar[tuple[str, ...]] = ("<ref>", "</ref>", "<box>", "</box>")
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"<box>(?P<body>[-+0-9.,\s()]{0,160})(?P<close></box>)?")
