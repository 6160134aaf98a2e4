"""The module of SamHead. Letters: G taps, V views, C channels of the decoder, D width of hidden states (see batch.MaskTaps); h, w places of the encoder's map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model import hub_layout
from sightline.model.batch import MaskTaps
from sightline.model.head_kinds.map_head_modules import TapProjection
from sightline.model.head_kinds.sam_head import SamHead

_SINGLE = 0
"""The decoder's mask for prompts that mean one thing; the others are for points that may mean several."""


class SamMaskHead(nn.Module):
    """Projection, SAM's image encoder and mask decoder, and of its prompt encoder what stands for places and for no mask."""

    def __init__(self, config: SamHead, width: int) -> None:
        super().__init__()
        from transformers import SamModel

        self.config = config
        whole: Any = hub_layout.transformers_config(config.block(), "heads.mask")
        loads = config.checkpoint is not None and hub_layout.find(config.checkpoint) is not None
        sam: Any = hub_layout.load_weights(SamModel, config.checkpoint or "", whole, "heads.mask") if loads else SamModel(whole)
        self.projection = TapProjection(width, whole.mask_decoder_config.hidden_size)
        self.encoder = sam.vision_encoder
        self.places = sam.shared_image_embedding
        self.no_mask = sam.prompt_encoder.no_mask_embed
        self.decoder = sam.mask_decoder
        mean, std = config.mean or (0.0,) * 3, config.std or (1.0,) * 3
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255.0, persistent=False)

    @property
    def spare(self) -> list[str]:
        """What the mask that is read does not depend on: heads of the other masks, and the head that scores masks."""
        unread = [f"decoder.output_hypernetworks_mlps.{number}." for number in range(len(self.decoder.output_hypernetworks_mlps)) if number != _SINGLE]
        return [name for name, _ in self.named_parameters() if name.startswith((*unread, "decoder.iou_prediction_head."))]

    def forward(self, taps: Tensor, asked: MaskTaps, encoders: Mapping[str, Any]) -> Tensor:
        """Logits (G, side / stride, side / stride)."""
        learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(learns):
            seen = self.encoder((asked.pixels - self.mean) / self.std).last_hidden_state
        return self.drawn(self.projection(taps), seen[asked.views])

    def drawn(self, prompts: Tensor, seen: Tensor) -> Tensor:
        """Logits (G, 4 h, 4 w) of prompts (G, C) and maps (G, C, h, w)."""
        count, _, rows, columns = seen.shape
        down, across = ((torch.arange(length, device=seen.device, dtype=seen.dtype) + 0.5) / length for length in (rows, columns))
        grid = torch.stack([across.expand(rows, columns), down[:, None].expand(rows, columns)], dim=-1)
        masks, _ = self.decoder(
            image_embeddings=seen,
            image_positional_embeddings=self.places(grid).permute(2, 0, 1)[None].expand(count, -1, -1, -1),
            sparse_prompt_embeddings=prompts[:, None, None],
            dense_prompt_embeddings=self.no_mask.weight.view(1, -1, 1, 1).expand(count, -1, rows, columns),
            multimask_output=False,
        )
        return masks[:, 0, 0]
