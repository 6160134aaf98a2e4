"""How a refiner is trained: the settings, the objective, and the loop that every stage runs in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sightline.kinds import Config
from sightline.refine.objects import Jitter, ObjectChoice
from sightline.train.checkpoints import Checkpoints
from sightline.train.loop import Outcome, train
from sightline.train.objectives import Losses, Steadfast
from sightline.train.stage import CheckpointPlan, PartTraining, Prepared, StageConfig
from sightline.train.world import ALONE, World

if TYPE_CHECKING:
    from sightline.refine.crop_decoder_modules import CropSegmenter
    from sightline.refine.crop_feed import CropBatch, CropFeed

STAGE = "refine"


class MaskTraining(Config):
    """Training of a refiner. A part that is not named under `train` is frozen."""

    data: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Data by name and weight: times that each object is visited per epoch."""
    train: dict[str, PartTraining] = Field(min_length=1)
    """Trained parts, `encoder` and `decoder`, each with its learning_rate."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Boxes per optimizer step."""
    objects: ObjectChoice = ObjectChoice()
    """Which regions are learnt from."""
    jitter: Jitter = Jitter()
    """How far boxes are off."""
    exact: float = Field(default=0.25, ge=0, le=1)
    """Share of boxes that are not off at all."""
    upright: float = Field(default=0.3, ge=0, le=1)
    """Share of boxes that are not turned: the upright box around the object."""
    augment: Literal["none", "dihedral"] = "dihedral"
    """dihedral: one of the eight orientations of the crop per visit."""
    colour: float = Field(default=0.1, ge=0, lt=1)
    """How far brightness and contrast are changed, as a share."""
    dice: float = Field(default=1.0, ge=0)
    """Weight of the Dice loss beside the cross-entropy of pixels; 0 leaves it out."""
    warmup: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape of the rate after warm-up."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Last rate as a share of the peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of tensors with two or more dimensions."""
    betas: tuple[float, float] = Field(default=(0.9, 0.98), strict=False)
    """AdamW."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["bfloat16", "float32"] = "float32"
    """Compute type; weights and optimizer stay float32."""
    every: int = Field(default=10, ge=1)
    """Steps between records of the loss."""
    checkpoints: CheckpointPlan = CheckpointPlan()
    """When the running training is saved, so that a stopped one goes on where it was."""

    def stage(self, predicts: str) -> StageConfig:
        """The same as a stage, which is what the loop, the freeze table and checkpoints know."""
        shared = {name: getattr(self, name) for name in self.model_fields_set | set(type(self).model_fields) if name in StageConfig.model_fields}
        return StageConfig.model_construct(
            name=STAGE, objective=MaskObjective(dice=self.dice, predicts="classes" if predicts == "classes" else "box"), **shared
        )


class MaskObjective(Config):
    """What a refiner learns: the object in the box, or the label of every pixel."""

    kind: Literal["box-masks"] = "box-masks"
    dice: float = 1.0
    """Weight of the Dice loss."""
    predicts: Literal["box", "classes"] = "box"
    """As the model's."""

    def build(self) -> BoxMasks:
        """The objective."""
        return BoxMasks(self)


class BoxMasks(Steadfast):
    """Binary cross-entropy (a crop's mean over its known pixels) and Dice (Milletari et al. 2016, equation 5, with plain sums below the line) of each crop; or the cross-entropy of labels."""

    needs: tuple[str, ...] = ("mask",)
    splits = True

    def __init__(self, config: MaskObjective) -> None:
        self.config = config

    def counts(self, batch: CropBatch) -> dict[str, float]:
        """Crops with a known pixel; for labels, labelled pixels."""
        if batch.classes is not None:
            return {"classes": float((batch.classes >= 0).sum())}
        known = float(batch.weights.flatten(1).any(1).sum())
        return {"bce": known, **({"dice": known} if self.config.dice else {})}

    def __call__(self, model: CropSegmenter, batch: CropBatch, world: World = ALONE) -> Losses:
        """Forward and losses; report `iou`, mean over crops of the overlap at a threshold of one half."""
        logits = model(batch.crops, batch.prompts).float()
        if batch.classes is not None:
            return Losses(sums={"classes": cross_entropy(logits, batch.classes, ignore_index=-1, reduction="sum")})
        x, target, weight = logits[:, 0].flatten(1), batch.targets.flatten(1), batch.weights.flatten(1)
        known = weight.sum(1)
        bce = (binary_cross_entropy_with_logits(x, target, reduction="none") * weight).sum(1) / known.clamp(min=1)
        sums: dict[str, Tensor] = {"bce": bce.sum()}
        if self.config.dice:
            share = x.sigmoid() * weight
            dice = 1 - (2 * (share * target).sum(1) + 1) / (share.sum(1) + (target * weight).sum(1) + 1)
            sums["dice"] = self.config.dice * dice.sum()  # of a crop without known pixels it is 0
        found, true = (x > 0) & (weight > 0), (target > 0.5) & (weight > 0)
        ious = (found & true).sum(1) / (found | true).sum(1).clamp(min=1)
        return Losses(sums=sums, report={"iou": (float(ious.sum()), float(len(ious)))})


class CropWatch:
    """What training says of itself: an event every so many steps, and the note at the end of the line of progress."""

    def __init__(self, every: int, record: Callable[[dict[str, Any]], None]) -> None:
        self.every, self.record = every, record
        self._report: dict[str, list[float]] = {}
        self._boxes, self._since = 0, time.monotonic()
        self._note = ""

    def forward(self, batch: CropBatch, losses: Losses) -> None:
        """Called after each forward."""
        self._boxes += len(batch.rows)
        for name, (total, count) in losses.report.items():
            own = self._report.setdefault(name, [0.0, 0.0])
            own[0] += total
            own[1] += count

    def due(self, step: int, steps: int) -> bool:
        """Whether this step is recorded."""
        return step % self.every == 0 or step + 1 == steps

    def step(self, step: int, terms: Mapping[str, float], rate: float, norms: Mapping[str, Tensor]) -> None:
        """Called after an optimizer step that is due."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        means = {name: total / count for name, (total, count) in self._report.items() if count}
        norm = torch.linalg.vector_norm(torch.stack([*norms.values()]).double()).item() if norms else 0.0
        event = {"event": "step", "stage": STAGE, "step": step, "loss": sum(terms.values()), "terms": dict(terms), "rate": rate, "norm": norm}
        self.record({**event, **means, "samples_per_second": self._boxes / seconds})
        self._note = "  ".join([f"{name} {value:.3f}" for name, value in means.items()] + [f"{self._boxes / seconds:.0f} boxes/s"])
        self._report, self._boxes, self._since = {}, 0, time.monotonic()

    def note(self, loss: float) -> str:
        """The end of the line of progress."""
        return f"loss {loss:.3f}  {self._note}".rstrip()


def train_refiner(
    model: CropSegmenter,
    prepared: Prepared,
    feed: CropFeed,
    training: MaskTraining,
    record: Callable[[dict[str, Any]], None],
    checkpoints: Checkpoints | None,
    faults: Path | None,
) -> Outcome:
    """Train to the last step, from the last good checkpoint where there is one. Refused as by `train.loop.train`."""
    stage = training.stage(model.config.predicts)
    watch = CropWatch(training.every, record)
    # the loop asks of model, feed and watch what these have, and names the classes of a language model's training
    return train(cast(Any, model), prepared, cast(Any, BoxMasks(stage.objective)), cast(Any, feed), stage, cast(Any, watch), STAGE, ALONE, checkpoints, faults)  # pyright: ignore[reportArgumentType]
