"""What batches are counted to hold, and the arithmetic that a stage is said to do against what torch counts."""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import question
from sightline import run_watch
from sightline.model.batch import Features
from sightline.model.tiling import Grid
from sightline.plan_time import work_of
from sightline.run_watch import DEVICES, arithmetic, peak_of
from sightline.train.rates import Arithmetic, Counts, memory
from sightline.train.stage import prepare

RATE = {"learning_rate": 1e-2}


def test_padding_is_not_counted(world) -> None:
    encoded = [world.processor.encode(question(number, shown=number < 3)) for number in range(5)]
    tensors, padded, packed = (Counts(world.config.encoders) for _ in range(3))
    batch = world.processor.collate([[one] for one in encoded])
    padded.add(batch)
    tensors.add(replace(batch, decoder=replace(batch.decoder, runs=())))
    packed.add(world.processor.collate([encoded]))
    found = packed.take()
    assert padded.take() == tensors.take() == found
    measures = [measure for one in encoded for measure in one.measures]
    assert found == {
        "samples": 5,
        "answers": sum(len(one.targets) for one in encoded),
        "tokens": sum(one.length for one in encoded),
        "squares": sum(one.length**2 for one in encoded),
        "entries": sum(measure.entries for measure in measures),
        "encoders.vision": sum(measure.patches for measure in measures),
    }
    assert batch.decoder.ids.numel() > found["tokens"]
    assert packed.take() == {}


def test_cached_features_are_not_computed(world) -> None:
    batch = world.processor.collate([[world.processor.encode(question(0))]])
    values = {"vision": Features(values=torch.zeros(1, 16), grids=(Grid(columns=1, rows=1),), crops=(0,))}
    counts = Counts(world.config.encoders)
    counts.add(replace(batch, pictures=replace(batch.pictures, pixels=None, features=values)))
    assert "encoders.vision" not in counts.take()


def test_utilisation_by_hand() -> None:
    said = Arithmetic(flops={"tokens": 6e9, "answers": 1e9, "encoders.vision": 5e8}, peak=1e12)
    assert said.utilisation({"tokens": 1000, "answers": 100, "samples": 7}, seconds=4.0, devices=2) == pytest.approx((6e12 + 1e11) / 8e12)


@pytest.mark.parametrize("train", [{"language_model": RATE}, {"language_model": {**RATE, "last": 1}}])
def test_flops_are_those_that_torch_counts(world, train) -> None:
    stage = world.stage(train=train, data={"notes": 1.0}, batch=8, pack=True)
    model, feed = world.model(), world.feed(stage)
    prepare(model, stage)
    # a layer that carries a hook runs for all places, as it does on accelerators
    model.language_model.blocks[-1].register_forward_pre_hook(lambda *_: None)
    # one bin without padding, which is multiplied and does not count
    batch = feed.processor.collate([[feed.objective.encode(sample, feed.processor, np.random.default_rng(0)) for _, sample in feed.samples(0)]])
    with FlopCounterMode(display=False) as counter:
        feed.objective(model, batch).sums["answer"].backward()
    attention = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "attention" in str(op) or "bmm" in str(op))
    said = arithmetic(stage, model, feed.objective)
    assert said is not None
    counts = Counts(model.config.encoders)
    counts.add(batch)
    found = counts.take()
    assert sum(each * found.get(name, 0) for name, each in said.flops.items() if name != "squares") == pytest.approx(
        counter.get_total_flops() - attention, rel=0.01
    )
    assert said.flops["squares"] == 3 * 4 * 3 * 32 / 2


def test_texts_take_no_gradient_of_pictures(world) -> None:
    stage = world.stage(objective="contrastive", data={"captions": 1.0}, train={"encoders": RATE})
    model = world.model()
    prepare(model, stage)
    said = arithmetic(stage, model, world.feed(stage).objective)
    work = work_of(model)
    assert said is not None
    assert said.flops == {"encoders.vision": work["encoders.vision"].both, "texts": work["text_encoder"].forward}


def test_what_is_not_known_is_not_guessed(world, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, model = world.stage(), world.model()
    assert arithmetic(stage, model, world.stage(objective={"kind": "picture-text"}, data={"captions": 1.0}).objective.build()) is None
    with torch.no_grad():
        model.connector.register_parameter("packed", torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False))
    assert arithmetic(stage, model, world.feed(stage).objective) is None
    names = iter(["NVIDIA H200", "NVIDIA H100 PCIe"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: next(names))
    gpu = torch.device("cuda", 0)
    assert peak_of(gpu, "bfloat16") == 989e12
    assert peak_of(gpu, "float32") is None
    assert peak_of(gpu, "bfloat16") is None
    assert all(run_watch.hardware(name).flops > 1e14 for name in DEVICES.values())


def test_memory_of_this_process() -> None:
    gib, kind = memory(torch.device("cpu"))
    with mmap.mmap(-1, 128 << 20) as held:  # memory of its own: what was freed before may be used again
        held.write(b"1" * len(held))
        assert memory(None)[0] - gib > 0.05
    assert kind.startswith("process")
