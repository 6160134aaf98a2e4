"""Crops with a prompt: what the refiner sees of a box. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.samples.bands import FULL
from sightline.samples.upright_crops import TurnedBox, Window, sampled

_REACH = 0.25
"""Distance from the box's edge, by the crop's side, from which on the distance channel says no more."""


@dataclass(frozen=True, kw_only=True)
class PromptedCrop:
    """`values` (B, h, w) float32 0..255; `prompt` (3, h, w) float32: inside of the box, signed distance to its edge, share on the picture."""

    values: NDArray[np.float32]
    prompt: NDArray[np.float32]


def prompted_crop(pixels: NDArray[np.generic], window: Window, box: TurnedBox, fill: Sequence[float]) -> PromptedCrop:
    """The crop of a picture (H, W, B) of any depth in a window that is turned as the box is; the full range of its depth becomes 0..255."""
    unit = np.float32(255 / FULL[pixels.dtype.name])
    values, inside = sampled(pixels, window, np.asarray(fill, np.float32) / unit)
    values *= unit
    return PromptedCrop(values=np.ascontiguousarray(values.transpose(2, 0, 1)), prompt=np.concatenate([_box_channels(window, box), inside[None]]))


def _box_channels(window: Window, box: TurnedBox) -> NDArray[np.float32]:
    """(2, h, w): how much of a pixel is inside, to the precision of one axis, and max(|u| - w/2, |v| - h/2) in crop px by the reach, within -1..1, negative inside."""
    [[cx, cy]] = window.to_crop(np.array([[box.cx, box.cy]], np.float64))
    across = np.abs(np.arange(window.width) + 0.5 - cx) - box.w / window.scale / 2
    down = np.abs(np.arange(window.height) + 0.5 - cy) - box.h / window.scale / 2
    distance = np.maximum(across[None], down[:, None])
    return np.stack([np.clip(0.5 - distance, 0, 1), np.clip(distance / (_REACH * window.width), -1, 1)]).astype(np.float32)
