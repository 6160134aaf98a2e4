"""A published checkpoint folder: its settings as plain data, its tensors by name, and writing one. Torch-free until tensors are read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused
from sightline.lineage import write_json
from sightline.model import hub_layout

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, PREPROCESSOR, PROCESSOR, GENERATION = "config.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"
INDEX = "model.safetensors.index.json"
ONE_FILE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CARRIED = (".json", ".jinja", ".txt", ".model", ".md")
"""Small files that stay as they are: settings, tokenizers, licences. Never code."""
SHARD_BYTES = 5_000_000_000
_ASIDE = ("transformers_version", "torch_dtype", "dtype", "_name_or_path", "architectures", "auto_map")
"""Keys of a config that say nothing about what is computed."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor on disk, not read yet."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: F32, BF16..."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """The settings of a checkpoint; a file that is absent is an empty mapping."""

    folder: Path
    said: dict[str, Any]
    """config.json as it stands there."""
    preprocessor: dict[str, Any] = field(default_factory=dict)
    """What its image processor is told, from preprocessor_config.json or from the `image_processor` of processor_config.json."""
    processor: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    """tokenizer_config.json."""
    template: str | None = None
    """Chat template, as Jinja."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json with everything that transformers' class of it adds or moves: legacy spellings and defaults are gone."""
        return canonical(self.said, str(self.folder / CONFIG))

    def token(self, name: str) -> str | None:
        """A named special token, such as eos_token."""
        return special_tokens(self.folder).get(name)


def canonical(config: dict[str, Any], place: str) -> dict[str, Any]:
    """A published config as transformers' class of it says it. Raises Refused where transformers does not take it. Runs no code of a checkpoint."""
    plain = deepcopy({key: value for key, value in config.items() if key not in _ASIDE})  # some classes take things out of what they are given
    whole = hub_layout.transformers_config(plain, place)
    found = _stripped(json.loads(json.dumps(whole.to_diff_dict())))
    # said where it is a default too: which of two flags counts differs from class to class
    found["tie_word_embeddings"] = bool(getattr(whole, "tie_word_embeddings", False))
    if "text_config" in found:
        found["text_config"]["tie_word_embeddings"] = bool(getattr(getattr(whole, "text_config", None), "tie_word_embeddings", False))
    return found


def _stripped(block: dict[str, Any]) -> dict[str, Any]:
    return {key: _stripped(value) if isinstance(value, dict) else value for key, value in block.items() if key not in _ASIDE}


def read_published(folder: Path) -> Published:
    """The settings of a checkpoint folder. Raises Refused (model/not-published, model/broken-json)."""
    if not (folder / CONFIG).is_file():
        raise Refused(
            Problem(
                code="model/not-published",
                place=str(folder),
                found=f"no {CONFIG}",
                allowed="a checkpoint folder in the Hugging Face layout",
                fix="give the folder that holds config.json and the safetensors files",
            )
        )
    processor = _optional(folder / PROCESSOR)
    template = _optional(folder / "chat_template.json").get("chat_template")
    tokens = _optional(folder / "tokenizer_config.json")
    jinja = folder / TEMPLATE
    return Published(
        folder=folder,
        said=hub_layout.read_json(folder / CONFIG),
        preprocessor=_optional(folder / PREPROCESSOR) or processor.get("image_processor", {}),
        processor=processor,
        generation=_optional(folder / GENERATION),
        tokens=tokens,
        template=jinja.read_text(encoding="utf-8") if jinja.is_file() else template or _template_text(tokens.get("chat_template")),
    )


def special_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by what they are: eos_token, pad_token..."""
    said = {**_optional(folder / "special_tokens_map.json"), **_optional(folder / "tokenizer_config.json")}
    named = {name: value.get("content") if isinstance(value, dict) else value for name, value in said.items() if name.endswith("_token")}
    return {name: value for name, value in named.items() if isinstance(value, str)}


def _optional(path: Path) -> dict[str, Any]:
    return hub_layout.read_json(path) if path.is_file() else {}


def _template_text(value: object) -> str | None:
    """The template of a tokenizer_config.json: a text, or a list of named ones of which `default` is meant."""
    named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)} if isinstance(value, list) else {"default": value}
    found = named.get("default")
    return found if isinstance(found, str) else None


def small_files(folder: Path) -> list[Path]:
    """Settings, tokenizer and texts of a folder: what an import carries along. The index of the weights belongs to these and is made anew."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in CARRIED and not path.name.endswith(".index.json")]


# tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors, else pickles. Raises Refused (model/missing-file) where an index names files that are absent."""
    index = folder / INDEX
    if index.is_file():
        names = sorted(set(hub_layout.read_json(index)["weight_map"].values()))
        absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if absent:
            raise Refused(
                Problem(
                    code="model/missing-file",
                    place=str(index),
                    found=f"no {', '.join(absent)}",
                    allowed="every file that the index names, in this folder",
                    fix="fetch the missing files",
                )
            )
        return [folder / name for name in names]
    if (folder / ONE_FILE).is_file():
        return [folder / ONE_FILE]
    found = sorted(folder.glob("*.safetensors")) or sorted(path for path in folder.glob("pytorch_model*") if path.suffix in PICKLES)
    if not found:
        raise Refused(
            Problem(
                code="model/checkpoint-not-read",
                place=str(folder),
                found="no weights",
                allowed="model.safetensors, or shards with an index",
                fix="fetch the checkpoint again",
            )
        )
    return found


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Name -> file, shape and dtype of every tensor. Raises Refused (model/checkpoint-not-read) for files that are no weights; of pickles it reads tensors alone."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Stored] = {}
    problems = []
    for file in weight_files(folder):
        if file.suffix in PICKLES:
            found |= {name: Stored(file=file.name, shape=tuple(tensor.shape), dtype=str(tensor.dtype)) for name, tensor in _unpickled(file).items()}
            continue
        try:
            with safe_open(file, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118 - a safe_open is no mapping
                    one = stream.get_slice(name)
                    found[name] = Stored(file=file.name, shape=tuple(one.get_shape()), dtype=one.get_dtype())
        except (OSError, SafetensorError) as error:
            problems.append(_unread(file, error))
    if problems:
        raise Refused(problems)
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors by name, in the dtype in which they are stored. Pickles are read with `weights_only`. Raises Refused as `stored_tensors` does."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if file.suffix in PICKLES:
            found |= _unpickled(file)
            continue
        try:
            found |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise Refused(_unread(file, error)) from None
    return found


def _unpickled(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise Refused(_unread(file, error)) from None
    return {name: tensor for name, tensor in held.items() if isinstance(tensor, torch.Tensor)}


def _unread(file: Path, error: Exception) -> Problem:
    return Problem(
        code="model/checkpoint-not-read",
        place=str(file),
        found=f"{type(error).__name__}: {error}".splitlines()[0],
        allowed="whole safetensors files, or pickles of tensors alone",
        fix="fetch the file again",
    )


def write_weights(folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, str] | None = None) -> None:
    """Safetensors as published: one file, or shards with an index. `files`: name -> file, where the shards are to be those of an earlier checkpoint."""
    from safetensors.torch import save_file

    shards: dict[str, list[str]] = {}
    for name in sorted(tensors):
        shards.setdefault((files or {}).get(name, ""), []).append(name)
    if set(shards) == {""}:
        shards = _sharded(tensors)
    loose = shards.pop("", [])
    if loose:  # tensors that the earlier checkpoint did not have
        shards[next(iter(shards))] += loose
    for file, names in shards.items():
        save_file(_separate(tensors, names), folder / file, metadata={"format": "pt"})
    if set(shards) != {ONE_FILE}:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        weight_map = {name: file for file, names in shards.items() for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _separate(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Tensors that share no memory: safetensors writes no tensor under two names."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name in names:
        tensor = tensors[name].contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def _sharded(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    groups = hub_layout.shards(tensors, SHARD_BYTES)
    if len(groups) == 1:
        return {ONE_FILE: groups[0]}
    return {f"model-{number:05d}-of-{len(groups):05d}.safetensors": names for number, names in enumerate(groups, 1)}


def dtype_names(tensors: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, str]:
    """Name -> dtype as torch calls it, without `torch.`."""
    return {name: str(tensors[name].dtype).removeprefix("torch.") for name in (tensors if names is None else names)}
