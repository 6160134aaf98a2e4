"""Checkpoints in the Hugging Face layout: where they are, their config as plain data, and loading that refuses what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedConfig

_PLAIN_CONFIG_KEYS = ("transformers_version", "torch_dtype", "dtype", "_name_or_path", "architectures")


def find(checkpoint: str) -> Path | None:
    """The folder of a checkpoint: a local folder, else a snapshot in the hub's local cache, else None. Nothing is downloaded."""
    folder = Path(checkpoint).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(checkpoint, "config.json")
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; Refused with the file's name where it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Refused(Problem(code="model/broken-json", place=str(path), found=str(error), allowed="a JSON object", fix="fetch the checkpoint again")) from None
    if not isinstance(value, dict):
        raise Refused(Problem(code="model/broken-json", place=str(path), found=type(value).__name__, allowed="a JSON object", fix="fetch the checkpoint again"))
    return value


def config_block(checkpoint: str | None, config: dict[str, Any] | None, place: str, sub: str | None = None) -> dict[str, Any]:
    """The published config as plain data: of the checkpoint where it is at hand, else the block that the recipe gives. `sub` picks `vision_config`/`text_config` of a composite."""
    folder = find(checkpoint) if checkpoint else None
    block = read_json(folder / "config.json") if folder else config
    if block is None:
        raise Refused(
            Problem(
                code="model/no-checkpoint",
                place=place,
                found=f"{checkpoint!r} is not on this machine" if checkpoint else "neither checkpoint nor config",
                allowed="a folder in the Hugging Face layout, a cached hub name, or a `config:` block",
                fix="download the checkpoint and give its folder, or state its published config beside it",
            )
        )
    if sub and isinstance(block.get(sub), dict):
        block = block[sub]
    if "model_type" not in block:
        raise Refused(
            Problem(
                code="model/no-model-type",
                place=place,
                found=f"keys {sorted(block)[:6]}",
                allowed="a transformers config with model_type",
                fix="add model_type",
            )
        )
    return {key: value for key, value in block.items() if key not in _PLAIN_CONFIG_KEYS}


def completed(block: dict[str, Any], keys: Iterable[str], place: str) -> dict[str, Any]:
    """The block with these settings as transformers has them where it leaves them out: a published config may state only what differs from the defaults."""
    absent = [key for key in keys if key not in block]
    if not absent:
        return block
    whole = transformers_config(block, place).to_dict()
    return block | {key: list(whole[key]) if isinstance(whole[key], tuple) else whole[key] for key in absent}


def transformers_config(block: dict[str, Any], place: str) -> PreTrainedConfig:
    """The transformers config object of a block; Refused with the reason where transformers does not take it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**block)
    except Exception as error:
        raise Refused(
            Problem(
                code="model/config-not-accepted",
                place=place,
                found=f"{type(error).__name__}: {error}",
                allowed="a config that transformers builds",
                fix="copy the published config.json whole",
            )
        ) from None


def model_class(config: PreTrainedConfig) -> Any:
    """The bare model class of a config: the registered one, else that of the config's own name (text towers of dual models are not registered)."""
    import transformers
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)] if type(config) in MODEL_MAPPING else getattr(transformers, type(config).__name__.removesuffix("Config") + "Model")


def published(checkpoint: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Single tensors of a checkpoint at hand by name; those that it lacks are left out."""
    from safetensors import safe_open

    folder = find(checkpoint)
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")) if folder else ():
        with safe_open(file, framework="pt") as stream:
            found |= {name: stream.get_tensor(name) for name in sorted(set(names) & set(stream.keys()))}
    return found


def load_weights(factory: Any, checkpoint: str, config: PreTrainedConfig, place: str) -> nn.Module:
    """`factory.from_pretrained` that never runs code of the checkpoint and refuses missing keys and wrong shapes, all listed."""
    from safetensors import SafetensorError

    folder = find(checkpoint)
    if folder is None:
        raise Refused(
            Problem(
                code="model/no-checkpoint",
                place=place,
                found=f"{checkpoint!r} is not on this machine",
                allowed="a local folder or a cached hub name",
                fix="download it and give its folder",
            )
        )
    try:
        model, info = factory.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise Refused(
            Problem(
                code="model/checkpoint-not-read",
                place=f"{place} ({folder})",
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                allowed="safetensors weights of this architecture",
                fix="fetch the checkpoint again",
            )
        ) from None
    shapes = {key: (tuple(found), tuple(wanted)) for key, found, wanted in info["mismatched_keys"]}
    problems = misfits(str(folder), shapes, info["missing_keys"], fix="use the config.json that belongs to these weights")
    if problems:
        raise Refused(problems)
    return model


def misfits(place: str, shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]], missing: Iterable[str], fix: str) -> list[Problem]:
    """What does not fit a module: tensors by name with their shape in the checkpoint and by the config, `fix` for each, and tensors that are missing."""
    problems = [
        Problem(code="model/shape-mismatch", place=f"{place}:{name}", found=f"{found} in the checkpoint", allowed=f"{wanted} by the config", fix=fix)
        for name, (found, wanted) in sorted(shapes.items())
    ]
    absent = sorted(missing)
    if absent:
        problems.append(
            Problem(
                code="model/missing-weights",
                place=place,
                found=f"{len(absent)} tensors are not in the checkpoint: {', '.join(absent[:8])}",
                allowed="every tensor of the model",
                fix="use the checkpoint of this architecture",
            )
        )
    return problems


def shards(tensors: Mapping[str, Tensor], most: int) -> list[list[str]]:
    """Names of tensors in groups of at most `most` bytes, in their order; a larger tensor is a group of its own."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        own = tensor.numel() * tensor.element_size()
        if groups[-1] and size + own > most:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    return groups
