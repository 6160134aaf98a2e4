"""Arithmetic, hours and disk of a stage on named hardware. Rules for a number of a weight and a token: 2 forward, 2 more where a gradient passes through, 2 more where it is trained."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from sightline.errors import Problem, Refused, nearest
from sightline.model.vlm import Model
from sightline.plan_rows import DataRows

CPU = "cpu"
_TABLE = Path(__file__).with_name("plan_hardware.yaml")
_KEPT = 2
"""Checkpoints that are there at once while a stage runs."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """`devices` equal ones: FLOP/s, bytes and bytes/s of each, and the share of the peak that a stage is assumed to reach."""

    name: str
    devices: int
    flops: float
    memory: float
    bandwidth: float
    utilisation: float

    @property
    def said(self) -> str:
        """As it is written: 8xA40."""
        return f"{self.devices}x{self.name}"


def hardware(said: str) -> Hardware:
    """`8xA40` or `A40` by the table, or `cpu`: this machine, whose speed is measured in a fifth of a second. Refused with the names of the table."""
    count, times, name = said.rpartition("x")
    table: dict[str, dict[str, float]] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    devices = int(count) if count.isdigit() else 0 if times else 1
    if name.lower() == CPU and devices == 1:
        return Hardware(
            name=CPU, devices=1, flops=own_speed(), memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), bandwidth=2e10, utilisation=0.6
        )
    known = {one.lower(): one for one in table}
    if name.lower() not in known or devices < 1:
        fix = nearest(name, list(table)) or "--hardware 8xA100-80"
        raise Refused(Problem(code="usage/hardware", place="--hardware", found=said, allowed=f"COUNTxNAME of {', '.join(table)}; or {CPU}", fix=fix))
    name = known[name.lower()]
    return Hardware(name=name, devices=devices, **table[name])


def own_speed(dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of this machine, by one product of matrices of 1,024."""
    left = torch.ones(1024, 1024, dtype=dtype)
    torch.mm(left, left)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 0.2:
        torch.mm(left, left)
        done += 1
    return done * 2 * 1024**3 / (time.perf_counter() - start)


def size(count: float) -> str:
    """Bytes in the unit that leaves few digits."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= of:
            return f"{count / of:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def hours(count: float) -> str:
    """Hours, minutes or seconds."""
    return f"{count:,.1f} h" if count >= 1 else f"{count * 60:.0f} min" if count * 60 >= 1 else f"{count * 3600:.0f} s"


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOPs of a part for one token that it reads, without and with its part of the backward pass."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        """Together."""
        return self.forward + self.backward


def work_of(model: Model) -> dict[str, Work]:
    """Part -> FLOPs per token of its matrices, by what is trained before and in it; tables of embeddings cost nothing, the head is told apart as `head`."""
    found: dict[str, Work] = {}
    passed = False
    for path, part in model.parts().items():
        head = getattr(getattr(part, "model", None), "get_output_embeddings", lambda: None)()
        found[path], passed = _part_work(part, head, passed)
        if head is not None:
            size = float(head.weight.numel())
            found["head"] = Work(forward=2 * size, backward=2 * size * passed + 2 * size * head.weight.requires_grad)
    return found


def _part_work(part: nn.Module, head: nn.Module | None, passed: bool) -> tuple[Work, bool]:
    tables = {id(p) for module in part.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    apart = tables | ({id(p) for p in head.parameters()} if head is not None else set())
    blocks: list[nn.Module] = list(getattr(part, "blocks", []))
    inside = {id(p) for block in blocks for p in block.parameters()}
    unread = set(getattr(part, "spare", ()))
    spare = {id(p) for name, p in part.named_parameters() if name in unread}
    groups = [[p for p in block.parameters() if id(p) not in apart | spare and p.dim() >= 2] for block in blocks]
    rest = [p for p in part.parameters() if id(p) not in inside | apart | spare and p.dim() >= 2]
    passed |= any(p.requires_grad for p in part.parameters() if id(p) in tables)
    forward = backward = 0.0
    for group in [*([] if blocks else [rest]), *groups, *([rest] if blocks else [])]:
        size, trained = float(sum(p.numel() for p in group)), float(sum(p.numel() for p in group if p.requires_grad))
        passed |= trained > 0
        forward += 2 * size
        backward += 2 * size * passed + 2 * trained
    return Work(forward=forward, backward=backward), passed


def attention_flops(block: dict[str, Any], tokens: float, causal: bool) -> float:
    """FLOPs of the two products of attention over all layers, forward, for one sequence of `tokens`."""
    layers = block.get("num_hidden_layers") or block.get("num_layers") or 0
    width = (block.get("head_dim") or 0) * (block.get("num_attention_heads") or 0) or block.get("hidden_size") or block.get("d_model") or 0
    return 4.0 * layers * width * tokens * tokens * (0.5 if causal else 1.0)


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What a stage computes and how long it takes."""

    steps: int
    rows: int
    tokens: float
    flops: float
    by_part: dict[str, float]
    hours: float
    disk: dict[str, int]
    """model, checkpoints, features: bytes."""


def visits_of(data: Sequence[DataRows], stage: Any) -> tuple[int, int]:
    """(optimizer steps, rows of the whole stage)."""
    epoch = sum(one.rows for one in data)
    steps = stage.total_steps(epoch)
    return steps, steps * stage.batch


def stage_flops(model: Model, data: Sequence[DataRows], rows: int, cached: bool, recompute: bool) -> dict[str, float]:
    """Part -> FLOPs of a stage that visits `rows` rows in the proportions of its data. `cached`: frozen encoders see each different picture once."""
    work = work_of(model)
    epoch = sum(one.rows for one in data)
    share = {one.name: rows * one.rows / max(1, epoch) for one in data}
    found: dict[str, float] = {}
    language = model.config.language_model
    drawn = {f"heads.{name}": float(head.tokens(model.config.encoders)) for name, head in model.config.heads.named().items()}
    for one in data:
        visits = share[one.name]
        looks = min(visits * max(1e-9, one.mean("pictures")), one.pictures) / max(1e-9, one.mean("pictures")) if cached and one.pictures else visits
        for path, cost in work.items():
            encoder = path.removeprefix("encoders.") if path.startswith("encoders.") else None
            tokens = {"head": one.mean("answers"), "language_model": one.mean("tokens"), "text_encoder": one.mean("tokens") or 77.0, **drawn}.get(
                path, one.mean("entries") if encoder is None else one.encoded(encoder)
            )
            again = cost.forward if recompute and cost.backward and path != "head" else 0.0
            times = looks if encoder is not None and not cost.backward else visits
            found[path] = found.get(path, 0.0) + times * tokens * (cost.both + again)
            if path == "language_model" and language is not None:
                squared = sum(attention_flops(language.block(), length.tokens, True) for length in one.lengths) / max(1, len(one.lengths))
                found[path] += visits * squared * (3 if cost.backward else 1)
    return found


def disk_of(model: Model, data: Sequence[DataRows], first: bool, cached: bool, precision: str) -> dict[str, int]:
    """Bytes that a stage writes: parts of its model that no earlier stage wrote, checkpoints (weights and moments of what is trained), and cached features."""
    changed = sum(p.numel() * p.element_size() for part in model.parts().values() if first or _trains(part) for p in part.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    number = 2 if precision == "bfloat16" else 4
    widths = {encoder.name: encoder.channels() * number for encoder in model.config.encoders}
    features = sum(one.pictures / max(1e-9, one.mean("pictures")) * one.encoded(name) * width for one in data for name, width in widths.items())
    return {
        "model": changed,
        "checkpoints": _KEPT * 12 * trained,
        "features": round(features) if cached else 0,
    }


def _trains(part: nn.Module) -> bool:
    return any(p.requires_grad for p in part.parameters())
