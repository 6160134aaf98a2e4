"""Adapters: which layers take them, their scales, and merging without a change of outputs; rates by depth."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.train.adapters import Lora, insert_lora, merge_checked, merge_lora
from sightline.train.stage import layer_scales, prepare

RATE = {"learning_rate": 1e-2}


def test_dora_is_merged_into_weights_that_say_the_same(world) -> None:
    stage = world.stage(train={"language_model": {**RATE, "lora": {"rank": 2, "alpha": 8, "dora": True, "targets": ["q_proj", "down_proj"]}}})
    model: Model = world.model()
    names = list(model.state_dict())
    batch = world.feed(stage).micro_batches(0)[0]
    with torch.no_grad():
        alone = model.eval()(batch).logp
        table = prepare(model, stage).table
        assert torch.allclose(model.eval()(batch).logp, alone, atol=1e-5), "it begins as the weights themselves"
    assert next(row.how for row in table if row.part == "language_model") == "dora r=2 alpha=8"
    trained: Model = world.model()
    _, outcome, _ = world.train(trained, stage)
    assert outcome.unread == []
    with torch.no_grad():
        adapted = trained.eval()(batch).logp
        tensors = merge_lora(trained.language_model)
        merged = trained(batch).logp
    assert (adapted - alone).abs().max() > 1e-2
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert list(trained.state_dict()) == names, "no trace of the adapters is left"
    assert len([name for name in tensors if "magnitude" in name]) == 3 * 2


class Stack(nn.Module):
    """Something before, blocks, and something after."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 1, bias=False)
        self.layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(depth))
        self.norm = nn.Linear(1, 1, bias=False)

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.layers)


@pytest.mark.parametrize(("depth", "decay", "expected"), [(12, 0.8, (0.05498, 0.06872, 0.8, 1.0)), (39, 0.95, (0.12851, 0.13528, 0.95, 1.0))])
def test_rates_fall_with_depth(depth: int, decay: float, expected: tuple[float, ...]) -> None:
    stack = Stack(depth)
    scales = layer_scales(stack, decay)
    found = [scales[id(layer.weight)] for layer in (stack.embed, stack.layers[0], stack.layers[-1], stack.norm)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_stage_with_rates_by_depth(world, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = world.model()
    prepared = prepare(model, world.stage(train={"language_model": {"learning_rate": 1e-2, "layer_decay": 0.5}}))
    rates = {id(p): group["peak"] for group in prepared.groups for p in group["params"]}
    blocks = model.language_model.blocks
    for number, block in enumerate(blocks, 1):
        assert {rates[id(p)] for p in block.parameters()} == {1e-2 * 0.5 ** (len(blocks) + 1 - number)}
    assert rates[id(model.language_model.model.get_input_embeddings().weight)] == 1e-2 * 0.5 ** (len(blocks) + 1)
    assert len(rates) == len(prepared.trained)
    bare: Model = world.model()
    monkeypatch.setattr(type(bare.connector), "blocks", [])
    with pytest.raises(Refused, match="train/no-blocks"):
        prepare(bare, world.stage(train={"connector": {"learning_rate": 1e-2, "layer_decay": 0.5}}))


def adapted(module: nn.Module) -> dict[str, Any]:
    """Path of each adapted layer -> its peft layer."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def ends(names: Any) -> set[str]:
    """`2.q_proj` for model.model.layers.2.self_attn.q_proj."""
    return {f"{name.split('.')[3]}.{name.rsplit('.', 1)[-1]}" for name in names}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], {"0.q_proj", "1.q_proj", "2.q_proj"}),
        (["model.model.layers.1.self_attn.q_proj"], {"1.q_proj"}),
        (["blocks.0.mlp.up_proj"], {"0.up_proj"}),
        (["blocks.*.self_attn.k_proj"], {"0.k_proj", "1.k_proj", "2.k_proj"}),
        (["blocks.1-2.*.v_proj"], {"1.v_proj", "2.v_proj"}),
        (["blocks.2-9.mlp.*"], {"2.gate_proj", "2.up_proj", "2.down_proj"}),
        (["blocks.1.mlp"], {"1.gate_proj", "1.up_proj", "1.down_proj"}),
        (["self_attn.[qk]_proj", "blocks.0-0.mlp.up_proj"], {"0.q_proj", "1.q_proj", "2.q_proj", "0.k_proj", "1.k_proj", "2.k_proj", "0.up_proj"}),
    ],
)
def test_targets(world, targets: list[str], expected: set[str]) -> None:
    part = world.model().language_model
    assert insert_lora("here", part, Lora(rank=2, targets=tuple(targets))) == []
    assert ends(adapted(part)) == expected


@pytest.mark.parametrize(
    ("lora", "place", "fix"),
    [
        ({"targets": ["q_prj"]}, "here.lora.targets", "q_proj"),
        ({"targets": ["q_proj", "blocks.1.self_attn.q_prj"]}, "here.lora.targets", "blocks.1.self_attn.q_proj"),
        ({"targets": ["blocks.3-5.self_attn.q_proj"]}, "here.lora.targets", None),
        ({"targets": ["lm_head"]}, "here.lora.targets", None),
        ({"targets": ["q_proj"], "ranks": {"k_proj": 4}}, "here.lora.ranks", None),
        ({"alphas": {"nothing": 4.0}}, "here.lora.alphas", None),
    ],
)
def test_targets_that_match_nothing(world, lora: dict[str, Any], place: str, fix: str | None) -> None:
    part = world.model().language_model
    [problem] = insert_lora("here", part, Lora.model_validate_json(json.dumps(lora)))
    assert (problem.code, problem.place) == ("train/lora-matches-nothing", place)
    assert fix is None or f"'{fix}'" in problem.fix
    assert not adapted(part), "nothing goes in before all is right"


class Nested(nn.Module):
    """Two layers, one of which ends like the other's whole path."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 3)
        self.inner = nn.ModuleDict({"up": nn.Linear(3, 3)})


def test_a_whole_path_is_not_an_end() -> None:
    nested = Nested()
    assert insert_lora("here", nested, Lora(rank=2, targets=("inner.up",), ranks={"inner.up": 3})) == []
    assert {name: layer.r["default"] for name, layer in adapted(nested).items()} == {"inner.up": 3}
    both = Nested()
    insert_lora("here", both, Lora(rank=2, ranks={"up": 5, "inner.up": 3}))
    assert {name: layer.r["default"] for name, layer in adapted(both).items()} == {"up": 5, "inner.up": 3}, "the longest target counts, for its layer alone"


def test_ranks_alphas_and_scales(world) -> None:
    part = world.model().language_model
    lora = Lora(rank=4, alpha=8, rank_stabilized=True, targets=("q_proj", "down_proj"), ranks={"q_proj": 2, "blocks.1-1.*.q_proj": 9}, alphas={"down_proj": 3})
    assert insert_lora("here", part, lora) == []
    found = {next(iter(ends([name]))): (layer.r["default"], layer.scaling["default"]) for name, layer in adapted(part).items()}
    for block in "012":
        assert found[f"{block}.q_proj"] == ((9, pytest.approx(8 / 3)) if block == "1" else (2, pytest.approx(8 / math.sqrt(2))))
        assert found[f"{block}.down_proj"] == (4, pytest.approx(1.5))
    plain = world.model().language_model
    insert_lora("here", plain, Lora(rank=4, alpha=8))
    assert {layer.scaling["default"] for layer in adapted(plain).values()} == {2.0}


def test_adapters_in_the_last_blocks_only(world) -> None:
    model: Model = world.model()
    prepared = prepare(model, world.stage(train={"language_model": {**RATE, "last": 1, "lora": {"rank": 2}}}))
    assert {name.split(".")[0] for name in ends(adapted(model.language_model))} == {"2"}
    assert all(".layers.2." in name for name in prepared.trained)
    assert next(row.how for row in prepared.table if row.part == "language_model") == "lora r=2 alpha=32 last 1 blocks"
    with pytest.raises(Refused, match="train/too-few-blocks"):
        prepare(world.model(), world.stage(train={"language_model": {**RATE, "last": 4, "lora": {"rank": 2}}}))


@pytest.mark.parametrize("lora", [{}, {"dora": True}, {"rank_stabilized": True, "ranks": {"q_proj": 4}}])
def test_merging_is_checked_by_what_the_model_says(world, lora: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import Linear

    stage = world.stage(train={"language_model": {**RATE, "lora": {"rank": 2, **lora}}})
    batch = world.feed(stage).micro_batches(0)[0]
    model: Model = world.model()
    prepared, *_ = world.train(model, stage)
    model.eval()
    before = model(batch).logp
    tensors, apart = merge_checked(model.parts(), prepared.adapters, {"float32": lambda: model(batch).logp}, "stages.try")
    assert apart["float32"] < 1e-4 and tensors["language_model"]
    assert torch.allclose(model(batch).logp, before, atol=1e-3)
    wrong: Model = world.model()
    prepared, *_ = world.train(wrong, stage)
    wrong.eval()
    merge = Linear.merge

    def doubled(self: Linear) -> None:
        merge(self)
        self.get_base_layer().weight.data *= 1.05

    monkeypatch.setattr(Linear, "merge", doubled)
    with pytest.raises(Refused, match="train/merge-differs"):
        merge_checked(wrong.parts(), prepared.adapters, {"float32": lambda: wrong(batch).logp}, "stages.try")


def test_a_toy_takes_no_numbers_of_blocks() -> None:
    toy = Lora(rank=64, alpha=16, rank_stabilized=True, targets=("q_proj", "blocks.4-11.*.up_proj", "blocks.3.mlp", "fc1"), ranks={"q_proj": 8}).twin()
    assert (toy.rank, toy.targets, toy.ranks) == (2, ("q_proj", "fc1"), {})
    assert toy.alpha / math.sqrt(toy.rank) == pytest.approx(2.0)
