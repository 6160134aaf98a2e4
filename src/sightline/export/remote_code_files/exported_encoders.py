"""Encoders of an exported model: transformers' own vision classes, run as Sightline runs them. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, ConvNextModel

from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.staged_convnext_modules import joined_stages
from sightline.model.encoders import Read
from sightline.model.tiling import Grid
from sightline.model.towers.crop_groups import CropsOfSize, by_size
from sightline.model.towers.feature_pyramids import FeaturePyramid
from sightline.model.towers.tower_table import TOWERS, cells
from sightline.model.towers.tower_weights import tower_class
from sightline.model.towers.vision_transformers import VisionTransformer
from sightline.samples.bands import COLOURS


def tower_grid(said: Mapping[str, Any], width: int, height: int) -> Grid:
    """Tokens of one crop of width x height px. Raises Refused for a size that the tower does not take."""
    block = said["block"]
    columns, rows = cells(block, said["rule"], width, height, said["name"])
    lead = TOWERS[block["model_type"]].lead + block.get("num_register_tokens", 0) if said["read"]["lead"] == "keep" else 0
    return Grid(columns=columns, rows=rows, lead=lead)


def staged_grid(said: Mapping[str, Any], width: int, height: int) -> Grid:
    """Tokens of one crop of width x height px: the first stage that is read gives the grid."""
    stride = said["block"]["patch_size"] * 2 ** said["stages"][0]
    return Grid(columns=width // stride, rows=height // stride)


class _CropEncoder(nn.Module):
    """What both kinds do: choose the crops of the roles that they see, and normalise them in float32."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__()
        self.said = dict(said)

    def chosen(self, pictures: Pictures, blank: int) -> tuple[list[int], list[CropsOfSize]]:
        """Numbers of the crops that are seen, and their pixels by size; one blank crop of `blank` px a side where there are none."""
        numbers = pictures.seen(self.said["sees"])
        place = next(self.parameters()).device
        crops = [pictures.crop(number, COLOURS) for number in numbers] or [torch.zeros(len(COLOURS), blank, blank, device=place)]
        mean, std = (torch.tensor(self.said[name], dtype=torch.float32, device=place).view(1, -1, 1, 1) * 255.0 for name in ("mean", "std"))
        return numbers, [CropsOfSize(places=group.places, crops=(group.crops.float() - mean) / std) for group in by_size(crops)]


class TowerEncoder(_CropEncoder):
    """A vision transformer or a pyramid of convolutions."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(said)
        block = said["block"]
        self.tower: Any = tower_class(block["model_type"])(AutoConfig.for_model(**block))
        self.read = Read(**said["read"])
        pyramid = TOWERS[block["model_type"]].adapter == "pyramid"
        self._run = FeaturePyramid(self.tower, block) if pyramid else VisionTransformer(self.tower, block, said["rule"])

    def forward(self, pictures: Pictures, prompts: Tensor | None = None) -> Features:
        """Features of the crops that are seen, (sum of counts, C). `prompts` (blocks or 1, Q, C) stand among the tokens of every crop."""
        side = self.said["block"].get("image_size", 64)
        numbers, groups = self.chosen(pictures, side if isinstance(side, int) else side[0])
        values, grids = self._run(groups, self.read, prompts) if isinstance(self._run, VisionTransformer) else self._run(groups, self.read)
        if not numbers:
            values, grids = values[:0], []
        return Features(values=values, grids=tuple(grids), crops=tuple(numbers))


class StagedEncoder(_CropEncoder):
    """ConvNeXt whose maps of several stages are joined."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(said)
        settings: Any = AutoConfig.for_model(**said["block"])
        self.tower: Any = ConvNextModel(settings)
        self.tower.layernorm = nn.Identity()

    def forward(self, pictures: Pictures, prompts: Tensor | None = None) -> Features:
        """Features of the crops that are seen, (sum of counts, C)."""
        block = self.said["block"]
        numbers, [group] = self.chosen(pictures, block["patch_size"] * 2 ** (len(block["depths"]) - 1))
        crops = group.crops.contiguous(memory_format=torch.channels_last)
        grids = [staged_grid(self.said, crop.shape[2], crop.shape[1]) for crop in crops[: len(numbers)]]
        values = joined_stages(self.tower, self.said["stages"], crops)
        return Features(values=values[: sum(grid.count for grid in grids)], grids=tuple(grids), crops=tuple(numbers))
