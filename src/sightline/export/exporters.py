"""Exporters: what each target takes, how it is written, and the proof that other software then says the same. One visible table.

MODEL --check--> problems, or none --write--> OUT --prove, in a process without this package--> Proof --> OUT/export.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import Problem, Refused, nearest
from sightline.lineage import Lineage, artifact, software, write_json
from sightline.model import directory, hub_layout
from sightline.model.assembly import ModelConfig

RECORD = "export.json"
"""File of an exported folder: what it was made of, what was left out, and its proof."""

RECORD = "export.json"
"""File of an exported folder: what was made of, what was left out, and its proof."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the other software said beside what the model said."""

    target: str
    difference: float
    """Largest |difference| of logits, or of the components of vectors, over all golden requests."""
    golden: tuple[tuple[str, str], ...]
    """Golden answers, ours and theirs; pictures and texts that were compared, where a model writes nothing."""
    through: str
    """Who made the inputs: the stock processor, or what stood in for it."""
    software: dict[str, str]
    """Versions of the other software."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class Exporter(Protocol):
    """What every target offers."""

    target: str

    def check(self, config: ModelConfig) -> list[Problem]:
        """Everything about a resolved Config that the target cannot say; empty: it fits."""
        ...

    def write(self, model_dir: Path, out: Path) -> None:
        """Write the folder that the other software loads. What it leaves out is listed under `left_out` in OUT/export.json. Raises Refused as `check` lists."""
        ...

    def prove(self, model_dir: Path, out: Path) -> Proof:
        """Load the folder in the other software alone and ask it the golden requests. Raises Refused where it says something else."""
        ...


_NATIVE = "sightline.export.native_exporters"
EXPORTERS: dict[str, str] = {
    "llava": f"{_NATIVE}:Llava",
    "llava-next": f"{_NATIVE}:LlavaNext",
    "pixtral": f"{_NATIVE}:Pixtral",
    "qwen2-vl": f"{_NATIVE}:Qwen2Vl",
    "internvl": f"{_NATIVE}:InternVl",
    "mllama": f"{_NATIVE}:Mllama",
    "idefics2": f"{_NATIVE}:Idefics2",
    "blip-2": f"{_NATIVE}:Blip2",
    "clip": f"{_NATIVE}:Clip",
    "siglip": f"{_NATIVE}:Siglip",
    "remote-code": "sightline.export.remote_code:RemoteCodeExporter",
}
"""Target -> MODULE:CLASS. The first that takes a model is taken, so that published forms come before code of our own."""
PARTS: dict[str, str] = {"onnx": "sightline.export.onnx_towers:OnnxTowerExporter"}
"""Targets that hold some parts of a model and answer nothing by themselves: written when they are asked for, and never offered in the place of a model."""


def exporter(target: str) -> Exporter:
    """The exporter of a target. Raises Refused (usage/target) with the choices."""
    known = EXPORTERS | PARTS
    if target not in known:
        fix = nearest(target, list(known)) or "sightline export MODEL --check"
        raise Refused(Problem(code="usage/target", place="--to", found=repr(target), allowed=", ".join(known), fix=fix))
    module, _, name = known[target].partition(":")
    return getattr(import_module(module), name)()


def fits(config: ModelConfig) -> dict[str, list[Problem]]:
    """Every target -> what it cannot say about a resolved Config."""
    return {target: exporter(target).check(config) for target in EXPORTERS}


def fitting(found: dict[str, list[Problem]]) -> list[str]:
    """The targets that take it."""
    return [target for target, problems in found.items() if not problems]


def closest(found: dict[str, list[Problem]]) -> str:
    """The target that misses least."""
    return min(found, key=lambda target: len(found[target]))


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder that was written and proved."""

    target: str
    out: Path
    left_out: list[str]
    """Names of tensors that have no place there."""
    proof: Proof

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"target": self.target, "out": str(self.out), "left_out": self.left_out, "proof": self.proof.record()}


def export(model_dir: Path, out: Path, target: str | None = None) -> Exported:
    """Write a model directory for a target, by default the first that takes it, and prove it: OUT is there whole and proved, or not at all.

    Raises Refused with everything that does not fit, or with what the other software says differently.
    """
    if not (model_dir / "golden" / "requests.jsonl").is_file():
        found, allowed = "no golden requests", "a model directory, whose golden requests the other software is asked again"
        raise Refused(Problem(code="export/no-golden", place=str(model_dir), found=found, allowed=allowed, fix=f"sightline checkpoint read {model_dir} MODEL"))
    config = directory.read_config(model_dir)
    chosen = taken_by(config, target)
    own = exporter(chosen)
    if problems := own.check(config):
        raise Refused(problems)
    with artifact(out) as temporary:
        own.write(model_dir, temporary)
        proof = own.prove(model_dir, temporary)
        left_out = record(model_dir, temporary, proof)
    return Exported(target=chosen, out=out, left_out=left_out, proof=proof)


def record(model_dir: Path, out: Path, proof: Proof) -> list[str]:
    """Write export.json: the model that it was made of, what was left out (returned too), and the proof."""
    said = hub_layout.read_json(out / RECORD) if (out / RECORD).is_file() else {}
    parts = hub_layout.read_json(model_dir / directory.INDEX)["metadata"]["parts"]
    made_of = {"model": Lineage.read(model_dir).id, "weights": directory.weights_id(parts), "parts": parts}
    write_json(out / RECORD, {**said, "target": proof.target, "made_of": made_of, "made_with": software(), "proof": proof.record()})
    return said.get("left_out", [])


def taken_by(config: ModelConfig, target: str | None) -> str:
    """The target that is asked for, else the first that takes a model. Raises Refused with what the closest one does not take."""
    if target is not None:
        return target
    found = fits(config)
    taken = fitting(found)
    if not taken:
        raise Refused(found[closest(found)])
    return taken[0]


def said(problems: Sequence[Problem], most: int = 3) -> str:
    """What does not fit, in one line: each place with what stands there and what is allowed; the rest is counted."""
    told = [f"{problem.place}: {problem.found}, allowed {problem.allowed}" for problem in problems[:most]]
    return "; ".join([*told, *([f"and {len(problems) - most} more"] if len(problems) > most else [])])
