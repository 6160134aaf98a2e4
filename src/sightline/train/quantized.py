"""Frozen linear layers in 4 or 8 bit while adapters are trained beside them (QLoRA, Dettmers et al. 2023, section 3). nf4 is rounded by bitsandbytes; what is saved is full precision."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from sightline.errors import Problem

Format = Literal["nf4", "int8"]
BLOCK = 64
"""Numbers that share a scale in nf4."""
NESTED = 256
"""Scales that share a scale of their own (double quantization)."""


def absent_backend(place: str) -> list[Problem]:
    """A problem where the package that rounds is not installed."""
    if find_spec("bitsandbytes") is not None:
        return []
    found, allowed = "bitsandbytes is not installed", "the package that rounds weights to 4 bit, or `quantize: int8`"
    return [Problem(code="train/no-bitsandbytes", place=place, found=found, allowed=allowed, fix="pip install 'sightline[qlora]'")]


class QuantizedLinear(nn.Module):
    """A frozen linear layer whose weight (out, in) lies rounded in buffers and is made whole for each product, in backward once more: it never stays."""

    def __init__(self, layer: nn.Linear, kind: Format) -> None:
        super().__init__()
        self.kind: Format = kind
        self.in_features, self.out_features, self.dtype = layer.in_features, layer.out_features, layer.weight.dtype
        self.bias = layer.bias
        for name, tensor in _rounded(layer.weight.detach(), kind).items():
            self.register_buffer(name, tensor)

    @property
    def weight(self) -> Tensor:
        """The rounded weight in full precision."""
        return _whole(dict(self.named_buffers()), self.kind, (self.out_features, self.in_features), self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(.., in) -> (.., out)."""
        y = _Product.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def linear(self) -> nn.Linear:
        """The same layer in full precision."""
        weight = self.weight
        made = nn.Linear(self.in_features, self.out_features, bias=False, device=weight.device, dtype=weight.dtype)
        made.weight = nn.Parameter(weight, requires_grad=False)
        made.bias = self.bias
        return made.train(self.training)


class _Product(torch.autograd.Function):
    """x W^T, whose backward makes W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [gradient] = gradients
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


def quantize(module: nn.Module, layers: Iterable[nn.Module], kind: Format) -> None:
    """Round these linear layers of a part, in place. nf4 needs bitsandbytes: see `absent_backend`."""
    wanted = {id(layer) for layer in layers}
    for name, layer in [(name, layer) for name, layer in module.named_modules() if id(layer) in wanted]:
        assert isinstance(layer, nn.Linear)
        _put(module, name, QuantizedLinear(layer, kind).train(layer.training))


def dequantize(module: nn.Module) -> None:
    """Every rounded layer of a part in full precision again, in place."""
    for name, layer in [(name, layer) for name, layer in module.named_modules() if isinstance(layer, QuantizedLinear)]:
        _put(module, name, layer.linear())


def rounded_numbers(module: nn.Module) -> int:
    """Numbers of a part that lie rounded in buffers: they are no parameters while they do."""
    return sum(layer.in_features * layer.out_features for layer in module.modules() if isinstance(layer, QuantizedLinear))


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, layer)


def _rounded(weight: Tensor, kind: Format) -> dict[str, Tensor]:
    """Buffers of a rounded weight (out, in); on the meta device their shapes alone."""
    rows, count = len(weight), weight.numel()
    if weight.is_meta:
        blocks = -(-count // BLOCK)
        shapes = {"rounded": (blocks * BLOCK // 2, torch.uint8), "scales": (blocks, torch.uint8)}
        shapes |= {"scales_of_scales": (-(-blocks // NESTED), torch.float32), "levels": (16, torch.float32), "levels_of_scales": (256, torch.float32)}
        if kind == "int8":
            return {"rounded": weight.new_empty(weight.shape, dtype=torch.int8), "scales": weight.new_empty(rows, dtype=torch.float32)}
        return {
            **{name: weight.new_empty(size, dtype=dtype) for name, (size, dtype) in shapes.items()},
            "mean_scale": weight.new_empty((), dtype=torch.float32),
        }
    from bitsandbytes import functional

    if kind == "int8":
        scales = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        return {"rounded": (weight.float() * (127 / scales)[:, None]).round().to(torch.int8), "scales": scales}
    # a line per block: the CPU kernels of bitsandbytes 0.50 give all blocks the first one's scale where lines are no whole number of blocks
    lines = pad(weight.flatten(), (0, -count % BLOCK)).view(-1, BLOCK)
    rounded, made = functional.quantize_4bit(lines, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    state: Any = made  # the types of bitsandbytes leave open what compress_statistics fills in
    return {
        "rounded": rounded.flatten(),
        "scales": state.absmax,
        "scales_of_scales": state.state2.absmax,
        "levels": state.code,
        "levels_of_scales": state.state2.code,
        "mean_scale": state.offset.reshape(()),
    }


def _whole(buffers: dict[str, Tensor], kind: Format, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A rounded weight in full precision."""
    if kind == "int8":
        return (buffers["rounded"].float() * (buffers["scales"] / 127)[:, None]).to(dtype)
    if buffers["rounded"].is_meta:
        return buffers["scales_of_scales"].new_empty(shape, dtype=dtype)
    from bitsandbytes import functional

    nested = functional.QuantState(absmax=buffers["scales_of_scales"], blocksize=NESTED, code=buffers["levels_of_scales"], dtype=torch.float32)
    state = functional.QuantState(
        absmax=buffers["scales"],
        shape=torch.Size((len(buffers["scales"]), BLOCK)),
        code=buffers["levels"],
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=buffers["mean_scale"],
        state2=nested,
    )
    return functional.dequantize_4bit(buffers["rounded"].reshape(-1, 1), state).flatten()[: shape[0] * shape[1]].view(shape)
