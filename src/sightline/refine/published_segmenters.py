"""Published segmenters behind the refiner's door: SAM (Kirillov et al. 2023) is prompted with the box, SegGPT (Wang et al. 2023) with an example. Both see the upright crop of a turned box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.lineage import sha256_json
from sightline.model import hub_layout
from sightline.model.directory import tensor_digest
from sightline.model.towers.tower_table import pair
from sightline.refine.box_masks import Refiner, filled, masked, prompts_of
from sightline.samples.bands import COLOURS
from sightline.samples.pictures import band_pixels
from sightline.samples.sample import Picture, Region
from sightline.samples.upright_crops import TurnedBox, Window, pasted, sampled

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation of both where preprocessor_config.json states none."""


class _Published:
    """Weights of a folder in the Hugging Face layout. `context`: side of the crop by the longer side of the box, for boxes that are turned (SAM) or all boxes (SegGPT)."""

    name = ""
    bands: tuple[str, ...] = COLOURS

    def __init__(self, folder: Path, device: torch.device | str = "cpu", context: float = 1.5) -> None:
        import transformers

        block = hub_layout.config_block(str(folder), None, str(folder))
        self.device, self.context = device, context
        self.model: Any = hub_layout.load_weights(
            getattr(transformers, self.name), str(folder), hub_layout.transformers_config(block, str(folder)), str(folder)
        )
        self.model.eval().to(device)
        stated = hub_layout.read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
        mean, std = (torch.tensor(stated.get(key, known), device=device).view(3, 1, 1) for key, known in (("image_mean", _MEAN), ("image_std", _STD)))
        self.mean, self.std = mean, std

    @property
    def id(self) -> str:
        """Hash of weights and settings."""
        return self._id

    @cached_property
    def _id(self) -> str:
        return sha256_json([self.name, self.context, {name: tensor_digest(tensor) for name, tensor in sorted(self.model.state_dict().items())}])

    def normalised(self, values: NDArray[np.generic]) -> Tensor:
        """Pixels (h, w, 3) 0..255 as (3, h, w)."""
        return (torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).float().to(self.device) / 255 - self.mean) / self.std


class Sam(_Published):
    """See Refiner. Upright boxes share one look at the whole picture, its longer side brought to the model's size, as published; a turned box is upright in a crop of its own."""

    name = "SamModel"

    @torch.no_grad()
    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """See Refiner."""
        boxes = prompts_of(picture, regions)
        pixels = band_pixels(picture, COLOURS) if boxes else np.zeros((0, 0, 3), np.uint8)
        side = pair(self.model.config.vision_config.image_size)[0]
        masks: dict[int, NDArray[np.bool_]] = {}
        upright = [number for number, box in enumerate(boxes) if box.theta == 0]
        if upright:
            height, width = pixels.shape[:2]
            whole = Window(
                cx=width / 2,
                cy=height / 2,
                theta=0.0,
                scale=max(width, height) / side,
                width=round(width * side / max(width, height)) or 1,
                height=round(height * side / max(width, height)) or 1,
            )
            masks |= dict(zip(upright, self._seen(pixels, whole, [boxes[number] for number in upright], side)))
        for number, box in enumerate(boxes):
            if number not in masks:
                window = Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=max(box.w, box.h) * self.context / side, width=side, height=side)
                [masks[number]] = self._seen(pixels, window, [box], side)
        return masked(regions, [masks[number] for number in range(len(boxes))])

    def _seen(self, pixels: NDArray[np.uint8], window: Window, boxes: Sequence[TurnedBox], side: int) -> list[NDArray[np.bool_]]:
        """Masks (H, W) of boxes that stand upright in one window, which lies at the top left of the model's square; what is beside it is 0."""
        height, width = pixels.shape[:2]
        values, inside = sampled(pixels, window)
        square = torch.zeros(3, side, side, device=self.device)
        square[:, : window.height, : window.width] = self.normalised(values) * torch.from_numpy(inside > 0).to(self.device)
        corners = [window.to_crop(_diagonal(box)).reshape(4) for box in boxes]
        told = torch.tensor(np.stack(corners)[None], dtype=torch.float32, device=self.device)
        low = self.model(pixel_values=square[None], input_boxes=told, multimask_output=False).pred_masks[0, :, :1]
        logits = interpolate(low.float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0, : window.height, : window.width].cpu().numpy()
        return [_back(one, window, width, height, 0.0) for one in logits]


class SegGpt(_Published):
    """See Refiner. The example is the crop itself with its box painted white: what looks like the middle of the box, and not like its surroundings, stays white in the answer.

    `example`: (pixels (h, w, 3) uint8, mask (h, w) bool) by label, where better ones are known.
    """

    name = "SegGptForImageSegmentation"

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        context: float = 1.5,
        example: Callable[[str | None], tuple[NDArray[np.uint8], NDArray[np.bool_]] | None] | None = None,
    ) -> None:
        super().__init__(folder, device, context)
        self.example = example

    @torch.no_grad()
    def refine(self, picture: Picture, regions: Sequence[Region]) -> list[Region]:
        """See Refiner."""
        boxes = prompts_of(picture, regions)
        pixels = band_pixels(picture, COLOURS) if boxes else np.zeros((0, 0, 3), np.uint8)
        return masked(regions, [self._mask(pixels, box, region.label) for box, region in zip(boxes, regions)])

    def _mask(self, pixels: NDArray[np.uint8], box: TurnedBox, label: str | None) -> NDArray[np.bool_]:
        height, width = pixels.shape[:2]
        tall, side = pair(self.model.config.image_size)
        size = (side, tall // 2)  # example above, question below
        window = Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=max(box.w / size[0], box.h / size[1]) * self.context, width=size[0], height=size[1])
        values, _ = sampled(pixels, window)
        shown = self.example(label) if self.example is not None else None
        if shown is None:
            own = TurnedBox(cx=size[0] / 2, cy=size[1] / 2, w=box.w / window.scale, h=box.h / window.scale)
            above, white = self.normalised(values), filled(own, *size)
        else:
            above, white = (_resized(part, size) for part in (shown[0], shown[1][..., None] * 255.0))
            above, white = self.normalised(above), white[..., 0] > 127
        painted = self.normalised(np.repeat(white[..., None] * 255.0, 3, axis=2))
        below = self.normalised(values)
        found = self.model(pixel_values=below[None], prompt_pixel_values=above[None], prompt_masks=painted[None], embedding_type="instance").pred_masks
        answer = found[0, :, found.shape[2] // 2 :].float() * self.std + self.mean
        return _back((answer.mean(0) - 0.5).cpu().numpy(), window, width, height, 0.0) & filled(_grown(box, self.context), width, height)


def _diagonal(box: TurnedBox) -> NDArray[np.float64]:
    """First and third corner, (2, 2), in px of the picture."""
    frame = Window(cx=box.cx, cy=box.cy, theta=box.theta, scale=1.0, width=0, height=0)
    return frame.to_source(np.array([(-box.w, -box.h), (box.w, box.h)]) / 2)


def _grown(box: TurnedBox, by: float) -> TurnedBox:
    return TurnedBox(cx=box.cx, cy=box.cy, w=box.w * by, h=box.h * by, theta=box.theta)


def _resized(values: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float32]:
    """An example (h, w, bands) at (width, height), both sides stretched."""
    planes = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1))).float()[None]
    return interpolate(planes, size=size[::-1], mode="bilinear", align_corners=False, antialias=True)[0].permute(1, 2, 0).numpy()


def _back(values: NDArray[np.float32], window: Window, width: int, height: int, least: float) -> NDArray[np.bool_]:
    """(H, W): where the values of a crop, pasted back, are above `least`."""
    rows, columns, share, inside = pasted(values, window, width, height)
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = inside & (share > least)
    return mask


PUBLISHED: dict[str, Callable[[Path, torch.device | str], Refiner]] = {"sam": Sam, "seggpt": SegGpt}
"""`model_type` of a published config -> what opens its folder."""
