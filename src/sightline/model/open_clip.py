"""Checkpoints of open_clip read as those of transformers' CLIPModel: configs and tensor names. open_clip itself is not needed.

An open_clip checkpoint is a folder (or a cached hub name) with open_clip_config.json beside its weights, or a weights file alone (such as GeoRSCLIP's .pt),
whose config the recipe then states.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused
from sightline.model.hub_layout import misfits, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pt")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_KNOWN = {
    "": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"},
    "vision_cfg.": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"},
    "text_cfg.": {
        "context_length",
        "vocab_size",
        "width",
        "heads",
        "layers",
        "mlp_ratio",
        "pad_id",
        "bos_id",
        "eos_id",
        "hf_tokenizer_name",
        "tokenizer_kwargs",
    },
}
"""Settings that are read here, or that change no tensor and no output."""
_DEFAULTS = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",)}
_RENAMED = (
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^(?:text\.)?token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^(?:text\.)?positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^(?:text\.)?transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^(?:text\.)?ln_final\.", "text_model.final_layer_norm."),
    (r"^(?:text\.)?text_projection$", "text_projection.weight"),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.attn\.", ".self_attn."),
)
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
_NO_WEIGHTS = ("attn_mask", "text.attn_mask", "input_resolution", "context_length", "vocab_size")


def weights_file(checkpoint: str) -> Path | None:
    """The weights that an open_clip checkpoint means; None where it is no such checkpoint, or one whose weights stand there in the Hugging Face layout too."""
    path = Path(checkpoint).expanduser()
    if path.is_file() and path.suffix in _SUFFIXES:
        return path
    folder = _folder(checkpoint)
    if folder is None or _has_hub_weights(folder):
        return None
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def open_clip_config(checkpoint: str) -> dict[str, Any] | None:
    """The config of a CLIPModel, as plain data; None where no open_clip_config.json stands beside the weights. Refused: towers that CLIPModel has not."""
    stated = _stated(checkpoint)
    if stated is None:
        return None
    place, model = stated[0], stated[1].get("model_cfg", {})
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    strange = [
        f"{head}{key} {value!r}"
        for head, settings in (("", model), ("vision_cfg.", vision), ("text_cfg.", text))
        for key, value in settings.items()
        if key not in _KNOWN[head] and value not in (None, False, *_DEFAULTS.get(key, ()))
    ]
    strange += [f"vision_cfg.layers {vision['layers']}"] if isinstance(vision.get("layers"), list) else []
    if strange:
        raise Refused(
            Problem(
                code="model/open-clip-tower",
                place=str(place),
                found=", ".join(strange),
                allowed="a plain vision transformer beside CLIP's own text transformer",
                fix="use a checkpoint in the Hugging Face layout, or an encoder kind for this tower",
            )
        )
    common = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "layer_norm_eps": 1e-5, "projection_dim": model["embed_dim"]}
    return {
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": {"model_type": "clip_vision_model", **_vision(vision), **common},
        "text_config": {"model_type": "clip_text_model", **_text(text), **common},
    }


def open_clip_statistics(checkpoint: str) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation per band that the checkpoint states, 0..1."""
    stated = _stated(checkpoint)
    said = stated[1].get("preprocess_cfg", {}) if stated else {}
    return (said["mean"], said["std"]) if {"mean", "std"} <= set(said) else None


def read_open_clip(checkpoint: str) -> dict[str, Tensor] | None:
    """The tensors of an open_clip checkpoint under the names of a CLIPModel; None where it is no such checkpoint. Refused: a file that holds no plain CLIP.

    Pickles are read with `weights_only`: nothing of a checkpoint is ever run.
    """
    file = weights_file(checkpoint)
    if file is None:
        return None
    found: dict[str, Tensor] = {}
    for own, tensor in _tensors(file).items():
        name = own.removeprefix("module.")
        if name in _NO_WEIGHTS:
            continue
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        if ".in_proj_" in name:
            found |= {name.replace("in_proj_", f"{part}_proj."): piece for part, piece in zip("qkv", tensor.chunk(3))}
        else:
            found[name] = tensor.T if name in _TRANSPOSED else tensor
    if "vision_model.embeddings.patch_embedding.weight" not in found or "vision_model.encoder.layers.0.self_attn.q_proj.weight" not in found:
        raise Refused(
            Problem(
                code="model/checkpoint-not-read",
                place=str(file),
                found=f"tensors {', '.join(sorted(found)[:4])}, ...",
                allowed="visual.conv1 and visual.transformer.resblocks of an open_clip vision transformer",
                fix="use a checkpoint in the Hugging Face layout, or an encoder kind for this tower",
            )
        )
    return found


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix (`vision_model.`, `text_model.`), without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: dict[str, Tensor], place: str) -> None:
    """Copy tensors into a module. Refused lists every one that is missing or of another shape."""
    wanted = module.state_dict()
    shapes = {name: (tuple(tensors[name].shape), tuple(own.shape)) for name, own in wanted.items() if name in tensors and tensors[name].shape != own.shape}
    problems = misfits(place, shapes, wanted.keys() - tensors.keys(), fix="use the config that belongs to these weights")
    if problems:
        raise Refused(problems)
    module.load_state_dict({name: tensors[name] for name in wanted})


def _folder(checkpoint: str) -> Path | None:
    """The folder with open_clip_config.json: local, or a snapshot in the hub's local cache. Nothing is downloaded."""
    folder = Path(checkpoint).expanduser()
    if (folder / _CONFIG).is_file():
        return folder
    if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")) and not folder.exists():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(checkpoint, _CONFIG)
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def _has_hub_weights(folder: Path) -> bool:
    files = [file for file in folder.glob("*.safetensors") if not file.name.startswith("open_clip")]
    return bool(files) and (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json")


def _stated(checkpoint: str) -> tuple[Path, dict[str, Any]] | None:
    """open_clip_config.json and what it holds, where the checkpoint is read as open_clip's."""
    file = weights_file(checkpoint)
    path = file.parent / _CONFIG if file else None
    return (path, read_json(path)) if path and path.is_file() else None


def _vision(said: dict[str, Any]) -> dict[str, Any]:
    width = said.get("width", 768)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * said.get("mlp_ratio", 4.0)),
        "num_hidden_layers": said.get("layers", 12),
        "num_attention_heads": width // said.get("head_width", 64),
        "patch_size": said.get("patch_size", 16),
        "image_size": said.get("image_size", 224),
    }


def _text(said: dict[str, Any]) -> dict[str, Any]:
    width = said.get("width", 512)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * said.get("mlp_ratio", 4.0)),
        "num_hidden_layers": said.get("layers", 12),
        "num_attention_heads": said.get("heads", 8),
        "vocab_size": said.get("vocab_size", 49408),
        "max_position_embeddings": said.get("context_length", 77),
        # the last two ids are CLIP's start and end of text
        "bos_token_id": said.get("vocab_size", 49408) - 2,
        "eos_token_id": said.get("vocab_size", 49408) - 1,
    }


def _tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file, without the wrapping of a training checkpoint."""
    import torch
    from safetensors.torch import load_file

    try:
        held: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle fails in any way: bytes of it are read as instructions
        raise Refused(
            Problem(
                code="model/checkpoint-not-read",
                place=str(file),
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                allowed="safetensors, or a pickle of tensors alone",
                fix="fetch the checkpoint again, or convert it to safetensors",
            )
        ) from None
    held = held.get("state_dict", held) if isinstance(held, dict) else {}
    return {str(name): tensor for name, tensor in held.items() if isinstance(tensor, torch.Tensor)}
