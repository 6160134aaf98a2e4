"""Model types of transformers' vision towers: what their tokens look like, known from sizes alone. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sightline.errors import Problem, Refused

Rule = Literal["fixed", "interpolate", "interpolate-aligned", "interpolate-antialiased", "buckets", "none"]
"""What becomes of positions when a crop's size differs from the config's `image_size`."""
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per band, 0..1."""

_CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF: Statistics = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VIT = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
_TOY = {"hidden_size": 32, "num_attention_heads": 4, "patch_size": 8}


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a size that a config gives as one number or as two."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def learnt_grid(block: dict[str, Any]) -> tuple[int, int]:
    """(rows, columns) that a config's positions are learnt for."""
    (tall, wide), (high, broad) = pair(block["image_size"]), pair(block["patch_size"])
    return tall // high, wide // broad


def _patches(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    tall, wide = pair(block["patch_size"])
    return width // wide, height // tall


def _resnet(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    halvings = 2 + len(block["hidden_sizes"]) - (0 if block.get("downsample_in_first_stage", False) else 1)
    for _ in range(halvings):
        width, height = (width + 1) // 2, (height + 1) // 2
    return width, height


def _convnext(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    stride = block.get("patch_size", 4) * 2 ** (len(block["depths"]) - 1)
    return width // stride, height // stride


@dataclass(frozen=True, kw_only=True)
class TowerType:
    """One model type: the class that holds its weights, the adapter that runs it, and the geometry of its tokens."""

    tower: str
    """Its class, under `transformers.models`."""
    adapter: Literal["transformer", "pyramid"] = "transformer"
    """transformer: blocks of one width over a row of tokens, any layer may be read; pyramid: stages of convolutions, the last one is read."""
    positions: Rule = "fixed"
    """What it does with positions unless the recipe says otherwise."""
    lead: int = 0
    """Class tokens before the raster; `num_register_tokens` of the config come after them."""
    width: str = "hidden_size"
    """Key of the config that holds C, or a list whose last number is C."""
    cells: Callable[[dict[str, Any], int, int], tuple[int, int]] = _patches
    """(columns, rows) of a crop of (width, height) px."""
    statistics: Statistics = _HALF
    """Normalisation where neither recipe nor checkpoint states one."""
    settings: tuple[str, ...] = _VIT
    """Keys of the config that the geometry is made from."""
    toy: dict[str, Any] = field(default_factory=lambda: _TOY | {"intermediate_size": 64})
    """What a twin changes beside its depth and `image_size`."""


TOWERS: dict[str, TowerType] = {
    "clip_vision_model": TowerType(tower="clip.modeling_clip.CLIPVisionModel", lead=1, statistics=_CLIP),
    "siglip_vision_model": TowerType(tower="siglip.modeling_siglip.SiglipVisionModel"),
    "dinov2": TowerType(tower="dinov2.modeling_dinov2.Dinov2Model", positions="interpolate", lead=1, statistics=_IMAGENET, toy=_TOY | {"mlp_ratio": 2}),
    "dinov2_with_registers": TowerType(
        tower="dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersModel",
        positions="interpolate-antialiased",
        lead=1,
        statistics=_IMAGENET,
        settings=(*_VIT, "num_register_tokens"),
        toy=_TOY | {"mlp_ratio": 2},
    ),
    "internvl_vision": TowerType(
        tower="internvl.modeling_internvl.InternVLVisionModel",
        positions="interpolate",
        lead=1,
        statistics=_IMAGENET,
        settings=(*_VIT, "use_mean_pooling"),
    ),
    "blip_2_vision_model": TowerType(tower="blip_2.modeling_blip_2.Blip2VisionModel", lead=1, statistics=_CLIP),
    "blip_vision_model": TowerType(tower="blip.modeling_blip.BlipVisionModel", lead=1, statistics=_CLIP),
    "idefics2_vision": TowerType(tower="idefics2.modeling_idefics2.Idefics2VisionTransformer", positions="buckets"),
    "resnet": TowerType(
        tower="resnet.modeling_resnet.ResNetModel",
        adapter="pyramid",
        positions="none",
        width="hidden_sizes",
        cells=_resnet,
        settings=("hidden_sizes",),
        toy={"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "downsample_in_first_stage": False},
    ),
    "convnext": TowerType(
        tower="convnext.modeling_convnext.ConvNextModel",
        adapter="pyramid",
        positions="none",
        width="hidden_sizes",
        cells=_convnext,
        statistics=_IMAGENET,
        settings=("hidden_sizes", "depths"),
        toy={"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    ),
}
"""Every model type that an encoder of kind `transformers` runs."""

ALIASES = {"idefics2": "idefics2_vision"}
"""Names that published composites give their vision config, where transformers now has another."""


def cells(block: dict[str, Any], rule: Rule, width: int, height: int, place: str) -> tuple[int, int]:
    """(columns, rows) of the tokens of a crop of width x height px. Refused: a size that the positions are not learnt for, or a crop smaller than one patch."""
    kind = TOWERS[block["model_type"]]
    columns, rows = kind.cells(block, width, height)
    allowed, fix = "", ""
    if rule == "fixed" and (height, width) != pair(block["image_size"]):
        tall, wide = pair(block["image_size"])
        allowed = f"{wide}x{tall}: a {block['model_type']} has learnt positions"
        fix = f"tiler.size: {wide}, or {place}.positions: interpolate"
    elif not columns * rows:
        allowed, fix = "at least one patch", "make larger crops"
    if allowed:
        raise Refused(Problem(code="model/crop-size", place=place, found=f"crops of {width}x{height} px", allowed=allowed, fix=fix))
    return columns, rows


def toy_layers(layers: Sequence[int], blocks: int) -> tuple[int, dict[int, int]]:
    """Depth of a twin, and where each layer that is read lies in it: same order, same ends counted from, one block above the deepest where there are any."""
    levels = sorted({layer % (blocks + 1) for layer in layers})
    read = [level for level in levels if level]
    above = 1 if levels[-1] < blocks else 0
    depth = min(blocks, max(2, len(read) + above))
    moved = {level: depth - above - len(read) + number for number, level in enumerate(read, 1)} | {0: 0}
    return depth, {layer: moved[layer % (blocks + 1)] - (depth + 1 if layer < 0 else 0) for layer in layers}
