"""Runs towers of convolutions: stages of falling resolution, of which the last is read. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model.encoders import Read
from sightline.model.tiling import Grid
from sightline.model.towers.crop_groups import CropsOfSize

_FIRST = {"resnet": "embedder.embedder.convolution", "convnext": "embeddings.patch_embeddings"}
_UNREAD = {"resnet": (), "convnext": ("layernorm.",)}


class FeaturePyramid:
    """Runs the whole tower once for crops of one size."""

    def __init__(self, tower: nn.Module, block: dict[str, Any]) -> None:
        self.tower = tower
        self.kind = block["model_type"]

    @property
    def blocks(self) -> list[nn.Module]:
        """Stages in depth order: the longest module list of the tower."""
        lists = [module for module in self.tower.modules() if isinstance(module, nn.ModuleList)]
        return list(max(lists, key=len)) if lists else []

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that sees the bands."""
        found = self.tower.get_submodule(_FIRST[self.kind])
        assert isinstance(found, nn.Conv2d)
        return found

    def deepest(self, reads: Sequence[Read]) -> int:
        """All stages: the last is read."""
        return len(self.blocks)

    def spare(self, reads: Sequence[Read]) -> list[str]:
        """Names of the tower's parameters that its last stage does not depend on."""
        return [name for name, _ in self.tower.named_parameters() if name.startswith(_UNREAD[self.kind])]

    def __call__(self, groups: Sequence[CropsOfSize], read: Read) -> tuple[Tensor, list[Grid]]:
        """(sum of counts, C) in raster order, and the grid of each crop."""
        [group] = groups
        hidden = self.tower(group.crops.contiguous(memory_format=torch.channels_last)).last_hidden_state  # (K, C, h, w)
        rows, columns = hidden.shape[2:]
        return hidden.flatten(2).transpose(1, 2).flatten(0, 1), [Grid(columns=columns, rows=rows)] * len(hidden)

    def maps(self, crops: Tensor, read: Read) -> list[Tensor]:
        """The output of every stage, (K, C, rows, columns) each, finest first."""
        return list(self.tower(crops.contiguous(memory_format=torch.channels_last), output_hidden_states=True).hidden_states[1:])
