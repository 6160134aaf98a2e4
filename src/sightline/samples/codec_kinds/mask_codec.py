"""The codec of masks: a control token stands for each, and the model's mask head draws what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import ClassVar, Literal

from pydantic import Field

from sightline.samples.codecs import ControlToken, Mark, Parsed, Part
from sightline.samples.frames import Frame
from sightline.samples.grammar import Node, fixed
from sightline.samples.sample import Mask, Polygon, Regions, Shape, Tap
from sightline.samples.text_codecs import PhrasedCodec, Reading


class SegCodec(PhrasedCodec):
    """`<p>phrase</p> <seg>`: one control token for each mask (LISA, https://arxiv.org/abs/2308.00692, section 3.2).

    Nothing of a shape is in the text. What comes back is the Tap of each token, its number among those of the answer; whoever has its hidden state turns it into a mask.
    """

    kind: Literal["seg"] = "seg"
    token: str = Field(default="<seg>", pattern=r"^[!-~]{2,32}$")
    """The control token; the published one is `[SEG]`."""

    holds: ClassVar[tuple[type[Shape], ...]] = (Mask, Polygon)
    joint: ClassVar[str] = ""
    top: ClassVar[float] = 1
    limit: ClassVar[float] = 1

    @property
    def control(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The token."""
        return (self.token,)

    @property
    def pattern(self) -> re.Pattern[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The token's name."""
        return re.compile(re.escape(self.token))

    @property
    def marks(self) -> tuple[str, ...]:
        """A tap after each token."""
        return ("tap",)

    @property
    def quantum(self) -> float:
        """No number is written."""
        return 0.0

    def render(self, regions: Regions, frame: Frame) -> tuple[Part, ...]:
        """See Codec. The tap after a token is that of its region."""
        found = list(self.told(regions.label)) if regions.label is not None else []
        for number in range(len(self.held(regions))):
            found += [ControlToken(token=self.token), Mark(kind="tap", index=number)]
        return tuple(found)

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See TextCodec. `parse` gives the tap its number."""
        return Reading(shapes=(Tap(index=0),))

    def parse(self, text: str, frame: Frame) -> Parsed:
        """See Codec."""
        items, problems = super().parse(text, frame)
        numbers = count()
        return tuple(_numbered(item, numbers) if isinstance(item, Regions) else item for item in items), problems

    def one(self) -> Node:
        """See PhrasedCodec."""
        return fixed(self.token, self.control)


def _numbered(item: Regions, numbers: Iterator[int]) -> Regions:
    return replace(item, regions=tuple(replace(region, shape=Tap(index=next(numbers))) for region in item.regions))
