"""Builds a tower: random weights, or those of a checkpoint, with positions resized to the config's `image_size` where they are learnt for another."""

from __future__ import annotations

import math
import re
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sightline.model import hub_layout, open_clip
from sightline.model.encoders import EncoderConfig
from sightline.model.towers.position_tables import resized
from sightline.model.towers.tower_table import TOWERS, learnt_grid, pair
from sightline.model.towers.vision_transformers import ANATOMY

_ANCHORS = {"resnet": "embedder.embedder.convolution.weight", "convnext": "embeddings.patch_embeddings.weight"}


def build_tower(config: EncoderConfig, block: dict[str, Any]) -> nn.Module:
    """The tower of a resolved encoder config. Refused: a checkpoint at hand that does not fit lists all that is missing or of another shape."""
    factory = tower_class(block["model_type"])
    weights = config.checkpoint and open_clip.weights_file(config.checkpoint)
    if weights:
        return _from_open_clip(weights, config, block)
    folder = config.checkpoint and hub_layout.find(config.checkpoint)
    if not folder:
        return factory(hub_layout.transformers_config(block, config.path))
    published = config.published()
    if published is None or TOWERS[block["model_type"]].adapter == "pyramid" or pair(published["image_size"]) == pair(block["image_size"]):
        return _from_hub(folder, factory, config, block)
    stored = block | {"image_size": published["image_size"]}
    return _grown(_from_hub(folder, factory, config, stored).state_dict(), stored, config, block)


def tower_class(model_type: str) -> Any:
    """The class of a model type in transformers."""
    module, name = TOWERS[model_type].tower.rsplit(".", 1)
    return getattr(import_module(f"transformers.models.{module}"), name)


def _from_hub(folder: Path, factory: Any, config: EncoderConfig, block: dict[str, Any]) -> nn.Module:
    """The weights of a tower alone, or of the vision part of a composite: there all its tensors stand under one prefix, which the first convolution shows."""
    assert config.checkpoint is not None
    model_type = block["model_type"]
    anchor = _ANCHORS.get(model_type) or f"{ANATOMY[model_type].patches}.weight"
    prefixes = {name.removesuffix(anchor) for name in _names(folder) if name.endswith(anchor)}
    mapping = {f"^{re.escape(prefixes.pop())}": ""} if len(prefixes) == 1 else None
    loader = SimpleNamespace(from_pretrained=partial(factory.from_pretrained, key_mapping=mapping))
    return hub_layout.load_weights(loader, config.checkpoint, hub_layout.transformers_config(block, config.path), config.path)


def _names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as stream:
                found |= set(stream.keys())
        except SafetensorError:
            return set()  # loading reads the file again and refuses it with the reason
    return found


def _from_open_clip(weights: Path, config: EncoderConfig, block: dict[str, Any]) -> nn.Module:
    tensors = open_clip.part(open_clip.read_open_clip(str(weights)) or {}, "vision_model.")
    positions = tensors.get("embeddings.position_embedding.weight")
    side = math.isqrt(len(positions) - 1) * pair(block["patch_size"])[0] if positions is not None else None
    if side and config.rule(block) != "fixed" and (side, side) != pair(block["image_size"]):
        return _grown(tensors, block | {"image_size": side}, config, block)
    tower = tower_class(block["model_type"])(hub_layout.transformers_config(block, config.path))
    open_clip.fill(tower, tensors, str(weights))
    return tower


def _grown(tensors: dict[str, Tensor], stored: dict[str, Any], config: EncoderConfig, block: dict[str, Any]) -> nn.Module:
    """A tower of the config's size that holds the tensors of one of the `stored` size, with resized positions."""
    tower = tower_class(block["model_type"])(hub_layout.transformers_config(block, config.path))
    lead, changed = TOWERS[block["model_type"]].lead, dict(tensors)
    for name, wanted in tower.state_dict().items():
        if name.removesuffix(".weight") == ANATOMY[block["model_type"]].table:
            table = tensors[name].view(-1, wanted.shape[-1])
            changed[name] = resized(table, lead, learnt_grid(stored), learnt_grid(block), config.rule(block)).view_as(wanted)
    open_clip.fill(tower, changed, config.path)
    return tower
