"""What a mask head sees of a picture, and what it is taught: the whole picture in one square, and masks on a coarser grid of the same square. Torch-free.

The longer side of the picture fills the square, which the picture shares at its top left; what is beside it is no picture (Kirillov et al. 2023, appendix A).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sightline.samples.bands import FULL
from sightline.samples.geometry import encode_mask
from sightline.samples.painting import painted
from sightline.samples.sample import Mask, Region, Shape
from sightline.samples.upright_crops import Window, pasted, sampled

_DIGITS = 9
"""Decimals of a px that are more than rounding of the arithmetic."""


def view_of(width: int, height: int, side: int) -> Window:
    """The picture of width x height px in a square of `side` px."""
    scale = max(width, height) / side
    across, down = (
        max(1, math.ceil(round(length / scale, _DIGITS))) for length in (width, height)
    )  # rounded down, the last px of the picture would lie outside
    return Window(cx=width / 2, cy=height / 2, theta=0.0, scale=scale, width=across, height=down)


def view_pixels(pixels: NDArray[np.generic], view: Window, side: int, fill: Sequence[float]) -> NDArray[np.float32]:
    """(bands, side, side) on the scale 0..255 of pixels (H, W, bands) of any depth; `fill` per band, 0..1, beside the picture."""
    values, _ = sampled(pixels, view)
    found = np.empty((side, side, pixels.shape[2]), np.float32)
    found[:] = np.asarray(fill, np.float32) * FULL["uint8"]
    found[: view.height, : view.width] = values * np.float32(FULL["uint8"] / FULL[pixels.dtype.name])
    return np.ascontiguousarray(found.transpose(2, 0, 1))


def view_share(view: Window, side: int, stride: int) -> NDArray[np.float32]:
    """(side / stride, side / stride): how much of each place of the grid shows picture, 0..1."""
    found = np.zeros((side, side), np.float32)
    found[: view.height, : view.width] = 1
    return _pooled(found, stride)


def view_target(shape: Shape | None, size: tuple[int, int], view: Window, side: int, stride: int) -> NDArray[np.float32]:
    """(side / stride, side / stride): how much of each place of the grid a shape on a picture of `size` (w, h) covers, 0..1; None = the whole picture."""
    if shape is None:
        return view_share(view, side, stride)
    values, _ = sampled(painted([Region(shape=shape)], *size)[..., None], view)
    found = np.zeros((side, side), np.float32)
    found[: view.height, : view.width] = values[..., 0]
    return _pooled(found, stride)


def view_mask(logits: NDArray[np.floating], view: Window, width: int, height: int) -> Mask:
    """The mask of a picture of width x height px from logits (side, side) of its view: where they are above 0 once they are back in px of the picture."""
    rows, columns, values, inside = pasted(logits[: view.height, : view.width], view, width, height)
    found = np.zeros((height, width), bool)
    found[rows, columns] = inside & (values > 0)
    return encode_mask(found)


def _pooled(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    side = len(values) // stride
    return values if stride == 1 else values.reshape(side, stride, side, stride).mean((1, 3), dtype=np.float32)
