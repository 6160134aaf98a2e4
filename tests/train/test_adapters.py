"""Adapters beyond plain LoRA, merged without a change of outputs; rates by depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.train.stage import layer_scales, merge_lora, prepare

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
