"""What a stage says of itself while it trains: the events that every view is drawn from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.model.batch import Batch
from sightline.train.objectives import Losses
from sightline.train.probing import Probes
from sightline.train.rates import Arithmetic, Counts, memory, norms_by_part
from sightline.train.stage import StageConfig, TableRow
from sightline.train.world import ALONE, World

_WAITING = 1 << 20
"""Losses of so many answer tokens lie on the device at most before they are added up."""
_NAMED = 50
"""Sources, and kinds, that an event tells apart; those with the fewest answer tokens are taken together."""
OTHERS = "(others)"
"""What they are called together."""


class Watch:
    """Sees every forward and every optimizer step of a stage, and records some of them. `record` receives flat events, whose fields docs/watching.md explains.

    `table`: the parts and their rates. `arithmetic`: None where the peak of the device, or what the stage computes, is not known. `encoders`: Configs of those whose tokens it counts.
    """

    def __init__(
        self,
        stage: StageConfig,
        record: Callable[[dict[str, Any]], None],
        *,
        table: Sequence[TableRow] = (),
        arithmetic: Arithmetic | None = None,
        encoders: Sequence[Any] = (),
        probes: Probes | None = None,
        world: World = ALONE,
    ) -> None:
        self.stage, self.record, self.arithmetic, self.probes, self.world = stage, record, arithmetic, probes, world
        self.peaks = {row.part: row.learning_rate for row in table if row.learning_rate is not None}
        """Peak learning rate of each trained part."""
        self._counts, self._losses = Counts(encoders), LossTally()
        self._device: torch.device | None = None
        self._last = False
        self._rate: float | None = None
        self._since = time.monotonic()

    def forward(self, batch: Batch, losses: Losses) -> None:
        """Called after each micro-batch of this process, which lies on the host."""
        self._device = next(iter(losses.sums.values())).device
        self._counts.add(batch)
        if losses.tokens is not None:
            self._losses.add(batch, losses.tokens)

    def note(self, loss: float) -> str:
        """What stands at the end of the line of progress: the loss of a step, and the speed as last recorded."""
        return f"loss {loss:.3f}" + (f"  {self._rate:,.0f} tokens/s" if self._rate else "")

    def due(self, step: int, steps: int) -> bool:
        """Whether this step is recorded: every so many, and the last of `steps`."""
        self._last = step + 1 == steps
        return step % self.stage.every == 0 or self._last

    def step(self, step: int, terms: Mapping[str, float], rate: float, norms: Mapping[str, Tensor]) -> None:
        """Called after an optimizer step that is due, by every process. `terms`: mean of each loss term over all processes; `rate`: share of the peak rate; `norms`: the gradient's, by tensor, before clipping."""
        by_part = norms_by_part(norms, [*self.peaks])
        norm = torch.linalg.vector_norm(torch.stack([*norms.values()]).double()).item() if norms else 0.0
        gib, kind = memory(self._device)
        seconds = time.monotonic() - self._since
        everyone = said_by_all(self.world, {"counts": self._counts.take(), "losses": self._losses.take(), "gib": gib, "seconds": seconds})
        seconds = max(max(own["seconds"] for own in everyone), 1e-9)
        counts = _added(own["counts"] for own in everyone)
        losses = [one for own in everyone for one in own["losses"]]
        event: dict[str, Any] = {"event": "step", "stage": self.stage.name, "step": step, "loss": sum(terms.values()), "terms": dict(terms)}
        event |= {"rate": rate, "norm": norm, "norms": by_part, "rates": {part: peak * rate for part, peak in self.peaks.items()}}
        event |= {"by_source": means((source, total, count) for source, _, total, count in losses)}
        event |= {"by_kind": means((kind_, total, count) for _, kind_, total, count in losses if kind_)}
        event |= {f"{name}_per_second": counts.get(name, 0.0) / seconds for name in ("samples", "tokens", "answers")}
        event["mfu"] = self.arithmetic.utilisation(counts, seconds, self.world.size) if self.arithmetic is not None else None
        event |= {"memory_gib": max(own["gib"] for own in everyone), "memory_kind": kind}
        self._rate = event["tokens_per_second"]
        self.record(event)
        if self.probes is not None and self.probes.due(step, self.stage.every, self._last):
            self.record(self.probes.event(step))
        self._since = time.monotonic()


class LossTally:
    """Loss of answer tokens by (source, kind). Nothing is asked of the device until it is taken, or until there is much of it."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], int] = {}
        self._sums, self._counts = np.zeros(0), np.zeros(0)
        self._waiting: list[tuple[Tensor, np.ndarray, np.ndarray]] = []
        self._length = 0

    def add(self, batch: Batch, tokens: Tensor) -> None:
        """`tokens`: weighted loss of each answer token of the batch (A,), on whatever device."""
        owners, places = batch.owners.numpy(), batch.answers.numpy()
        if not len(owners):
            return
        begins = np.ones(len(owners), bool)
        begins[1:] = (owners[1:] != owners[:-1]) | (places[1:] != places[:-1] + 1)
        named = [self._groups.setdefault(group, len(self._groups)) for group in _groups(batch.rows, owners[begins])]
        self._waiting.append((tokens, np.asarray(named)[np.cumsum(begins) - 1], batch.weights.numpy()))
        self._length += len(owners)
        if self._length > _WAITING:
            self._add_up()

    def take(self) -> list[tuple[str, str, float, float]]:
        """(source, kind, sum of losses, sum of weights) since it was last taken."""
        self._add_up()
        found = [(*group, float(self._sums[number]), float(self._counts[number])) for group, number in self._groups.items()]
        self._groups, self._sums, self._counts = {}, np.zeros(0), np.zeros(0)
        return found

    def _add_up(self) -> None:
        if not self._waiting:
            return
        losses = torch.cat([tokens for tokens, _, _ in self._waiting]).double().cpu().numpy()
        groups, weights = (np.concatenate(parts) for parts in ([own for _, own, _ in self._waiting], [own for _, _, own in self._waiting]))
        known = np.zeros(len(self._groups) - len(self._sums))
        self._sums = np.concatenate([self._sums, known]) + np.bincount(groups, losses, len(self._groups))
        self._counts = np.concatenate([self._counts, known]) + np.bincount(groups, weights, len(self._groups))
        self._waiting, self._length = [], 0


def _groups(rows: Sequence[tuple[str, str, str]], owners: np.ndarray) -> list[tuple[str, str]]:
    """(source, kind) of each run of neighbouring answer tokens, of which `owners` are the rows.

    A row with a kind for each of its pairs has a run for each; where there are more or fewer (prompts that are all shared, turns that are not learnt) its kinds are not told apart.
    """
    found: list[tuple[str, str]] = []
    numbers, each = np.unique(owners, return_counts=True)
    for row, runs in zip(numbers.tolist(), each.tolist()):
        source, _, kinds = rows[row]
        said = kinds.split(",")
        found += [(source, kind) for kind in (said if len(said) == runs else [",".join(sorted(set(said)))] * runs)]
    return found


def _added(parts: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for name, count in part.items():
            found[name] = found.get(name, 0.0) + count
    return found


def means(parts: Any) -> dict[str, list[float]]:
    """{name: [mean, count]} of (name, sum, count), by name; of many names, those with the smallest counts are one."""
    found: dict[str, list[float]] = {}
    for name, total, count in parts:
        own = found.setdefault(name, [0.0, 0.0])
        own[0] += total
        own[1] += count
    order = sorted((name for name, (_, count) in found.items() if count), key=lambda name: (-found[name][1], name))
    rest = order[_NAMED:] if len(order) > _NAMED + 1 else []
    told = {name: found[name] for name in sorted(set(order) - set(rest))}
    if rest:
        told[OTHERS] = [sum(found[name][0] for name in rest), sum(found[name][1] for name in rest)]
    return {name: [total / count, count] for name, (total, count) in told.items()}


def said_by_all(world: World, value: Any) -> list[Any]:
    """What each process says, in rank order and equal on all; `value` is JSON. Every process must ask."""
    if world.size == 1:
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = torch.zeros(world.size, dtype=torch.int64)
    sizes[world.rank] = len(own)
    lengths = world.sum(sizes).tolist()
    table = torch.zeros(world.size, max(lengths), dtype=torch.int64)
    table[world.rank, : len(own)] = own
    return [json.loads(line[:length].to(torch.uint8).numpy().tobytes()) for line, length in zip(world.sum(table), lengths)]
