"""What a stage is in the middle of: everything that its next optimizer step depends on and that cannot be made again from the recipe.

No generator states: every step seeds from (run seed, step, rank). No frozen tensor: their digests tell that they are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.lineage import sha256_json
from sightline.model.directory import tensor_digest
from sightline.model.vlm import Model
from sightline.train.change_check import moves
from sightline.train.feeding import Feed
from sightline.train.objectives import Objective
from sightline.train.stage import Prepared

_RANDOM = 2
"""Marks the random stream of a step's dropout and noise; rows and captions have others."""


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed what is random inside a forward: a function of run seed, optimizer step and rank, so that a resumed run draws the same."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank, _RANDOM]).generate_state(1, np.uint64)[0] >> 1))


class TrainState:
    """Model, optimizer and objective of a running stage, how far it is, and what it has seen on the way."""

    def __init__(self, model: Model, prepared: Prepared, optimizer: torch.optim.Optimizer, objective: Objective, feed: Feed) -> None:
        self.model, self.trained, self.optimizer, self.objective, self.feed = model, prepared.trained, optimizer, objective, feed
        self.step = 0
        """Optimizer steps done, which is the number of the next one."""
        self.seconds = 0.0
        """Time spent on them, earlier runs included."""
        self.curve: list[tuple[int, float]] = []
        self.unread: list[str] = []
        # running statistics move without a gradient, and only where the module is trained
        self._moving = {name: buffer for name, buffer in model.named_buffers() if moves(model, name)}

    def facts(self) -> dict[str, Any]:
        """The part of the state that is no tensor, as JSON."""
        return {"step": self.step, "cursor": self.cursor(self.step), "seconds": self.seconds, "curve": self.curve, "unread": self.unread}

    def cursor(self, step: int) -> dict[str, int]:
        """Where the data stands before a step, and how many steps there are, which the schedule follows."""
        return {**self.feed.place(step), "steps": self.feed.steps}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies on the host, by file: `weights` (what is trained, and running statistics), `optimizer` (KEY/NAME), `objective`."""
        moments = {f"{key}/{name}": value for name, p in self.trained.items() for key, value in self.optimizer.state.get(p, {}).items()}
        files = {"weights": {**self.trained, **self._moving}, "optimizer": moments, "objective": dict(_flat(self.objective.state_dict()))}
        return {file: {name: _host(tensor) for name, tensor in own.items()} for file, own in files.items()}

    @torch.no_grad()
    def restore(self, facts: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Become the state that `facts` and `tensors` were taken from. The names must be those of this stage: the fingerprint of a checkpoint sees to it."""
        own = {**self.trained, **self._moving}
        assert own.keys() == tensors["weights"].keys(), sorted(own.keys() ^ tensors["weights"].keys())[:4]
        for name, tensor in own.items():
            tensor.copy_(tensors["weights"][name])
        self.optimizer.state.clear()
        for place, value in tensors["optimizer"].items():
            key, _, name = place.partition("/")
            tensor = self.trained[name]
            # the count of steps stays in float32 on the host unless the optimizer is fused or captured on a device, where it lies beside the tensor
            kept = value.to(tensor.device) if value.dim() or self.optimizer.defaults.get("fused") else value.clone()
            self.optimizer.state[tensor][key] = kept.clone(memory_format=torch.preserve_format)
        device = next(self.model.parameters()).device
        self.objective.load_state_dict(_nested({name: value.to(device, copy=True) for name, value in tensors["objective"].items()}))
        self.step, self.seconds, self.unread = facts["step"], facts["seconds"], list(facts["unread"])
        self.curve = [(step, loss) for step, loss in facts["curve"]]

    def frozen(self) -> dict[str, str]:
        """Digest of the tensors of each part that a checkpoint leaves out."""
        found = {}
        for path, module in self.model.parts().items():
            named = {f"{path}.{name}": tensor for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
            left_out = {name: tensor for name, tensor in named.items() if name not in self.trained and name not in self._moving}
            if left_out:
                found[path] = sha256_json({name: tensor_digest(tensor.detach()) for name, tensor in left_out.items()})
        return found


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
