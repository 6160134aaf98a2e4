"""A step that must not count ends the stage before a weight changes; its rows are named and their pictures kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.errors import Refused
from sightline.lineage import sha256_bytes
from sightline.train.checkpoints import Checkpoints
from sightline.train.feeding import Feed

RATE = {"learning_rate": 1e-2}


def visited(world, stage, step: int) -> list[tuple[str, str]]:
    return [("questions", f"q{row}") for _, _, row in world.feed(stage).visits(step)]


def test_a_loss_that_is_no_number_shows_its_rows_and_their_pictures(world, tmp_path) -> None:
    model, stage, events = world.model(), world.stage(micro_batch=2), []
    with torch.no_grad():
        next(model.connector.parameters()).fill_(float("nan"))
    with pytest.raises(Refused) as refused:
        world.train(model, stage, record=events.append, fault_folder=tmp_path / "faults")
    [problem] = refused.value.problems
    assert (problem.code, problem.place) == ("train/non-finite-loss", "stage try, step 0")
    rows = visited(world, stage, 0)[:2]
    assert f"on rows {', '.join(f'{source}:{row}' for source, row in rows)}; their pictures are in {tmp_path / 'faults'}" in problem.found
    [event] = events
    assert (event["event"], event["code"], event["step"]) == ("fault", "train/non-finite-loss", 0)
    assert [(row["source"], row["id"]) for row in event["rows"]] == rows, "those of the micro-batch, not of the step"
    stored = {sample.id: sample for _, sample in world.feed(stage).samples(0)}
    for row in event["rows"]:
        [shown] = row["pictures"]
        data = (tmp_path / "faults" / shown).read_bytes()
        assert sha256_bytes(data) == stored[row["id"]].pictures[0].hash and shown.endswith(".png")


def test_a_gradient_that_is_no_number_names_the_whole_step(world, tmp_path) -> None:
    model, stage, events = world.model(), world.stage(micro_batch=2), []
    next(model.connector.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Refused, match="train/non-finite-gradient"):
        world.train(model, stage, record=events.append)
    assert [(row["source"], row["id"]) for row in events[0]["rows"]] == visited(world, stage, 0)
    assert all(row["pictures"] == [] for row in events[0]["rows"]), "no folder, no pictures"
    assert [*tmp_path.iterdir()] == []


def test_a_step_without_answers_ends_the_stage_before_any_forward(world, monkeypatch) -> None:
    made = Feed.micro_batches

    def silent(feed: Feed, step: int) -> list:
        batches = made(feed, step)
        return [replace(batch, weights=batch.weights * 0) for batch in batches] if step == 2 else batches

    monkeypatch.setattr(Feed, "micro_batches", silent)
    model, stage, events = world.model(), world.stage(every=1), []
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with pytest.raises(Refused) as refused:
        world.train(model, stage, record=events.append)
    [problem] = refused.value.problems
    assert (problem.code, problem.place) == ("train/no-answer-tokens", "stage try, step 2")
    assert "nothing to learn from for answer (count 0) on rows questions:q" in problem.found
    assert len(forwards) == 2
    assert [event["event"] for event in events] == ["step", "step", "fault"]


def test_one_empty_micro_batch_among_others_is_no_fault(world, monkeypatch) -> None:
    made = Feed.micro_batches

    def partly(feed: Feed, step: int) -> list:
        first, *others = made(feed, step)
        return [replace(first, weights=first.weights * 0), *others]

    monkeypatch.setattr(Feed, "micro_batches", partly)
    _, outcome, _ = world.train(world.model(), world.stage(micro_batch=1))
    assert outcome.curve[-1][1] > 0


def test_the_last_good_checkpoint_stays_and_is_gone_on_from(world, tmp_path: Path) -> None:
    stage = world.stage(steps=12, train={"connector": RATE}, checkpoints={"steps": 5})
    said: list[str] = []
    checkpoints = lambda: Checkpoints(tmp_path / "checkpoints", "this", stage, lambda event: None, said.append)  # noqa: E731
    model = world.model()
    weight, calls = next(model.connector.parameters()), []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return gradient * float("nan") if len(calls) == 8 else gradient

    weight.register_hook(spoil)
    with pytest.raises(Refused, match="train/non-finite-gradient at stage try, step 7"):
        world.train(model, stage, checkpoints=checkpoints())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]
    mended, calm = world.model(), world.model()
    world.train(mended, stage, checkpoints=checkpoints())
    world.train(calm, stage)
    assert all(torch.equal(tensor, calm.state_dict()[name]) for name, tensor in mended.state_dict().items())
    assert any("goes on after step 5" in line for line in said)
