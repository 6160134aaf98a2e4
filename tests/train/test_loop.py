"""The loop: the same mathematics however a batch is cut, the same order for the same seed, nothing frozen moves, nothing trained stands still."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sightline.data.mixture import Mixture
from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.train.change_check import CHECK_AFTER, ChangeCheck
from sightline.train.feeding import Feed
from sightline.train.stage import StageConfig, prepare

RATE = {"learning_rate": 1e-2}


def gradients(world, stage: StageConfig, split: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of step 0, in micro-batches of `split` rows, each term divided by its global count."""
    model: Model = world.model()
    prepared = prepare(model, stage)
    feed = world.feed(stage.model_copy(update={"micro_batch": split}))
    batches = feed.micro_batches(0)
    counts = [feed.objective.counts(batch)["answer"] for batch in batches]
    total = 0.0
    for batch in batches:
        loss = feed.objective(model, batch).sums["answer"] / sum(counts)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in prepared.trained.items() if p.grad is not None}


def test_one_batch_of_eight_is_four_of_two(world) -> None:
    stage = world.stage(batch=8)
    whole, split = gradients(world, stage, 8), gradients(world, stage, 2)
    assert split[0] == pytest.approx(whole[0], rel=1e-6)
    assert whole[1].keys() == split[1].keys()
    worst = max(((split[1][name] - g).norm() / g.norm().clamp(min=1e-8)).item() for name, g in whole[1].items())
    assert worst < 1e-5


def test_a_mean_of_means_would_be_something_else(world) -> None:
    stage = world.stage(batch=8, micro_batch=2)
    feed, model = world.feed(stage), world.model()
    parts = [(feed.objective(model, batch).sums["answer"].item(), feed.objective.counts(batch)["answer"]) for batch in feed.micro_batches(0)]
    of_all = sum(loss for loss, _ in parts) / sum(count for _, count in parts)
    of_means = np.mean([loss / count for loss, count in parts])
    assert len({count for _, count in parts}) > 1
    assert abs(of_all - of_means) / of_all > 1e-2


def test_the_loop_itself_accumulates(world) -> None:
    first, second = world.model(), world.model()
    _, outcome, events = world.train(first, world.stage(batch=8))
    _, cut, cut_events = world.train(second, world.stage(batch=8, micro_batch=3))
    assert [event["terms"] for event in cut_events] == [{"answer": pytest.approx(event["loss"], rel=1e-4)} for event in events]
    assert cut.curve[-1][1] == pytest.approx(outcome.curve[-1][1], rel=1e-4)


def test_rows_follow_from_seed_and_step_alone(world) -> None:
    stage = world.stage(batch=5)
    feed = world.feed(stage)
    forwards = [feed.visits(step) for step in range(7)]
    assert [world.feed(stage).visits(step) for step in reversed(range(7))] == forwards[::-1]
    assert world.feed(stage, seed=1).visits(0) != forwards[0]
    visits = [visit for step in forwards for visit in step]
    assert [number for number, _, _ in visits] == list(range(35))
    epochs = [[row for _, _, row in visits[start : start + 12]] for start in (0, 12)]
    assert [sorted(rows) for rows in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


def test_batches_made_ahead_are_those_made_on_demand(world) -> None:
    feed = world.feed(world.stage(batch=5, micro_batch=2, augment="dihedral"))
    for step, batches in enumerate(feed.ahead(range(4))):
        again = feed.micro_batches(step)
        assert [batch.rows for batch in batches] == [batch.rows for batch in again]
        assert all(torch.equal(a, b) for x, y in zip(batches, again) for a, b in zip(x.pictures.pixels, y.pictures.pixels))


def test_a_weight_is_visits_per_epoch(world) -> None:
    feed = world.feed(world.stage(data={"questions": 2.0, "notes": 0.25}, batch=27, train={"language_model": RATE, "connector": RATE}))
    assert feed.per_epoch == 27
    counts = Counter((share, row) for _, share, row in feed.visits(0))
    assert {counts[0, row] for row in range(12)} == {2}
    assert sum(count for (share, _), count in counts.items() if share == 1) == 3


def test_eight_orientations_are_those_of_numpy(world) -> None:
    encoded = world.processor.encode(world.stores["questions"][0])
    plain = world.processor.collate([[encoded]]).pictures.pixels[0].numpy()
    seen = []
    for orientation in range(8):
        turned = world.processor.collate([[replace(encoded, orientation=orientation)]]).pictures.pixels[0].numpy()
        wanted = np.rot90(plain, orientation % 4, (1, 2))
        assert np.array_equal(turned, wanted[:, :, ::-1] if orientation >= 4 else wanted)
        seen.append(turned.tobytes())
    assert len(set(seen)) == 8
    feed = world.feed(world.stage(batch=48, augment="dihedral"))
    drawn = {feed.objective.encode(feed._sample(0, 0), feed.processor, np.random.default_rng([0, visit, 1])).orientation for visit in range(4)}
    assert drawn == {0}, "only the feed turns"
    batch = feed.micro_batches(0)[0]
    assert len(batch.pictures.pixels) > 12, "the same picture, turned differently, is another picture"


@pytest.mark.parametrize(
    ("said", "moving"),
    [
        ({"train": {"connector": RATE}}, ("connector.",)),
        ({"train": {"language_model": RATE}, "objective": "text", "data": {"notes": 1.0}}, ("language_model.",)),
        ({"train": {"encoders": RATE, "text_encoder": RATE}, "objective": "contrastive", "data": {"captions": 1.0}}, ("encoders.", "text_encoder.")),
    ],
)
def test_only_what_is_trained_changes(world, said, moving: tuple[str, ...]) -> None:
    model: Model = world.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, outcome, _ = world.train(model, world.stage(**said))
    unread = set(outcome.unread)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith(moving) for name in changed)
    wanted = {name for name, _ in model.named_parameters() if name.startswith(moving)}
    assert wanted - changed == unread
    assert unread <= {"text_encoder.token_projection.weight", "text_encoder.tag_scale", "text_encoder.tag_bias"}, "tags, which this loss does not read"


def test_running_statistics_move_with_a_trained_encoder_and_stay_with_a_frozen_one(world) -> None:
    statistics = lambda model: {name: t.clone() for name, t in model.encoders.state_dict().items() if "running" in name}  # noqa: E731
    model: Model = world.model()
    before = statistics(model)
    assert before
    world.train(model, world.stage())
    assert all(torch.equal(statistics(model)[name], tensor) for name, tensor in before.items())
    world.train(model, world.stage(objective="contrastive", data={"captions": 1.0}, train={"encoders": {**RATE, "last": 1}, "text_encoder": RATE}))
    moved = {name for name, tensor in before.items() if not torch.equal(statistics(model)[name], tensor)}
    assert moved
    assert all(".stages.1." in name for name in moved), "blocks below the last keep theirs"


def checked(model: Model, stage: StageConfig) -> ChangeCheck:
    return ChangeCheck(model, prepare(model, stage).trained)


def test_a_frozen_tensor_that_moved_and_a_trained_one_that_stood_still(world) -> None:
    model: Model = world.model()
    check = checked(model, world.stage(train={"connector": RATE}))
    statistic = next(name for name, _ in model.named_buffers() if name.endswith("running_mean"))
    with torch.no_grad():
        for parameter in check.trained.values():
            parameter.grad = torch.ones_like(parameter)
            parameter.add_(1e-3)
        model.text_encoder.scale.add_(1e-6)
        model.get_buffer(statistic).add_(1.0)
        still = next(iter(check.trained))
        check.trained[still].sub_(1e-3).copy_(world.model().get_parameter(still))
    with pytest.raises(Refused) as refused:
        check.run("align")
    assert [(p.code, p.place) for p in refused.value.problems] == [
        ("train/tensor-stands-still", still),
        ("train/frozen-tensor-moved", "text_encoder.scale"),
        ("train/frozen-tensor-moved", statistic),
    ]
    assert f"unchanged after {CHECK_AFTER} steps" in str(refused.value)


def test_what_nothing_reads_is_listed(world) -> None:
    stage = world.stage(data={"notes": 1.0})
    _, outcome, _ = world.train(world.model(), stage)
    assert outcome.unread
    assert all(name.startswith("connector.") for name in outcome.unread), "rows without pictures never pass through the connector"
    _, outcome, _ = world.train(world.model(), world.stage(steps=CHECK_AFTER - 1))
    assert outcome.unread == []


def test_a_loss_that_is_no_number_names_its_rows(world) -> None:
    model: Model = world.model()
    with torch.no_grad():
        next(model.connector.parameters()).fill_(float("nan"))
    with pytest.raises(Refused, match="train/non-finite-loss at stage try, step 0") as refused:
        world.train(model, world.stage())
    rows = [f"questions:q{row}" for _, _, row in world.feed(world.stage()).visits(0)]
    assert f"on rows {', '.join(rows)}" in refused.value.problems[0].found


def test_a_gradient_that_is_no_number_stops_before_it_is_applied(world) -> None:
    model: Model = world.model()
    weight = next(model.connector.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.clone()
    with pytest.raises(Refused, match="train/non-finite-gradient at stage try, step 0"):
        world.train(model, world.stage())
    assert torch.equal(weight, before)


def test_no_rows_at_all_are_refused(world, tmp_path) -> None:
    with pytest.raises(Refused, match="train/no-rows"):
        stage = world.stage()
        Feed(Mixture([]), world.processor, world.feed(stage).objective, stage, 0, None)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(world) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        model: Model = world.model()
        world.train(model, world.stage(), seed)
        return model.state_dict()

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
