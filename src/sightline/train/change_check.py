"""The freeze law: after a few steps every trainable tensor has changed and no frozen one has."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from sightline.errors import Problem, Refused
from sightline.train.world import ALONE, World

CHECK_AFTER = 3
"""Optimizer steps of non-zero rate after which every trainable tensor must have changed and no frozen one may have."""


class ChangeCheck:
    """After CHECK_AFTER steps: every trainable tensor that was read has changed, no frozen one has."""

    def __init__(self, model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
        self.trained = trained
        ids = {id(p) for p in trained.values()}
        self.frozen = {name: tensor for name, tensor in [*model.named_parameters(), *model.named_buffers()] if id(tensor) not in ids and not moves(model, name)}
        self.before = {name: _mark(tensor) for name, tensor in (*self.trained.items(), *self.frozen.items())}

    def run(self, stage: str, world: World = ALONE) -> list[str]:
        """Names of trainable tensors that nothing reads. Refused where a read one stood still, or a frozen one moved. Of a sharded tensor every process sees its own rows: all of them are asked."""
        changed = {name: float(_mark(p) != self.before[name]) for name, p in self.trained.items()}
        # a gradient of nothing but zeros is that of a part whose input no row had: regions that no question named
        read = {name: float(p.grad is not None and bool(local(p.grad).any())) for name, p in self.trained.items()}
        anywhere = world.sum(torch.tensor([[*changed.values()], [*read.values()]])).gt(0).tolist()
        unchanged = [name for name, somewhere in zip(changed, anywhere[0]) if not somewhere]
        unread = [name for name, somewhere in zip(read, anywhere[1]) if name in unchanged and not somewhere]
        still = [name for name in unchanged if name not in unread]
        moved = [name for name, tensor in self.frozen.items() if _mark(tensor) != self.before[name]]
        problems = [
            Problem(
                code="train/tensor-stands-still",
                place=name,
                found=f"unchanged after {CHECK_AFTER} steps",
                allowed="every trained tensor changes",
                fix=f"take it out of stages.{stage}.train or check its gradient",
            )
            for name in still
        ] + [
            Problem(
                code="train/frozen-tensor-moved",
                place=name,
                found=f"changed within {CHECK_AFTER} steps",
                allowed="frozen parts stay as they are",
                fix="report this: it is a defect",
            )
            for name in moved
        ]
        if problems:
            raise Refused(problems)
        return unread


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a tensor that lie in this process."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def moves(model: nn.Module, name: str) -> bool:
    """Buffers of a module in training mode (running statistics of a trained part) may move."""
    owner = model.get_submodule(name.rsplit(".", 1)[0]) if "." in name else model
    return name.rsplit(".", 1)[-1] in dict(owner.named_buffers(recurse=False)) and owner.training


_PIECE = 1 << 20
"""Numbers marked at once: no float64 copy of a whole table exists."""


def _mark(tensor: torch.Tensor) -> tuple[float, float]:
    flat = local(tensor.detach()).flatten()
    # places count: the two numbers of a softmax's bias change by opposite amounts, which no plain sum shows
    place = torch.arange(1, min(_PIECE, len(flat)) + 1, device=tensor.device, dtype=torch.float64)
    line = square = 0.0
    for number, piece in enumerate(flat.split(_PIECE), 1):
        wide = piece.double()
        line += number * wide.dot(place[: len(wide)]).item()
        square += number * wide.square_().dot(place[: len(wide)]).item()
    return line, square
