"""Codecs of points."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from sightline.samples.codecs import Part
from sightline.samples.frames import Frame
from sightline.samples.sample import Point, Regions, Shape
from sightline.samples.text_codecs import Reading, TextCodec, numbers

_ATTRIBUTE = re.compile(r"\b(x|y|alt)([0-9]{0,9})\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")


class MolmoCodec(TextCodec):
    """`<point x="10.5" y="20.3" alt="phrase">phrase</point>`, of several `<points x1=".." y1=".." x2=".." ..>`, parts of the sides in percent with one decimal.

    Points stand in the order of x * 10000 + y (Molmo, https://arxiv.org/abs/2409.17146, and its released preprocessor), so that they come back in that order.
    """

    kind: Literal["molmo"] = "molmo"

    holds: ClassVar[tuple[type[Shape], ...]] = (Point,)
    top: ClassVar[float] = 100
    limit: ClassVar[float] = 100
    step: ClassVar[float] = 0.1
    signs: ClassVar[tuple[str, ...]] = ("<", ">", '"', "'")
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"<(?P<tag>points?)\s(?P<said>[^<>]*)(?P<open>>|\Z)(?:[^<>]{0,400}(?P<close></(?P=tag)>))?")

    def render(self, regions: Regions, frame: Frame) -> tuple[Part, ...]:
        """See Codec."""
        places = sorted(self._place(shape, frame) for shape in self.held(regions))
        label, several = regions.label or "", len(places) > 1
        said = " ".join(f'x{number if several else ""}="{x:.1f}" y{number if several else ""}="{y:.1f}"' for number, (x, y) in enumerate(places, 1))
        tag = "points" if several else "point"
        return (f'<{tag} {said} alt="', label, '">', label, f"</{tag}>") if label else (f'<{tag} {said} alt=""></{tag}>',)

    def _place(self, shape: Shape, frame: Frame) -> tuple[float, float]:
        assert isinstance(shape, Point)
        x, y = frame.to(shape.x, shape.y)
        return self.number(x / frame.width), self.number(y / frame.height)

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """See TextCodec."""
        said = {name + number: double or single for name, number, double, single in _ATTRIBUTE.findall(match["said"])}
        keys = sorted((name[1:] for name in said if name[0] == "x"), key=lambda key: (len(key), key))
        found = numbers(",".join(said.get(axis + key, "") for key in keys for axis in "xy"))
        if not match["open"] or not found:
            return Reading(faults=("an x and a y for each point" if match["open"] else "cut off",))
        values, faults = self.within(found)
        points = [frame.back(x * frame.width, y * frame.height) for x, y in zip(values[::2], values[1::2], strict=True)]
        faults = faults if match["close"] else (*faults, "cut off")
        return Reading(shapes=tuple(Point(x=x, y=y) for x, y in points), label=said.get("alt") or None, faults=faults)

    def grammar(self) -> str:
        """See Codec. The phrase after the tag is not tied to `alt`."""
        number, words = r"(?:[0-9]{1,2}\.[0-9]|100\.0)", r"[^<>\"'\n]*"
        one = rf'<point x="{number}" y="{number}" alt="{words}">{words}</point>'
        return rf'(?:{one}|<points(?: x[0-9]+="{number}" y[0-9]+="{number}"){{2,}} alt="{words}">{words}</points>)'
