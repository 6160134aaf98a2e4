"""Several processes that train together, started by torchrun: who they are, which device each has, and what crosses between them."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.train.world import ALONE, World

_PATIENCE = timedelta(days=7)
"""The others wait as long as rank 0 reads, checks and judges data: none of that is a hang."""


def local_device() -> torch.device:
    """The device of this process: its own GPU where there are any, else the CPU. SIGHTLINE_DEVICE (cpu, cuda, cuda:1) says otherwise."""
    said = os.environ.get("SIGHTLINE_DEVICE")
    if said:
        return torch.device(said)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        found, allowed = f"local rank {own}", f"0..{there - 1}: one process for each GPU of this machine"
        raise Refused(
            Problem(
                code="train/too-many-processes",
                place="torchrun",
                found=found,
                allowed=allowed,
                fix=f"torchrun --nproc-per-node {there}, or SIGHTLINE_DEVICE=cpu",
            )
        )
    return torch.device("cuda", own)


def launched() -> int:
    """Number of processes that torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> World:
    """The processes of this launch: those that torchrun started, else this one alone. Asked again, the same world."""
    if launched() == 1:
        return ALONE
    if not dist.is_initialized():
        device = local_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Processes()


def leave() -> None:
    """End the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


class Processes:
    """The world of an initialised process group. What lies on the host crosses by gloo, what lies on GPUs by NCCL."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def sum(self, t: Tensor) -> Tensor:
        """See World."""
        total = t.detach().clone()
        dist.all_reduce(total)
        return total

    def gather(self, t: Tensor) -> Tensor:
        """See World. Every rank must give as many rows."""
        found = _Gathered.apply(t)
        assert isinstance(found, Tensor)
        return found

    def told(self, value: Any) -> Any:
        """See World."""
        said = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8) if self.rank == 0 else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([len(said)])
        dist.broadcast(size, 0)
        said = said if self.rank == 0 else torch.zeros(int(size), dtype=torch.uint8)
        dist.broadcast(said, 0)
        return json.loads(said.numpy().tobytes())

    def wait(self) -> None:
        """See World."""
        dist.all_reduce(torch.zeros(1))  # on the host: a barrier of GPUs gives up after minutes


class _Gathered(torch.autograd.Function):
    """Rows of all ranks; the gradient of a rank's rows is the sum of what all ranks found for them."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        parts = [torch.empty_like(t) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, t.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[dist.get_rank()]
