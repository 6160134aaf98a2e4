"""Sample and its fields: the one record that readers make, operators change and the processor turns into tokens.

Geometry is in pixels of the source picture after EXIF rotation: x right, y down, origin at the outer corner of the top-left pixel. Angles are degrees, clockwise on
screen, le90 (w >= h, -90 <= theta < 90). Text is text: no marker inside a string means anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sightline.errors import Problem

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True)
class Geo:
    """Georeference: coordinate reference system and affine (a, b, c, d, e, f) from pixel to map."""

    crs: str
    affine: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One source picture. `data` is its encoded bytes, or a path relative to the store."""

    hash: str
    """sha256 of the stored bytes."""
    width: int
    height: int
    """Width and height in px, after EXIF rotation."""
    bands: tuple[str, ...] = ("red", "green", "blue")
    depth: Literal["uint8", "uint16", "float32"] = "uint8"
    data: bytes | str
    geo: Geo | None = None
    name: str = ""
    """File name it came with, for people."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """An upright box: left, top, right, bottom."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, kw_only=True)
class RotatedBox:
    """A box turned by `theta` degrees, clockwise on screen, about its centre; w >= h and -90 <= theta < 90."""

    cx: float
    cy: float
    w: float
    h: float
    theta: float


@dataclass(frozen=True, kw_only=True)
class Point:
    """One place."""

    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A closed outline; its last point joins its first."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Binary mask of a whole picture as column-major runs, zero run first (COCO's uncompressed RLE)."""

    width: int
    height: int
    runs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tap:
    """Place of a control token whose hidden state a head turns into a mask."""

    index: int


Shape = Box | RotatedBox | Point | Polygon | Mask | Tap


@dataclass(frozen=True, kw_only=True)
class Region:
    """A shape on picture number `picture` of the sample; `shape=None` means the whole picture."""

    picture: int = 0
    label: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """Words. No marker in them means anything."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Show:
    """A picture is shown here."""

    picture: int = 0


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames shown as one film; `times` in seconds."""

    pictures: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """One phrase with all its shapes: a codec writes them together."""

    regions: tuple[Region, ...]
    label: str | None = None


Item = Text | Show | Film | Regions


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one speaker says, with other right ways to say it."""

    role: Role
    items: tuple[Item, ...]
    weight: float = 1.0
    """Assistant turns only; 0 = context that is not learnt."""
    alternatives: tuple[tuple[Item, ...], ...] = ()
    """Other right answers."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a sample comes from and who wrote its text."""

    source: str
    row: str = ""
    licence: str = ""
    parents: tuple[str, ...] = ()
    maker: str = "human"
    """`human`, `template:ID` or `model:ID`."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Pictures, what is said about them (turns), what is known about them (annotations), and where it came from.

    `attributes` is flat JSON. Known keys: `split`; `kind` (question kind, one per user turn, joined by `,` when there are several); `options`; `turns` = "independent" when each
    user/assistant pair stands for itself and shares nothing with the others but the pictures.
    """

    id: str
    pictures: tuple[Picture, ...] = ()
    turns: tuple[Turn, ...] = ()
    annotations: tuple[Region, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin

    def text(self, turn: int) -> str:
        """The text items of one turn, joined."""
        return "".join(item.text for item in self.turns[turn].items if isinstance(item, Text))

    def problems(self, place: str) -> list[Problem]:
        """Broken invariants: roles, picture indices, empty answers. Readers call it on every sample they make."""
        found: list[Problem] = []

        def add(code: str, what: str, allowed: str, fix: str) -> None:
            found.append(Problem(code=f"samples/{code}", place=place, found=what, allowed=allowed, fix=fix))

        roles = [turn.role for turn in self.turns]
        body = roles[1:] if roles[:1] == ["system"] else roles
        expected = ["user", "assistant"] * (len(body) // 2 + 1)
        if body != expected[: len(body)]:
            add("turn-order", f"roles {roles}", "an optional system turn, then user and assistant in turn", "reorder or drop the stray turn")
        for number, turn in enumerate(self.turns):
            if turn.role == "assistant" and not any(not isinstance(item, Text) or item.text.strip() for item in turn.items):
                add("empty-answer", f"turn {number} is empty", "an assistant turn with content", "drop the turn or fill it in")
        shown = [r for turn in self.turns for item in turn.items for r in _pictures_of(item)] + [region.picture for region in self.annotations]
        for index in sorted({i for i in shown if not 0 <= i < len(self.pictures)}):
            add(
                "picture-index",
                f"picture {index}",
                f"0..{len(self.pictures) - 1}" if self.pictures else "no picture: the sample has none",
                "list the picture in `pictures`",
            )
        return found


def _pictures_of(item: Item) -> list[int]:
    if isinstance(item, Show):
        return [item.picture]
    if isinstance(item, Film):
        return list(item.pictures)
    return [region.picture for region in item.regions] if isinstance(item, Regions) else []
