"""What a stage says of itself while it trains: the events that every view is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sightline.model.batch import Batch
from sightline.train.objectives import Losses
from sightline.train.stage import StageConfig


class Watch:
    """Sees every forward and every optimizer step of a stage, and records some of them. `record` receives flat events."""

    def __init__(self, stage: StageConfig, record: Callable[[dict[str, Any]], None]) -> None:
        self.stage, self.record = stage, record

    def forward(self, batch: Batch, losses: Losses) -> None:
        """Called after each micro-batch of this process."""

    def due(self, step: int, steps: int) -> bool:
        """Whether this step is recorded: every so many, and the last of `steps`."""
        return step % self.stage.every == 0 or step + 1 == steps

    def step(self, step: int, terms: Mapping[str, float], rate: float, norms: Mapping[str, Tensor]) -> None:
        """Called after an optimizer step that is due. `terms`: mean of each loss term over all processes; `rate`: share of the peak rate; `norms`: the gradient's, by tensor, before clipping."""
        norm = sum(float(own) ** 2 for own in norms.values()) ** 0.5
        self.record({"event": "step", "stage": self.stage.name, "step": step, "loss": sum(terms.values()), "terms": dict(terms), "rate": rate, "norm": norm})
