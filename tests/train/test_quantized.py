"""Frozen weights in 4 and 8 bit: what rounding is, that a model trains beside it, and that what is saved says the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.train import quantized
from sightline.train.adapters import MERGED, merge_checked
from sightline.train.quantized import QuantizedLinear, dequantize, quantize, rounded_numbers
from sightline.train.stage import prepare

# quantiles of a normal distribution, scaled to [-1, 1] (Dettmers et al. 2023, appendix E)
NF4 = (-1.0, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0.0, 0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1.0)
KINDS = ["int8", pytest.param("nf4", marks=pytest.mark.skipif(bool(quantized.absent_backend("")), reason="needs bitsandbytes"))]


def layer(rows: int = 24, columns: int = 32, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(24, 32), (8, 192), (5, 7)])
def test_rounded_as_the_paper_says(kind: Any, size: tuple[int, int]) -> None:
    plain = layer(*size)
    with torch.no_grad():
        plain.weight *= torch.linspace(0.5, 2, size[0])[:, None]
    found = QuantizedLinear(plain, kind).weight
    if kind == "int8":
        scale = plain.weight.abs().amax(1, keepdim=True) / 127
        expected = (plain.weight / scale).round() * scale
        assert torch.allclose(found, expected, atol=1e-6)
        return
    count = plain.weight.numel()
    blocks = torch.nn.functional.pad(plain.weight.flatten(), (0, -count % 64)).reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    level = (blocks[..., None] / scale[..., None] - torch.tensor(NF4)).abs().argmin(-1)
    expected = (torch.tensor(NF4)[level] * scale).flatten()[:count].view_as(plain.weight)
    # scales are rounded once more, to 8 bit among themselves
    assert (found - expected).abs().max() < 0.01 * scale.max()
    assert (found - plain.weight).abs().max() < 0.2 * scale.max()


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_gradients_are_those_of_the_rounded_weight(kind: Any) -> None:
    rounded = QuantizedLinear(layer(), kind)
    whole = rounded.linear()
    assert not list(rounded.parameters())[1:], "the bias alone is a parameter"
    x = torch.randn(2, 5, 32, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    rounded(x).square().sum().backward()
    whole(y).square().sum().backward()
    assert torch.equal(rounded(x), whole(y)) or torch.allclose(rounded(x), whole(y), atol=1e-6)
    assert torch.allclose(x.grad, y.grad, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rounded(x).dtype == torch.bfloat16
        rounded(x).float().sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bytes_and_the_same_shapes_on_the_meta_device(kind: Any) -> None:
    real, planned = QuantizedLinear(layer(64, 128), kind), QuantizedLinear(layer(64, 128).to("meta"), kind)
    assert {name: (b.shape, b.dtype) for name, b in real.named_buffers()} == {name: (b.shape, b.dtype) for name, b in planned.named_buffers()}
    numbers = 64 * 128
    taken = sum(b.numel() * b.element_size() for name, b in real.named_buffers() if not name.startswith("levels"))
    assert taken < numbers * (0.6 if kind == "nf4" else 1.1)
    assert planned(torch.zeros(3, 128, device="meta")).shape == (3, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dora", [False, True])
def test_trained_beside_and_saved_whole(world, kind: Any, dora: bool) -> None:
    stage = world.stage(train={"language_model": {"learning_rate": 1e-2, "lora": {"rank": 2, "quantize": kind, "dora": dora, "targets": ["q_proj"]}}})
    model: Model = world.model()
    names = list(model.state_dict())
    size = sum(p.numel() for p in model.language_model.parameters())
    start = {name: p.detach().clone() for name, p in model.language_model.named_parameters()}
    batch = world.feed(stage).micro_batches(0)[0]
    prepared, outcome, _ = world.train(model, stage)
    model.eval()
    row = next(row for row in prepared.table if row.part == "language_model")
    assert row.how == f"{'dora' if dora else 'lora'} r=2 alpha=32 on {kind}" and row.parameters == size + row.trained
    assert outcome.unread == [] and all("lora_" in name for name in prepared.trained)
    inside = [module for module in model.language_model.modules() if isinstance(module, QuantizedLinear)]
    assert len(inside) == 3 * 7 and rounded_numbers(model.language_model) == sum(module.weight.numel() for module in inside)
    outputs = {"float32": lambda: model(batch).logp}
    _, apart = merge_checked(model.parts(), prepared.adapters, outputs, "stages.try")
    assert apart["float32"] < MERGED["float32"]
    assert list(model.state_dict()) == names
    changed = [name for name, p in model.language_model.named_parameters() if not torch.equal(p, start[name])]
    assert all(name.endswith("_proj.weight") for name in changed) and len(changed) == 3 * 7, "saved as it was rounded, layers without adapters too"


def test_round_trip_in_place() -> None:
    part = nn.Sequential(layer(), nn.Sequential(layer(8, 24)))
    quantize(part, [part[0], part[1][0]], "int8")
    assert [type(m) for m in (part[0], part[1][0])] == [QuantizedLinear] * 2
    dequantize(part)
    assert type(part[0]) is nn.Linear and type(part[1][0]) is nn.Linear
    assert torch.allclose(part[0].weight, layer().weight, atol=2e-3)


def test_without_the_package_nothing_begins(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(Refused, match="train/no-bitsandbytes") as refused:
        prepare(world.model(), world.stage(train={"language_model": {"learning_rate": 1e-2, "lora": {"quantize": "nf4"}}}))
    [problem] = refused.value.problems
    assert problem.place == "stages.try.train.language_model.lora.quantize" and "sightline[qlora]" in problem.fix
