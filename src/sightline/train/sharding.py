"""One model on several processes: the language model in shards (FSDP2, Zhao et al. 2023), everything else whole on each, its gradients summed after the last micro-batch.

Only what every micro-batch runs exactly once can be gathered block by block: a process whose rows show no picture never calls an encoder, and the others would wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from sightline.model.vlm import Model
from sightline.train.change_check import moves
from sightline.train.stage import Prepared
from sightline.train.train_state import frozen_digests
from sightline.train.world import World

_BUCKET = 25 * 2**20
"""Bytes of gradients that cross at once (Li et al. 2020, section 3.2.3)."""


def spread(model: Model, prepared: Prepared, needs: tuple[str, ...], precision: str, world: World) -> Prepared:
    """Shard a prepared model over the processes, in place, where its objective does nothing but write, or draws masks besides; returns what the stage trains now, under the same names.

    `precision`: that of the stage; blocks are gathered in it. Each process holds 1/size of the language model's weights, gradients and optimizer state, and the other parts whole.
    """
    if world.size == 1 or needs[:1] != ("write",) or set(needs) - {"write", "mask"} or model.language_model is None:
        return prepared
    digests = frozen_digests(model, prepared.trained)  # of whole tensors: a checkpoint does not depend on the number of processes
    names = {id(p): name for name, p in prepared.trained.items()}
    fusion = set(model.fusion.parameters()) if model.fusion is not None else set()
    sharded = set(model.language_model.parameters()) - fusion
    whole = set(model.parameters()) - sharded
    mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
    # autocast would keep a copy of every weight until backward; embeddings and head stay in float32, so that what the blocks add up does too
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.language_model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    model.language_model.blocks[0].register_forward_pre_hook(_reached, prepend=True, with_kwargs=True)
    now = dict(model.named_parameters(remove_duplicate=False))
    groups = [{**group, "params": [now[names[id(p)]] for p in group["params"]]} for group in prepared.groups]
    return replace(prepared, groups=groups, trained={name: now[name] for name in prepared.trained}, digests=digests)


def _reached(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let backward run through the blocks on every process, also where rows without pictures reach nothing that is trained: the blocks are gathered again on the way."""
    name = "hidden_states"
    x = args[0] if args else kwargs[name]
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, name: x})


def share_gradients(trained: Mapping[str, nn.Parameter], world: World) -> None:
    """Average the gradients of whole tensors over the processes, as FSDP did with those of shards; one that no process found stays none."""
    if world.size == 1:
        return
    whole = [p for p in trained.values() if not isinstance(p, DTensor)]
    read = world.sum(torch.tensor([float(p.grad is not None) for p in whole]))
    asked = [p for p, count in zip(whole, read.tolist()) if count]
    pending: list[tuple[list[nn.Parameter], Tensor, Any]] = []
    for bucket in _buckets(asked):
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in bucket])
        pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        flat /= world.size
        for p, own in zip(bucket, flat.split([p.numel() for p in bucket])):
            p.grad = own.view_as(p)


def _buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Neighbours of one dtype and device, up to a bucket's bytes together."""
    found: list[list[nn.Parameter]] = []
    size = 0
    for p in parameters:
        own = p.numel() * p.element_size()
        if not found or size + own > _BUCKET or (found[-1][0].dtype, found[-1][0].device) != (p.dtype, p.device):
            found.append([])
            size = 0
        found[-1].append(p)
        size += own
    return found


def whole_tensors(model: Model, prepared: Prepared) -> dict[str, Tensor]:
    """What the stage trained, whole and on the host, for every process; each must ask. Empty where nothing of the model is sharded."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return {}
    whole = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in prepared.trained.items()}
    return {name: t.detach().cpu() for name, t in whole.items()} | {name: b.cpu() for name, b in model.named_buffers() if moves(model, name)}


@torch.no_grad()
def become(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Give whole tensors to a model that was prepared for the same stage and is not spread."""
    there = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        there[name].copy_(tensor)
