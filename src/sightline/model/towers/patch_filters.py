"""Filters of the first convolution for other bands than a published tower has seen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sightline.samples.bands import COLOURS


@torch.no_grad()
def inflate(tower: nn.Module, convolution: nn.Conv2d, bands: Sequence[str]) -> None:
    """Give the first convolution of a tower, which has filters for red, green and blue, one filter per band, in place.

    red, green and blue keep their own filters, in the order of `bands`; every further band starts at zero, so that the outputs are at first those of the
    published tower. Where no band is a colour there is nothing to keep: the filters are drawn anew, as wide as the old ones spread.
    """
    if tuple(bands) == COLOURS:
        return
    old = convolution.weight
    assert old.shape[1] == len(COLOURS), f"filters of {old.shape[1]} bands"
    new = old.new_zeros(old.shape[0], len(bands), *old.shape[2:])
    for number, band in enumerate(bands):
        if band in COLOURS:
            new[:, number] = old[:, COLOURS.index(band)]
    if not set(bands) & set(COLOURS):
        new = torch.randn_like(new) * old.std()
    convolution.weight = nn.Parameter(new, requires_grad=old.requires_grad)
    convolution.in_channels = len(bands)
    for module in tower.modules():
        if "num_channels" in vars(module):  # classes of transformers compare it with the pictures
            vars(module)["num_channels"] = len(bands)
