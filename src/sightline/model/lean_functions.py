"""Functions of training with few passes over memory and little kept for backward: normalisation, and the likelihood of targets. Letters: D width, A answer tokens, V vocabulary."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_BLOCK = 1 << 19
"""Logits worked on at once: 2 MiB in float32, what a core's cache holds."""


class _RootMeanSquare(Function):
    """x / rms(x) * weight in float32, handed out in another dtype; keeps x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        wide, heavy = x.float(), weight.float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()  # bit by bit what the classes of transformers compute
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(heavy).to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        wide, heavy = x.float().reshape(-1, width), weight.float()
        row = scale.reshape(-1, 1)
        g = gradients[0].float().reshape(-1, width)
        along = g * wide
        of_weight = (row.T @ along)[0].to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        mean = (along @ heavy)[:, None] * row.pow(3) / -width
        of_x = (g * heavy).mul_(row).addcmul_(wide, mean)
        return of_x.view_as(x).to(x.dtype), of_weight, None, None


def _normalised(norm: Any, eps: float, x: Tensor) -> Tensor:
    """What a norm's own forward gives; under autocast in the dtype that every reader would turn it into."""
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.promote_types(x.dtype, norm.weight.dtype)
    with torch.autocast(kind, enabled=False):
        return _RootMeanSquare.apply(x, norm.weight, eps, dtype)  # pyright: ignore[reportReturnType]


def lighten_norms(module: nn.Module, width: int) -> int:
    """Let norms of `width` channels that are proved to be plain root-mean-square norms run lean; how many. Weights and their names stay."""
    found = 0
    for norm in [one for one in module.modules() if type(one).__name__.endswith("RMSNorm")]:
        weight, eps = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        if weight is None or eps is None or tuple(weight.shape) != (width,) or weight.is_meta or "forward" in norm.__dict__:
            continue
        with torch.no_grad():
            x = torch.linspace(-3, 2, 2 * width, device=weight.device).view(2, width).sin()
            if torch.allclose(norm(x), _normalised(norm, eps, x), rtol=1e-5, atol=1e-6):
                norm.__dict__["forward"] = partial(_normalised, norm, eps)
                found += 1
    return found


class _Likelihood(Function):
    """(log-probability of each target, log-sum-exp) of logits (A, V); keeps the logits and one number a row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = _rows(logits)
        total = torch.cat([part.logsumexp(-1) for part in logits.split(rows)]) if len(logits) else logits.sum(-1)
        ctx.save_for_backward(logits, targets, total)
        return logits.gather(1, targets[:, None])[:, 0] - total, total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        logits, targets, total = ctx.saved_tensors
        of_logp, of_total = gradients
        rows, back = _rows(logits), torch.empty_like(logits)
        share = of_total - of_logp
        for own, part, less, much in zip(back.split(rows), logits.split(rows), total.split(rows), share.split(rows)):
            torch.sub(part, less[:, None], out=own)
            own.exp_().mul_(much[:, None])
        return back.scatter_add_(1, targets[:, None], of_logp[:, None]), None


def _rows(logits: Tensor) -> int:
    """Rows at once: on the CPU what fits its cache, elsewhere all. Tensors without numbers, which a plan counts, fit no cache: a few pieces take what many do."""
    if logits.device.type != "cpu":
        return max(1, len(logits))
    fits = max(1, _BLOCK // max(1, logits.shape[1]))
    return fits if type(logits) is Tensor else max(fits, len(logits) // 8)


def likelihood(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (A,) and log-sum-exp (A,) of float32 logits (A, V)."""
    return _Likelihood.apply(logits, targets)  # pyright: ignore[reportReturnType]
