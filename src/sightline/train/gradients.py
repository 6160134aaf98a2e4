"""Norms of gradients, tensor by tensor, and clipping; sharded tensors count whole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def gradient_norms(trained: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Euclidean norm of each gradient that there is, as scalars; of all shards where a tensor is spread over processes, which every process must then ask for."""
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    spread = {name: g.to_local() for name, g in gradients.items() if isinstance(g, DTensor)}
    whole = {name: g for name, g in gradients.items() if name not in spread}
    found = dict(zip(whole, torch._foreach_norm([*whole.values()]))) if whole else {}
    if spread:
        squares = torch.stack(torch._foreach_norm([*spread.values()])).square()
        torch.distributed.all_reduce(squares)
        found |= dict(zip(spread, squares.sqrt().unbind()))
    return {name: found[name] for name in gradients}


@torch.no_grad()
def clip_gradients(trained: Mapping[str, nn.Parameter], norms: Mapping[str, Tensor], most: float) -> Tensor:
    """Scale all gradients together so that their common norm is at most `most`, as torch.nn.utils.clip_grad_norm_; returns the norm before."""
    if not norms:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack([*norms.values()]))
    share = (most / (norm + 1e-6)).clamp(max=1.0)
    local = [g.to_local() if isinstance(g, DTensor) else g for name in norms if (g := trained[name].grad) is not None]
    torch._foreach_mul_(local, share)
    return norm
