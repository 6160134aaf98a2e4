"""Joined stages of ConvNeXt against transformers' maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch.nn.functional import interpolate
from tower_checks import backward, count, noise, normalised, randomise, relative, runs, shown, single, worst
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextModel

from sightline.errors import Refused
from sightline.model.encoder_kinds.staged_convnext import StagedConvNextEncoder
from sightline.model.encoders import Read
from sightline.model.tiling import Grid

BLOCK = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1], "num_stages": 4, "layer_scale_init_value": 0.5}
FULL = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3], "num_stages": 4}
CONFIG = StagedConvNextEncoder(config=BLOCK)


def built(**changes: Any) -> Any:
    torch.manual_seed(0)
    module = StagedConvNextEncoder(config=BLOCK, **changes).build()
    randomise(module)
    return module


def crops(width: int = 64, height: int = 32) -> list[torch.Tensor]:
    return [noise(width, height, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("stages", [(0, 1, 2, 3), (1, 3), (0, 2), (3,)])
def test_it_joins_the_maps_of_transformers(stages: tuple[int, ...]) -> None:
    ours = built(stages=stages)
    theirs = ConvNextModel(ConvNextConfig(**BLOCK)).train()
    theirs.load_state_dict(ours.tower.state_dict(), strict=False)
    maps = theirs(torch.stack([normalised(crop, ours) for crop in crops()]), output_hidden_states=True).hidden_states[1:]
    wanted = [interpolate(maps[stage], size=maps[stages[0]].shape[2:], mode="bilinear", align_corners=False) for stage in stages]
    expected = torch.cat(wanted, dim=1).flatten(2).transpose(1, 2)
    features = ours(shown(crops()), Read())
    stride = 4 * 2 ** stages[0]
    assert features.grids == (Grid(columns=64 // stride, rows=32 // stride),) * 3
    assert features.values.shape[1] == ours.config.channels() == sum(BLOCK["hidden_sizes"][stage] for stage in stages)
    assert relative(features.values, expected.flatten(0, 1)) <= 1e-5
    assert worst(backward([features.values], ours.tower), backward([expected.flatten(0, 1)], theirs)) <= 1e-5


def test_blocks_run_once_and_none_above_the_last_stage_that_is_read() -> None:
    for stages, expected in (((0, 1, 2, 3), [0, 1, 2, 3, 4]), ((0, 1), [0, 1, 2])):
        module = built(stages=stages, sees=("detail",))
        ran = runs(module)
        for role, tokens in (("detail", 128), ("overview", 0)):
            ran.clear()
            features = module(shown(crops()[:1], [single(64, 32, role=role)]), Read())
            assert (ran, len(features.values)) == (expected, tokens)
            module.zero_grad(set_to_none=True)
            features.values.sum().backward()
            assert module.spare == [name for name, parameter in module.named_parameters() if parameter.grad is None]
            assert len(module.blocks) == len(expected)


@torch.no_grad()
def test_a_crop_does_not_depend_on_its_neighbours() -> None:
    module = built()
    for crop, tokens in zip(crops(), module(shown(crops()), Read()).split(), strict=True):
        assert relative(tokens, module(shown([crop]), Read()).values) <= 1e-6


@settings(max_examples=10, deadline=None)
@given(st.integers(32, 80), st.integers(32, 80), st.sampled_from([(0, 1, 2, 3), (2, 3)]))
def test_features_have_the_grid_that_sizes_promise(width: int, height: int, stages: tuple[int, ...]) -> None:
    module = built(stages=stages)
    with torch.no_grad():
        features = module(shown([noise(width, height)]), Read())
    assert features.grids == (module.config.grid(width, height),)
    assert len(features.values) == features.grids[0].count


def test_full_sizes_have_the_published_numbers_of_parameters() -> None:
    config = StagedConvNextEncoder(config=FULL)
    with torch.device("meta"):
        module = config.build()
    assert (count(module), len(module.blocks)) == (196_227_264, 36)
    assert (config.channels(), config.grid(768, 768)) == (2880, Grid(columns=192, rows=192))


OPEN_CLIP_NAMES = {
    "encoder.stages.1.downsampling_layer.0.weight": "stages.1.downsample.0.weight",
    "encoder.stages.1.layers.1.dwconv.bias": "stages.1.blocks.1.conv_dw.bias",
    "encoder.stages.0.layers.0.layernorm.weight": "stages.0.blocks.0.norm.weight",
    "encoder.stages.3.layers.0.pwconv1.weight": "stages.3.blocks.0.mlp.fc1.weight",
    "encoder.stages.3.layers.0.pwconv2.bias": "stages.3.blocks.0.mlp.fc2.bias",
    "encoder.stages.0.layers.0.layer_scale_parameter": "stages.0.blocks.0.gamma",
    "embeddings.patch_embeddings.weight": "stem.0.weight",
    "embeddings.layernorm.bias": "stem.1.bias",
}


def in_open_clip(name: str) -> str:
    for ours, theirs in (
        ("embeddings.patch_embeddings", "stem.0"),
        ("embeddings.layernorm", "stem.1"),
        ("encoder.", ""),
        (".downsampling_layer.", ".downsample."),
        (".layers.", ".blocks."),
        ("dwconv", "conv_dw"),
        ("layernorm", "norm"),
        ("pwconv", "mlp.fc"),
        ("layer_scale_parameter", "gamma"),
    ):
        name = name.replace(ours, theirs)
    return name


def test_weights_are_found_under_the_names_of_transformers_and_of_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(4)
    whole = ConvNextForImageClassification(ConvNextConfig(**BLOCK))
    randomise(whole)
    whole.save_pretrained(tmp_path / "transformers")
    wanted = {name: tensor for name, tensor in whole.convnext.state_dict().items() if not name.startswith("layernorm.")}
    assert {name: in_open_clip(name) for name in OPEN_CLIP_NAMES} == OPEN_CLIP_NAMES
    trunk = {f"visual.trunk.{in_open_clip(name)}": tensor for name, tensor in wanted.items()}
    (tmp_path / "open_clip").mkdir()
    others = {"visual.trunk.head.norm.weight": torch.ones(20), "visual.head.proj.weight": torch.ones(2, 2), "logit_scale": torch.ones(1)}
    save_file(trunk | others, tmp_path / "open_clip" / "open_clip_model.safetensors")
    for config in (
        StagedConvNextEncoder(checkpoint=str(tmp_path / "transformers")),
        StagedConvNextEncoder(checkpoint=str(tmp_path / "open_clip"), config=BLOCK),
    ):
        own = config.build().tower.state_dict()
        assert own.keys() == wanted.keys()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in own.items())
    with pytest.raises(Refused, match=r"found:   neither checkpoint nor config\n  allowed: .*a `config:` block"):
        StagedConvNextEncoder(checkpoint=str(tmp_path / "open_clip")).build()


def test_the_twin_is_small_and_learns() -> None:
    toy = StagedConvNextEncoder(config=FULL, stages=(0, 3)).twin(64)
    assert (toy.grid(64, 64), toy.channels(), toy.stages) == (Grid(columns=16, rows=16), 24, (0, 3))
    module = toy.build()
    module(shown([noise(64, 64)]), toy.read()).values.square().mean().backward()
    assert count(module) < 20_000
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert StagedConvNextEncoder.model_validate_json(toy.model_dump_json()) == toy
    assert toy.twin() == toy


def test_other_crops_and_stages_are_refused() -> None:
    with pytest.raises(Refused, match=r"model/crop-size at encoders\.vision\n  found:   crops of 31x64 px\n  allowed: sides of at least 32 px"):
        CONFIG.grid(31, 64)
    with pytest.raises(Refused, match=r"model/crop-sizes at encoders\.vision\n  found:   crops of 32x32, 64x32 px\n  allowed: one size per batch"):
        built()(shown([noise(64, 32), noise(32, 32)]), Read())
    with pytest.raises(Refused, match=r"model/layer-not-read.*\n  found:   stages \[2, 4\]\n  allowed: 0 to 3\n  fix:     stages: \[2\]"):
        StagedConvNextEncoder(config=BLOCK, stages=(2, 4)).resolve()
    for stages in ((), (1, 0), (1, 1), (-1, 0)):
        with pytest.raises(ValidationError, match="ascending numbers from 0, at least one"):
            StagedConvNextEncoder(config=BLOCK, stages=stages)
