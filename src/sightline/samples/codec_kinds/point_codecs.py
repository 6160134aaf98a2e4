"""Codecs of points."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from sightline.samples.codecs import Part
from sightline.samples.frames import Frame
from sightline.samples.grammar import Either, Grammar, GrammarName, Move, Node, Number, Words, fixed, form, joined, optional
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
    pattern: ClassVar[re.Pattern[str]] = re.compile(r"<(?P<tag>points?)\s(?P<said>[^<>]*)(?P<open>>|\Z)(?:[^<>]*(?P<close></(?P=tag)>))?")

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
        told = [*_ATTRIBUTE.finditer(match["said"])]
        said = {one[1] + one[2]: one[3] or one[4] or "" for one in told}
        twice = [name for name, count in Counter(one[1] + one[2] for one in told).items() if count > 1]
        keys = sorted((name[1:] for name in said if name[0] == "x"), key=lambda key: (len(key), key))
        found = numbers(",".join(said.get(axis + key, "") for key in keys for axis in "xy"))
        if not match["open"] or not found or twice:
            fault = f"{', '.join(twice)} more than once" if twice else "an x and a y for each point" if match["open"] else "cut off"
            return Reading(faults=(fault,))
        values, faults = self.within(found)
        points = [frame.back(x * frame.width, y * frame.height) for x, y in zip(values[::2], values[1::2], strict=True)]
        faults = faults if match["close"] else (*faults, "cut off")
        names = [one.span(3 if one[3] is not None else 4) for one in told if one[1] == "alt" and (one[3] or one[4])]
        label = tuple(match.start("said") + place for place in names[0]) if names else None
        return Reading(shapes=tuple(Point(x=x, y=y) for x, y in points), label=label, faults=faults)

    def grammar(self, said: GrammarName = "regions") -> Grammar:
        """See Codec. The phrase after the tag is not tied to `alt`, and points may stand in any order."""
        words = optional(Words("<>\"'"))
        told = joined(fixed(' alt="'), words, fixed('">'), words)
        one = joined(form('<point x="#" y="#"', (_PLACE, _PLACE)), told, fixed("</point>"))
        several = joined(fixed("<points"), _Points(), told, fixed("</points>"))
        return Grammar(Either((one, several)) if said == "regions" else one)


_PLACE = Number(0, 1000, decimals=1)


@dataclass(frozen=True)
class _Points:
    """` x1=".." y1=".." x2=".." ..`, two or more of them in the order of their numbers, from `number` on."""

    number: int = 1

    @property
    def least(self) -> int:
        """See Node."""
        return sum(self._one(number).least for number in range(self.number, 3))

    def _one(self, number: int) -> Node:
        return form(f' x{number}="#" y{number}="#"', (_PLACE, _PLACE))

    def moves(self) -> tuple[Move, ...]:
        """See Node."""
        return joined(self._one(self.number), _Points(self.number + 1)).moves()

    def regex(self) -> str:
        """See Node. Whatever their numbers."""
        return f'(?: x[0-9]+="{_PLACE.regex()}" y[0-9]+="{_PLACE.regex()}"){{2,}}'
