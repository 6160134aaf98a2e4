"""Noise on embedded text in training (NEFTune, Jain et al. 2023, section 2). Letters: B bins, T tokens a bin, D width (see model/batch.py)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.errors import Problem
from sightline.model.batch import Stream
from sightline.model.vlm import Model


class TextNoise(nn.Module):
    """x + u, u uniform within alpha / sqrt(L * D) of 0, L = tokens of the sample: the same in a bin of its own and in a shared one.

    Only in training mode and where gradients are kept: no probe and no evaluation sees it. It draws from torch's generator, which the loop seeds by (seed, step, rank).
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """(B, T, D) with noise on tokens of samples, none on padding. Places of picture entries are overwritten afterwards."""
        if not self.training or not torch.is_grad_enabled():
            return x
        bins, segments = stream.segments.shape[0], stream.segments.long()
        lengths = segments.new_zeros(bins, segments.shape[1] + 1).scatter_add_(1, segments, torch.ones_like(segments))
        tokens = lengths.gather(1, segments)
        reach = torch.where(segments > 0, self.alpha * (tokens * x.shape[-1]).float().rsqrt(), 0.0)
        return x + reach[..., None].to(x.dtype) * (2 * torch.rand_like(x) - 1)


def disturb(model: Model, alpha: float | None, writes: bool, place: str) -> list[Problem]:
    """Give a model the noise of a stage, or take that of an earlier one away; a problem where the stage's objective embeds no text for the language model."""
    model.noise = TextNoise(alpha).train() if alpha is not None else None
    if alpha is None or (writes and model.language_model is not None):
        return []
    found = "an objective that writes nothing: no text is embedded for a language model"
    return [Problem(code="train/nothing-to-disturb", place=place, found=found, allowed="an objective that needs a language model", fix="remove neftune")]
