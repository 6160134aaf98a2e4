"""Exponential moving average of what a stage trains (Polyak and Juditsky 1992, with the warm-up of Tan and Le 2019): a copy that follows the weights, and takes their place at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sightline.train.change_check import local


class Average:
    """`tensors`: the averages by name, beside the weights on their device. After k steps the share kept is min(decay, (1 + k) / (10 + k)), so that the start is soon forgotten."""

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.trained, self.decay = trained, decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """After optimizer step `step`, from 0."""
        kept = min(self.decay, (2 + step) / (11 + step))
        torch._foreach_lerp_([local(t) for t in self.tensors.values()], [local(p.detach()) for p in self.trained.values()], 1 - kept)

    @torch.no_grad()
    def take_over(self) -> None:
        """The weights become their averages."""
        for name, p in self.trained.items():
            p.copy_(self.tensors[name])
