"""Modules of learnt visual prompts. Letters: Q vectors, G blocks that they stand before, C channels, D width (see batch.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model.prompt_vectors import VisualPrompts


class TextPrompts(nn.Module):
    """Vectors of the language model's width that stand after each picture."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(count, width) * width**-0.5)

    def forward(self) -> Tensor:
        """(Q, D)."""
        return self.vectors


class EncoderPrompts(nn.Module):
    """Vectors in front of the tokens of every encoder, uniform as Xavier's rule has it for patches (Jia et al. 2022, appendix A)."""

    def __init__(self, config: VisualPrompts, encoders: Sequence[tuple[str, Any]]) -> None:
        super().__init__()
        unfit = [name for name, encoder in encoders if not getattr(encoder, "takes_prompts", False)]
        if unfit:
            raise Refused(
                Problem(
                    code="model/no-prompts",
                    place="model.prompts.place",
                    found=f"encoders without places for prompts: {', '.join(unfit)}",
                    allowed="vision transformers whose blocks see all tokens of a crop (encoders of kind transformers)",
                    fix="prompts: {place: text}",
                )
            )
        self.vectors = nn.ParameterDict()
        for name, encoder in encoders:
            patch, blocks = encoder.first_filters, len(encoder.blocks) if config.deep else 1
            reach = math.sqrt(6 / (patch[0].numel() + len(patch)))
            self.vectors[name] = nn.Parameter(torch.empty(blocks, config.count, len(patch)).uniform_(-reach, reach))

    def forward(self, encoder: str) -> Tensor:
        """(G, Q, C) of an encoder: G = its blocks, or 1."""
        return self.vectors[encoder]
