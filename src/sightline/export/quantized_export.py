"""Models with a rounded language model: written small, loaded small, and what that costs in golden answers and in a benchmark.

Weights of the linear layers of the language model alone are rounded (`rounded_layers`); embeddings, head, norms, encoders and connectors stay as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.export.rounded_layers import HOWS, How
from sightline.lineage import artifact, sha256_json, write_json
from sightline.samples.exchange import Answer, Answerer, Decoding, Request

ROUNDED, KEPT = "rounded.safetensors", "kept.safetensors"
SETTINGS = "quantized.json"
TOKENS = 32
"""Tokens of a golden answer at most."""
INSIDE = "model"
"""Folder of the small files of the model directory: config, tokenizers, golden requests."""
Measured = Callable[[Answerer], Mapping[str, float]]
"""Metrics of a benchmark, by whoever answers."""


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What rounding did."""

    how: str
    layers: int
    bytes: tuple[int, int]
    """Of all weights, before and after."""
    golden: tuple[tuple[str, str], ...]
    """Golden answers before and after."""
    logp: float
    """Mean |difference| of the log-probabilities of golden tokens, natural logarithms."""
    metrics: dict[str, tuple[float, float]]
    """Of the benchmark, before and after; empty where none was given."""

    def record(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        same = sum(before == after for before, after in self.golden)
        lines = [
            f"{self.how}: {self.layers} layers, {self.bytes[0]:,} bytes of weights become {self.bytes[1]:,}",
            f"golden answers: {same} of {len(self.golden)} the same, mean |difference| of log-probabilities {self.logp:.4f}",
        ]
        return "\n".join([*lines, *(f"{name}: {before:.4f} before, {after:.4f} after" for name, (before, after) in self.metrics.items())])


def quantize(model_dir: Path, out: Path, how: How, measured: Measured | None = None) -> Quantized:
    """Write a model directory with its language model rounded, and say what that cost. `measured`: a benchmark that both models answer.

    Raises Refused (export/quantize) for another `how`, or a model without a language model of transformers; and (evaluate/no-golden) without golden requests.
    """
    from sightline.evaluate.answering import LocalAnswerer
    from sightline.evaluate.golden import check_golden, golden_prompts
    from sightline.export.rounded_layers import round_layers
    from sightline.model import directory

    model, processor, weights = directory.load(model_dir)
    if how not in HOWS or getattr(model.config.language_model, "kind", "") != "transformers":
        found = f"{how} of a model with {getattr(model.config.language_model, 'kind', 'no')} language model"
        allowed = f"{' or '.join(HOWS)} of a causal language model of transformers"
        raise Refused(Problem(code="export/quantize", place=str(model_dir), found=found, allowed=allowed, fix="choose another target"))
    check_golden(model_dir, model, processor)
    requests = [Request(sample=sample, decoding=Decoding(max_tokens=TOKENS)) for sample in golden_prompts(model_dir)[0]]
    plain = LocalAnswerer(model, processor, weights)
    before = _answers(plain, requests)
    metrics = dict(measured(plain)) if measured is not None else {}
    causal: Any = model.language_model.model
    names = round_layers(causal, how, kept=causal.get_output_embeddings())
    with artifact(out) as folder:
        _write(folder, model_dir, model, names, how)
    rounded = LocalAnswerer(*load_quantized(out))
    after = _answers(rounded, requests)
    later = dict(measured(rounded)) if measured is not None else {}
    return Quantized(
        how=how,
        layers=len(names),
        bytes=(_weight_bytes(model_dir), _weight_bytes(out)),
        golden=tuple((one.text, other.text) for one, other in zip(before, after, strict=True)),
        logp=_difference(rounded, requests, before),
        metrics={name: (value, later[name]) for name, value in metrics.items()},
    )


def load_quantized(folder: Path) -> tuple[Any, Any, str]:
    """Model (eval mode) with rounded layers, processor and weights id of a folder that `quantize` wrote. Raises Refused where it is none, or its files are not those that were written."""
    from safetensors.torch import load_file

    from sightline.export.rounded_layers import round_layers
    from sightline.lineage import sha256_file
    from sightline.model import directory
    from sightline.model.processor import Processor
    from sightline.model.tokens import TextTokenizer
    from sightline.model.vlm import Model

    if not (folder / SETTINGS).is_file():
        raise Refused(
            Problem(
                code="export/not-quantized",
                place=str(folder),
                found=f"no {SETTINGS}",
                allowed="a folder that quantize wrote",
                fix="load it as a model directory",
            )
        )
    said = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    changed = [name for name, digest in said["files"].items() if not (folder / name).is_file() or sha256_file(folder / name) != digest]
    if changed:
        raise Refused(
            Problem(
                code="export/changed",
                place=str(folder),
                found=f"{', '.join(changed)}: not what was written",
                allowed="files as they were written together",
                fix="write it again",
            )
        )
    config = directory.read_config(folder / INSIDE)
    tokenizer = TextTokenizer.load(folder / INSIDE, config.chat_format().end, config.controls(), config.reads_padding)
    own = folder / INSIDE / "side"
    side = TextTokenizer.load(own, controls=config.side_controls()) if own.is_dir() else None
    model = Model(directory.without_checkpoints(config))
    causal: Any = model.language_model.model
    round_layers(causal, said["how"], kept=causal.get_output_embeddings())
    directory.fill(model, {**load_file(folder / KEPT), **load_file(folder / ROUNDED)}, str(folder))
    return model.eval(), Processor(config, tokenizer, side), sha256_json(said)


def _write(folder: Path, model_dir: Path, model: Any, names: list[str], how: str) -> None:
    """Small files as they are, weights that are not rounded, rounded ones, and the digests of both."""
    from safetensors.torch import save_file

    from sightline.lineage import sha256_file
    from sightline.model import directory

    layers = [f"language_model.model.{name}" for name in names]
    own = {f"language_model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
    save_file({f"{layer}.{name}": own[f"{layer}.{name}"].contiguous() for layer in layers for name in ("rounded", "scales")}, folder / ROUNDED)
    gone = {f"{layer}.weight" for layer in layers}
    save_file({name: tensor.contiguous() for name, tensor in directory.read_tensors(model_dir).items() if name not in gone}, folder / KEPT)
    inside = folder / INSIDE
    inside.mkdir()
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and path.name != directory.INDEX:
            shutil.copyfile(path, inside / path.name)
    for name in ("golden", "side"):
        if (model_dir / name).is_dir():
            shutil.copytree(model_dir / name, inside / name)
    files = {name: sha256_file(folder / name) for name in (ROUNDED, KEPT)}
    write_json(folder / SETTINGS, {"how": how, "layers": layers, "files": files})


def _answers(answerer: Any, requests: list[Request]) -> list[Answer]:
    """In the order of the requests."""
    return [next(answerer.answer([request])) for request in requests]


def _difference(answerer: Any, requests: list[Request], before: list[Answer]) -> float:
    """Mean |difference| of the log-probabilities of the tokens that were answered before."""
    import torch

    from sightline.evaluate.golden import forced

    found: list[float] = []
    for request, answer in zip(requests, before, strict=True):
        prompt = answerer.processor.encode(request.sample, answer=False)
        with torch.no_grad():
            again = forced(answerer.model, answerer.processor, prompt, answer.tokens, "float32")
        found += [abs(one - other) for one, other in zip(again.tolist(), answer.logps, strict=True)]
    return sum(found) / max(1, len(found))


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
