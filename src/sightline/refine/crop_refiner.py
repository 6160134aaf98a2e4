"""The trained refiner at work: boxes become crops, crops become masks, masks are pasted back where the crops were cut."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from sightline.refine.box_masks import filled, masked, prompts_of
from sightline.refine.crop_decoder_modules import CropSegmenter
from sightline.refine.crops import prompted_crop
from sightline.refine.refiner_directory import weights_of
from sightline.samples.pictures import band_pixels
from sightline.samples.sample import Picture, Region
from sightline.samples.upright_crops import TurnedBox, Window, pasted, windows_around, windows_within

_BATCH = 32


class CropRefiner:
    """See Refiner. `threshold`: least probability of a pixel of the mask."""

    def __init__(self, model: CropSegmenter, threshold: float = 0.5) -> None:
        self.model, self.threshold = model.eval(), threshold

    @property
    def id(self) -> str:
        """Hash of config and weights, and the threshold."""
        return f"{self._weights}@{self.threshold:g}"

    @cached_property
    def _weights(self) -> str:
        return weights_of(self.model)

    @property
    def bands(self) -> tuple[str, ...]:
        """Those of the model."""
        return self.model.config.bands

    @torch.no_grad()
    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """See Refiner. Refused too: a picture that lacks a band of the model."""
        boxes = prompts_of(picture, regions)
        if not boxes:
            return []
        config = self.model.config
        pixels = band_pixels(picture, config.bands)
        cut = [
            (number, window)
            for number, box in enumerate(boxes)
            for window in windows_within(windows_around(box, config.size, config.context, config.finest, config.coarsest), picture.width, picture.height)
        ]
        canvas = [_Canvas(picture.width, picture.height) for _ in boxes]
        for start in range(0, len(cut), _BATCH):
            some = cut[start : start + _BATCH]
            crops = [prompted_crop(pixels, window, boxes[number], self.model.fill) for number, window in some]
            device = next(self.model.parameters()).device
            values, prompts = (torch.from_numpy(np.stack(parts)).to(device) for parts in zip(*((one.values, one.prompt) for one in crops), strict=True))
            shares = self._shares(self.model(values, prompts), regions, boxes, some).cpu().numpy()
            for share, (number, window) in zip(shares, some):
                canvas[number].add(share, window)
        masks = [one.mean() >= self.threshold for one in canvas]
        if config.predicts == "classes":  # a pixel's label says nothing of whose it is: the box does
            masks = [mask & filled(box, picture.width, picture.height) for mask, box in zip(masks, boxes)]
        return masked(regions, masks)

    def _shares(self, logits: torch.Tensor, regions: Sequence[Region], boxes: Sequence[TurnedBox], cut: Sequence[tuple[int, Window]]) -> torch.Tensor:
        """(K, h, w): probability that a pixel is the object's, or that it has the region's label.

        A plain segmentation model that does not know the label takes the one that it sees most of in the middle of the crop.
        """
        if self.model.config.predicts == "box":
            return logits[:, 0].sigmoid()
        names, shares = self.model.config.classes, logits.softmax(1)
        middle = shares[:, :, shares.shape[2] // 3 : -(shares.shape[2] // 3), shares.shape[3] // 3 : -(shares.shape[3] // 3)].mean((2, 3)).argmax(1)
        chosen = [names.index(label) if (label := regions[number].label) in names else int(middle[k]) for k, (number, _) in enumerate(cut)]
        best = shares.argmax(1)
        return torch.stack([(best[k] == number).float() for k, number in enumerate(chosen)])


class _Canvas:
    """Where the crops of one box are put together: the mean of all that show a pixel, those in the middle of a crop before those at its edge."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.sums: NDArray[np.float32] = np.zeros((height, width), np.float32)
        self.weights: NDArray[np.float32] = np.zeros((height, width), np.float32)

    def add(self, share: NDArray[np.float32], window: Window) -> None:
        """Paste what one crop (h, w) says."""
        rows, columns, values, inside = pasted(share, window, self.width, self.height)
        _, _, weight, _ = pasted(_tent(window.width, window.height), window, self.width, self.height)
        weight = np.where(inside, weight, 0)
        self.sums[rows, columns] += values * weight
        self.weights[rows, columns] += weight

    def mean(self) -> NDArray[np.float32]:
        """(H, W): 0 where no crop was."""
        return (self.sums / np.maximum(self.weights, 1e-9)).astype(np.float32)


def _tent(width: int, height: int) -> NDArray[np.float32]:
    """(h, w): 1 in the middle, falling to little at the edges."""
    across, down = (1 - np.abs((np.arange(side) + 0.5) / side * 2 - 1) for side in (width, height))
    return (np.minimum(across[None], down[:, None]) + 0.01).astype(np.float32)
