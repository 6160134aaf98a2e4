"""The loop: one stage from first to last optimizer step. It reads top to bottom; data, objective, freeze table, schedule and checkpoints are handed in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from sightline.model.batch import Batch, to_device
from sightline.model.vlm import Model
from sightline.progress import Progress
from sightline.train.averaging import Average
from sightline.train.change_check import CHECK_AFTER, ChangeCheck
from sightline.train.checkpoints import Checkpoints
from sightline.train.faults import Faults
from sightline.train.feeding import Feed
from sightline.train.gradients import clip_gradients, gradient_norms
from sightline.train.objectives import Objective
from sightline.train.sharding import share_gradients
from sightline.train.stage import Prepared, StageConfig
from sightline.train.train_state import TrainState, seed_step
from sightline.train.watch import Watch
from sightline.train.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage did, earlier runs that it was resumed from included."""

    steps: int
    rows: int
    seconds: float
    curve: list[tuple[int, float]]
    """(step, loss) as recorded."""
    unread: list[str]
    """Trainable tensors that no forward read: never changed."""


def train(
    model: Model,
    prepared: Prepared,
    objective: Objective,
    feed: Feed,
    stage: StageConfig,
    watch: Watch,
    label: str,
    world: World = ALONE,
    checkpoints: Checkpoints | None = None,
    fault_folder: Path | None = None,
) -> Outcome:
    """Run a stage, from its last good checkpoint where there is one. `watch` sees every forward and step.

    Refused on a step without answers, or a loss or gradient that is no number, naming the rows; their pictures go into `fault_folder`.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(prepared.groups, betas=stage.betas, fused=True)
    check = ChangeCheck(model, prepared.trained)  # marks what the stage starts from, before a checkpoint is read
    faults = Faults(stage.name, feed, watch.record, fault_folder)
    average = Average(prepared.trained, stage.average) if stage.average is not None else None
    state = TrainState(model, prepared, optimizer, objective, feed, average)
    if checkpoints is not None:
        checkpoints.resume(state, world)
    before, start, total_steps = state.seconds, time.monotonic(), feed.steps
    progress = Progress(label, total_steps - state.step, "steps")
    with checkpoints or nullcontext(), closing(feed.ahead(range(state.step, total_steps))) as ahead:
        for step, micro in enumerate(ahead, state.step):
            rate = stage.rate(step, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate
            seed_step(feed.seed, step, world.rank)
            objective.at(step, feed.seed)
            total = _total(objective, micro, world)
            faults.refuse_empty(total, micro, step)
            terms = dict.fromkeys(total, 0.0)
            for b in micro:
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=stage.precision == "bfloat16"):
                    losses = objective(model, to_device(b, device), world)
                loss = torch.stack([world.size * own / total[term] for term, own in losses.sums.items()]).sum()
                faults.refuse_non_finite("loss", {"loss": loss, **losses.sums}, [b], step)
                if loss.requires_grad:  # rows without pictures reach nothing where only a connector is trained
                    loss.backward()
                watch.forward(b, losses)
                for term, own in losses.sums.items():
                    terms[term] += own.item() / total[term]
            share_gradients(prepared.trained, world)
            norms = gradient_norms(prepared.trained)
            norm = clip_gradients(prepared.trained, norms, stage.clip)
            faults.refuse_non_finite("gradient", {"norm": norm}, micro, step)
            optimizer.step()
            objective.after_step(model)
            if average is not None:
                average.follow(step)
            if step + 1 == CHECK_AFTER:
                state.unread = check.run(stage.name, world)
            optimizer.zero_grad(set_to_none=True)

            if watch.due(step, total_steps):
                terms = dict(zip(terms, world.sum(torch.tensor([*terms.values()], dtype=torch.float64)).tolist()))
                state.curve.append((step, sum(terms.values())))
                watch.step(step, terms, rate, norms)
            progress.advance(1, watch.note(sum(terms.values())))
            state.step, state.seconds = step + 1, before + time.monotonic() - start
            if checkpoints is not None:
                checkpoints.after(state, world)
    if average is not None:
        average.take_over()
    progress.close()
    return Outcome(steps=total_steps, rows=total_steps * stage.batch, seconds=state.seconds, curve=state.curve, unread=state.unread)


def _total(objective: Objective, micro: Sequence[Batch], world: World) -> dict[str, float]:
    """Count of each term over all micro-batches of all ranks: what its sum is divided by, once."""
    counts = [objective.counts(batch) for batch in micro]
    own = torch.tensor([sum(count[term] for count in counts) for term in counts[0]], dtype=torch.float64)
    return dict(zip(counts[0], world.sum(own).tolist()))
