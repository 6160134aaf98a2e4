"""Tiny vision towers of every model type, their transformers classes on the same weights, and crops, for the tests of encoders."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from sightline.model import hub_layout
from sightline.model.batch import Pictures
from sightline.model.encoder_modules import TransformersEncoder
from sightline.model.encoders import EncoderConfig
from sightline.model.towers.tower_table import TOWERS

VIT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
DINO = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", **VIT},
    "siglip": {"model_type": "siglip_vision_model", **VIT},
    "dinov2": {"model_type": "dinov2", **DINO},
    "dinov2 with gates": {"model_type": "dinov2", **DINO, "use_swiglu_ffn": True, "layerscale_value": 0.5},
    "dinov2 with registers": {"model_type": "dinov2_with_registers", **DINO, "num_register_tokens": 3},
    "internvit": {"model_type": "internvl_vision", **VIT, "attention_bias": True, "image_size": [16, 16], "patch_size": [8, 8]},
    "internvit 6b": {"model_type": "internvl_vision", **VIT, "use_qk_norm": True, "norm_type": "rms_norm", "use_mean_pooling": False},
    "blip": {"model_type": "blip_vision_model", **VIT},
    "blip-2": {"model_type": "blip_2_vision_model", **VIT, "qkv_bias": True},
    "idefics2": {"model_type": "idefics2_vision", **VIT, "image_size": 32},
}
PYRAMIDS: dict[str, dict[str, Any]] = {
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "resnet of bottlenecks": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12, 16],
        "depths": [1, 1, 1],
        "layer_type": "bottleneck",
        "downsample_in_first_stage": True,
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "convnext of small patches": {"model_type": "convnext", "hidden_sizes": [8, 16, 16], "depths": [1, 1, 1], "num_stages": 3, "patch_size": 2},
}
CONFIGS = TRANSFORMERS | PYRAMIDS
FIXED = ("clip", "siglip", "blip", "blip-2")
"""Those whose positions are learnt for one size."""
NORMLESS = ("internvit", *PYRAMIDS)
"""Those without a final normalisation."""


def encoder(name: str, **changes: Any) -> TransformersEncoder:
    """A tower in which no tensor is zero, one or equal to another."""
    torch.manual_seed(0)
    built = EncoderConfig(**({"config": CONFIGS[name]} | changes)).build().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def reference(module: TransformersEncoder) -> Any:
    """transformers' own class with the weights of an encoder."""
    block = module.config.block()
    path, name = TOWERS[block["model_type"]].tower.rsplit(".", 1)
    tower: nn.Module = getattr(import_module(f"transformers.models.{path}"), name)(hub_layout.transformers_config(block, "test")).eval()
    tower.load_state_dict(module.tower.state_dict())
    return tower


def crops(*sizes: tuple[int, int], bands: int = 3) -> tuple[Tensor, ...]:
    """One crop of noise per (width, height)."""
    generator = torch.Generator().manual_seed(sum(width * height for width, height in sizes))
    return tuple(torch.randint(0, 256, (bands, height, width), dtype=torch.uint8, generator=generator) for width, height in sizes)


def pictures(*pixels: Tensor) -> Pictures:
    """A batch of these crops, for encoders that see all roles."""
    return Pictures(tilings=(), picture_of=torch.arange(len(pixels)), pixels=pixels)


def normalised(module: TransformersEncoder, *pixels: Tensor) -> Tensor:
    """What the tower sees of crops of one size."""
    return (torch.stack(pixels) - module.mean) / module.std


def apart(found: Tensor, wanted: Tensor) -> float:
    """max|found - wanted| / max|wanted|."""
    return ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
