"""The module of a convolutional tower with joined stages. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import ConvNextModel

from sightline.model import composite_weights, hub_layout
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.crop_tower_modules import CropTower, stacked
from sightline.model.encoder_kinds.staged_convnext import StagedConvNextEncoder
from sightline.model.encoders import Read

OPEN_CLIP = (
    (r"^stem\.0\.", "embeddings.patch_embeddings."),
    (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.", "encoder.stages."),
    (r"\.downsample\.", ".downsampling_layer."),
    (r"\.blocks\.", ".layers."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.norm\.", ".layernorm."),
    (r"\.mlp\.fc([12])\.", r".pwconv\1."),
    (r"\.gamma$", ".layer_scale_parameter"),
)
"""From the names of open_clip's trunks to those of transformers, which no rule touches."""


class StagedConvNextTower(CropTower):
    """See StagedConvNextEncoder."""

    config: StagedConvNextEncoder

    def __init__(self, config: StagedConvNextEncoder) -> None:
        super().__init__(config)
        settings: Any = hub_layout.transformers_config(config.block(), config.path)
        self.tower: Any = ConvNextModel(settings)
        self.tower.layernorm = nn.Identity()
        prefixes = ("visual.trunk.", "convnext.", "")
        composite_weights.load(self.tower, config.checkpoint, prefixes, config.path, rules=OPEN_CLIP, without=("layernorm.", "head."))

    @property
    def layers(self) -> list[nn.Module]:
        """Layers of all stages in depth order."""
        return [layer for stage in self.tower.encoder.stages for layer in stage.layers]

    def deepest(self, reads: Iterable[Read]) -> int:
        """Those of the stages up to the last one that is read."""
        return sum(self.config.block()["depths"][: self.config.stages[-1] + 1])

    def spare_for(self, reads: Iterable[Read]) -> list[str]:
        """Everything of later stages, with what makes their maps smaller."""
        later = tuple(f"tower.encoder.stages.{stage}." for stage in range(self.config.stages[-1] + 1, len(self.tower.encoder.stages)))
        return [name for name, _ in self.named_parameters() if name.startswith(later)]

    def forward(self, pictures: Pictures, read: Read) -> Features:
        """Features of the crops that are seen, (sum of counts, C). Stages above the last one that is read are not run."""
        seen = self.seen(pictures, read)
        return seen.features(joined_stages(self.tower, self.config.stages, stacked(seen.crops, self.config.path)))


def joined_stages(tower: Any, stages: Sequence[int], crops: Tensor) -> Tensor:
    """Maps of these stages of a ConvNeXt for crops (K, 3, h, w), upsampled to the size of the first and joined, token by token (K * rows * columns, C)."""
    hidden = tower.embeddings(crops.to(tower.embeddings.patch_embeddings.weight.dtype))
    maps = []
    for number, stage in enumerate(tower.encoder.stages[: stages[-1] + 1]):
        hidden = stage(hidden)
        if number in stages:
            maps.append(hidden)
    # in float32, as published: the weights of an upsampling are no bfloat16 numbers
    upsampled = [interpolate(later.float(), size=maps[0].shape[2:], mode="bilinear", align_corners=False).to(later.dtype) for later in maps[1:]]
    return torch.cat([maps[0], *upsampled], dim=1).flatten(2).transpose(1, 2).flatten(0, 1)
