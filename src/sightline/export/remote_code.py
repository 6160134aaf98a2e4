"""Export of any composition that no published family says: a folder of code, weights and tokenizer that transformers loads with `trust_remote_code=True`, without Sightline.

model directory --check--> problems
model directory --write--> config.json with auto_map, code files, safetensors, tokenizer, chat template (see `remote_code_sources`, `remote_code_files`)
model directory, folder --prove--> Proof                                                                               (see `remote_code_proof`)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.export.exporters import RECORD, Proof
from sightline.export.remote_code_sources import PACKAGE, Definition, subset
from sightline.kinds import Config
from sightline.lineage import artifact, write_json, write_text
from sightline.model.assembly import ModelConfig
from sightline.samples.bands import COLOURS

IMAGE = "<image>"
"""Token that stands for a picture, and then for each of its entries."""
FILES = f"{PACKAGE}.export.remote_code_files"
_WHOLE = tuple(f"{FILES}.{name}_sightline" for name in ("configuration", "image_processing", "modeling", "processing"))
_ENCODERS = {"transformers": ("TowerEncoder", "tower_grid"), "staged-convnext": ("StagedEncoder", "staged_grid")}
"""Kind of an encoder -> its module and its grid in `exported_encoders`."""
_AUTO = {
    "AutoConfig": "configuration_sightline.SightlineConfig",
    "AutoModel": "modeling_sightline.SightlineModel",
    "AutoModelForImageTextToText": "modeling_sightline.SightlineForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_sightline.SightlineForConditionalGeneration",
    "AutoProcessor": "processing_sightline.SightlineProcessor",
    "AutoImageProcessor": "image_processing_sightline.SightlineImageProcessor",
}
_PROBED = (64, 96, 211, 336, 500, 1024, 1999)
"""Sides in px of the pictures whose crops say how long a row of pixels is."""
_LEAST_AREA = 196
"""Px of a row at least: a patch of 14 by 14."""
_SHARD_BYTES = 4_000_000_000
LEFT_OUT = ("regions", "text_encoder")
"""Parts that an answer in words to a question in words does not need."""


class RemoteCodeExporter:
    """See the module."""

    target = "remote-code"

    def check(self, config: Config) -> list[Problem]:
        """Every part that a folder for stock transformers cannot hold, with the reason."""
        assert isinstance(config, ModelConfig)
        return [*_wrong_whole(config), *_wrong_language(config), *_wrong_encoders(config), *_wrong_kinds(config)]

    def write(self, model_dir: Path, out: Path) -> None:
        """Write the folder. Raises Refused with all of `check`, and for a tokenizer that other software would apply otherwise."""
        from sightline.model import directory

        model, processor, _ = directory.load(model_dir)
        config = directory.without_checkpoints(model.config)
        if problems := self.check(config):
            raise Refused(problems)
        parts = exported_parts(config, model)
        with artifact(out) as folder:
            for name, text in code_files(config).items():
                write_text(folder / name, text)
            tokens = _write_tokenizer(folder, processor)
            stored = directory.tensors_of(model_dir)
            tied, dtype = _write_weights(folder, model, stored, tokens)
            write_json(folder / RECORD, {"left_out": sorted(name for name in stored if name.split(".")[0] in LEFT_OUT)})
            _write_settings(folder, config, parts, tokens, tied, dtype, model)

    def prove(self, model_dir: Path, out: Path) -> Proof:
        """Logits and three golden answers by stock transformers, in a process where Sightline cannot be imported."""
        from sightline.export.remote_code_proof import prove

        return prove(model_dir, out, self.target)


def _problem(place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code="export/remote-code", place=f"model.{place}", found=found, allowed=allowed, fix=fix)


def _wrong_whole(config: ModelConfig) -> list[Problem]:
    found = []
    if config.language_model is None or not config.encoders:
        said = "no language model" if config.language_model is None else "no encoder"
        found.append(
            _problem(
                "language_model" if config.language_model is None else "encoders", said, "encoders before a language model", "choose the target of such a model"
            )
        )
    for name, head in config.heads.named().items():
        said = f"{head.kind}: masks are drawn from hidden states, which no engine gives back"
        found.append(_problem(f"heads.{name}", said, "answers in words alone", "serve it by `sightline serve`"))
    if config.fusion.kind != "sequence":
        reasons = {
            "gated-cross-attention": "memory that blocks between the layers of the language model read: serving engines keep no second memory for a model they do not know",
            "cross-attention": "memory that the decoder reads by attention of its own: serving engines build decoders that read one sequence",
            "encoder-decoder": "a prompt that is memory of an encoder-decoder: the text model is no decoder of one sequence",
        }
        reason = reasons.get(config.fusion.kind, "a fusion that is not a sequence")
        found.append(
            _problem(
                "fusion",
                f"{config.fusion.kind}: {reason}",
                "sequence: entries among the text tokens",
                "serve it by `sightline serve`, or export a published form",
            )
        )
    return found


def _wrong_language(config: ModelConfig) -> list[Problem]:
    language: Any = config.language_model
    if language is None:
        return []
    if language.kind != "transformers":
        allowed = "transformers: a causal language model that AutoModel builds"
        return [_problem("language_model", f"kind {language.kind}", allowed, "serve it by `sightline serve`, or export a published form")]
    found = []
    if language.sections is not None:
        said = "positions on a grid (sections): an engine counts positions on a line for a model that it does not know"
        found.append(_problem("language_model.sections", said, "positions on a line", "export it as qwen2_vl"))
    if language.extra_rows:
        said = f"{language.extra_rows} rows of the input embedding that are never written: engines take one vocabulary for both ends"
        found.append(_problem("language_model.extra_rows", said, "0", "export a published form that has them"))
    return found


def _wrong_encoders(config: ModelConfig) -> list[Problem]:
    found = []
    for encoder in config.encoders:
        kind = getattr(encoder, "kind", "")
        if kind not in _ENCODERS:
            found.append(
                _problem(
                    encoder.path,
                    f"kind {kind}: a tower that is not run by a class of transformers alone",
                    ", ".join(_ENCODERS),
                    "export a published form that has it",
                )
            )
        elif encoder.bands != COLOURS:
            said = f"bands {', '.join(encoder.bands)}: processors of transformers hand over red, green and blue"
            found.append(_problem(f"{encoder.path}.bands", said, ", ".join(COLOURS), "serve it by `sightline serve`"))
    return found


def _wrong_kinds(config: ModelConfig) -> list[Problem]:
    found = []
    named = {"tiler": config.tiler, "layout": config.layout, "combine": config.combine, "connector": config.connector}
    named |= {f"connector.connectors.{name}": own for name, own in getattr(config.connector, "connectors", {}).items()}
    for place, own in named.items():
        if own is not None and type(own).__module__.split(".")[0] != PACKAGE:
            found.append(
                _problem(
                    place,
                    f"a kind of the package {type(own).__module__.split('.')[0]}",
                    "kinds of Sightline: their code is carried",
                    "serve it where the package is",
                )
            )
    if config.connector is not None and config.connector.reads_text:
        said = "a connector that reads the question: features of a picture would depend on the text, and engines compute and keep them by the picture"
        found.append(_problem("connector.reads_text", said, "a connector that reads the picture alone", "export it as instructblip"))
    if getattr(config.layout, "wrap", ""):
        said = "tokens between neighbouring pictures that are written once for both: a processor of transformers writes each picture for itself"
        found.append(_problem("layout", said, "layouts that write each picture for itself", "export it as idefics2"))
    return found


# settings


def exported_parts(config: ModelConfig, model: Any) -> dict[str, Any]:
    """What config.json says of all parts but the language model: resolved, as plain JSON."""
    assert config.tiler is not None and config.language_model is not None
    prompts = None
    if config.prompts is not None:
        shapes = {name.removeprefix("vectors").removeprefix("."): list(tensor.shape) for name, tensor in model.prompts.state_dict().items()}
        prompts = {"entries": config.prompts.entries, "shapes": shapes}
    connector: Any = config.connector
    return {
        "encoders": [_encoder(encoder) for encoder in config.encoders],
        "tiler": config.tiler.model_dump(mode="json"),
        "combine": _dumped(config.combined),
        "connector": _dumped(connector) if connector is not None else None,
        "layout": config.layout.model_dump(mode="json"),
        "prompts": prompts,
        "width": config.language_model.width(),
        "row": row_length(config),
    }


def _dumped(part: Any) -> dict[str, Any]:
    return part.model_dump(mode="json")


def _encoder(encoder: Any) -> dict[str, Any]:
    block = encoder.block()
    said = {"name": encoder.name, "kind": encoder.kind, "block": block, "sees": list(encoder.sees), "mean": list(encoder.mean), "std": list(encoder.std)}
    said |= {"channels": encoder.channels(), "read": encoder.read().model_dump(mode="json")}
    return said | ({"stages": list(encoder.stages)} if encoder.kind == "staged-convnext" else {"rule": encoder.rule(block)})


def row_length(config: ModelConfig) -> int:
    """Numbers of a row of pixels: a whole crop where all have one size, else a part that all sizes share, as far as it is no less than a patch."""
    assert config.tiler is not None
    tilings = [config.tiler.tile(width, height) for width in _PROBED for height in _PROBED]
    areas = {crop.window[2] * crop.window[3] for tiling in tilings for crop in tiling.crops}
    return len(COLOURS) * (areas.pop() if len(areas) == 1 else max(math.gcd(*areas), _LEAST_AREA))


# code


def code_files(config: ModelConfig) -> dict[str, str]:
    """File name -> text: the code of exactly the kinds that a model has."""
    kinds: dict[str, dict[str, Definition]] = {}
    families: dict[str, Any] = {"tiler": config.tiler, "layout": config.layout, "combine": config.combined, "connector": config.connector}
    for family, own in families.items():
        for one in (own, *getattr(own, "connectors", {}).values()):
            if one is not None:
                kinds.setdefault(family, {})[one.kind] = (type(one).__module__, type(one).__name__)
    encoders = {getattr(encoder, "kind", ""): _ENCODERS[getattr(encoder, "kind", "")] for encoder in config.encoders}
    wanted = [definition for family in kinds.values() for definition in family.values()]
    wanted += [(f"{FILES}.exported_encoders", name) for names in encoders.values() for name in names]
    return subset(_WHOLE, wanted, {f"{FILES}.part_kinds": _part_kinds(kinds, encoders)})


def _part_kinds(kinds: Mapping[str, Mapping[str, Definition]], encoders: Mapping[str, tuple[str, str]]) -> str:
    """The module `part_kinds` of a model: its own kinds alone."""
    listed = sorted({definition for family in kinds.values() for definition in family.values()})
    imports = [f"from .{module.rpartition('.')[2]} import {name}" for module, name in listed]
    imports += [f"from .exported_encoders import {name}" for names in encoders.values() for name in names]
    table = ", ".join(f"{family!r}: {{{', '.join(f'{kind!r}: {name}' for kind, (_, name) in own.items())}}}" for family, own in kinds.items())
    return f'''"""The kinds of parts that this model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

{chr(10).join(sorted(imports))}

_KINDS: dict[str, dict[str, Any]] = {{{table}}}
ENCODERS: dict[str, Any] = {{{", ".join(f"{kind!r}: {names[0]}" for kind, names in encoders.items())}}}
"""Kind -> module of an encoder."""
GRIDS: dict[str, Any] = {{{", ".join(f"{kind!r}: {names[1]}" for kind, names in encoders.items())}}}
"""Kind of an encoder -> the grid of a crop."""


def part(family: str, said: Mapping[str, Any]) -> Any:
    """The Config of a part, as config.json states it; a connector by encoder holds others."""
    values = {{name: value for name, value in said.items() if name != "kind"}}
    if "connectors" in values:
        values["connectors"] = {{name: part(family, inner) for name, inner in values["connectors"].items()}}
    return _KINDS[family][said["kind"]](**values)
'''


# files


def _write_tokenizer(folder: Path, processor: Any) -> dict[str, int]:
    """The tokenizer with the picture's token, which adds nothing to a text of its own accord; ids of the picture's token, end and pad."""
    from sightline.model.chat import template
    from sightline.model.native.native_weights import extended

    tokenizer = processor.tokenizer
    tokenizer.save(folder, template(processor.chat))
    known = {token: number for token, number in tokenizer.vocabulary().items() if token == IMAGE}
    image = known.get(IMAGE, tokenizer.size)
    document = json.loads(extended(tokenizer.document, {IMAGE: image}))
    for token in document["added_tokens"]:
        token["special"] = token["special"] or token["content"] in processor.config.controls()
    # templates write what begins a prompt themselves
    write_text(folder / "tokenizer.json", json.dumps(document | {"post_processor": None}, ensure_ascii=False))
    stop = {"stop_strings": [processor.chat.stop]} if processor.chat.stop else {}
    write_json(folder / "generation_config.json", {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id, "do_sample": False, **stop})
    return {"image": image, "end": tokenizer.end_id, "pad": tokenizer.pad_id}


def _write_weights(folder: Path, model: Any, stored: Mapping[str, Any], tokens: Mapping[str, int]) -> tuple[bool, str]:
    """Tensors in the dtypes that they have on disk; whether head and embeddings are one, and the dtype where all have the same.

    A picture's token beyond the vocabulary gets a row in embeddings and head: a copy of the pad token's, so that it is never likelier than a token that is never written.
    """
    import torch
    from safetensors.torch import save_file

    from sightline.model import hub_layout
    from sightline.model.native.native_weights import blank, everything, wanted

    needs = wanted(blank(model.config))
    head, prefix = _inside(model.language_model.model)
    tied = any(f"language_model.model.{head}.weight" in need.names and len(need.names) > 1 for need in needs)
    embeddings = f"model.language_model.{_name_of(model.language_model.model.base_model, model.language_model.model.get_input_embeddings())}.weight"
    named = {}
    for name, tensor in everything(needs, stored).items():
        target = exported_name(name, head, prefix, hasattr(model.connector, "connectors"))
        if target is not None and not (tied and target == "lm_head.weight"):
            named[target] = tensor.detach().cpu().contiguous()
    for name in {embeddings, "lm_head.weight", "lm_head.bias"} & named.keys():
        if len(named[name]) <= tokens["image"]:
            named[name] = torch.cat([named[name], named[name][tokens["pad"]][None]])
    shards = hub_layout.shards(named, _SHARD_BYTES)
    files = {name: f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number, names in enumerate(shards) for name in names}
    if len(shards) == 1:
        files = dict.fromkeys(named, "model.safetensors")
    for names in shards:
        save_file({name: named[name] for name in names}, folder / files[names[0]], metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in named.values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))})
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in named.values()}
    return tied, dtypes.pop() if len(dtypes) == 1 else "float32"


def _name_of(owner: Any, wanted: Any) -> str:
    return next(name for name, module in owner.named_modules() if module is wanted)


def _inside(causal: Any) -> tuple[str, str]:
    """Names of the head and of the decoder in a causal class of transformers. Raises Refused where it holds anything else."""
    modules = {id(module): name for name, module in causal.named_children()}
    head, prefix = modules.get(id(causal.get_output_embeddings()), ""), causal.base_model_prefix
    others = sorted(set(modules.values()) - {head, prefix})
    if not head or others:
        raise Refused(
            _problem(
                "language_model",
                f"{type(causal).__name__} with {', '.join(others) or 'no head of its own'}",
                "a decoder and a linear head",
                "choose another language model",
            )
        )
    return head, prefix


def exported_name(name: str, head: str, prefix: str, each: bool) -> str | None:
    """The name of one of our tensors in the exported model; None for parts that are left out. `each`: there is a connector for each encoder."""
    part = name.split(".")[0]
    if part in LEFT_OUT:
        return None
    if part == "encoders":
        return f"model.vision_tower.{name.removeprefix('encoders.')}"
    if part == "language_model":
        inner = name.removeprefix("language_model.model.")
        return f"lm_head.{inner.removeprefix(head + '.')}" if inner.startswith(f"{head}.") else f"model.language_model.{inner.removeprefix(prefix + '.')}"
    return f"model.connector.connectors.{name.removeprefix('connector.')}" if each and part == "connector" else f"model.{name}"


def _write_settings(folder: Path, config: ModelConfig, parts: dict[str, Any], tokens: dict[str, int], tied: bool, dtype: str, model: Any) -> None:
    assert config.language_model is not None
    head = model.language_model.model.get_output_embeddings()
    block = config.language_model.block()
    text = block | {
        "eos_token_id": tokens["end"],
        "pad_token_id": tokens["pad"],
        "tie_word_embeddings": tied,
        "vocab_size": max(head.out_features, tokens["image"] + 1),
    }
    write_json(
        folder / "config.json",
        {
            "model_type": "sightline_remote_code",
            "architectures": ["SightlineForConditionalGeneration"],
            "auto_map": _AUTO,
            "dtype": dtype,
            "image_token_id": tokens["image"],
            "head_bias": head.bias is not None,
            "tie_word_embeddings": tied,
            "text_config": text,
            "parts": parts,
        },
    )
    processor = {"processor_class": "SightlineProcessor", "auto_map": {name: _AUTO[name] for name in ("AutoProcessor", "AutoImageProcessor")}}
    pictures = {"image_processor_type": "SightlineImageProcessor", **processor, "parts": parts}
    write_json(folder / "preprocessor_config.json", pictures)
    write_json(folder / "processor_config.json", {**processor, "image_token": IMAGE, "image_processor": pictures})
