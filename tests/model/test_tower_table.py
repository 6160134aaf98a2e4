"""The table of towers: published sizes are counted from their configs, geometry is what towers give, twins keep what is read."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_towers as towers
import torch
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.tiling import Grid
from sightline.model.towers.tower_table import TOWERS, toy_layers


def vit(width: int, inner: int, layers: int, heads: int, size: int, patch: int, act: str, eps: float, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size,
        "patch_size": patch,
        "hidden_act": act,
        "layer_norm_eps": eps,
        **more,
    }


def dino(width: int, layers: int, heads: int, gates: bool = False) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "mlp_ratio": 4, "image_size": 518, "patch_size": 14}
    return {"model_type": "dinov2", **sizes, "use_swiglu_ffn": gates}


CLIP, SIGLIP = {"model_type": "clip_vision_model"}, {"model_type": "siglip_vision_model"}
INTERN = {"model_type": "internvl_vision", "image_size": [448, 448], "patch_size": [14, 14], "layer_scale_init_value": 0.1}
# published sizes; a CLIP tower is counted without its projection (width x joint width), which belongs to the text encoder
PUBLISHED: dict[str, tuple[dict[str, Any], int, Grid]] = {
    "clip-b32": (CLIP | vit(768, 3072, 12, 12, 224, 32, "quick_gelu", 1e-5), 87_849_216 - 768 * 512, Grid(columns=7, rows=7, lead=1)),
    "clip-b16": (CLIP | vit(768, 3072, 12, 12, 224, 16, "quick_gelu", 1e-5), 86_192_640 - 768 * 512, Grid(columns=14, rows=14, lead=1)),
    "clip-l14": (CLIP | vit(1024, 4096, 24, 16, 224, 14, "quick_gelu", 1e-5), 303_966_208 - 1024 * 768, Grid(columns=16, rows=16, lead=1)),
    "clip-l14-336": (CLIP | vit(1024, 4096, 24, 16, 336, 14, "quick_gelu", 1e-5), 303_507_456, Grid(columns=24, rows=24, lead=1)),
    "openclip-h14": (CLIP | vit(1280, 5120, 32, 16, 224, 14, "gelu", 1e-5), 632_076_800 - 1280 * 1024, Grid(columns=16, rows=16, lead=1)),
    "eva-clip-g14": (
        {"model_type": "blip_2_vision_model", **vit(1408, 6144, 39, 16, 224, 14, "gelu", 1e-6, qkv_bias=True)},
        985_952_256,
        Grid(columns=16, rows=16, lead=1),
    ),
    "siglip-so400m-384": (SIGLIP | vit(1152, 4304, 27, 16, 384, 14, "gelu_pytorch_tanh", 1e-6), 428_225_600, Grid(columns=27, rows=27)),
    "siglip-so400m-224": (SIGLIP | vit(1152, 4304, 27, 16, 224, 14, "gelu_pytorch_tanh", 1e-6), 427_680_704, Grid(columns=16, rows=16)),
    "internvit-300m": (
        vit(1024, 4096, 24, 16, 448, 14, "gelu", 1e-6, attention_bias=True, use_qk_norm=False, norm_type="layer_norm") | INTERN,
        304_012_288,
        Grid(columns=32, rows=32, lead=1),
    ),
    "internvit-6b": (
        vit(3200, 12800, 45, 25, 448, 14, "gelu", 1e-6, attention_bias=False, use_qk_norm=True, norm_type="rms_norm") | INTERN,
        5_536_496_000,
        Grid(columns=32, rows=32, lead=1),
    ),
    "dinov2-s": (dino(384, 12, 6), 22_056_576, Grid(columns=37, rows=37, lead=1)),
    "dinov2-b": (dino(768, 12, 12), 86_580_480, Grid(columns=37, rows=37, lead=1)),
    "dinov2-l": (dino(1024, 24, 16), 304_368_640, Grid(columns=37, rows=37, lead=1)),
    "dinov2-g": (dino(1536, 40, 24, gates=True), 1_136_480_768, Grid(columns=37, rows=37, lead=1)),
    "convnext-l": (
        {"model_type": "convnext", "patch_size": 4, "hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3], "image_size": 320},
        196_230_336,
        Grid(columns=10, rows=10),
    ),
    "blip-vit-b": ({"model_type": "blip_vision_model", **vit(768, 3072, 12, 12, 384, 16, "gelu", 1e-5)}, 86_090_496, Grid(columns=24, rows=24, lead=1)),
    "blip-vit-l": ({"model_type": "blip_vision_model", **vit(1024, 4096, 24, 16, 384, 16, "gelu", 1e-5)}, 303_690_752, Grid(columns=24, rows=24, lead=1)),
    "idefics2-vit": (
        {"model_type": "idefics2_vision", **vit(1152, 4304, 27, 16, 980, 14, "gelu_pytorch_tanh", 1e-6)},
        417_792_240,
        Grid(columns=70, rows=70),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_grid_are_as_published(name: str) -> None:
    block, parameters, grid = PUBLISHED[name]
    config = EncoderConfig(config=block, tokens="all")
    with torch.device("meta"):
        module = config.build()
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters
    height, width = block["image_size"] if isinstance(block["image_size"], list) else [block["image_size"]] * 2
    assert config.grid(width, height) == grid


def test_every_type_of_the_table_is_tried() -> None:
    assert {config["model_type"] for config in towers.CONFIGS.values()} == set(TOWERS)


@pytest.mark.parametrize("name", [*towers.CONFIGS, *PUBLISHED])
@pytest.mark.parametrize("side", [None, 24])
def test_a_twin_of_any_tower_runs_forward_and_backward(name: str, side: int | None) -> None:
    block = towers.CONFIGS[name] if name in towers.CONFIGS else PUBLISHED[name][0]
    pyramid = block["model_type"] in ("resnet", "convnext")
    config = EncoderConfig(checkpoint="owner/absent", config=block, layer=-1 if pyramid else (-2, 1), positions=None).twin(side)
    assert config.checkpoint is None and config.config is not None
    module = config.build()
    assert len(module.blocks) <= 4 and sum(parameter.numel() for parameter in module.parameters()) < 60_000
    size = side or 32
    features = module(towers.pictures(*towers.crops((size, size))), config.read())
    assert features.grids == (config.grid(size, size),) == (Grid(columns=size // 8, rows=size // 8),)
    assert features.values.shape[1] == config.channels() == 32 * len(config.read().layers)
    features.values.sum().backward()


def test_a_twin_reads_the_layers_that_the_tower_reads() -> None:
    whole = EncoderConfig(config=PUBLISHED["clip-l14-336"][0], layer=(-2, -9), join="interleave", reads={"text_encoder": Read(lead="keep", final_norm=True)})
    twin = whole.twin(32)
    assert (twin.layer, twin.join, twin.reads) == ((-2, -3), "interleave", whole.reads)
    assert twin.config is not None and twin.config["num_hidden_layers"] == 3
    assert whole.twin().read("text_encoder").layer == -1
    assert EncoderConfig(config=PUBLISHED["clip-l14-336"][0], layer=-2).twin().layer == -2


@given(st.data())
def test_layers_of_a_twin_keep_order_ends_and_what_lies_above(data: st.DataObject) -> None:
    blocks = data.draw(st.integers(1, 48))
    layers = data.draw(st.lists(st.integers(-blocks - 1, blocks), min_size=1, max_size=5))
    depth, moved = toy_layers(layers, blocks)
    assert 1 <= depth <= max(2, len(set(layers)) + 1) and depth <= blocks
    old = [layer % (blocks + 1) for layer in layers]
    new = [moved[layer] % (depth + 1) for layer in layers]
    assert all(-depth - 1 <= moved[layer] <= depth and (moved[layer] < 0) == (layer < 0) for layer in layers)
    for a, b in zip(zip(old, new), zip(old[1:], new[1:])):
        assert (a[0] < b[0], a[0] == b[0]) == (a[1] < b[1], a[1] == b[1])
    assert [level == 0 for level in old] == [level == 0 for level in new]
    assert (max(new) < depth) == (max(old) < blocks) or depth == 2 > max(new)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(sorted(towers.CONFIGS)))
def test_every_size_has_a_grid_or_is_refused_by_number(width: int, height: int, name: str) -> None:
    config = EncoderConfig(config=towers.CONFIGS[name], positions="interpolate" if name in towers.FIXED else None)
    patch = 8 if name in towers.TRANSFORMERS else 1
    try:
        grid = config.grid(width, height)
    except Refused as refused:
        assert f"crops of {width}x{height} px" in str(refused) and "at least one patch" in str(refused)
        assert min(width, height) < 8
        return
    assert grid.columns * grid.rows > 0
    assert patch == 1 or (grid.columns, grid.rows) == (width // 8, height // 8)
