"""What the numbers and colours of published label masks mean."""

from __future__ import annotations

from dataclasses import dataclass, field

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Names by number; a number in `ignore` is no label but known. `rgb` gives the number of each colour, for masks stored as RGB."""

    names: dict[int, str]
    rgb: dict[RGB, int] = field(default_factory=dict)
    ignore: frozenset[int] = frozenset()
    threshold: int | None = None
    """Grey masks with soft edges: a value above it is 1, any other 0."""
    hint: str = ""
    """Pattern of names (`folder/../mask.png`) that belong to this palette alone."""


def _numbered(first: int, classes: str) -> tuple[dict[int, str], dict[RGB, int]]:
    """Numbers from `first` on for lines `name: r g b`, or `name` alone."""
    names: dict[int, str] = {}
    colours: dict[RGB, int] = {}
    for number, line in enumerate(classes.strip().splitlines(), first):
        name, _, rgb = line.strip().partition(":")
        names[number] = name
        if rgb:
            red, green, blue = (int(value) for value in rgb.split())
            colours[red, green, blue] = number
    return names, colours


def _loveda() -> Palette:
    names, rgb = _numbered(
        1,
        """background: 255 255 255
        building: 255 0 0
        road: 255 255 0
        water: 0 0 255
        barren: 159 129 183
        forest: 0 255 0
        agriculture: 255 195 128""",
    )
    return Palette(names=names, rgb=rgb, ignore=frozenset({0}), hint=r"loveda|masks_png/")


def _isaid() -> Palette:
    names, rgb = _numbered(
        0,
        """background: 0 0 0
        ship: 0 0 63
        storage tank: 0 63 63
        baseball diamond: 0 63 0
        tennis court: 0 63 127
        basketball court: 0 63 191
        ground track field: 0 63 255
        bridge: 0 127 63
        large vehicle: 0 127 127
        small vehicle: 0 0 127
        helicopter: 0 0 191
        swimming pool: 0 0 255
        roundabout: 0 191 127
        soccer ball field: 0 127 191
        plane: 0 127 255
        harbor: 0 100 155""",
    )
    return Palette(names=names, rgb=rgb, ignore=frozenset({255}), hint=r"isaid|_instance_color_RGB\.")


def _isprs() -> Palette:
    names, rgb = _numbered(
        1,
        """impervious surface: 255 255 255
        building: 0 0 255
        low vegetation: 0 255 255
        tree: 0 255 0
        car: 255 255 0
        clutter: 255 0 0""",
    )
    # The *_noBoundary masks paint the borders between classes black; mmsegmentation writes them as 0.
    return Palette(names=names, rgb={**rgb, (0, 0, 0): 0}, ignore=frozenset({0}), hint=r"potsdam|vaihingen|isprs|top_mosaic_")


def _openearthmap() -> Palette:
    names, rgb = _numbered(
        1,
        """bareland: 128 0 0
        rangeland: 0 255 36
        developed: 148 148 148
        road: 255 255 255
        tree: 34 97 38
        water: 0 69 255
        agriculture: 75 181 73
        building: 222 31 7""",
    )
    return Palette(names=names, rgb={**rgb, (0, 0, 0): 0}, ignore=frozenset({0}), hint=r"open_?earth_?map|\boem\b")


def _dronedeploy(step: int) -> Palette:
    # 0 is a class. The benchmark's own chips hold the class number in one channel, those of its sample set 40 times that in three equal ones.
    names = {step * number: name for number, name in enumerate(("building", "clutter", "vegetation", "water", "ground", "car"))}
    return Palette(names=names, rgb={(value, value, value): value for value in names}, hint=r"drone_?deploy|label-chips/")


def _scenes() -> Palette:
    names, _ = _numbered(1, "bare\nfield\nforest\ngrass\nbuilding\ntank\nvehicle\nroad\npond\npool\ngrove\nmarking")
    return Palette(names=names, ignore=frozenset({0}))


PALETTES: dict[str, Palette] = {
    "loveda": _loveda(),
    "isaid": _isaid(),
    "potsdam": _isprs(),
    "vaihingen": _isprs(),
    "isprs": _isprs(),
    "openearthmap": _openearthmap(),
    "dronedeploy": _dronedeploy(40),
    "dronedeploy_numbers": _dronedeploy(1),
    "epfl_roads": Palette(names={0: "background", 1: "road"}, threshold=127, hint=r"\bepfl|groundtruth/satImage_"),
    "scenes": _scenes(),
}
