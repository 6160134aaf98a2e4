"""What codecs that write numbers as text share: grid, phrase, grouping of what is read, and problems."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.codecs import FORMAT_ERROR, ControlToken, Parsed, Part, converted, refusal
from sightline.samples.frames import Frame, FrameName
from sightline.samples.grammar import EMPTY, Grammar, GrammarName, Node, Number, Repeated, Words, fixed, joined, optional
from sightline.samples.sample import Region, Regions, Shape, Text

_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})")
_HALF_WIDTH = str.maketrans({chr(0xFF01 + i): chr(0x21 + i) for i in range(94)} | {"\u3000": " ", "\u3001": ",", "\u00b0": " ", "\u2212": "-"})
"""Full-width forms, the ideographic space and comma, the sign of degrees and the minus sign: one character each, so that places in a text stay."""
_EXACT = 9
"""Decimals of a number of the grid that are more than rounding of the arithmetic."""
_BETWEEN = re.compile(r"(?:[\s,;]|and|\u548c|<delim>)*")
"""What may stand between shapes of one phrase."""
CHARACTERS = r"[-+0-9.,\s]"
"""What a list of numbers is made of, in half-width text."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one place of a text says. Without shapes it stays text; faults are reported in both cases."""

    shapes: tuple[Shape, ...] = ()
    label: tuple[int, ...] | None = None
    """Where in the text the phrase stands, from and to: the text is searched in half width, and phrases are kept as they were written."""
    faults: tuple[str, ...] = ()


@dataclass
class _Phrase:
    """A phrase and the shapes that have been read of it."""

    label: str | None
    shapes: list[Shape]

    def item(self) -> Regions:
        return Regions(regions=tuple(Region(label=self.label, shape=shape) for shape in self.shapes), label=self.label)


class TextCodec(Config):
    """Grid, conversion and grouping. A kind says its `pattern`, what it `write`s and how it `read`s."""

    frame: FrameName = "source"
    """The frame whose sides are the whole range of the numbers."""
    convert: bool = False
    """Whether a shape that the codec does not hold is brought to one that it holds: Mask or Polygon -> RotatedBox -> Box -> Point. Without it such a shape is refused."""

    holds: ClassVar[tuple[type[Shape], ...]]
    joint: ClassVar[str] = ", "
    """What stands between shapes of one phrase."""
    top: ClassVar[float]
    """The number that the far side of the frame is."""
    limit: ClassVar[float]
    """The largest number that may be written."""
    step: ClassVar[float] = 1.0
    """Difference of neighbouring numbers."""
    control: ClassVar[tuple[str, ...]] = ()
    """What of all that is written is a control token."""
    signs: ClassVar[tuple[str, ...]] = ()
    """What a phrase may not hold, control tokens apart."""
    pattern: ClassVar[re.Pattern[str]]
    """Every place that is or tries to be what `write` writes, in half-width text."""

    @property
    def marks(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def quantum(self) -> float:
        """One step: half of it from rounding, the other half where the far side lies above the largest number, or where a side is rounded first."""
        return self.step / self.top

    def write(self, shape: Shape, frame: Frame) -> str:
        """The text of one shape that the codec holds."""
        raise NotImplementedError

    def read(self, match: re.Match[str], frame: Frame) -> Reading:
        """What a match of `pattern` says."""
        raise NotImplementedError

    def told(self, label: str) -> tuple[Part, ...]:
        """What is written of the phrase before the shapes."""
        raise NotImplementedError

    def phrase_of(self, gap: str) -> tuple[str | None, str]:
        """The phrase at the end of the text before a shape, and the text before the phrase."""
        return None, gap

    def grammar(self, said: GrammarName = "regions") -> Grammar | None:
        """See Codec."""
        raise NotImplementedError

    def render(self, regions: Regions, frame: Frame) -> tuple[Part, ...]:
        """See Codec."""
        body = self.joint.join(self.write(shape, frame) for shape in self.held(regions))
        return (*(self.told(regions.label) if regions.label is not None else ()), *self.parts(body))

    def parts(self, text: str) -> tuple[Part, ...]:
        """Text that the codec itself wrote, taken apart at its control tokens."""
        pieces = re.split("(" + "|".join(map(re.escape, self.control)) + ")", text) if self.control else [text]
        return tuple(ControlToken(token=piece) if piece in self.control else piece for piece in pieces if piece)

    def held(self, regions: Regions) -> list[Shape]:
        """The shapes as the codec holds them. Refused with everything about the item that cannot be written."""
        problems, shapes = [], []
        if not regions.regions:
            problems.append(refusal("no-region", "a phrase without regions", "at least one region", "say in words that there are none"))
        if regions.label is not None and (fault := self._unsayable(regions.label)):
            found = f"label {regions.label[:80]!r}: {fault}"
            problems.append(refusal("label-not-sayable", found, "words that the format can tell from its own", "rename the label"))
        for number, region in enumerate(regions.regions):
            try:
                shapes.append(converted(region.shape, self.holds, self.convert))
            except Refused as refused:
                problems += [replace(problem, place=f"region {number}") for problem in refused.problems]
        if problems:
            raise Refused(problems)
        return shapes

    def _unsayable(self, label: str) -> str:
        """Why a label would not be read back; empty where it would."""
        if label != label.strip() or not label:
            return "white space at an end, or nothing"
        if not label.isprintable():
            return "a character that is not printed"
        found = [sign for sign in (*self.signs, *self.control) if sign in label.translate(_HALF_WIDTH)]
        if found:
            return f"it holds {found[0]!r}"
        return "it looks like a region" if self.pattern.search(label.translate(_HALF_WIDTH)) else ""

    def parse(self, text: str, frame: Frame) -> Parsed:
        """See Codec. Shapes with nothing but separators between them are one item; a phrase right before them is its label."""
        items: list[Text | _Phrase] = []
        problems: list[Problem] = []
        done = 0
        for match in self.pattern.finditer(text.translate(_HALF_WIDTH)):
            reading = self.read(match, frame)
            problems += [_format_error(match, fault, self.limit) for fault in reading.faults]
            if not reading.shapes:
                continue
            gap, last = text[done : match.start()], items[-1] if items else None
            if isinstance(last, _Phrase) and reading.label is None and _BETWEEN.fullmatch(gap.translate(_HALF_WIDTH)):
                last.shapes.extend(reading.shapes)
            else:
                label, before = (text[slice(*reading.label)], gap) if reading.label is not None else self.phrase_of(gap)
                items += [Text(text=before)] if before else []
                items.append(_Phrase(label, [*reading.shapes]))
            done = match.end()
        items += [Text(text=text[done:])] if done < len(text) or not items else []
        return tuple(item.item() if isinstance(item, _Phrase) else item for item in items), tuple(problems)

    def number(self, value: float) -> float:
        """A coordinate 0..1 of the frame as a number of the grid: rounded half up, kept within it."""
        # what a division left of a half, 500.4999999999999, is that half
        steps = math.floor(round(min(max(value, -1.0), 2.0) * self.top / self.step, _EXACT) + 0.5)
        return min(max(steps * self.step, 0.0), self.limit)

    def span(self, low: float, high: float) -> tuple[float, float]:
        """Both ends of a side as numbers of the grid, at least one step apart: what is shorter reaches to the side on which its middle lies, so that neither end is off by more."""
        first, last = self.number(low), self.number(high)
        if last - first >= self.step / 2:
            return first, last
        above = (low + high) / 2 * self.top >= first and first + self.step <= self.limit + self.step / 2
        return (first, first + self.step) if above or first < self.step else (first - self.step, first)

    def within(self, values: Sequence[float]) -> tuple[list[float], tuple[str, ...]]:
        """Numbers clipped to the grid, as shares of the frame 0..1, and what had to be clipped."""
        outside = [value for value in values if not 0 <= value <= self.limit]
        faults = (f"{', '.join(f'{value:g}' for value in outside)} outside 0..{self.limit:g}",) if outside else ()
        return [min(max(value, 0.0), self.limit) / self.top for value in values], faults


class PhrasedCodec(TextCodec):
    """A codec that writes the phrase before the shapes."""

    phrase: Literal["tagged", "plain"] = "tagged"
    """tagged: the phrase stands between the format's signs and is read back; plain: it is words before the shapes, and comes back as text."""

    around: ClassVar[tuple[str, str]] = ("<p>", "</p>")
    """The signs before and after the phrase."""
    space: ClassVar[str] = " "
    """What stands between phrase and shapes."""
    signs: ClassVar[tuple[str, ...]] = around
    corners: ClassVar[bool] = False
    """Whether two corners are written, the second beyond the first."""

    def told(self, label: str) -> tuple[Part, ...]:
        """See TextCodec."""
        if self.phrase == "plain":
            return label, " "
        return *self.parts(self.around[0]), label, *self.parts(self.around[1] + self.space)

    def phrase_of(self, gap: str) -> tuple[str | None, str]:
        """See TextCodec."""
        (opening, closing), told = self.around, gap.rstrip()
        start = told.rfind(opening, 0, len(told) - len(closing))
        if self.phrase == "plain" or not told.endswith(closing) or start < 0:
            return None, gap
        label = told[start + len(opening) : -len(closing)].strip()
        return (None, gap) if not label or closing in label else (label, gap[:start])

    def one(self) -> Node:
        """The texts of one shape: what `write` writes and `read` reads without a fault."""
        raise NotImplementedError

    def grammar(self, said: GrammarName = "regions") -> Grammar:
        """See Codec. A phrase in it holds none of `< > { } [ ]`, which a codec writes where it can tell them from its own signs."""
        one, words = self.one(), Words(_BRACKETS)
        opening, closing = self.around if self.phrase == "tagged" else ("", "")
        space = self.space if self.phrase == "tagged" else " "
        phrase = joined(fixed(opening, self.control, before_words=True), words, fixed(closing + space, self.control))
        more = Repeated(joined(fixed(self.joint), one)) if said == "regions" else EMPTY
        return Grammar(joined(optional(phrase), one, more), self.control, self.corners)


_BRACKETS = "<>{}[]"


def _format_error(match: re.Match[str], fault: str, limit: float) -> Problem:
    return Problem(
        code=FORMAT_ERROR,
        place=f"character {match.start()}",
        found=f"{match[0][:80]!r}: {fault}",
        allowed=f"numbers 0..{limit:g} in the form of the codec",
        fix="count it against the model, or constrain its answers by the codec's grammar",
        severity="warn",
    )


def listed(match: re.Match[str], counts: Sequence[int]) -> Reading | list[float]:
    """The numbers in a match's group `body`, as many as one of `counts`; else the Reading that says what is wrong. One number alone is a word of the text."""
    if "," not in match["body"]:
        return Reading()
    if not match["close"]:
        return Reading(faults=("cut off",))
    return _counted(numbers(match["body"]), counts)


def bracketed(match: re.Match[str], count: int) -> Reading | list[float]:
    """As `listed`, of numbers in brackets such as `<1><2>` or `(1,2),(3,4)`."""
    if not match["close"]:
        return Reading(faults=("cut off",))
    return _counted(numbers(",".join(part for part in re.split(r"[<>(),]", match["body"]) if part.strip())), (count,))


def _counted(found: list[float] | None, counts: Sequence[int]) -> Reading | list[float]:
    return found if found is not None and len(found) in counts else Reading(faults=(f"{' or '.join(map(str, counts))} numbers are a region",))


def corner_numbers(limit: int, decimals: int = 0) -> tuple[Number, ...]:
    """x0, y0, x1, y1 in 0..limit, in units of the last decimal: each side at least one unit long."""
    return Number(0, limit - 1, decimals), Number(0, limit - 1, decimals), Number(1, limit, decimals, above=0), Number(1, limit, decimals, above=1)


def numbers(text: str) -> list[float] | None:
    """The numbers of a comma-separated list, of at most nine digits before and after the point; None where one is no such number."""
    found = [part.strip() for part in text.split(",")]
    return [float(part) for part in found] if all(_NUMBER.fullmatch(part) for part in found) else None
