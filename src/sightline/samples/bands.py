"""Bands of a picture: their names and depths, which of them a model takes, how they are resampled, and what eyes get to see of them.

Pixels are (height, width, bands) of the stored depth: uint8, uint16 or float32. Three bands of 8 bits go the way of every RGB picture and give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from sightline.errors import Problem, Refused
from sightline.samples.sample import Picture

COLOURS = ("red", "green", "blue")
"""Bands of ordinary pictures, and of those that published towers have seen, in the order of their filters."""
Depth = Literal["uint8", "uint16", "float32"]
FULL: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
"""What 1.0 of an encoder's mean and std is in stored units."""
_SAME = {
    "near infrared": "nir", "near-infrared": "nir", "near_infrared": "nir", "nearinfrared": "nir", "nir1": "nir", "infrared": "nir", "gray": "grey",
    "red edge": "rededge", "red-edge": "rededge", "red_edge": "rededge",
}  # fmt: skip
_STRETCH = (2.0, 98.0)
"""Percentiles that become black and white where a picture is not of 8 bits: the cumulative cut of GIS programs."""
_SAMPLED = 1 << 18
"""Pixels at most that percentiles are taken of."""


def band_name(text: str) -> str:
    """The name of a band as it is compared: lower case, with one spelling of what has several."""
    plain = " ".join(text.split()).lower()
    return _SAME.get(plain, plain)


def colours_alone(picture: Picture) -> bool:
    """Whether a picture is red, green and blue of 8 bits, which every format of pictures can hold."""
    return picture.bands == COLOURS and picture.depth == "uint8"


def depth_of(pixels: np.ndarray) -> Depth:
    """The depth of pixels."""
    name = pixels.dtype.name
    assert name in FULL, f"pixels of {name}"
    return name  # type: ignore[return-value]


def missing_bands(picture: Picture, wanted: Sequence[str], place: str, who: str) -> list[Problem]:
    """The problem of a picture that lacks bands which `who` (a part or an operator) takes; none where it has them all. Bands that nobody takes are no problem."""
    absent = [band for band in wanted if band not in picture.bands]
    if not absent:
        return []
    unnamed = any(band.startswith("band_") for band in picture.bands)
    fix = (
        f"state `bands:` of its reader, the name of each band of {picture.name or 'the file'} in order"
        if unnamed
        else f"add the band, or change the bands of {who}"
    )
    return [
        Problem(
            code="samples/missing-band",
            place=f"{place}, picture {picture.name or picture.hash[:12]}",
            found=f"no {', '.join(absent)} among its bands {', '.join(picture.bands)}",
            allowed=f"pictures with the bands that {who} takes: {', '.join(wanted)}",
            fix=fix,
        )
    ]


def taken(pixels: np.ndarray, picture: Picture, wanted: Sequence[str], place: str, who: str) -> np.ndarray:
    """The wanted bands of a picture's pixels, in the order in which they are wanted; the very same array where they are all it has. Refused when one is missing."""
    if tuple(wanted) == picture.bands:
        return pixels
    if problems := missing_bands(picture, wanted, place, who):
        raise Refused(problems)
    return pixels[..., [picture.bands.index(band) for band in wanted]]


def resized(pixels: np.ndarray, size: tuple[int, int], filter: Image.Resampling, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """Pixels resampled to `size` (width, height), of the same depth. `box`: the part of the picture that is shown, px.

    Bands of 8 bits are resampled by Pillow's 8-bit arithmetic, so that red, green and blue are the same whether other bands stand beside them or not; deeper ones
    in float32, which holds every number of 16 bits, then rounded and held to the range of 16 bits.
    """
    if pixels.dtype == np.uint8 and pixels.shape[2] == len(COLOURS):
        return np.asarray(Image.fromarray(pixels).resize(size, filter, box=box))
    made = np.empty((size[1], size[0], pixels.shape[2]), pixels.dtype)
    for number in range(pixels.shape[2]):
        band = np.ascontiguousarray(pixels[..., number])
        plain = band if band.dtype == np.uint8 else band.astype(np.float32)
        found: np.ndarray = np.asarray(Image.fromarray(plain).resize(size, filter, box=box))
        made[..., number] = np.clip(np.rint(found), 0, FULL["uint16"]) if made.dtype == np.uint16 else found
    return made


def composite(pixels: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """(height, width, 3) uint8 for eyes and fingerprints: red, green and blue where they are there, else the first three bands, or one band as grey.

    8 bits stay as they are. Deeper bands are stretched, each for itself, from their 2nd to their 98th percentile: it shows what is there, and says nothing about brightness.
    """
    names = tuple(bands)
    if names == COLOURS and pixels.dtype == np.uint8:
        return pixels
    places = [names.index(band) for band in COLOURS] if set(COLOURS) <= set(names) else [0, 1, 2] if len(names) > 2 else [0, 0, 0]
    chosen = pixels[..., places]
    return np.ascontiguousarray(chosen) if chosen.dtype == np.uint8 else np.stack([_stretched(chosen[..., number]) for number in range(len(places))], axis=-1)


def _stretched(band: np.ndarray) -> np.ndarray:
    step = max(1, int((band.size / _SAMPLED) ** 0.5))
    sample: Any = band[::step, ::step].astype(np.float64)
    low, high = np.percentile(sample, _STRETCH)
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return (np.clip((band.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1) * 255 + 0.5).astype(np.uint8)
