"""A stage that is stopped anywhere goes on to the same weights, bit for bit; what a checkpoint cannot vouch for is not used, and said."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sightline.model.vlm import Model
from sightline.samples.sample import Picture
from sightline.train import checkpoints as module
from sightline.train.checkpoints import Checkpoints
from sightline.train.feature_cache import FeatureCache, build_cache
from sightline.train.stage import StageConfig

RATE = {"learning_rate": 1e-2}
STEPS = 20


class Killed(BaseException):
    """A stage ended from outside."""


class Desk:
    """One stage that is run, stopped and run again over one folder of checkpoints."""

    def __init__(self, world, stage: StageConfig, folder: Path, features: FeatureCache | None = None) -> None:
        self.world, self.stage, self.folder, self.features = world, stage, folder / "checkpoints", features
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []

    def run(
        self, until: int | None = None, fingerprint: str = "this", change=lambda model: None, act=lambda step: None, kept: bool = True
    ) -> dict[str, torch.Tensor]:
        """Weights after the stage; raises Killed while step `until` is recorded. `act` is called at every step."""
        model: Model = self.world.model()
        change(model)

        def record(event: dict[str, Any]) -> None:
            self.events.append(event)
            if event["event"] == "step":
                act(event["step"])
                if event["step"] == until:
                    raise Killed

        checkpoints = Checkpoints(self.folder, fingerprint, self.stage, record, self.said.append) if kept else None
        self.world.train(model, self.stage, features=self.features, record=record, checkpoints=checkpoints)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def stopped(self, until: int) -> None:
        """Run until a step, and no further."""
        with pytest.raises(Killed):
            self.run(until)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def resumed(self) -> list[int]:
        return [event["step"] for event in self.events if event["event"] == "resumed"]


def desk(world, folder: Path, steps: int = STEPS, plan: dict[str, Any] | None = None, features: FeatureCache | None = None, **said: Any) -> Desk:
    return Desk(world, world.stage(**{"steps": steps, "every": 1, "checkpoints": plan or {"steps": 5}, **said}), folder, features)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def unclocked(event: dict[str, Any]) -> dict[str, Any]:
    """A step event without what depends on the machine."""
    return {key: value for key, value in event.items() if not key.endswith("_per_second") and key not in ("mfu", "memory_gib")}


PAIRS = {"objective": {"kind": "contrastive", "tags": {"words": ["tank", "pond"]}}, "data": {"captions": 1.0}}
COPY = {"kind": "picture-text", "match": 0, "tell": 0, "momentum": 0.9, "queue": 6, "alpha": 0.4, "ramp_steps": 8}


@pytest.mark.parametrize(
    "said",
    [
        {"train": {"connector": RATE}},
        {"train": {"connector": RATE, "language_model": {**RATE, "lora": {"rank": 2, "dropout": 0.2}}}, "micro_batch": 2},
        {"train": {"connector": RATE, "language_model": {**RATE, "last": 1}}, "augment": "dihedral", "epochs": 7.0, "steps": None, "batch": 5},
        {**PAIRS, "train": {"encoders": {**RATE, "last": 1}, "text_encoder": RATE}},
        {"objective": COPY, "data": {"captions": 1.0}, "train": {"encoders": RATE, "text_encoder": RATE}},
        {"data": {"notes": 1.0}, "train": {"connector": RATE, "language_model": RATE}},
    ],
    ids=["frozen-backbones", "lora-with-dropout", "last-k-turned", "running-statistics", "momentum-and-queue", "unread-connector"],
)
def test_ten_steps_a_kill_and_the_rest_are_the_undisturbed_run(world, tmp_path, said) -> None:
    stage = desk(world, tmp_path, plan={"steps": 10}, **said)
    wanted = stage.run(kept=False)
    curve = [unclocked(event) for event in stage.events if event["event"] == "step"]
    stage.events.clear()
    stage.stopped(13)
    assert stage.names() == ["step-000010"]
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [10]
    steps = {event["step"]: unclocked(event) for event in stage.events if event["event"] == "step"}
    assert [steps[number] for number in sorted(steps)] == curve, "also the losses on the way"


def test_with_cached_features(world, tmp_path) -> None:
    store = world.stores["questions"]
    pictures: list[tuple[Picture, Path, int]] = [(picture, store.path, 1) for row in store.kept for picture in store[int(row)].pictures]
    features = build_cache(tmp_path / "features", world.model(), "weights", world.processor, pictures, "float32", "features")
    stage = desk(world, tmp_path, plan={"steps": 10}, features=features)
    wanted = stage.run(kept=False)
    stage.stopped(13)
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [10]


def test_what_a_checkpoint_leaves_out_matters(world, tmp_path) -> None:
    stage = desk(world, tmp_path, plan={"steps": 10}, objective=COPY, data={"captions": 1.0}, train={"encoders": RATE, "text_encoder": RATE})
    wanted = stage.run(kept=False)
    stage.stopped(13)
    path = stage.folder / "step-000010"
    for file in ("optimizer", "objective"):
        other = tmp_path / file
        shutil.copytree(path, other / path.name)
        tensors = load_file(other / path.name / f"{file}.safetensors")
        moved = next(name for name in tensors if name.startswith(("exp_avg/encoders", "queue/pictures")))
        tensors[moved] = tensors[moved] + 1
        head = module.read_head(other / path.name)
        save_file(tensors, other / path.name / f"{file}.safetensors")
        module.write_head(other / path.name, {key: head[key] for key in ("fingerprint", "facts", "frozen", "software")})
        changed = Desk(world, stage.stage, tmp_path)
        changed.folder = other
        assert not equal(changed.run(), wanted), file
        assert changed.resumed() == [10]


def test_a_checkpoint_holds_what_is_trained_and_where_the_stage_stands(world, tmp_path) -> None:
    stage = desk(world, tmp_path, train={"connector": RATE})
    stage.stopped(13)
    head = module.read_head(stage.folder / "step-000010")
    weights = load_file(stage.folder / "step-000010" / "weights.safetensors")
    assert weights and all(name.startswith("connector.") for name in weights)
    moments = load_file(stage.folder / "step-000010" / "optimizer.safetensors")
    assert {name.split("/")[0] for name in moments} == {"exp_avg", "exp_avg_sq", "step"}
    assert head["facts"]["cursor"] == {"step": 10, "epoch": 3, "visit": 4, "steps": STEPS}
    assert {"language_model", "text_encoder"} < {*head["frozen"]} and "connector" not in head["frozen"]
    assert "torch" in head["software"]


def test_saving_changes_no_number(world, tmp_path) -> None:
    stage = desk(world, tmp_path, steps=8, plan={"steps": 1, "keep": 100})
    assert equal(stage.run(), stage.run(kept=False))
    assert len(stage.names()) == 8


def test_what_is_written_late_is_still_of_its_step(world, tmp_path, monkeypatch) -> None:
    at_once, late = (desk(world, tmp_path / name, steps=8, plan={"steps": 4, "keep": 100}) for name in ("at-once", "late"))
    at_once.run()
    whole, go_on = module.save_file, threading.Event()

    def wait(*said: Any, **more: Any) -> None:
        assert go_on.wait(20)
        whole(*said, **more)

    monkeypatch.setattr(module, "save_file", wait)
    late.run(act=lambda step: go_on.set() if step == 6 else None)
    for file in ("weights", "optimizer"):
        one, other = (load_file(each.folder / "step-000004" / f"{file}.safetensors") for each in (at_once, late))
        assert equal(one, other), file
    assert not equal(one, load_file(late.folder / "step-000008" / "optimizer.safetensors"))


def test_the_newest_stay(world, tmp_path) -> None:
    stage = desk(world, tmp_path, plan={"steps": 3, "keep": 2})
    stage.stopped(13)
    assert stage.names() == ["step-000009", "step-000012"]
    stage.stopped(16)
    assert stage.names() == ["step-000012", "step-000015"]
    by_time = desk(world, tmp_path / "time", steps=6, plan={"seconds": 1e-6, "keep": 9})
    by_time.run()
    assert by_time.names() == [f"step-{number:06d}" for number in range(1, 7)]
    never = desk(world, tmp_path / "never", steps=6, plan={"seconds": None, "steps": None})
    never.run()
    assert not never.folder.exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("weights.safetensors", cut),
        ("weights.safetensors", flip),
        ("optimizer.safetensors", Path.unlink),
        ("checkpoint.json", cut),
        ("checkpoint.json", flip),
        ("checkpoint.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(world, tmp_path, file, harm) -> None:
    stage = desk(world, tmp_path, steps=12, train={"connector": RATE})
    wanted = stage.run(kept=False)
    stage.stopped(11)
    assert stage.names() == ["step-000005", "step-000010"]
    harm(stage.folder / "step-000010" / file)
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [5]
    [told] = [event for event in stage.events if event["event"] == "checkpoint-not-used"]
    assert told["checkpoint"] == "step-000010" and file in told["why"]
    assert any("checkpoint step-000010 is not used" in line and file in line for line in stage.said)
    assert stage.names() == ["step-000005", "step-000010"], "written anew"
    module.check_files(stage.folder / "step-000010", module.read_head(stage.folder / "step-000010"))


def test_when_all_are_damaged_the_stage_starts_again_and_says_so(world, tmp_path) -> None:
    stage = desk(world, tmp_path, steps=12, train={"connector": RATE})
    wanted = stage.run(kept=False)
    stage.stopped(11)
    for name in stage.names():
        flip(stage.folder / name / "optimizer.safetensors")
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [0]
    assert any("starts from the first step" in line for line in stage.said)


def test_a_checkpoint_of_something_else_is_not_used(world, tmp_path) -> None:
    stage = desk(world, tmp_path, steps=12, train={"connector": RATE})
    stage.stopped(11)
    other = stage.run(fingerprint="another recipe")
    assert stage.resumed() == [0] and "another recipe" in stage.said[0]
    assert equal(other, stage.run(kept=False))


def test_a_checkpoint_over_other_frozen_tensors_is_not_used(world, tmp_path) -> None:
    stage = desk(world, tmp_path, steps=12, train={"connector": RATE})
    stage.stopped(11)

    def move(model: Model) -> None:
        with torch.no_grad():
            next(model.language_model.parameters()).view(-1)[0].add_(1e-3)

    stage.run(change=move)
    assert stage.resumed() == [0]
    assert "frozen tensors are others now: language_model" in stage.said[0]


def test_a_checkpoint_whose_rows_came_in_another_order_is_not_used(world, tmp_path) -> None:
    desk(world, tmp_path, steps=12, train={"connector": RATE}).stopped(11)
    other = desk(world, tmp_path, steps=12, train={"connector": RATE}, batch=3)
    other.run()
    assert other.resumed() == [0]
    assert "its rows came in another order" in other.said[0] and "'visit': 6" in other.said[0]


def test_a_full_disk_costs_a_checkpoint_and_not_the_stage(world, tmp_path, monkeypatch) -> None:
    stage = desk(world, tmp_path, train={"connector": RATE})
    wanted = stage.run(kept=False)
    whole = module.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path, **more: Any) -> None:
        if "step-000010" in str(path) and path.name.startswith("optimizer"):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(tensors, path, **more)

    monkeypatch.setattr(module, "save_file", full)
    stage.stopped(13)
    assert stage.names() == ["step-000005"], "nothing half written"
    [told] = [event for event in stage.events if event["event"] == "checkpoint-failed"]
    assert told["step"] == 10 and "No space left" in told["why"]
    assert any("the last good checkpoint is step-000005" in line for line in stage.said)
    assert equal(stage.run(), wanted)


@pytest.mark.parametrize(("number", "raised", "code"), [(signal.SIGTERM, SystemExit, 143), (signal.SIGINT, KeyboardInterrupt, None)])
def test_a_signal_saves_and_ends_the_run_which_then_goes_on(world, tmp_path, capfd, number, raised, code) -> None:
    stage = desk(world, tmp_path, plan={"seconds": None})
    wanted = stage.run(kept=False)
    before = signal.getsignal(number)
    with pytest.raises(raised) as ended:
        stage.run(act=lambda step: os.kill(os.getpid(), number) if step == 7 else None)
    assert getattr(ended.value, "code", None) == code
    assert signal.getsignal(number) is before
    assert stage.names() == ["step-000008"]
    assert "this step is finished and saved first" in capfd.readouterr().err
    assert any(f"stopped by {number.name} after step 8" in line for line in stage.said)
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [8]


def test_a_run_killed_after_its_last_step_has_nothing_left_to_train(world, tmp_path) -> None:
    stage = desk(world, tmp_path, steps=10)
    wanted = stage.run()
    stage.events.clear()
    assert equal(stage.run(), wanted)
    assert stage.resumed() == [10]
    assert not [event for event in stage.events if event["event"] == "step"]


def test_other_versions_are_said(world, tmp_path, monkeypatch) -> None:
    stage = desk(world, tmp_path, steps=10)
    stage.stopped(7)
    monkeypatch.setattr(
        module, "software", lambda: {**json.loads((stage.folder / "step-000005" / "checkpoint.json").read_text())["head"]["software"], "torch": "9.9"}
    )
    stage.run()
    assert stage.resumed() == [5]
    assert any("-> 9.9" in line for line in stage.said)
