"""Adapters alone, in peft's layout: for peft itself, and for vLLM, which serves several beside one model. Proved beside that model in transformers and peft.

MODEL/adapter/PART --names of the class, one rank, scales in B--> OUT/adapter_model.safetensors        MODEL less its adapters --target--> the model beside
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.export.exporters import RECORD, Exported, exporter, record, taken_by
from sightline.export.native_exporters import NativeExporter
from sightline.export.proof import prove_writer
from sightline.lineage import artifact, write_json
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.native.key_rules import Same, moves_in
from sightline.train.adapters import MERGED, Lora, scales

ADAPTER = "adapter"
"""Folder of a model directory that a stage with adapters leaves."""
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be in vLLM 0.32."""
_A, _B, _LENGTH = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The adapter of one linear layer."""

    part: str
    name: str
    """Path inside the part."""
    scale: float
    a: Tensor
    """(r, inputs)."""
    b: Tensor
    """(outputs, r)."""
    length: Tensor | None
    """(outputs,) of DoRA."""

    @property
    def weight(self) -> str:
        """Full name of the weight that it adapts."""
        return f"{self.part}.{self.name}.weight"


def export_adapters(model_dir: Path, out: Path, target: str | None = None, base: Path | None = None, with_base: bool = False) -> Exported:
    """Write the adapters of a model directory beside what they were trained on, and prove both together.

    `base`: the model before its adapters were merged; without it the adapters are taken out of the weights, which DoRA does not allow. `with_base`: write it to OUT/base.
    Raises Refused for a model without adapters, one that no native target takes, and adapters on layers that the target's class joins or splits.
    """
    model, processor, _ = directory.load(model_dir)
    chosen = taken_by(model.config, target)
    own = exporter(chosen)
    if not isinstance(own, NativeExporter):
        allowed, fix = "a published form, whose layers have names of their own", "export the whole model"
        raise Refused(Problem(code="export/adapters", place="--to", found=chosen, allowed=allowed, fix=fix))
    if problems := own.check(model.config):
        raise Refused(problems)
    layers = read_layers(model_dir, dict(model.parts()))
    with artifact(out) as temporary, TemporaryDirectory() as folder:
        before = base
        if before is None:
            before = Path(folder) / "before"
            before.mkdir()
            take_out(layers, dict(model.parts()))
            directory.save(before, model, processor, model_dir)
        del model
        beside = (temporary if with_base else Path(folder)) / "base"
        own.write(before, beside)
        write_peft(temporary, layers, class_names(own, beside, processor.config), "base" if with_base else str(base or model_dir))
        proof = prove_writer(model_dir, beside, replace(own.stock(), adapter=temporary, close=MERGED["float32"]))
        write_json(temporary / RECORD, {"adapters": sorted(layer.weight for layer in layers), "vllm": for_vllm(layers)})
        record(model_dir, temporary, proof)
    return Exported(target=own.target, out=out, left_out=[], proof=proof)


def read_layers(model_dir: Path, parts: Mapping[str, torch.nn.Module]) -> list[Layer]:
    """The adapters that the last stage of a model directory left. Refused (export/no-adapters) where it trained none."""
    files = sorted((model_dir / ADAPTER).glob("*.safetensors")) if (model_dir / ADAPTER).is_dir() else []
    if not files:
        allowed, fix = "a model of a stage with `lora`", "train: {language_model: {lora: {rank: 16}}}"
        raise Refused(Problem(code="export/no-adapters", place=str(model_dir), found="no adapters", allowed=allowed, fix=fix))
    found = []
    for file in files:
        part = file.name.removesuffix(".safetensors")
        lora = Lora.model_validate_json((file.parent / f"{part}.json").read_text(encoding="utf-8"))
        tensors, scale = load_file(file), scales(parts[part], lora)
        for name in sorted(key.removesuffix(f".{_A}") for key in tensors if key.endswith(_A)):
            own = {end: tensors.get(f"{name}.{end}") for end in (_A, _B, _LENGTH)}
            found.append(Layer(part=part, name=name, scale=scale[name], a=own[_A], b=own[_B], length=own[_LENGTH]))  # pyright: ignore[reportArgumentType]
    return found


@torch.no_grad()
def take_out(layers: list[Layer], parts: Mapping[str, torch.nn.Module]) -> None:
    """W - scale * BA in place. Refused (export/dora-base) for DoRA: the length of a row before is not in what is left."""
    if any(layer.length is not None for layer in layers):
        found, allowed = "DoRA, which the weights alone do not give back", "the model that the stage started from"
        raise Refused(Problem(code="export/dora-base", place="--base", found=found, allowed=allowed, fix="--base RUN/stages/NN-BEFORE/model"))
    for layer in layers:
        weight = parts[layer.part].get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        weight -= layer.scale * layer.b.float() @ layer.a.float()


def class_names(own: NativeExporter, folder: Path, config: ModelConfig) -> dict[str, str]:
    """Our weights -> their names in the class of transformers as it stands in memory, which peft and vLLM's mapping of names go by."""
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, own.auto).from_config(transformers.AutoConfig.from_pretrained(folder))
    served = own.format.served(config)
    moves = moves_in(own.format.rules(served), model.state_dict(), str(folder))
    return {move.ours[0]: move.theirs[0] for move in moves if move.change == Same()}


def write_peft(out: Path, layers: list[Layer], names: Mapping[str, str], base: str) -> None:
    """adapter_model.safetensors and adapter_config.json. All layers have the largest rank, filled up with zeros, and scale 1, theirs being in B: readers that know one rank and
    one alpha, as vLLM does, compute the same.
    """
    from peft import LoraConfig

    if lost := [layer.weight for layer in layers if layer.weight not in names]:
        allowed, fix = "layers that the class has as they are", "export the whole model"
        raise Refused(Problem(code="export/adapter-layer", place=str(out), found=", ".join(lost[:20]), allowed=allowed, fix=fix))
    rank = max(len(layer.a) for layer in layers)
    tensors, paths = {}, []
    for layer in layers:
        path = names[layer.weight].removesuffix(".weight")
        more = rank - len(layer.a)
        tensors[f"base_model.model.{path}.{_A}"] = torch.nn.functional.pad(layer.a.float(), (0, 0, 0, more))
        tensors[f"base_model.model.{path}.{_B}"] = torch.nn.functional.pad(layer.b.float() * layer.scale, (0, more))
        if layer.length is not None:
            tensors[f"base_model.model.{path}.{_LENGTH.removesuffix('.weight')}"] = layer.length.float()
        paths.append(path)
    save_file(tensors, out / "adapter_model.safetensors", metadata={"format": "pt"})
    said = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=paths,
        use_dora=any(layer.length is not None for layer in layers),
        base_model_name_or_path=base,
        inference_mode=True,
    )
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in said.to_dict().items()}
    write_json(out / "adapter_config.json", json.loads(json.dumps(plain, default=str)))


def for_vllm(layers: list[Layer]) -> dict[str, object]:
    """Whether vLLM serves these adapters, and how, or why not."""
    others = sorted({layer.part for layer in layers} - {"language_model"})
    rank = max(len(layer.a) for layer in layers)
    room = next((most for most in _VLLM_RANKS if most >= rank), None)
    if any(layer.length is not None for layer in layers):
        return {"takes": False, "how": "vLLM has no DoRA"}
    if others:
        return {"takes": False, "how": f"adapters of {', '.join(others)}: their layers have other names there than in transformers"}
    if room is None:
        return {"takes": False, "how": f"rank {rank}: at most {_VLLM_RANKS[-1]}"}
    return {"takes": True, "how": f"vllm serve BASE --enable-lora --max-lora-rank {room} --lora-modules NAME=OUT"}
