"""What a stage is in the middle of: everything that its next optimizer step depends on and that cannot be made again from the recipe.

No generator states: every step seeds from (run seed, step, rank). No frozen tensor: their digests tell that they are the same. Each process holds the rows of sharded tensors that
are its own, and gives and takes nothing but those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from sightline.lineage import sha256_json
from sightline.model.directory import tensor_digest
from sightline.model.vlm import Model
from sightline.train.averaging import Average
from sightline.train.change_check import moves
from sightline.train.feeding import Feed
from sightline.train.objectives import Objective
from sightline.train.stage import Prepared

_RANDOM = 2
"""Marks the random stream of a step's dropout and noise; rows and captions have others."""


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what is random inside a forward: a function of run seed, optimizer step and rank, so that a resumed run draws the same."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank, _RANDOM]).generate_state(1, np.uint64)[0] >> 1))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows [start, start + rows) of a tensor's first dimension, on the host; `of`: rows of the whole tensor."""

    values: Tensor
    start: int
    of: int


class Saved(Protocol):
    """Tensors of a checkpoint, read when they are asked for."""

    def names(self, file: str) -> set[str]:
        """Names of the whole tensors that a file (weights, optimizer, objective, average) holds."""
        ...

    def read(self, file: str, name: str, start: int = 0, rows: int | None = None) -> Tensor:
        """Rows [start, start + rows) of a tensor; all without `rows`."""
        ...


class TrainState:
    """Model, optimizer and objective of a running stage, how far it is, and what it has seen on the way."""

    def __init__(
        self, model: Model, prepared: Prepared, optimizer: torch.optim.Optimizer, objective: Objective, feed: Feed, average: Average | None = None
    ) -> None:
        self.model, self.trained, self.optimizer, self.objective, self.feed = model, prepared.trained, optimizer, objective, feed
        self.average = average
        self.step = 0
        """Optimizer steps done, which is the number of the next one."""
        self.seconds = 0.0
        """Time spent on them, earlier runs included."""
        self.curve: list[tuple[int, float]] = []
        self.unread: list[str] = []
        # running statistics move without a gradient, and only where the module is trained
        self._moving = {name: buffer for name, buffer in model.named_buffers() if moves(model, name)}
        self._digests = prepared.digests

    def facts(self) -> dict[str, Any]:
        """The part of the state that is no tensor, as JSON."""
        return {"step": self.step, "cursor": self.cursor(self.step), "seconds": self.seconds, "curve": self.curve, "unread": self.unread}

    def cursor(self, step: int) -> dict[str, int]:
        """Where the data stands before a step, and how many steps there are, which the schedule follows."""
        return {**self.feed.place(step), "steps": self.feed.steps}

    def tensors(self, rank: int = 0) -> dict[str, dict[str, Piece]]:
        """Copies on the host, by file: `weights` (what is trained, and running statistics), `optimizer` (KEY/NAME), `objective`, `average`. What is whole on every process is rank 0's to give."""
        files = {
            "weights": {**self.trained, **self._moving},
            "optimizer": {f"{key}/{name}": value for name, p in self.trained.items() for key, value in self.optimizer.state.get(p, {}).items()},
            "objective": dict(_flat(self.objective.state_dict())),
            "average": self.average.tensors if self.average is not None else {},
        }
        return {file: {name: _piece(t) for name, t in own.items() if rank == 0 or isinstance(t, DTensor)} for file, own in files.items()}

    @torch.no_grad()
    def restore(self, facts: Mapping[str, Any], saved: Saved) -> None:
        """Become the state that `facts` and `saved` were taken from, by however many processes. The names must be those of this stage: the fingerprint of a checkpoint sees to it."""
        own = {**self.trained, **self._moving}
        assert own.keys() == saved.names("weights"), sorted(own.keys() ^ saved.names("weights"))[:4]
        for name, tensor in own.items():
            _fill(tensor, saved, "weights", name)
        self.optimizer.state.clear()
        for place in sorted(saved.names("optimizer")):
            key, _, name = place.partition("/")
            self.optimizer.state[self.trained[name]][key] = self._moment(saved, place, self.trained[name])
        device = next(self.model.parameters()).device
        self.objective.load_state_dict(_nested({name: saved.read("objective", name).to(device, copy=True) for name in saved.names("objective")}))
        for name, tensor in (self.average.tensors if self.average is not None else {}).items():
            _fill(tensor, saved, "average", name)
        self.step, self.seconds, self.unread = facts["step"], facts["seconds"], list(facts["unread"])
        self.curve = [(step, loss) for step, loss in facts["curve"]]

    def _moment(self, saved: Saved, place: str, tensor: nn.Parameter) -> Tensor:
        """What the optimizer remembers of a parameter, as it lies beside it."""
        if isinstance(tensor, DTensor):
            found = torch.zeros_like(tensor) if not place.startswith("step/") else torch.zeros((), device=tensor.to_local().device)
            _fill(found, saved, "optimizer", place)
            return found
        value = saved.read("optimizer", place)
        # the count of steps stays in float32 on the host unless the optimizer is fused or captured on a device, where it lies beside the tensor
        kept = value.to(tensor.device) if value.dim() or self.optimizer.defaults.get("fused") else value
        return kept.clone(memory_format=torch.preserve_format)

    def frozen(self) -> dict[str, str]:
        """Digest of the tensors of each part that a checkpoint leaves out."""
        return self._digests if self._digests is not None else frozen_digests(self.model, self.trained)


def frozen_digests(model: Model, trained: Mapping[str, nn.Parameter]) -> dict[str, str]:
    """Digest, by part, of the tensors that a stage that trains `trained` leaves as they are."""
    found = {}
    for path, module in model.parts().items():
        named = {f"{path}.{name}": tensor for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        left_out = {name: tensor for name, tensor in named.items() if name not in trained and not moves(model, name)}
        if left_out:
            found[path] = sha256_json({name: tensor_digest(tensor.detach()) for name, tensor in left_out.items()})
    return found


def _piece(tensor: Tensor) -> Piece:
    if isinstance(tensor, DTensor):
        start, rows = _own_rows(tensor)
        return Piece(values=_host(tensor.to_local()[:rows]), start=start, of=tensor.shape[0])
    return Piece(values=_host(tensor), start=0, of=tensor.shape[0] if tensor.dim() else 1)


def _own_rows(tensor: DTensor) -> tuple[int, int]:
    """First row and number of rows of a sharded tensor that lie here."""
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset[0], shape[0]


def _fill(tensor: Tensor, saved: Saved, file: str, name: str) -> None:
    """Copy the rows of a saved tensor that lie here."""
    if isinstance(tensor, DTensor):
        start, rows = _own_rows(tensor)
        if rows:
            tensor.to_local().copy_(saved.read(file, name, start, rows))
    else:
        tensor.copy_(saved.read(file, name))


def _host(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _flat(state: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    """A tree of tensors as A/B/C -> tensor; what is None is left out."""
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif value is not None:
            yield from _flat(value, f"{prefix}{name}/")


def _nested(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, tensor in flat.items():
        *branches, leaf = place.split("/")
        node = found
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = tensor
    return found
