"""From a mask to its objects: connected components, each with the rectangle of least area around it (rotated boxes for what was only painted)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sightline.samples.geometry import Points, encode_mask, min_area_rect
from sightline.samples.sample import Mask, RotatedBox

_EIGHT = np.ones((3, 3), bool)
LEAST_PIXELS = 16
LEAST_SHARE = 1e-4
"""Components below max(16 px, 1e-4 of the picture) are specks of the annotation and no objects."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One connected piece of a mask. `box` is in px of the picture; `window` holds its pixels, with its top left at (`left`, `top`)."""

    box: RotatedBox
    area: int
    left: int
    top: int
    window: NDArray[np.bool_]
    on_border: bool
    """It reaches the edge of the picture, and so may go on outside."""

    def mask(self, width: int, height: int) -> Mask:
        """The component as a mask of its whole picture of width x height px."""
        pixels = np.zeros((height, width), bool)
        pixels[self.top : self.top + self.window.shape[0], self.left : self.left + self.window.shape[1]] = self.window
        return encode_mask(pixels)


@dataclass(frozen=True, kw_only=True)
class Components:
    """The components of a mask that are large enough, in raster order of their first pixel."""

    found: tuple[Component, ...]
    dropped: int
    """Pieces that are too small."""
    touching: bool
    """Two pieces are nearer than 3 px: whether they are one object or several cannot be told from the mask."""


def components_of(pixels: NDArray[np.bool_], *, closing: bool = False, least: float | None = None) -> Components:
    """The 8-connected components of a (height, width) mask, without specks: those below `least` px, by default max(16, 1e-4 of the picture).

    `closing` joins pieces over gaps of up to 2 px before they are labelled (a 3x3 closing). Boxes go around the corners of pixels, not their centres, which would make each side 1 px short.
    """
    height, width = pixels.shape
    filled: NDArray[Any] = ndimage.binary_closing(np.pad(pixels, 1), _EIGHT)[1:-1, 1:-1] if closing else pixels
    labelled = _labelled(filled)
    areas = np.bincount(labelled.ravel())[1:]
    least = max(LEAST_PIXELS, LEAST_SHARE * height * width) if least is None else least
    found: list[Component] = []
    for number, window in enumerate(ndimage.find_objects(labelled), 1):
        if window is None or areas[number - 1] < least:
            continue
        rows, columns = window
        piece = labelled[rows, columns] == number
        box = min_area_rect(_extremes(piece) + np.array([columns.start, rows.start]))
        border = rows.start == 0 or columns.start == 0 or rows.stop == height or columns.stop == width
        found.append(Component(box=box, area=int(areas[number - 1]), left=columns.start, top=rows.start, window=piece, on_border=border))
    joined = _labelled(ndimage.binary_dilation(filled, _EIGHT)).max(initial=0)
    return Components(found=tuple(found), dropped=len(areas) - len(found), touching=bool(joined < len(areas)))


def _labelled(pixels: NDArray[Any]) -> NDArray[np.int32]:
    """Number of the 8-connected component at each pixel, from 1; 0 = none."""
    numbers = np.zeros(pixels.shape, np.int32)
    ndimage.label(pixels, _EIGHT, output=numbers)
    return numbers


def _extremes(piece: NDArray[np.bool_]) -> Points:
    """Corners of the first and the last pixel of each row of a connected piece: all that its hull can touch."""
    height, width = piece.shape
    rows, first, last = np.arange(height), piece.argmax(1), width - piece[:, ::-1].argmax(1)
    return np.concatenate([np.stack([x, y], axis=1) for x in (first, last) for y in (rows, rows + 1)]).astype(np.float64)
