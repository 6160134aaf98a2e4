"""Modules of towers of rotary positions. Letters: K crops, n patches of a crop, N patches of all crops, C channels, D channels of a head (see batch.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers import AttentionInterface, PixtralVisionModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from sightline.model import composite_weights, hub_layout
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.crop_tower_modules import CropTower
from sightline.model.encoder_kinds.rope_towers import PixtralEncoder, Qwen2VlEncoder, RopeTower
from sightline.model.encoders import Read
from sightline.model.tiling import Grid
from sightline.samples.bands import COLOURS

BY_CROP = "sightline_by_crop"
"""Our name in transformers' table of attentions."""
_THETA = 10000.0
"""Of the paper, for versions of transformers whose config does not state it."""


def attend_by_crop(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    lengths: list[int],
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of packed crops, (1, heads, N, D) each, within crops of these lengths: the block-diagonal mask without its N x N numbers. Returns (1, N, heads, D)."""
    crops = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(*crop, dropout_p=dropout, scale=scaling) for crop in crops], dim=2).transpose(1, 2), None


AttentionInterface.register(BY_CROP, attend_by_crop)


def rotations(grids: Iterable[Grid], width: int, theta: float, between: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, D) of the angles of patches in raster order, for heads of width D: [rows, columns, rows, columns], D / 4 frequencies each.

    Frequency i turns rows by theta^(-4i/D). Columns turn by the same, or `between` these, by theta^(-(4i+2)/D), so that rows and columns share out theta^(-2j/D).
    """
    grids = list(grids)
    rows = torch.cat([torch.arange(grid.rows, device=device).repeat_interleave(grid.columns) for grid in grids]).float()
    columns = torch.cat([torch.arange(grid.columns, device=device).repeat(grid.rows) for grid in grids]).float()
    steps = torch.arange(0, width, 4, device=device).float()
    down, across = (1.0 / theta ** ((steps + shift) / width) for shift in (0, 2 if between else 0))
    angles = torch.cat([rows[:, None] * down, columns[:, None] * across], dim=1).repeat(1, 2)
    return angles.cos(), angles.sin()


class PackedTower(CropTower):
    """Patches of all crops one after another, (N, C), through the blocks once."""

    tower: Any
    config: RopeTower

    def forward(self, pictures: Pictures, read: Read) -> Features:
        """Features of the crops that are seen, (N, C * layers). Blocks above the deepest layer that is read are not run."""
        seen = self.seen(pictures, read)
        hidden = self._embedded([self._whole(crop) for crop in seen.crops])
        context = self._context(seen.grids, hidden)
        places = [layer % (len(self.layers) + 1) for layer in read.layers]
        states = {0: hidden}
        for place, block in enumerate(self.layers[: max(places)], start=1):
            hidden = block(hidden, **context)
            if place in places:
                states[place] = hidden
        layers = [states[place].flatten(0, -2) for place in places]
        return seen.features(torch.cat(layers, dim=1) if read.join == "concat" else torch.stack(layers, dim=2).flatten(1))

    def deepest(self, reads: Iterable[Read]) -> int:
        """Up to the deepest layer that is read."""
        return max(layer % (len(self.layers) + 1) for read in reads for layer in read.layers)

    def _whole(self, crop: Tensor) -> Tensor:
        """The crop, filled up with the mean colour on the right and at the bottom to whole patches."""
        patch = self.config.least
        return pad(crop, (0, -crop.shape[3] % patch, 0, -crop.shape[2] % patch))

    def _embedded(self, crops: list[Tensor]) -> Tensor:
        """What goes into the first block, raster order within each crop."""
        raise NotImplementedError

    def _context(self, grids: tuple[Grid, ...], hidden: Tensor) -> dict[str, Any]:
        """What every block is told besides: where patches stand and which belong together."""
        raise NotImplementedError


class PixtralTower(PackedTower):
    """See PixtralEncoder."""

    def __init__(self, config: PixtralEncoder) -> None:
        super().__init__(config)
        settings: Any = hub_layout.transformers_config(config.block(), config.path)
        self.tower = PixtralVisionModel(settings)
        self.tower.set_attn_implementation(BY_CROP)
        composite_weights.load(self.tower, config.checkpoint, ("vision_tower.", "model.vision_tower.", ""), config.path)

    @property
    def layers(self) -> list[nn.Module]:
        """All layers in depth order."""
        return list(self.tower.transformer.layers)

    def _embedded(self, crops: list[Tensor]) -> Tensor:
        dtype = self.tower.patch_conv.weight.dtype
        patches = [self.tower.patch_conv(crop.to(dtype)).flatten(2).transpose(1, 2) for crop in crops]
        return self.tower.ln_pre(torch.cat(patches, dim=1))

    def _context(self, grids: tuple[Grid, ...], hidden: Tensor) -> dict[str, Any]:
        theta = self.tower.config.rope_parameters["rope_theta"]
        width = self.tower.config.hidden_size // self.tower.config.num_attention_heads
        cosines, sines = rotations(grids, width, theta, between=True, device=hidden.device)
        turns = (cosines.to(hidden.dtype), sines.to(hidden.dtype))
        return {"attention_mask": None, "position_embeddings": turns, "lengths": [grid.count for grid in grids]}


class Qwen2VlTower(PackedTower):
    """See Qwen2VlEncoder. Positions are given per patch, so patches stay in raster order: blocks of the merger's cells would change no number."""

    def __init__(self, config: Qwen2VlEncoder) -> None:
        super().__init__(config)
        settings: Any = hub_layout.transformers_config(config.block(), config.path)
        self.tower = Qwen2VisionTransformerPretrainedModel(settings)
        self.tower.merger = nn.Identity()
        composite_weights.load(self.tower, config.checkpoint, ("visual.", "model.visual.", ""), config.path, without=("merger.",))

    @property
    def layers(self) -> list[nn.Module]:
        """All blocks in depth order."""
        return list(self.tower.blocks)

    @property
    def _band_counts(self) -> tuple[int, ...]:
        return (len(COLOURS), len(COLOURS) * self.config.frames)

    def _embedded(self, crops: list[Tensor]) -> Tensor:
        # the published convolution over patches that do not overlap is a matrix product, which is faster
        weight = self.tower.patch_embed.proj.weight.flatten(1)
        return linear(torch.cat([self._patches(crop) for crop in crops]).to(weight.dtype), weight)

    def _patches(self, crop: Tensor) -> Tensor:
        """(frames, 3, h, w) to (n, 3 * moments * patch * patch)."""
        patch = self.config.least
        film = crop.expand(self.config.frames, -1, -1, -1)
        cells = film.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (moments, 3, rows, patch, columns, patch)
        return cells.permute(2, 4, 1, 0, 3, 5).flatten(2).flatten(0, 1)

    def _context(self, grids: tuple[Grid, ...], hidden: Tensor) -> dict[str, Any]:
        config = self.tower.config
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta", _THETA)
        turns = rotations(grids, config.embed_dim // config.num_heads, theta, between=False, device=hidden.device)
        # on the host: attention splits by these lengths and would wait for the device in every block
        ends = torch.tensor([0, *(grid.count for grid in grids)]).cumsum(0).to(torch.int32)
        return {"cu_seqlens": ends, "position_embeddings": turns}
