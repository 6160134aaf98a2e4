"""Modules of fusions (shapes: batch.py)."""

from __future__ import annotations

from torch import Tensor, nn

from sightline.model.attention import allowed
from sightline.model.batch import Stream
from sightline.model.language_modules import CausalLanguageModel


class Sequence(nn.Module):
    """h = hidden(x): nothing but the decoder."""

    def forward(self, language_model: CausalLanguageModel, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return language_model.hidden(x, stream.positions, allowed(stream))
