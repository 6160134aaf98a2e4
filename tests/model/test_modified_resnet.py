"""CLIP's residual networks against numbers of open_clip 3.3.0's ModifiedResNet, on weights that a formula gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from tower_checks import count, noise, randomise, relative, runs, shown, single

from sightline.errors import Refused
from sightline.model.encoder_kinds.modified_resnet import ModifiedResNetEncoder
from sightline.model.encoder_kinds.modified_resnet_modules import AttentionPool, BatchNorm, ModifiedResNet
from sightline.model.encoders import Read
from sightline.model.tiling import Grid

SMALL = ModifiedResNetEncoder(depths=(1, 1), width=8)
PUBLISHED = {"RN50": ((3, 4, 6, 3), 64, 7, 1024, 38_316_896), "RN50x64": ((3, 15, 36, 10), 128, 14, 1024, 420_380_352)}
MAP = [[3.5889301, 5.0162468, 5.8862286, 2.2842898, 5.1785526, 1.9056674], [3.6192174, 5.0277596, 5.8230600, 2.3620522, 5.2024221, 2.0214627]]
POOLED = [
    [1.3341310, -1.5629722, -2.9107604, 2.2994123, -1.1211096, -1.6075417, -2.2729554, 2.8629370, -0.8935602, -1.9663079, -0.3909512, 4.5794654],
    [1.3871824, -1.3822910, -2.9587018, 2.5060337, -0.8739568, -1.5311024, -2.3065400, 2.6886983, -0.9840221, -2.0455401, -0.5111597, 4.7762814],
]


def built(config: ModifiedResNetEncoder = SMALL) -> Any:
    torch.manual_seed(0)
    module = config.build()
    randomise(module)
    return module.eval()


def hashed(shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers in -1..1 without visible order, the same on every machine."""
    return (torch.sin(torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 12.9898 + seed) * 43758.5453).frac().view(shape)


@torch.no_grad()
def fill(state: dict[str, Tensor]) -> None:
    """Weights by formula, numbered in order of their names."""
    for number, (name, tensor) in enumerate(sorted(state.items())):
        if tensor.dtype.is_floating_point:
            centre = 1.0 if tensor.dim() == 1 and name.endswith(("weight", "running_var")) else 0.0
            tensor.copy_(centre + hashed(tuple(tensor.shape), number) * (0.5 if tensor.dim() == 1 else 2 * tensor[0].numel() ** -0.5))


@torch.no_grad()
def test_numbers_are_those_of_open_clip() -> None:
    tower, pool = ModifiedResNet((1, 2, 1, 1), 8).eval(), AttentionPool(256, Grid(columns=2, rows=2), heads=8, width=12)
    fill({**tower.state_dict(), **{f"attnpool.{name}": tensor for name, tensor in pool.state_dict().items()}})
    found = tower(hashed((2, 3, 64, 64), 1000).float() * 2)
    assert found.shape == (2, 256, 2, 2)
    assert relative(found[:, ::51, 1, 0], torch.tensor(MAP)) <= 1e-5
    assert relative(pool(found.flatten(2).transpose(1, 2)), torch.tensor(POOLED)) <= 1e-5


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_have_the_published_numbers_of_parameters(name: str) -> None:
    depths, width, side, embedding, expected = PUBLISHED[name]
    config = ModifiedResNetEncoder(depths=depths, width=width)
    with torch.device("meta"):
        module = config.build()
        pool = AttentionPool(config.channels(), config.grid(32 * side, 32 * side), heads=config.channels() // 64, width=embedding)
    assert (count(module) + count(pool), len(module.blocks)) == (expected, sum(depths))
    assert (config.channels(), config.grid(32 * side, 32 * side)) == (32 * width, Grid(columns=side, rows=side))


def test_published_names() -> None:
    names = set(ModifiedResNet((3, 4, 6, 3), 64).state_dict())
    assert {"conv1.weight", "bn3.running_var", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias", "layer4.2.bn3.weight"} <= names
    assert not any(name.startswith(("layer1.1.downsample", "layer2.1.downsample", "layer5")) for name in names)
    pool = AttentionPool(8, Grid(columns=1, rows=1), heads=2, width=3)
    layers = {f"{layer}_proj.{part}" for layer in "qkvc" for part in ("weight", "bias")}
    assert set(pool.state_dict()) == {"positional_embedding", *layers}


@settings(max_examples=25, deadline=None)
@given(st.integers(31, 97), st.integers(31, 97), st.integers(1, 4))
def test_features_have_the_grid_that_sizes_promise(width: int, height: int, stages: int) -> None:
    module = built(ModifiedResNetEncoder(depths=(1,) * stages, width=2))
    with torch.no_grad():
        features = module(shown([noise(width, height)]), Read())
    assert features.grids == (module.config.grid(width, height),)
    assert features.values.shape == (features.grids[0].count, module.config.channels())


@torch.no_grad()
def test_tokens_are_in_reading_order_and_belong_to_their_crop() -> None:
    module = built()
    crops = [noise(24, 16, seed=seed) for seed in range(3)]
    together = module(shown(crops), Read())
    for crop, tokens in zip(crops, together.split(), strict=True):
        assert relative(tokens, module(shown([crop]), Read()).values) <= 1e-6
    pixels = (torch.stack(crops).float() - module.mean) / module.std
    assert relative(together.values.view(3, 2, 3, -1)[:, 1, 2], module.tower(pixels)[:, :, 1, 2]) <= 1e-6


def test_frozen_statistics_stay_and_trained_ones_move() -> None:
    crops = [noise(16, 16, seed=seed) for seed in range(2)]
    module = built().train()
    before = {name: buffer.clone() for name, buffer in module.tower.named_buffers()}
    module.requires_grad_(False)
    together, alone = module(shown(crops), Read()), module(shown(crops[:1]), Read())
    assert relative(together.split()[0], alone.values) <= 1e-6
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.tower.named_buffers())
    assert relative(alone.values, module.eval()(shown(crops[:1]), Read()).values) == 0
    module.train().requires_grad_(True)
    module(shown(crops), Read())
    assert not any(torch.equal(buffer, before[name]) for name, buffer in module.tower.named_buffers())


def test_a_block_begins_as_its_shortcut() -> None:
    blocks = ModifiedResNet((1, 2), 8).blocks
    x = torch.rand(2, 64, 5, 5)
    assert torch.equal(blocks[2](x), x)
    norms = [module for block in blocks for name, module in block.named_modules() if name == "bn3"]
    assert len(norms) == 3 and all(isinstance(norm, BatchNorm) and not norm.weight.any() for norm in norms)


def test_weights_are_found_under_the_names_of_open_clip(tmp_path: Path) -> None:
    module = built()
    pool = AttentionPool(64, Grid(columns=2, rows=2), heads=2, width=5)
    stored = {f"visual.{name}": tensor for name, tensor in module.tower.state_dict().items()}
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")}
    stored |= {f"visual.attnpool.{name}": tensor for name, tensor in pool.state_dict().items()} | {"token_embedding.weight": torch.ones(2, 2)}
    save_file(stored, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}))
    for checkpoint in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        config = SMALL.model_copy(update={"checkpoint": str(checkpoint)})
        assert (config.resolve().mean, config.resolve().std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        own = config.build().tower.state_dict()
        assert all(torch.equal(tensor, module.tower.state_dict()[name]) for name, tensor in own.items())
    fresh = AttentionPool(64, Grid(columns=2, rows=2), heads=2, width=5)
    assert not torch.equal(fresh.c_proj.weight, pool.c_proj.weight)
    fresh.load(str(tmp_path), "text_encoder")
    assert all(torch.equal(tensor, pool.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    with pytest.raises(Refused) as refusal:
        ModifiedResNetEncoder(depths=(1, 2), width=8, checkpoint=str(tmp_path)).build()
    assert "model/missing-weights" in str(refusal.value) and "15 tensors are not in the checkpoint: layer2.1.bn1.bias" in str(refusal.value)


def test_the_twin_is_small_and_learns() -> None:
    toy = ModifiedResNetEncoder(mean=(0.5, 0.5, 0.5)).twin(32)
    assert (toy.grid(32, 32), toy.channels(), toy.mean) == (Grid(columns=4, rows=4), 32, (0.5, 0.5, 0.5))
    module = toy.build()
    module(shown([noise(32, 32)]), toy.read()).values.square().mean().backward()
    assert count(module) < 10_000
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert ModifiedResNetEncoder.model_validate_json(toy.model_dump_json()) == toy
    assert toy.twin() == toy


def test_blocks_run_once_also_where_no_crop_is_seen() -> None:
    module = built(SMALL.model_copy(update={"sees": ("detail",)}))
    ran = runs(module)
    for role, tokens in (("detail", 4), ("overview", 0)):
        ran.clear()
        assert (len(module(shown([noise(16, 16)], [single(16, 16, role=role)]), Read()).values), ran) == (tokens, [0, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Refused, match=r"model/crop-size at encoders\.vision\n  found:   crops of 30x64 px\n  allowed: sides of at least 31 px"):
        ModifiedResNetEncoder().grid(30, 64)
    with pytest.raises(Refused, match=r"model/crop-sizes at encoders\.vision\n  found:   crops of 16x16, 24x16 px"):
        built()(shown([noise(24, 16), noise(16, 16)]), Read())
    with pytest.raises(Refused, match=r"model/pool-grid.*\n  found:   6 tokens a crop\n  allowed: 4: its positions are learnt"):
        AttentionPool(8, Grid(columns=2, rows=2), heads=2, width=3)(torch.zeros(1, 6, 8))
    with pytest.raises(ValidationError, match="at least one stage, each of at least one bottleneck"):
        ModifiedResNetEncoder(depths=(3, 0))
    with pytest.raises(ValidationError, match="multiple of 2"):
        ModifiedResNetEncoder(width=7)
    assert isinstance(SMALL.build(), nn.Module)
