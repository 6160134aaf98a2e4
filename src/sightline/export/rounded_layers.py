"""Linear layers whose weights lie rounded: int8 with a scale for each output, or int4 with a scale for each group of inputs. Letters: O outputs, I inputs, G groups of an output."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

How = Literal["int8", "int4"]
HOWS: tuple[str, ...] = get_args(How)
GROUP = 32
"""Inputs that share a scale in int4."""
_MOST = {"int8": 127, "int4": 7}


def rounded(weight: Tensor, how: How) -> dict[str, Tensor]:
    """`rounded` and `scales` of a weight (O, I), symmetric about zero: int8 (O, I) with scales (O, 1); or two int4 a byte, (O, G, GROUP / 2), with scales (O, G), the last group filled up with zeros."""
    wide = weight.detach().float()
    groups = wide[:, None] if how == "int8" else pad(wide, (0, -wide.shape[1] % GROUP)).unflatten(1, (-1, GROUP))  # (O, G, inputs of a group)
    scales = groups.abs().amax(2).clamp(min=torch.finfo(torch.float32).tiny) / _MOST[how]
    steps = (groups / scales[..., None]).round().to(torch.int8)
    if how == "int8":
        return {"rounded": steps[:, 0], "scales": scales}
    nibbles = (steps + 8).to(torch.uint8)
    return {"rounded": nibbles[..., ::2] | nibbles[..., 1::2] << 4, "scales": scales}


def whole(stored: Tensor, scales: Tensor, how: How, inputs: int) -> Tensor:
    """The weight (O, I) in float32 that was rounded."""
    if how == "int8":
        return stored.float() * scales
    steps = torch.stack([stored & 15, stored >> 4], dim=-1).flatten(2).float() - 8
    return (steps * scales[..., None]).flatten(1)[:, :inputs]


class RoundedLinear(nn.Module):
    """A linear layer that makes its weight whole for each product, and keeps it rounded."""

    def __init__(self, layer: nn.Linear, how: How) -> None:
        super().__init__()
        self.how: How = how
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.rounded: Tensor
        self.scales: Tensor
        for name, tensor in rounded(layer.weight, how).items():
            self.register_buffer(name, tensor)

    @property
    def weight(self) -> Tensor:
        """(O, I) float32."""
        return whole(self.rounded, self.scales, self.how, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(.., I) -> (.., O)."""
        return linear(x, self.weight.to(x.dtype), self.bias if self.bias is None else self.bias.to(x.dtype))


def round_layers(module: nn.Module, how: How, kept: nn.Module | None = None) -> list[str]:
    """Exchange the linear layers of a module, in place, but for `kept`; their names. Layers that have the same weight as another module stay: they are tied."""
    owners: dict[int, int] = {}
    for one in module.modules():
        for parameter in one.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = [(name, one) for name, one in module.named_modules() if isinstance(one, nn.Linear) and one is not kept and owners[id(one.weight)] == 1]
    for name, layer in found:
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, RoundedLinear(layer, how))
    return [name for name, _ in found]
