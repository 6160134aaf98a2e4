"""Pictures of one colour, of many bands, and what a picture must hold for a model of some bands."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import Refused
from sightline.samples.pictures import band_pixels, describe, encoded
from sightline.samples.sample import Picture


def coloured(width: int, height: int, rgb: tuple[int, int, int] = (90, 120, 60), disc: tuple[float, float, float] | None = None) -> Picture:
    """A picture of one colour, with a red disc (x, y, radius) where one is asked for."""
    array = np.full((height, width, 3), rgb, np.uint8)
    if disc:
        y, x = np.indices((height, width)) + 0.5
        array[(x - disc[0]) ** 2 + (y - disc[1]) ** 2 <= disc[2] ** 2] = (220, 40, 30)
        array += np.random.default_rng(0).integers(0, 9, array.shape, dtype=np.uint8)
    return describe(encoded(array), "p", "p")


def test_bands_that_are_not_there_are_refused() -> None:
    plain = coloured(6, 4)
    with pytest.raises(Refused, match="samples/missing-band"):
        band_pixels(plain, ("red", "nir"))
