"""Memory of one optimizer step without running it: the stage's own forward and backward under fake tensors, every storage counted from its birth to its death.

Nothing here is a formula for a layer: what an attention backend or an autocast keeps is counted because the model's own code makes it. Kernels' inner scratch is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sightline.model.batch import Batch
from sightline.model.lean_functions import lighten_norms
from sightline.model.tiling import Grid, Tiling
from sightline.model.vlm import Model
from sightline.train.objectives import Objective
from sightline.train.stage import StageConfig

CASTS = "weights in the compute dtype"
"""Copies that autocast makes of weights."""
GRADIENTS = "gradients"
LOSS = "head and loss"
"""What no part makes: logits of answers and what the objective makes of them."""
SHARDED = "language_model"
"""The part that several devices share out (train/sharding.py)."""
MOMENTS = 8
"""Bytes of optimizer state for a trained number: two float32 moments of AdamW."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on one device, nothing sharded."""

    weights: dict[str, int]
    """Part -> bytes of its parameters and buffers."""
    optimizer: dict[str, int]
    """Part -> bytes of moments."""
    gradients: dict[str, int]
    """Part -> bytes of a whole gradient."""
    step: dict[str, int]
    """What lives at the worst moment of forward and backward beside weights and moments: activations by part, `gradients`, casts, head and loss. Adds up to the peak."""
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """Per block that gradients pass through: bytes that its forward leaves behind, casts of weights apart, and bytes of its output."""
    largest_block: int = 0
    """Parameters of the largest block."""
    outside: int = 0
    """Parameters that lie in no block."""

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.weights.values()) + sum(self.optimizer.values()) + sum(self.step.values())

    @property
    def saved_by_recomputing(self) -> int:
        """Bytes that activation checkpointing of every block would save: all but one block keep their output only."""
        kept = [max(0, inner - out) for inner, out in self.blocks]
        return sum(kept) - max(kept, default=0)

    def extended(self, fewer: StepMemory, further: float) -> StepMemory:
        """The same for more rows: `further` times what these rows take more than `fewer` ones."""
        step = {key: max(0, round(size + further * (size - fewer.step.get(key, 0)))) for key, size in self.step.items()}
        pairs = zip(self.blocks, fewer.blocks, strict=True)
        blocks = [(round(own[0] + further * (own[0] - less[0])), round(own[1] + further * (own[1] - less[1]))) for own, less in pairs]
        return replace(self, step=step, blocks=blocks)

    def on(self, devices: int, recompute: bool = False) -> dict[str, int]:
        """Bytes per device by kind. With several devices the states of the language model are sharded (FSDP2); two gathered blocks in bfloat16 and what lies in no block come back whole."""

        def held(table: Mapping[str, int]) -> int:
            return sum(-(-size // devices) if part == SHARDED else size for part, size in table.items())

        rest = {key: size for key, size in self.step.items() if key not in (GRADIENTS, CASTS)}
        found = {
            "weights": held(self.weights),
            "optimizer": held(self.optimizer),
            "gradients": held(self.gradients) if devices > 1 else self.step.get(GRADIENTS, 0),
            CASTS: self.step.get(CASTS, 0) if devices == 1 else 2 * 2 * self.largest_block + 4 * self.outside,
            "activations": sum(size for key, size in rest.items() if key != LOSS) - (self.saved_by_recomputing if recompute else 0),
            LOSS: rest.get(LOSS, 0),
        }
        return {**found, "total": sum(found.values())}


class _Ledger(TorchDispatchMode):
    """Counts live bytes by label; `peak` is the table at the worst moment."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Counter[str] = Counter()
        self.total = 0
        self.peak: Counter[str] = Counter()
        self.highest = 0
        self.labels: list[str] = [LOSS]
        self._said: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self._weights: weakref.WeakSet[Any] = weakref.WeakSet()

    def own(self, tensor: Tensor) -> None:
        """A weight or buffer: it is there already, and copies of it are casts."""
        storage = tensor.untyped_storage()
        self._weights.add(storage)
        self._said[storage] = ["", 0]

    def relabel(self, tensor: Tensor, label: str) -> None:
        """What a storage is for, once that is known."""
        entry = self._said.get(tensor.untyped_storage())
        if entry is not None and entry[0] != label:
            self.live[entry[0]] -= entry[1]
            entry[0] = label
            self.live[label] += entry[1]

    def _born(self, tensor: Tensor, label: str) -> None:
        storage = tensor.untyped_storage()
        if storage in self._said:
            return
        entry = [label, storage.nbytes()]
        self._said[storage] = entry
        self.live[label] += entry[1]
        self.total += entry[1]
        if self.total > self.highest:
            self.highest, self.peak = self.total, self.live.copy()
        weakref.finalize(storage, self._died, entry)

    def _died(self, entry: list[Any]) -> None:
        self.live[entry[0]] -= entry[1]
        self.total -= entry[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is torch.ops.aten._local_scalar_dense.default and len(self.labels) == 1 and isinstance(given[0], FakeTensor):
            # what an objective reports is read outside the model's modules and steers nothing; inside them a number that is not there is an error
            return 1.0 if given[0].is_floating_point() else 1
        if given and all(_countable(leaf) for leaf in given):
            out = _really(func, args, kwargs)
        else:
            out = func(*args, **(kwargs or {}))
            if not given and isinstance(out, Tensor) and not out.is_floating_point() and out.numel() <= COUNTED:
                out = _really(func, args, kwargs)
        cast = func is torch.ops.aten._to_copy.default and isinstance(args[0], Tensor) and args[0].untyped_storage() in self._weights
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._born(leaf, CASTS if cast else self.labels[-1])
        return out


COUNTED = 1 << 20
"""Largest tensor of whole numbers that is computed: indices and small masks, from which shapes may follow."""
DEEP = 12
"""Deeper stacks are measured with `_PROBES` blocks and extended: every further block adds the same."""
_PROBES = (4, 3)
_FROZEN = 3
"""Frozen blocks at the beginning of an encoder that are run."""


def measure_steps(
    model: Model, objective: Objective, batches: Sequence[Batch], stage: StageConfig, accumulates: bool = False, cpu: bool = True
) -> list[StepMemory]:
    """Memory of an optimizer step on each of these batches, whose tensors may be real or meta, by a model on the meta device that is ready for the stage. The model is spent:
    it is given fake memory in place, and a language model of more than DEEP blocks loses most of them.

    `accumulates`: gradients of an earlier micro-batch are there. `cpu`: it will run on one, where the last layer runs for the places of answers alone. Raises what the model's code raises where it asks a tensor for its numbers, which fakes do not have.
    """
    parts = model.parts()
    blocks = [block for part in parts.values() for block in getattr(part, "blocks", [])]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    whole = StepMemory(
        weights={path: _bytes([*part.parameters(), *part.buffers()]) for path, part in parts.items()},
        gradients={path: _bytes(p for p in part.parameters() if p.requires_grad) for path, part in parts.items()},
        optimizer={path: MOMENTS * sum(p.numel() for p in part.parameters() if p.requires_grad) for path, part in parts.items()},
        step={},
        largest_block=max(sizes, default=0),
        outside=max(0, sum(p.numel() for p in model.parameters()) - sum(sizes)),
    )
    _prove_norms(model)
    _shorten_frozen(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    stack = _stack(model)
    depth = len(stack) if stack is not None else 0
    if stack is None or depth <= DEEP:
        found = [_step(mode, model, objective, batch, stage, accumulates, cpu) for batch in batches]
        return [replace(whole, step=step, blocks=kept) for step, kept in found]
    probed = []
    for left in _PROBES:
        del stack[left:]
        probed.append([_step(mode, model, objective, batch, stage, accumulates, cpu) for batch in batches])
    further = (depth - _PROBES[0]) / (_PROBES[0] - _PROBES[1])
    grown = []
    for (more, kept), (less, _) in zip(*probed, strict=True):
        step = {key: round(more.get(key, 0) + further * (more.get(key, 0) - less.get(key, 0))) for key in sorted(more | less)}
        grown.append(replace(whole, step=step, blocks=kept + kept[-1:] * (depth - _PROBES[0])))
    return grown


def _shorten_frozen(model: Model) -> None:
    """Takes frozen blocks out of encoders, from the first one on, but for a few: no gradient passes through them and nobody reads what is between them, so that each leaves as much as the
    one before it, nothing, and the worst moment stays as it is.
    """
    for path, part in model.parts().items():
        if not path.startswith("encoders.") or not getattr(part, "takes_prompts", False) or model.config.prompted_encoders:
            continue
        config: Any = part.config
        blocks: list[nn.Module] = list(getattr(part, "blocks", []))
        [stack] = [one for one in part.modules() if isinstance(one, nn.ModuleList) and blocks and list(one)[: len(blocks)] == blocks] or [None]
        layers = [layer for read in (config.read(), *config.reads.values()) for layer in read.layers]
        if stack is None or any(layer >= 0 for layer in layers):  # a layer that is counted from the first block would become another one
            continue
        trained = next((number for number, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())), len(blocks))
        behind = {id(p) for block in blocks[trained:] for p in block.parameters()}
        if all(id(p) in behind for p in part.parameters() if p.requires_grad):
            read_first = min(layer % (len(stack) + 1) for layer in layers)
            del stack[: max(0, min(trained, read_first) - _FROZEN)]


def _prove_norms(model: Model) -> None:
    """Norms run lean where they are proved to be plain, which takes numbers: a model that was built without any has them proved now."""
    language = model.config.language_model
    if language is None:
        return
    for norm in [one for one in model.language_model.modules() if type(one).__name__.endswith("RMSNorm")]:
        norm.to_empty(device="cpu")
        for weight in norm.parameters():
            nn.init.ones_(weight)
    lighten_norms(model.language_model, language.width())


def _stack(model: Model) -> nn.ModuleList | None:
    """The list that holds the language model's blocks, where one list holds them all."""
    blocks = list(getattr(model.language_model, "blocks", []))
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and blocks and list(module) == blocks]
    # blocks that the fusion put between them would no longer fit
    return lists[0] if lists and model.config.fusion.kind == "sequence" else None


def _step(
    mode: FakeTensorMode, model: Model, objective: Objective, batch: Batch, stage: StageConfig, accumulates: bool, cpu: bool
) -> tuple[dict[str, int], list[tuple[int, int]]]:
    """What lives at the worst moment, and what each block keeps and hands on."""
    parts = model.parts()
    blocks = [block for part in parts.values() for block in getattr(part, "blocks", [])]
    kept: list[tuple[int, int]] = []
    with mode:
        if next(model.parameters()).is_meta:
            model.to_empty(device="cpu")
        model.zero_grad(set_to_none=True)
        fake = _faked(batch, mode)
        ledger = _Ledger()
        for tensor in (*model.parameters(), *model.buffers()):
            ledger.own(tensor)
        there = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with ExitStack() as stack:
            stack.enter_context(_labelled(parts, blocks, ledger, kept, cpu))
            stack.enter_context(_known_gradients(there, ledger))
            stack.enter_context(ledger)
            if accumulates:
                for parameter in there:
                    parameter.grad = torch.empty_like(parameter)
                    ledger.relabel(parameter.grad, GRADIENTS)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stage.precision == "bfloat16"):
                losses = objective(model, fake)
            loss = torch.stack(list(losses.sums.values())).sum()
            assert loss.requires_grad, f"nothing that stage {stage.name} trains reaches its loss"
            loss.backward()
    return {key: size for key, size in sorted(ledger.peak.items()) if size}, kept


def _countable(tensor: Tensor) -> bool:
    """Whole numbers and truths that are there: shapes may follow from them, and they cost little."""
    return not isinstance(tensor, FakeTensor) and not tensor.is_floating_point() and tensor.numel() <= COUNTED


def _really(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation with its numbers."""
    with unset_fake_temporarily():
        return func(*args, **(kwargs or {}))


@contextmanager
def _labelled(parts: dict[str, nn.Module], blocks: list[nn.Module], ledger: _Ledger, kept: list[tuple[int, int]], cpu: bool) -> Iterator[None]:
    """Hooks that tell the ledger which part is at work, and what each block leaves behind."""
    handles = []

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: ledger.labels.append(path)

    def leave(*_: Any) -> None:
        ledger.labels.pop()

    for path, part in parts.items():
        head = getattr(getattr(part, "model", None), "get_output_embeddings", lambda: None)()
        blocks_here = list(getattr(part, "blocks", []))
        # a layer that carries a hook runs for all places, as it does on accelerators
        bare = blocks_here[-1] if cpu and path == "language_model" and blocks_here else None
        for module in (module for module in part.modules() if module is not bare):
            # entry points differ by part (hidden, embed, logits): every module of it says whose work it is
            label = LOSS if module is head else path
            handles += [module.register_forward_pre_hook(enter(label)), module.register_forward_hook(leave, always_call=True)]
    starts: list[int] = []

    def begin(*_: Any) -> None:
        starts.append(ledger.total - ledger.live[CASTS])

    def end(_module: nn.Module, _given: Any, out: Any) -> None:
        before = starts.pop()
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(leaf.requires_grad for leaf in made):
            kept.append((ledger.total - ledger.live[CASTS] - before, _bytes(made)))

    last = list(getattr(parts.get("language_model"), "blocks", []))[-1:] if cpu else []
    for block in (block for block in blocks if block not in last):
        handles += [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _known_gradients(trained: Sequence[nn.Parameter], ledger: _Ledger) -> Iterator[None]:
    """Gradients are called so from the moment they are there."""

    def tell(parameter: Tensor) -> None:
        if parameter.grad is not None:
            ledger.relabel(parameter.grad, GRADIENTS)

    handles = [parameter.register_post_accumulate_grad_hook(tell) for parameter in trained]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _faked(value: Any, mode: FakeTensorMode) -> Any:
    """A door object whose tensors have shapes and no numbers, but for small ones of whole numbers."""
    if isinstance(value, Tensor):
        return value if _countable(value) else mode.from_tensor(value)
    if isinstance(value, Tiling | Grid):
        return value
    if isinstance(value, tuple):
        return tuple(_faked(item, mode) for item in value)
    if isinstance(value, dict):
        return {key: _faked(item, mode) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _faked(getattr(value, one.name), mode) for one in fields(value)})
    return value
