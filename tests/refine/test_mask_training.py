"""Training of a refiner: its losses, its batches, and that a stopped one goes on to the same weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_crop_decoder import TINY

from conftest import CHOICE
from sightline.refine.crop_feed import CropBatch, CropFeed
from sightline.refine.mask_training import BoxMasks, MaskObjective, MaskTraining, train_refiner
from sightline.refine.objects import find_objects
from sightline.samples.store import Store
from sightline.train.checkpoints import Checkpoints
from sightline.train.stage import CheckpointPlan, PartTraining, prepare

RATES = {"encoder": PartTraining(learning_rate=3e-3), "decoder": PartTraining(learning_rate=3e-3)}


class Fixed(torch.nn.Module):
    """Gives these logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, crops: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        return self.logits


def batch(targets: torch.Tensor, weights: torch.Tensor, classes: torch.Tensor | None = None) -> CropBatch:
    blank = torch.zeros(len(targets), 3, *targets.shape[1:])
    return CropBatch(crops=blank, prompts=blank, targets=targets, weights=weights, classes=classes, rows=(("s", "r", "l"),) * len(targets))


def test_losses_are_the_formulas_and_leave_unknown_pixels_out() -> None:
    logits = torch.tensor([[[[2.0, -1.0], [0.5, 9.0]]]])
    targets, weights = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    objective = BoxMasks(MaskObjective(dice=2.0))
    found = objective(Fixed(logits), batch(targets, weights))  # pyright: ignore[reportArgumentType]
    s = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.5)]
    assert found.sums["bce"].item() == pytest.approx(-(math.log(s[0]) + math.log(1 - s[1]) + math.log(1 - s[2])) / 3)
    assert found.sums["dice"].item() == pytest.approx(2 * (1 - (2 * s[0] + 1) / (sum(s) + 1 + 1)))
    assert found.report["iou"] == (0.5, 1.0) and objective.counts(batch(targets, weights)) == {"bce": 1.0, "dice": 1.0}
    nothing = batch(targets.repeat(2, 1, 1), torch.cat([weights, weights * 0]))
    twice = objective(Fixed(logits.repeat(2, 1, 1, 1)), nothing)  # pyright: ignore[reportArgumentType]
    assert objective.counts(nothing)["bce"] == 1 and twice.sums["bce"].item() == pytest.approx(found.sums["bce"].item())
    assert twice.sums["dice"].item() == pytest.approx(found.sums["dice"].item())
    labels = batch(targets, weights, torch.tensor([[[0, 1], [-1, 1]]]))
    classes = BoxMasks(MaskObjective(predicts="classes"))
    told = classes(Fixed(torch.zeros(1, 3, 2, 2)), labels)  # pyright: ignore[reportArgumentType]
    assert classes.counts(labels) == {"classes": 3.0} and told.sums["classes"].item() == pytest.approx(3 * math.log(3))


def feed_of(store: Store, training: MaskTraining, config: Any = TINY) -> CropFeed:
    return CropFeed([store], ["scenes"], find_objects([store], CHOICE), config.resolve(), (120.0, 120.0, 120.0), training, seed=3)


def training_of(**changes: Any) -> MaskTraining:
    return MaskTraining(**{"data": {"scenes": 1.0}, "train": RATES, "steps": 6, "batch": 4, "objects": CHOICE, **changes})


def test_a_batch_is_a_function_of_seed_and_step(scenes_store: Store) -> None:
    feed = feed_of(scenes_store, training_of())
    one, again = feed.batch(4), feed_of(scenes_store, training_of()).batch(4)
    assert torch.equal(one.crops, again.crops) and torch.equal(one.targets, again.targets) and one.rows == again.rows
    assert not torch.equal(one.crops, feed.batch(5).crops)
    visited = [known for step in range(feed.per_epoch) for _, known in feed.visits(step)][: feed.per_epoch]
    assert len(set(visited)) == feed.per_epoch == len(find_objects([scenes_store], CHOICE).found)
    twice = feed_of(scenes_store, training_of(data={"scenes": 1.5}))
    assert twice.per_epoch == math.ceil(1.5 * feed.per_epoch)


def test_targets_lie_under_their_boxes_whatever_the_turn(scenes_store: Store) -> None:
    feed = feed_of(scenes_store, training_of(exact=1.0, colour=0.0))
    for step in range(8):
        found = feed.batch(step)
        known = found.targets * found.weights
        assert ((found.targets > 0.5).flatten(1).any(1)).all() and found.targets.max() <= 1
        inside = found.prompts[:, 0]
        overlap = (known * inside).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
        assert overlap.mean() > 0.93 and (found.prompts[:, 1] < 0)[inside > 0.75].all()
        blank = (found.prompts[:, 2] == 0)[:, None].expand_as(found.crops)
        assert (found.crops[blank] == 120).all() and not found.weights[found.prompts[:, 2] == 0].any()


def test_a_stopped_training_goes_on_to_the_same_weights(scenes_store: Store, tmp_path: Path) -> None:
    def run(steps_before_stop: int | None, folder: Path) -> dict[str, torch.Tensor]:
        training = training_of(checkpoints=CheckpointPlan(steps=1, seconds=None))
        torch.manual_seed(0)
        model = TINY.build()
        stage = training.stage("box")
        prepared = prepare(model, stage)  # pyright: ignore[reportArgumentType]
        said: list[dict[str, Any]] = []

        def record(event: dict[str, Any]) -> None:
            said.append(event)
            if steps_before_stop is not None and event["event"] == "step" and event["step"] == steps_before_stop:
                raise KeyboardInterrupt

        checkpoints = Checkpoints(folder, "fingerprint", stage, said.append, lambda text: None)
        every = training.model_copy(update={"every": 1})
        try:
            train_refiner(model, prepared, feed_of(scenes_store, training), every, record, checkpoints, None)
        except KeyboardInterrupt:
            return run(None, folder)
        if folder.name == "stopped":
            assert [event["step"] for event in said if event["event"] == "resumed"] == [4]
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    whole, stopped = run(None, tmp_path / "whole"), run(4, tmp_path / "stopped")
    assert whole.keys() == stopped.keys() and all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_a_few_steps_learn_more_than_the_box(scenes_store: Store) -> None:
    training = training_of(steps=40, batch=8, exact=1.0, augment="none", every=1, data={"scenes": 1.0})
    torch.manual_seed(0)
    model = TINY.build()
    said: list[dict[str, Any]] = []
    train_refiner(model, prepare(model, training.stage("box")), feed_of(scenes_store, training), training, said.append, None, None)  # pyright: ignore[reportArgumentType]
    ious = [event["iou"] for event in said if event["event"] == "step"]
    assert np.mean(ious[-5:]) > 0.7 > np.mean(ious[:3]) and [event["rate"] for event in said][-1] < 0.01


def test_labels_are_learnt_by_the_plain_model(scenes_store: Store) -> None:
    names = tuple(sorted({region.label for sample in scenes_store for region in sample.annotations if region.label}))
    config = TINY.model_copy(update={"predicts": "classes", "classes": names})
    found = feed_of(scenes_store, training_of(augment="none"), config).batch(0)
    assert found.classes is not None and int(found.classes.max()) < len(names)
    centre = found.classes[:, 14:18, 14:18].flatten(1).mode(1).values
    assert sum(names[int(number)] == row[2] for number, row in zip(centre, found.rows)) >= 3
    assert (found.classes[found.prompts[:, 2] == 0] == -1).all()
