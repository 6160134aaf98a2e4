"""The module of a transformers vision model. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model import hub_layout
from sightline.model.batch import Features, Pictures
from sightline.model.encoders import GEOMETRY, EncoderConfig, Read


class TransformersEncoder(nn.Module):
    """Normalises by its own mean and std, runs the tower once for all crops, and hands out the layer that is read."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import AutoModel

        self.config = config
        place = config.path
        tower_config = hub_layout.transformers_config(config.block(), place)
        if config.checkpoint and hub_layout.find(config.checkpoint):
            self.tower: Any = hub_layout.load_weights(AutoModel, config.checkpoint, tower_config, place)
        else:
            self.tower = AutoModel.from_config(tower_config)
        resolved = config.resolve()
        assert resolved.mean is not None and resolved.std is not None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(resolved.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(resolved.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """Repeated layers in depth order: the longest module list of the tower."""
        lists = [module for module in self.tower.modules() if isinstance(module, nn.ModuleList)]
        return list(max(lists, key=len)) if lists else []

    def forward(self, pictures: Pictures, read: Read) -> Features:
        """Features of every crop, (sum of counts, C). Crops of one batch have one size here; a tower that packs sizes is its own kind."""
        assert pictures.pixels is not None, "a batch with cached features does not pass through the encoder"
        sizes = {tuple(crop.shape) for crop in pictures.pixels}
        if len(sizes) > 1:
            raise Refused(
                Problem(
                    code="model/crop-sizes",
                    place=self.config.path,
                    found=f"crops of {sorted(sizes)}",
                    allowed="one size per batch",
                    fix="use a tiler that makes crops of one size",
                )
            )
        crops = torch.stack(pictures.pixels).to(self.mean.dtype)
        hidden = self._hidden((crops - self.mean) / self.std, read)
        height, width = crops.shape[-2:]
        full = self.config.model_copy(update={"tokens": "all", "reads": {}}).grid(width, height)
        if hidden.dim() == 4:
            hidden = hidden.flatten(2).transpose(1, 2)  # (K, C, h, w) -> (K, h*w, C)
        assert hidden.shape[1] == full.count, f"{self.config.path}: {hidden.shape[1]} tokens, geometry says {full.count}"
        kept = hidden if read.lead == "keep" else hidden[:, full.lead :]
        grid = full if read.lead == "keep" else type(full)(columns=full.columns, rows=full.rows)
        return Features(values=kept.reshape(-1, kept.shape[-1]), grids=(grid,) * len(crops))

    def _hidden(self, crops: Tensor, read: Read) -> Tensor:
        if not GEOMETRY[self.config.block()["model_type"]].layers:
            return self.tower(crops.contiguous(memory_format=torch.channels_last)).last_hidden_state
        result = self.tower(crops, output_hidden_states=True)
        hidden = result.hidden_states[read.layer]
        norm = next((module for name, module in self.tower.named_modules() if name.rsplit(".", 1)[-1] in ("post_layernorm", "layernorm")), None)
        return norm(hidden) if read.final_norm and norm is not None else hidden
