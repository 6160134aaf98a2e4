"""Drawing of made scenes: ground textures, objects and the sensor, in numpy at twice the final resolution.

Textures are cut from a bank of smoothed integer noise, so that a scene is the same on every machine. Lengths in this file are sub-pixels: half a pixel of the finished picture.
Pictures are planar, (3, rows, columns) float32 of 0..255, until the sensor makes bytes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SUB = 2
"""Sub-pixels along one side of a pixel."""
PAD = 24
"""Sub-pixels drawn beyond each edge, so that shadows and cut roads need no special case."""
_SHADOW = 10
_BANK = 512
_GRAIN, _LEAF, _CROWN, _PATCH = 1, 3, 5, 23
"""Widths of the box filter of the four textures of the bank."""

_GROUNDS = {
    "bare": (((150, 128, 102), (180, 158, 130)), ((142, 112, 88), (168, 138, 112)), ((160, 150, 132), (184, 174, 156))),
    "field": (((92, 112, 60), (126, 138, 82)), ((116, 92, 66), (156, 130, 98)), ((136, 128, 78), (164, 152, 104))),
    "forest": (((38, 60, 34), (64, 88, 48)), ((48, 66, 40), (78, 94, 56)), ((34, 56, 44), (58, 80, 58))),
    "grass": (((98, 122, 66), (124, 142, 84)), ((112, 126, 76), (140, 148, 98)), ((120, 126, 80), (150, 150, 106))),
}
_GREYS_AND_REDS = ((142, 142, 144), (176, 174, 170), (204, 202, 198), (104, 104, 108), (164, 92, 72), (142, 76, 64))
_ASPHALTS = ((142, 142, 144), (116, 116, 118), (164, 160, 154), (158, 104, 80))
_BLUES = ((62, 94, 114), (68, 112, 130), (84, 134, 152), (52, 78, 84), (74, 104, 100))
_PALE = (214, 210, 200)
_INK = (36, 36, 42)

INFRARED = {
    "bare": 112, "field": 150, "forest": 176, "grass": 186, "building": 122, "tank": 128, "vehicle": 96, "road": 82, "pond": 24, "pool": 40, "grove": 180, "marking": 134, "net": 62,
}  # fmt: skip
"""Brightness in the near infrared by label: leaves are bright, water is dark."""

GLYPHS = {
    "0": "0E11131519110E", "1": "040C040404040E", "2": "0E11010204081F", "3": "1F02040201110E", "4": "02060A121F0202", "5": "1F101E0101110E",
    "6": "0608101E11110E", "7": "1F010204080808", "8": "0E11110E11110E", "9": "0E11110F01020C", "A": "0E11111F111111", "C": "0E11101010110E",
    "E": "1F10101E10101F", "F": "1F10101E101010", "H": "1111111F111111", "K": "11121418141211", "L": "1010101010101F", "M": "111B1515111111",
    "N": "11191513111111", "P": "1E11111E101010", "R": "1E11111E141211", "T": "1F040404040404", "U": "1111111111110E", "V": "11111111110A04",
    "X": "11110A040A1111", "Y": "11110A04040404",
}  # fmt: skip
"""Letters and digits that no other one resembles: seven rows of five bits, two hexadecimal digits a row."""

Layer = tuple[np.ndarray, np.ndarray]
"""(rows, columns) bool, and the colour there: (3, 1, 1) or (3, rows, columns)."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: a rectangle of `w` x `h` sub-pixels around (cx, cy), turned by `theta` radians (clockwise on screen), and what its label needs to fill it."""

    label: str
    cx: float
    cy: float
    w: float
    h: float
    theta: float
    details: tuple[float, ...] = ()
    text: str = ""

    def reach(self) -> tuple[float, float]:
        """Half width and half height of the upright rectangle around it."""
        c, s = abs(math.cos(self.theta)), abs(math.sin(self.theta))
        return (self.w * c + self.h * s) / 2, (self.w * s + self.h * c) / 2


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Where a thing falls on the padded canvas: window (rows, columns), its own coordinates there, and which sub-pixels are its own."""

    rows: slice
    columns: slice
    u: np.ndarray
    v: np.ndarray
    inside: np.ndarray


@lru_cache(maxsize=1)
def _bank() -> dict[int, np.ndarray]:
    """Periodic noise of mean 0 and deviation 1 for each filter width, repeated twice along both sides so that any cut is one slice.

    Integers are summed and divided once by the deviation of the filter itself, hence no rounding that depends on the machine.
    """
    white = np.random.default_rng(20_240_229).integers(-128, 128, (_BANK, _BANK))
    bank = {}
    for width in (_GRAIN, _LEAF, _CROWN, _PATCH):
        smooth = white
        for axis in (0, 1, 0, 1, 0, 1):
            total = np.cumsum(np.concatenate([smooth, smooth], axis), axis)
            smooth = np.take(total, range(width, width + _BANK), axis) - np.take(total, range(_BANK), axis)
        box = np.ones(width)
        kernel = np.convolve(np.convolve(box, box), box)
        bank[width] = np.tile((smooth / (73.9 * float(kernel @ kernel))).astype(np.float32), (2, 2))
    return bank


def _texture(width: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side) noise of one width, cut at a random place and perhaps transposed."""
    row, column, turned = rng.integers(0, (_BANK, _BANK, 2))
    cut = _bank()[width][row : row + side, column : column + side]
    return cut.T if turned else cut


def _colour(rgb: tuple[int, int, int], rng: np.random.Generator, spread: float = 0.06) -> np.ndarray:
    """(3, 1, 1): a named colour, a little brighter or darker, a little warmer or colder."""
    light, warm = rng.uniform(-spread, spread, 2)
    return (np.array(rgb) * (1 + light + np.array([warm, 0, -warm]) / 2)).astype(np.float32).reshape(3, 1, 1)


def _pick(colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator, spread: float = 0.08) -> np.ndarray:
    return _colour(colours[int(rng.integers(len(colours)))], rng, spread)


def paint_ground(label: str, side: int, rng: np.random.Generator) -> np.ndarray:
    """(3, side, side) of one ground: striped, mottled or plain."""
    pair = _GROUNDS[label][int(rng.integers(3))]
    low, high = _colour(pair[0], rng), _colour(pair[1], rng)
    patch, grain = _texture(_PATCH, side, rng), _texture(_GRAIN, side, rng)
    if label == "field":
        angle, period = rng.uniform(0, math.pi), rng.uniform(7, 15)
        steps = np.arange(side, dtype=np.float32)
        phase = (steps * np.float32(math.cos(angle) / period) + steps[:, None] * np.float32(math.sin(angle) / period)) + patch * np.float32(0.12)
        mix = np.abs((phase - np.floor(phase)) * 2 - 1) * np.float32(rng.uniform(0.8, 1.2)) + patch * np.float32(0.12)
        fine = grain * 6
    elif label == "forest":
        crown = _texture(_CROWN, side, rng)
        mix = 0.5 + crown * np.float32(0.45)
        fine = (crown - np.roll(crown, 3, (0, 1))) * 13 + grain * 7 + patch * 4
    else:
        mix = 0.5 + patch * np.float32(0.38) + _texture(_LEAF, side, rng) * np.float32(0.1)
        fine = grain * (7 if label == "bare" else 5)
    return low + (high - low) * mix + fine


def footprint(thing: Thing, side: int) -> Footprint:
    """The thing's sub-pixels on a padded canvas of `side` sub-pixels."""
    reach_x, reach_y = thing.reach()
    left, right = (min(max(int(thing.cx + PAD + sign * (reach_x + 2)), _SHADOW), side - _SHADOW) for sign in (-1, 1))
    top, bottom = (min(max(int(thing.cy + PAD + sign * (reach_y + 2)), _SHADOW), side - _SHADOW) for sign in (-1, 1))
    x = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - PAD - thing.cx)
    y = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5 - PAD - thing.cy))[:, None]
    c, s = np.float32(math.cos(thing.theta)), np.float32(math.sin(thing.theta))
    u, v = x * c + y * s, y * c - x * s
    return Footprint(rows=slice(top, bottom), columns=slice(left, right), u=u, v=v, inside=_inside(thing, u, v))


def _inside(thing: Thing, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    half_w, half_h = thing.w / 2, thing.h / 2
    if thing.label == "tank":
        return u * u + v * v <= half_w * half_w
    if thing.label == "pond":
        a, b, phase_a, phase_b = thing.details
        angle = np.arctan2(v / half_h, u / half_w)
        edge = 0.82 + a * np.cos(2 * angle + phase_a) + b * np.cos(3 * angle + phase_b)
        return (u / half_w) ** 2 + (v / half_h) ** 2 <= edge * edge
    if thing.label == "grove":
        return _crowns(thing, u, v) > 0
    whole = (np.abs(u) <= half_w) & (np.abs(v) <= half_h)
    if thing.label == "building" and thing.details[0] < 0:
        return whole & ((u < thing.details[1] * half_w) | (v < thing.details[2] * half_h))
    return whole


def _crowns(thing: Thing, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Height of the canopy: the highest of a grove's half-spheres, 0 on the ground. `details` are (u, v, radius) of each crown."""
    height = np.zeros_like(u)
    for at_u, at_v, radius in zip(thing.details[::3], thing.details[1::3], thing.details[2::3]):
        du, dv = u - np.float32(at_u), v - np.float32(at_v)
        np.maximum(height, np.float32(radius * radius) - du * du - dv * dv, out=height)
    return np.sqrt(height)


def _flat(rgb: tuple[int, int, int]) -> np.ndarray:
    return np.array(rgb, dtype=np.float32).reshape(3, 1, 1)


def _building(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    roof = _pick(_GREYS_AND_REDS, rng)
    edge = (np.abs(at.u) > thing.w / 2 - 1.2) | (np.abs(at.v) > thing.h / 2 - 1.2)
    layers: list[Layer]
    if thing.details[0] < 0.55:
        lit = light[0] * -math.sin(thing.theta) + light[1] * math.cos(thing.theta)
        tone = 1 + np.where(at.v > 0, np.float32(0.16 * lit), np.float32(-0.16 * lit)) + np.where(np.abs(at.v) < 0.6, np.float32(0.08), np.float32(0))
        layers = [(at.inside, roof * tone), (at.inside & edge, roof * tone * np.float32(0.86))]
    else:
        layers = [(at.inside, roof), (at.inside & edge, roof * np.float32(1.12))]
        for _ in range(int(rng.integers(1, 4))):
            du, dv = rng.uniform(-0.33, 0.33) * thing.w, rng.uniform(-0.33, 0.33) * thing.h
            layers.append(((np.abs(at.u - du) < 1.8) & (np.abs(at.v - dv) < 1.5) & at.inside, roof * np.float32(0.7)))
    return layers


def _tank(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    roof, radius = _pick(_GREYS_AND_REDS, rng), thing.w / 2
    distance = np.sqrt(at.u * at.u + at.v * at.v) / np.float32(radius)
    x, y = at.u * math.cos(thing.theta) - at.v * math.sin(thing.theta), at.u * math.sin(thing.theta) + at.v * math.cos(thing.theta)
    tone = np.float32(1) + (x * np.float32(light[0]) + y * np.float32(light[1])) * np.float32(0.14 / radius)
    ring = (distance > 0.84) | (np.abs(distance - 0.4) < 0.07)
    return [(at.inside, roof * tone), (at.inside & ring, roof * tone * np.float32(0.84))]


def _vehicle(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    body, across = _pick(_GREYS_AND_REDS, rng, 0.15), at.u / np.float32(thing.w)
    glass = at.inside & (((across > 0.1) & (across < 0.27)) | (across < -0.36))
    return [(at.inside, body), (glass, body * np.float32(0.45))]


def _road(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    surface, worn = _pick(_ASPHALTS, rng), _texture(_LEAF, at.u.shape[0] + at.u.shape[1], rng)[: at.u.shape[0], : at.u.shape[1]]
    layers = [(at.inside, surface + worn * 5), (at.inside & (np.abs(at.v) > thing.h / 2 - 1), surface * np.float32(0.86))]
    if thing.details[0] < 0.6:
        layers.append((at.inside & (np.abs(at.v) < 0.7) & (np.remainder(at.u, 12) < 7), _flat(_PALE)))
    return layers


def _pond(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    water, depth = _pick(_BLUES, rng), (at.u * 2 / thing.w) ** 2 + (at.v * 2 / thing.h) ** 2
    ripple = _texture(_CROWN, at.u.shape[0] + at.u.shape[1], rng)[: at.u.shape[0], : at.u.shape[1]]
    return [(at.inside, water * (np.float32(0.88) + depth * np.float32(0.22)) + ripple * 2.5)]


def _pool(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    water = _pick(_BLUES, rng)
    basin = (np.abs(at.u) < thing.w / 2 - 2.2) & (np.abs(at.v) < thing.h / 2 - 2.2)
    return [(at.inside, _colour(_PALE, rng)), (basin, water * (1 + at.u * np.float32(0.12 / thing.w)))]


def _grove(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    low, high = _GROUNDS["forest"][int(rng.integers(3))]
    height = _crowns(thing, at.u, at.v)
    slope = light[0] * (height - np.roll(height, 1, 1)) + light[1] * (height - np.roll(height, 1, 0))
    leaves = _texture(_LEAF, sum(height.shape), rng)[: height.shape[0], : height.shape[1]]
    dark, bright = _colour(low, rng), _colour(high, rng)
    return [(at.inside, dark + (bright - dark) * (height * np.float32(0.12)) - np.clip(slope, -2, 2) * 9 + leaves * 6)]


def _marking(thing: Thing, at: Footprint, light: tuple[float, float], rng: np.random.Generator) -> list[Layer]:
    cell = thing.details[0]
    columns = 6 * len(thing.text) - 1
    column, row = np.floor(at.u / cell + columns / 2).astype(int), np.floor(at.v / cell + 3.5).astype(int)
    ink = glyph_bits(thing.text)
    on_text = (column >= 0) & (column < columns) & (row >= 0) & (row < 7)
    painted = on_text & ink[np.clip(row, 0, 6), np.clip(column, 0, columns - 1)]
    return [(at.inside, _colour(_PALE, rng, 0.04)), (painted & at.inside, _flat(_INK))]


def glyph_bits(text: str) -> np.ndarray:
    """(7, 6 n - 1) bool: the text in the bitmap font, one empty column between letters."""
    rows = np.array([[int(GLYPHS[letter][2 * row : 2 * row + 2], 16) for letter in text] for row in range(7)])
    bits = (rows[:, :, None] >> np.arange(5, -1, -1)) & 1
    return bits.reshape(7, -1)[:, 1:].astype(bool)


_Painter = Callable[[Thing, Footprint, tuple[float, float], np.random.Generator], list[Layer]]
_PAINTERS: dict[str, tuple[_Painter, int]] = {
    "building": (_building, 7), "tank": (_tank, 6), "vehicle": (_vehicle, 2), "road": (_road, 0),
    "pond": (_pond, 0), "pool": (_pool, 0), "grove": (_grove, 5), "marking": (_marking, 0),
}  # fmt: skip
"""Per label: who paints it, and the length of its shadow."""


def draw(
    ground: str, things: list[Thing], prints: list[Footprint], size: int, rng: np.random.Generator, day: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The finished picture (size, size, 3) uint8 and the object of each pixel, (size, size) uint8: 0 for ground, n for the n-th thing.

    A pixel is an object's when at least two of its four sub-pixels are. `day` draws the light and the sensor: two pictures of one `rng` that begin with the same things show
    the same place on two days.
    """
    day = day or rng
    side = size * SUB + 2 * PAD
    canvas = paint_ground(ground, side, rng)
    angle = day.uniform(0, 2 * math.pi)
    light = (math.cos(angle), math.sin(angle))
    shade = np.zeros((side, side), bool)
    for thing, at in zip(things, prints):
        for step in range(1, _PAINTERS[thing.label][1] + 1):
            dx, dy = round(-light[0] * step), round(-light[1] * step)
            shade[at.rows.start + dy : at.rows.stop + dy, at.columns.start + dx : at.columns.stop + dx] |= at.inside
    canvas *= np.where(shade, np.float32(day.uniform(0.45, 0.65)), np.float32(1))
    owner = np.zeros((side, side), np.uint8)
    for number, (thing, at) in enumerate(zip(things, prints), start=1):
        window = canvas[:, at.rows, at.columns]
        for mask, colour in _PAINTERS[thing.label][0](thing, at, light, rng):
            np.copyto(window, colour, where=mask)
        owner[at.rows, at.columns][at.inside] = number
    return _sensor(canvas, day), _reduce_owner(owner[PAD:-PAD, PAD:-PAD])


def _reduce_owner(owner: np.ndarray) -> np.ndarray:
    quarters = np.stack([owner[::2, ::2], owner[::2, 1::2], owner[1::2, ::2], owner[1::2, 1::2]])
    return np.where((quarters > 0).sum(0) >= 2, quarters.max(0), 0).astype(np.uint8)


def _sensor(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sub-pixels to bytes: box reduction, a little blur, gain and haze of the day, noise. (3, side, side) -> (size, size, 3)."""
    frame = canvas[:, PAD - 2 : 2 - PAD, PAD - 2 : 2 - PAD]
    frame = (frame[:, ::2, ::2] + frame[:, ::2, 1::2] + frame[:, 1::2, ::2] + frame[:, 1::2, 1::2]) * np.float32(0.25)
    side_weight = np.float32(rng.uniform(0.06, 0.14))
    frame = frame[:, 1:-1] * (1 - 2 * side_weight) + (frame[:, :-2] + frame[:, 2:]) * side_weight
    frame = frame[:, :, 1:-1] * (1 - 2 * side_weight) + (frame[:, :, :-2] + frame[:, :, 2:]) * side_weight
    contrast, level, strength = rng.uniform(0.8, 1.2), rng.uniform(-12, 12), rng.uniform(1.5, 4.0)
    gain = (contrast * rng.uniform(0.96, 1.04, (3, 1, 1))).astype(np.float32)
    size = frame.shape[1]
    noise = np.stack([_texture(_GRAIN, size, rng) for _ in range(3)])
    frame = (frame - 115) * gain + np.float32(115 + level) + noise * np.float32(strength)
    return np.ascontiguousarray(np.clip(frame, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def owned(at: Footprint, size: int) -> np.ndarray:
    """(size, size) bool: the pixels of which at least two sub-pixels are the footprint's."""
    owner = np.zeros((size * SUB + 2 * PAD, size * SUB + 2 * PAD), np.uint8)
    owner[at.rows, at.columns] = at.inside
    return _reduce_owner(owner[PAD:-PAD, PAD:-PAD]) > 0


def infrared_band(level: np.ndarray, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(size, size) uint8: the brightness of each pixel's label, blurred by the sensor, with the light and shade of the picture (size, size, 3) and noise of its own."""
    size = level.shape[0]
    padded = np.pad(level, 1, mode="edge")
    blurred = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) * np.float32(0.1) + level * np.float32(0.6)
    light = picture.mean(2, dtype=np.float32)
    shade = (light - light.mean()) * np.float32(0.25)
    noise = _texture(_GRAIN, size, rng) * np.float32(rng.uniform(2, 4)) + _texture(_CROWN, size, rng) * np.float32(5)
    return np.clip(blurred * np.float32(rng.uniform(0.9, 1.1)) + shade + noise, 0, 255).astype(np.uint8)
