"""The model directory: self-contained, Hugging Face shaped, safetensors only, one weight file series per part.

What a model is stands in its config, never in its name or path. An unchanged part is the same file as its parent's, hard-linked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json, write_json
from sightline.model import hub_layout
from sightline.model.assembly import ModelConfig
from sightline.model.chat import template
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer
from sightline.model.vlm import Model

FORMAT = 1
INDEX = "model.safetensors.index.json"
_SHARD_BYTES = 4_000_000_000


def tensor_digest(tensor: Tensor) -> str:
    """sha256 over dtype, shape and bytes; of floating point numbers as float32, in which every model is loaded whatever the dtype on disk."""
    flat = tensor.detach().cpu().contiguous()
    flat = flat.float() if flat.is_floating_point() else flat
    head = f"{flat.dtype}{tuple(flat.shape)}".encode()
    return hashlib.sha256(head + flat.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def part_tensors(model: Model) -> dict[str, dict[str, Tensor]]:
    """Part path -> tensor name -> tensor, with tensors that share memory named once (the first in sorted order)."""
    found: dict[str, dict[str, Tensor]] = {}
    for path, module in model.parts().items():
        seen: set[object] = set()
        own = {}
        for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
            # tied tensors have one address; on the meta device none has, but there they are one object
            key = id(tensor) if tensor.is_meta or not tensor.numel() else (tensor.data_ptr(), tuple(tensor.shape))
            if key not in seen:
                own[name] = tensor.detach()
            seen.add(key)
        found[path] = own
    return found


def part_ids(model: Model) -> dict[str, str]:
    """Content id of each part's weights."""
    return {path: sha256_json({name: tensor_digest(tensor) for name, tensor in tensors.items()}) for path, tensors in part_tensors(model).items()}


def weights_id(parts: dict[str, str]) -> str:
    """Content id of a whole model's weights."""
    return sha256_json(parts)


def save(folder: Path, model: Model, processor: Processor, parent: Path | None = None) -> str:
    """Write weights, config, tokenizer and processor into an existing folder (use `lineage.artifact`); returns the weights id.

    `parent`: an earlier model directory; parts with equal content are hard-linked from it.
    """
    old = json.loads((parent / INDEX).read_text(encoding="utf-8")) if parent and (parent / INDEX).is_file() else {"metadata": {"parts": {}}, "weight_map": {}}
    ids = part_ids(model)
    weight_map: dict[str, str] = {}
    total = 0
    for path, tensors in part_tensors(model).items():
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        files = {old["weight_map"][f"{path}.{name}"] for name in tensors if f"{path}.{name}" in old["weight_map"]}
        if parent and old["metadata"]["parts"].get(path) == ids[path] and files:
            for file in files:
                _link(parent / file, folder / file)
            weight_map |= {f"{path}.{name}": old["weight_map"][f"{path}.{name}"] for name in tensors}
            continue
        shards = hub_layout.shards(tensors, _SHARD_BYTES)
        for number, names in enumerate(shards):
            file = f"{path}-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            save_file({f"{path}.{name}": tensors[name].detach().cpu().contiguous() for name in names}, folder / file, metadata={"format": "pt"})
            weight_map |= {f"{path}.{name}": file for name in names}
    write_json(folder / INDEX, {"metadata": {"total_size": total, "parts": ids}, "weight_map": dict(sorted(weight_map.items()))})
    config = model.config
    write_json(
        folder / "config.json",
        {
            "model_type": "sightline",
            "format": FORMAT,
            "architectures": ["SightlineModel"],
            "abilities": list(config.abilities),
            **_stated(config),
        },
    )
    write_json(
        folder / "processor.json",
        {
            "tiler": config.tiler.model_dump(mode="json") if config.tiler else None,
            "layout": config.layout.model_dump(mode="json"),
            "chat": processor.chat.model_dump(mode="json"),
            "codec": config.codec.model_dump(mode="json") if config.codec else None,
        },
    )
    if parent is not None and (parent / "native").is_dir():  # what an import keeps of the published form, for the way back
        shutil.copytree(parent / "native", folder / "native")
    processor.tokenizer.save(folder, template(processor.chat))
    if processor.side is not processor.tokenizer:
        (folder / "side").mkdir()
        processor.side.save(folder / "side")
    write_json(folder / "generation_config.json", {"eos_token_id": processor.tokenizer.end_id, "pad_token_id": processor.tokenizer.pad_id, "do_sample": False})
    return weights_id(ids)


def load(folder: Path) -> tuple[Model, Processor, str]:
    """Model (eval mode, float32), processor and weights id of a model directory, or of a published checkpoint. Refused lists every missing tensor and wrong shape."""
    head = hub_layout.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if is_published(head):
        from sightline.model.native.native_directory import load_published

        return load_published(folder)
    processor = _processor(folder, head)
    model = Model(without_checkpoints(processor.config))
    fill(model, read_tensors(folder), str(folder))
    if model.language_model is not None:
        model.language_model.prove_logits()
    return model.eval(), processor, _checked_id(folder, model)


def load_processor(folder: Path) -> Processor:
    """What a model directory or a published checkpoint says besides its weights, which are not read: tokenizers, chat format, tiler, codec. Refused as `load` is."""
    head = hub_layout.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if is_published(head):
        from sightline.model.native.native_directory import published_processor

        return published_processor(folder)
    return _processor(folder, head)


def _processor(folder: Path, head: dict[str, Any]) -> Processor:
    config = _config_of(folder, head)
    tokenizer = TextTokenizer.load(folder, config.chat_format().end, config.controls(), config.reads_padding)
    side = TextTokenizer.load(folder / "side", controls=config.side_controls()) if (folder / "side").is_dir() else None
    return Processor(config, tokenizer, side)


def read_config(folder: Path) -> ModelConfig:
    """The Config of a model directory, or of a published checkpoint, without its weights. Raises Refused as `load` does."""
    head = hub_layout.read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if is_published(head):
        from sightline.model.native.native_table import format_of
        from sightline.model.native.native_weights import native_config
        from sightline.model.native.published_folder import read_published

        return native_config(read_published(folder), format_of(head, str(folder)))
    return _config_of(folder, head)


def _config_of(folder: Path, head: dict[str, Any]) -> ModelConfig:
    if head.get("model_type") != "sightline" or head.get("format") != FORMAT:
        found = f"model_type {head.get('model_type')!r}, format {head.get('format')!r}" if head else "no config.json"
        raise Refused(
            Problem(
                code="model/not-a-model",
                place=str(folder),
                found=found,
                allowed=f"a Sightline model directory of format {FORMAT}",
                fix="give the folder of a model: RUN, or RUN/stages/NN-NAME/model",
            )
        )
    try:
        return _understood(head)
    except (ValidationError, KeyError, TypeError) as error:
        raise Refused(
            Problem(
                code="model/broken-config",
                place=str(folder / "config.json"),
                found=str(error),
                allowed="a config that this version wrote",
                fix="load it with the version that made it",
            )
        ) from None


def _stated(config: ModelConfig) -> dict[str, Any]:
    """A model's Config as config.json states it: parts by path, then what concerns all of them."""
    whole = config.model_dump(mode="json")
    parts = {f"encoders.{encoder['name']}": encoder for encoder in whole.pop("encoders")}
    parts |= {f"heads.{name}": part for name, part in whole.pop("heads").items() if part is not None}
    for name in ("combine", "connector", "prompts", "regions", "layout", "fusion", "language_model", "text_encoder"):
        part = whole.pop(name)
        if part is not None:
            parts[name] = part
    return {"parts": parts, "settings": whole}


def _understood(head: dict[str, Any]) -> ModelConfig:
    """The Config of a config.json; KeyError, TypeError or ValidationError when it is no such file."""
    parts = dict(head["parts"])
    encoders = [parts.pop(path) for path in list(parts) if path.startswith("encoders.")]
    heads = {path.partition(".")[2]: parts.pop(path) for path in list(parts) if path.startswith("heads.")}
    return ModelConfig.model_validate_json(json.dumps({**head["settings"], **parts, "encoders": encoders, "heads": heads}))


def _checked_id(folder: Path, model: Model) -> str:
    """Weights id of what was loaded; Refused where the index says another: a file was exchanged, and answers kept under the id would be another model's."""
    said, found = hub_layout.read_json(folder / INDEX)["metadata"]["parts"], part_ids(model)
    changed = [path for path in found if said.get(path) != found[path]]
    if changed:
        raise Refused(
            Problem(
                code="model/weights-id",
                place=str(folder / INDEX),
                found=f"the weights of {', '.join(changed)} are not those that were saved",
                allowed="files as they were written together",
                fix="copy the model directory again, whole",
            )
        )
    return weights_id(found)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model directory by full name."""
    index = hub_layout.read_json(folder / INDEX)
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index["weight_map"].values())):
        if Path(file).name != file:
            raise Refused(
                Problem(code="model/path-escape", place=str(folder / INDEX), found=file, allowed="file names without folders", fix="fetch the model again")
            )
        try:
            tensors |= load_file(folder / file)
        except (SafetensorError, OSError) as error:
            raise Refused(
                Problem(
                    code="model/broken-weights",
                    place=str(folder / file),
                    found=str(error),
                    allowed="a whole safetensors file",
                    fix="copy the model directory again, or retrain the stage",
                )
            ) from None
    return tensors


def fill(model: Model, tensors: dict[str, Tensor], place: str, within: str | None = None) -> None:
    """Copy tensors (full names) into a model, only those at or under the path `within` where given; Refused lists all that is missing or of another shape."""
    problems: list[Problem] = []
    taken = False
    for path, wanted in part_tensors(model).items():
        for name, tensor in wanted.items():
            full = f"{path}.{name}"
            if within is not None and full != within and not full.startswith(within + "."):
                continue
            taken = True
            given = tensors.get(full)
            if given is None:
                problems.append(
                    Problem(
                        code="model/missing-weights",
                        place=f"{place}:{full}",
                        found="no such tensor",
                        allowed=f"shape {tuple(tensor.shape)}",
                        fix="use weights of this architecture",
                    )
                )
            elif given.shape != tensor.shape:
                problems.append(
                    Problem(
                        code="model/shape-mismatch",
                        place=f"{place}:{full}",
                        found=f"shape {tuple(given.shape)}",
                        allowed=f"shape {tuple(tensor.shape)} by the config",
                        fix="use the config that belongs to these weights",
                    )
                )
            else:
                with torch.no_grad():
                    tensor.copy_(given)
    if within is not None and not taken:
        problems.append(
            Problem(
                code="model/no-such-path",
                place=place,
                found=f"no tensor at or under {within}",
                allowed=", ".join(model.parts()) + ", or a path inside one of them",
                fix="name a part, or a path of its tensors",
            )
        )
    if problems:
        raise Refused(problems)


def is_published(head: dict[str, Any]) -> bool:
    """Whether a config.json is that of a published checkpoint which a native format reads."""
    if head.get("model_type") == "sightline":  # our own are the common case, and need no formats imported
        return False
    from sightline.model.native.native_table import NATIVE_FORMATS

    return any(native.recognises(head) for native in NATIVE_FORMATS.values())


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model directory or of a published checkpoint, under our names."""
    if (folder / INDEX).is_file() and hub_layout.read_json(folder / "config.json").get("model_type") == "sightline":
        return read_tensors(folder)
    from sightline.model.native.native_weights import load as load_native

    return load_native(folder).tensors


def model_folder(path: Path) -> Path:
    """The model directory that a path means: itself, RUN/model, or the last stage or soup of a run; or a published checkpoint, by its folder or its cached hub name."""
    found = hub_layout.find(str(path))
    if found is not None and is_published(hub_layout.read_json(found / "config.json")):
        return found
    if (path / INDEX).is_file():
        return path
    if (path / "model" / INDEX).is_file():
        return path / "model"
    # the graph knows the last stage of the last run; the folder may hold stages that the recipe no longer has
    nodes = json.loads((path / "graph.json").read_text(encoding="utf-8")) if (path / "graph.json").is_file() else []
    stages = [path / node["artifact"] for node in nodes if node["name"].startswith(("stages/", "soups/")) and (path / node["artifact"] / INDEX).is_file()]
    if not stages:
        raise Refused(
            Problem(
                code="model/not-a-model",
                place=str(path),
                found="no model directory",
                allowed="a run with a finished stage, or a model directory",
                fix=f"ls {path}",
            )
        )
    return stages[-1]


def without_checkpoints(config: ModelConfig) -> ModelConfig:
    """Same parts, built from their configs alone: the weights come from the directory."""
    parts = {name: _without_checkpoint(getattr(config, name)) for name in ("connector", "language_model", "text_encoder")}
    heads = config.heads.model_copy(update={name: head.weightless() for name, head in config.heads.named().items()})
    return config.model_copy(update={**parts, "encoders": [_without_checkpoint(encoder) for encoder in config.encoders], "heads": heads})


def _without_checkpoint(part: Any) -> Any:
    return part.model_copy(update={"checkpoint": None}) if getattr(part, "checkpoint", None) is not None else part


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system: a copy is the same content
        shutil.copyfile(source, target)
