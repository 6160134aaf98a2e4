"""The module of a tower over canvases. Letters: P pictures, K tiles, C channels (see batch.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import MllamaVisionModel

from sightline.errors import Problem, Refused
from sightline.model import composite_weights, hub_layout
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.canvas_tower import MllamaEncoder
from sightline.model.encoder_kinds.crop_tower_modules import CropTower
from sightline.model.encoders import Read


class MllamaTower(CropTower):
    """See MllamaEncoder. Every picture takes `max_num_tiles` places, so that what it gives does not depend on its neighbours.

    As published, a pair of tokens is blocked only where both are padding: tiles that are there do see the places of absent ones, which hold zeros.
    """

    config: MllamaEncoder

    def __init__(self, config: MllamaEncoder) -> None:
        super().__init__(config)
        settings: Any = hub_layout.transformers_config(config.block(), config.path)
        self.tower: Any = MllamaVisionModel(settings)
        composite_weights.load(self.tower, config.checkpoint, ("vision_model.", "model.vision_model.", ""), config.path)

    @property
    def layers(self) -> list[nn.Module]:
        """Local, then global layers in depth order."""
        return [*self.tower.transformer.layers, *self.tower.global_transformer.layers]

    def forward(self, pictures: Pictures, read: Read) -> Features:
        """Features of the tiles that are seen, (sum of counts, C), all tiles of a picture together."""
        seen = self.seen(pictures, read)
        canvases = self._canvases(pictures) if seen.numbers else [(1, 1)]
        ids = torch.tensor([[self.config.aspect_id(*canvas)] for canvas in canvases], device=self.mean.device)
        most = self.config.block()["max_num_tiles"]
        tiles = [picture * most + tile for picture, (columns, rows) in enumerate(canvases) for tile in range(columns * rows)]
        places = torch.tensor(tiles, device=self.mean.device)
        crops = torch.cat(seen.crops)
        shape = (len(canvases), 1, most)
        pixels = crops.new_zeros(len(canvases) * most, *crops.shape[1:]).index_copy(0, places, crops)
        there = torch.zeros(len(canvases) * most, dtype=torch.long, device=crops.device).index_fill(0, places, 1)
        hidden: Tensor = self.tower(pixel_values=pixels.unflatten(0, shape), aspect_ratio_ids=ids, aspect_ratio_mask=there.view(shape)).last_hidden_state
        kept = hidden.flatten(0, 2)[places]
        return seen.features((kept if read.lead == "keep" else kept[:, self.config.LEAD :]).flatten(0, 1))

    def _canvases(self, pictures: Pictures) -> list[tuple[int, int]]:
        """(columns, rows) of the pictures of which tiles are seen. Raises Refused where these are not the tiles of one canvas: model/canvas."""
        canvases = []
        for tiling in pictures.tilings:
            tiles = sum(crop.role in self.config.sees for crop in tiling.crops)
            if tiles not in (0, tiling.grid[0] * tiling.grid[1]):
                raise Refused(
                    Problem(
                        code="model/canvas",
                        place=self.config.path,
                        found=f"{tiles} crops of a canvas of {tiling.grid[0]}x{tiling.grid[1]} tiles",
                        allowed="the tiles of one canvas and nothing else",
                        fix="tiler.kind: canvas",
                    )
                )
            if tiles:
                canvases.append(tiling.grid)
        return canvases
