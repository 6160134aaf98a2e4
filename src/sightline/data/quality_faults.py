"""What spoils a picture: clouds, blur, stripes, misregistered bands, haze and noise, each a function of pixels, a strength and a generator.

Pixels are (height, width, 3) of 0..255, computed in float32 or wider. Strength s runs from 0 (nothing happens) to 1, and lengths are shares of the shorter side, so that a fault looks alike at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Fault = Literal["clean", "cloud", "blur", "stripes", "misregistration", "haze", "noise"]
"""What a picture may have; `clean` is nothing."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
Values = NDArray[np.floating[Any]]

_OCTAVES = 6
_EDGE = 0.3
"""Half width of a cloud's soft edge, in deviations of the noise that makes it."""


def spoilt(pixels: NDArray[np.uint8], fault: Fault, strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(height, width, 3) pixels with one fault, rounded; the very same array when nothing happens. `strength` is 0..1."""
    assert 0 <= strength <= 1, strength
    if fault == "clean" or strength == 0:
        return pixels
    return np.clip(np.rint(_MAKERS[fault](pixels.astype(np.float32), strength, rng)), 0, 255).astype(np.uint8)


def cloud(values: Values, s: float, rng: np.random.Generator) -> Values:
    """Clouds and their shadows: p' = a c + (1 - a) (1 - 0.5 a') p.

    The veil a is fractal noise over the quantile that leaves a cover of 0.1 + 0.4 s, with soft edges, times an opacity of 0.95 sqrt(s); c is 235 with a texture of 15;
    the shadow a' is the veil moved by 4 to 10 % of the side.
    """
    height, width = values.shape[:2]
    noise = fractal(height, width, rng)
    edge = float(np.quantile(noise, 1 - (0.1 + 0.4 * s)))
    ramp = np.clip((noise - edge) / (2 * _EDGE * max(float(noise.std()), 1e-6)) + 0.5, 0, 1)
    veil = ramp * ramp * (3 - 2 * ramp) * np.float32(0.95 * math.sqrt(s))
    away, angle = rng.uniform(0.04, 0.1) * min(height, width), rng.uniform(0, 2 * math.pi)
    shadow = moved(veil[..., None], round(away * math.cos(angle)), round(away * math.sin(angle)))
    white = 235 + 15 * (fractal(height, width, rng) - 0.5)
    return veil[..., None] * white[..., None] + (1 - veil[..., None]) * (1 - 0.5 * shadow) * values


def blur(values: Values, s: float, rng: np.random.Generator) -> Values:
    """Out of focus (a Gaussian of deviation 0.03 s of the side) or moved while it was taken (the mean along a line of 0.12 s of the side, in any direction), as a coin falls."""
    from scipy import ndimage

    side = min(values.shape[:2])
    if rng.random() < 0.5:
        deviation = 0.03 * s * side
        return ndimage.gaussian_filter(values, (deviation, deviation, 0), mode="nearest")
    length, angle = 0.12 * s * side, rng.uniform(0, math.pi)
    places = np.linspace(-length / 2, length / 2, math.ceil(length) + 1) if length > 1 else np.zeros(1)
    steps = [moved(values, round(place * math.cos(angle)), round(place * math.sin(angle))) for place in places.tolist()]
    return np.stack(steps).mean(axis=0)


def stripes(values: Values, s: float, rng: np.random.Generator) -> Values:
    """A line scanner's detectors that do not agree, and dead ones: p' = p (1 + 0.3 s a) + 40 s b.

    a and b, uniform in -1..1, belong to detector i mod n of line i, with n from 6 to 16; a share of 0.04 s of all lines is 0 or 255. Lines are rows or columns, 1/75 of the side wide.
    """
    across = bool(rng.random() < 0.5)
    lines, wide = values.shape[0 if across else 1], max(1, round(min(values.shape[:2]) / 75))
    number = np.arange(lines) // wide
    detectors = int(rng.integers(6, 17))
    gain, level = rng.uniform(-1, 1, (2, detectors)).astype(np.float32)[:, number % detectors]
    dead = rng.random(int(number[-1]) + 1)[number] < 0.04 * s
    stuck = np.float32(255 * int(rng.integers(2)))
    shape = (-1, 1, 1) if across else (1, -1, 1)
    told = values * (1 + np.float32(0.3 * s) * gain.reshape(shape)) + np.float32(40 * s) * level.reshape(shape)
    return np.where(dead.reshape(shape), stuck, told)


def misregistration(values: Values, s: float, rng: np.random.Generator) -> Values:
    """Bands that do not lie on each other: red is moved by 0.05 s of the side in any direction, blue by 50 to 100 % of that within 60 degrees of the opposite one; green stays."""
    away, angle = 0.05 * s * min(values.shape[:2]), rng.uniform(0, 2 * math.pi)
    back, opposite = away * rng.uniform(0.5, 1.0), angle + math.pi + rng.uniform(-1, 1) * math.pi / 3
    red = moved(values[..., :1], round(away * math.cos(angle)), round(away * math.sin(angle)))
    blue = moved(values[..., 2:], round(back * math.cos(opposite)), round(back * math.sin(opposite)))
    return np.concatenate([red, values[..., 1:2], blue], axis=2)


def haze(values: Values, s: float, rng: np.random.Generator) -> Values:
    """An even veil (Koschmieder's law): p' = t p + (1 - t) A with transmission t = 1 - 0.75 s and a bluish grey A around 215."""
    light = rng.uniform(205, 225) + np.array([-6, 0, 6])
    return (values * (1 - 0.75 * s) + light * (0.75 * s)).astype(np.float32)


def noise(values: Values, s: float, rng: np.random.Generator) -> Values:
    """p' = p + 50 s z, z normal and independent in every pixel and band."""
    return values + np.float32(50 * s) * rng.standard_normal(values.shape, np.float32)


_MAKERS: dict[Fault, Callable[[Values, float, np.random.Generator], Values]] = {
    "cloud": cloud,
    "blur": blur,
    "stripes": stripes,
    "misregistration": misregistration,
    "haze": haze,
    "noise": noise,
}


def fractal(height: int, width: int, rng: np.random.Generator) -> Values:
    """(height, width) of 0..1: octaves of white noise, each twice as fine and half as high as the one before, between whose values is interpolated."""
    total = np.zeros((height, width), np.float32)
    for octave in range(_OCTAVES):
        cells = 2 << octave
        grid = rng.random((cells + 1, cells + 1), np.float32)
        total += _between(_between(grid, height).T, width).T / np.float32(2**octave)
    low, high = float(total.min()), float(total.max())
    return (total - low) / np.float32(max(high - low, 1e-6))


def _between(grid: Values, count: int) -> Values:
    """Rows of a grid, interpolated linearly to `count` of them: (n, m) to (count, m)."""
    place = np.linspace(0, len(grid) - 1, count)
    first = np.minimum(place.astype(int), len(grid) - 2)
    share = (place - first).astype(np.float32)[:, None]
    return grid[first] * (1 - share) + grid[first + 1] * share


def moved(values: Values, right: int, down: int) -> Values:
    """(height, width, bands) moved by whole pixels; what comes in at an edge repeats the edge."""
    height, width = values.shape[:2]
    rows, columns = np.clip(np.arange(height) - down, 0, height - 1), np.clip(np.arange(width) - right, 0, width - 1)
    return values[rows][:, columns]
