"""Stages: the schedule, what is opened and what stays frozen, adapters."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.train.adapters import merge_lora
from sightline.train.stage import prepare, table_text

RATE = {"learning_rate": 1e-2}


def test_warm_up_and_cosine(world) -> None:
    stage = world.stage(warmup=0.2, floor=0.1)
    found = [stage.rate(step, 10) for step in range(10)]
    decay = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]
    assert found == pytest.approx([0.5, 1.0, *decay])
    assert found == pytest.approx([0.5, 1.0, 1.0, 0.965746, 0.868198, 0.722208, 0.55, 0.377792, 0.231802, 0.134254], abs=1e-6)
    assert [world.stage(warmup=0.0, schedule="constant").rate(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]
    assert all(world.stage(warmup=1.0).rate(step, 4) == (step + 1) / 4 for step in range(4))


def test_steps_or_epochs(world) -> None:
    assert world.stage(steps=7).total_steps(100) == 7
    assert [world.stage(steps=None, epochs=epochs).total_steps(10) for epochs in (1.0, 0.1, 2.5)] == [3, 1, 7]
    for said in ({"steps": None}, {"epochs": 1.0}):
        with pytest.raises(ValidationError, match="give either steps or epochs"):
            world.stage(**said)
    with pytest.raises(ValidationError, match="greater than 0"):
        world.stage(data={"questions": 0.0})


def test_the_table_and_the_longest_path(world) -> None:
    model: Model = world.model()
    prepared = prepare(model, world.stage(train={"encoders": RATE, "encoders.vision": {"learning_rate": 3e-4}, "connector": RATE}, weight_decay=0.1))
    rows = {row.part: (row.how, row.learning_rate) for row in prepared.table}
    assert rows == {
        "encoders.vision": ("all", 3e-4),
        "connector": ("all", 1e-2),
        "language_model": ("frozen", None),
        "text_encoder": ("frozen", None),
    }
    assert sum(row.trained for row in prepared.table) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert {(group["peak"], group["weight_decay"], group["params"][0].dim() > 1) for group in prepared.groups} == {
        (3e-4, 0.1, True),
        (3e-4, 0.0, False),
        (1e-2, 0.1, True),
        (1e-2, 0.0, False),
    }
    said = table_text(prepared.table)
    assert "language_model" in said
    assert "0.0003" in said


def test_the_last_blocks(world) -> None:
    model: Model = world.model()
    prepared = prepare(model, world.stage(train={"language_model": {**RATE, "last": 2}}))
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in prepared.trained}
    assert layers == {1, 2}
    assert all(".layers." in name for name in prepared.trained)
    assert not model.language_model.blocks[0].training
    assert model.language_model.blocks[2].training


def test_everything_that_matches_nothing_is_told_at_once(world) -> None:
    train = {
        "conector": RATE,
        "encoders.vison": RATE,
        "language_model": {**RATE, "lora": {"targets": ["q_proj", "k_prj"]}},
        "text_encoder": {**RATE, "last": 4},
        "connector": {**RATE, "last": 9},
    }
    with pytest.raises(Refused) as refused:
        prepare(world.model(), world.stage(train=train))
    told = {(p.code, p.place, p.found): (p.allowed, p.fix) for p in refused.value.problems}
    assert told.keys() == {
        ("train/no-such-part", "stages.try.train", "conector"),
        ("train/no-such-part", "stages.try.train", "encoders.vison"),
        ("train/lora-matches-nothing", "stages.try.train.language_model.lora.targets", "k_prj"),
        ("train/too-few-blocks", "stages.try.train.text_encoder.last", "4"),
        ("train/too-few-blocks", "stages.try.train.connector.last", "9"),
    }
    assert told["train/no-such-part", "stages.try.train", "conector"][1] == "did you mean 'connector'?"
    assert told["train/lora-matches-nothing", "stages.try.train.language_model.lora.targets", "k_prj"][1] == "did you mean 'k_proj'?"
    assert told["train/too-few-blocks", "stages.try.train.text_encoder.last", "4"][0] == "1..1"


def lora_stage(world, **lora):
    return world.stage(train={"language_model": {**RATE, "lora": {"rank": 2, "alpha": 8, **lora}}})


def test_lora_trains_its_own_tensors_on_the_named_layers_only(world) -> None:
    model: Model = world.model()
    head = model.language_model.model.get_output_embeddings()
    prepared = prepare(model, lora_stage(world, targets=["q_proj", "v_proj"]))
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in prepared.trained} == {"q_proj", "v_proj"}
    assert len(prepared.trained) == 3 * 2 * 2
    everywhere: Model = world.model()
    prepare(everywhere, lora_stage(world))
    assert model.language_model.model.get_output_embeddings() is head
    assert "lora" not in type(everywhere.language_model.model.get_output_embeddings()).__module__


def test_lora_begins_as_nothing_and_is_merged_into_the_weights(world) -> None:
    model: Model = world.model()
    names = list(model.state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = world.feed(world.stage()).micro_batches(0)[0]
    with torch.no_grad():
        alone = model(batch).logp
        prepare(model, lora_stage(world))
        assert torch.equal(model.eval()(batch).logp, alone), "B = 0 adds nothing"
    world_model: Model = world.model()
    _, outcome, _ = world.train(world_model, lora_stage(world))
    assert outcome.unread == []
    with torch.no_grad():
        adapted = world_model.eval()(batch).logp
        tensors = merge_lora(world_model.language_model)
        merged = world_model(batch).logp
    assert (adapted - alone).abs().max() > 1e-2
    assert torch.allclose(merged, adapted, atol=1e-5)
    assert list(world_model.state_dict()) == names, "no trace of the adapters is left"
    assert len(tensors) == 3 * 7 * 2
    # W' = W + alpha / r * B A, tensor by tensor
    for name in (name for name in tensors if "lora_A" in name):
        path = "language_model." + name.replace(".lora_A", "")
        change = 8 / 2 * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        assert torch.allclose(world_model.state_dict()[path], before[path] + change, atol=1e-6)


def test_a_path_inside_a_part(world) -> None:
    model: Model = world.model()
    prepared = prepare(
        model, world.stage(train={"connector": RATE, "connector.layers.0": {"learning_rate": 1e-4}, "connector.layers.0.bias": {"learning_rate": 1e-5}})
    )
    rates = {row.part: (row.trained, row.learning_rate) for row in prepared.table if row.part.startswith("connector")}
    sizes = {name: p.numel() for name, p in model.connector.named_parameters()}
    assert rates["connector.layers.0"] == (sizes["layers.0.weight"], 1e-4) and rates["connector.layers.0.bias"] == (sizes["layers.0.bias"], 1e-5)
    assert rates["connector"] == (sum(sizes.values()) - sizes["layers.0.weight"] - sizes["layers.0.bias"], 1e-2)
    grouped = {id(p): group["peak"] for group in prepared.groups for p in group["params"]}
    assert grouped[id(model.connector.layers[0].weight)] == 1e-4 and len(grouped) == len(sizes)
    alone = prepare(world.model(), world.stage(train={"connector.layers.2": RATE}))
    assert set(alone.trained) == {"connector.layers.2.weight", "connector.layers.2.bias"}
    with pytest.raises(Refused) as refused:
        prepare(world.model(), world.stage(train={"connector.layers.9": RATE, "connector.layers.0": {**RATE, "last": 1}}))
    assert [problem.code for problem in refused.value.problems] == ["train/no-such-part", "train/whole-parts-only"]
