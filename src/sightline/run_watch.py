"""What the watch of a stage is made of: the arithmetic of its model, the peak of this device, and who answers its probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sightline.data.mixture import Mixture
from sightline.errors import Problem, Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.metrics import repetition, tokenize
from sightline.evaluate.report import shown
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.plan_time import attention_flops, hardware, own_speed, work_of
from sightline.samples.exchange import Answer, Request
from sightline.train.objectives import Objective
from sightline.train.probing import Probes, probe_rows
from sightline.train.rates import Arithmetic
from sightline.train.stage import Prepared, StageConfig
from sightline.train.watch import Watch
from sightline.train.world import ALONE, World

DEVICES = {
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA A100-SXM4-80GB": "A100-80",
    "NVIDIA A100 80GB PCIe": "A100-80",
    "NVIDIA A100-SXM4-40GB": "A100-40",
    "NVIDIA A100-PCIE-40GB": "A100-40",
    "NVIDIA A40": "A40",
    "NVIDIA GeForce RTX 4090": "4090",
}
"""Name that the driver gives a device -> name in the table of hardware. Variants with another clock (H100 PCIe, H100 NVL, A100X) are not in it."""
_VECTORS = ("text_encoder", "prompts")
"""Parts that multiply nothing when a model writes."""
GRAM = 4
"""Words of the runs whose repetition is reported."""


def watch_of(
    stage: StageConfig,
    model: Model,
    processor: Processor,
    prepared: Prepared,
    objective: Objective,
    mixture: Mixture,
    record: Callable[[dict[str, Any]], None],
    *,
    seed: int,
    folder: Path,
    run: Path,
    world: World = ALONE,
) -> Watch:
    """The watch of a stage whose model is prepared. `folder`: that of the stage, in `run`; pictures of probes go into its `probes`."""
    found = arithmetic(stage, model, objective)
    encoders = model.config.encoders if found is not None else ()
    probes = _probes(stage, model, processor, mixture, seed) if stage.probe is not None else None
    if probes is not None:
        probes.write_pictures(folder / "probes", run, shown)
    return Watch(stage, record, table=prepared.table, arithmetic=found, encoders=encoders, probes=probes, world=world)


def arithmetic(stage: StageConfig, model: Model, objective: Objective) -> Arithmetic | None:
    """FLOPs by the rules of the plan, without what `recompute` does again, and the peak. None where one of them is not known."""
    flops = _flops(model, objective.needs)
    peak = peak_of(next(model.parameters()).device, stage.precision) if flops else None
    return Arithmetic(flops=flops, peak=peak) if peak is not None else None


def _flops(model: Model, needs: tuple[str, ...]) -> dict[str, float]:
    """Count -> FLOPs of a unit. Empty where no count says what the model does.

    That is where it runs several times a batch, its prompt is memory, a part reads both tokens and entries, a gradient passes through encoders to prompts, or weights are packed numbers.
    """
    language = model.config.language_model
    if model.config.prompted_encoders or not all(p.is_floating_point() for p in model.parameters()):
        return {}
    work = work_of(model)
    if needs == ("embed",) and model.config.text_part is None:
        found = {path: cost.both for path, cost in work.items() if path.startswith("encoders.")}
        trained = any(p.requires_grad for p in model.text_encoder.parameters())
        # no gradient passes from the encoders into the texts
        return {**found, "texts": work["text_encoder"].both if trained else work["text_encoder"].forward}
    if needs != ("write",) or language is None or model.config.fusion.prompt == "memory" or "fusion" in work:
        return {}
    flops = {"squares": attention_flops(language.block(), 1.0, causal=True) * (3 if work["language_model"].backward else 1)}
    for path, cost in work.items():
        if path not in _VECTORS:
            count = path if path.startswith("encoders.") else {"head": "answers", "language_model": "tokens"}.get(path, "entries")
            flops[count] = flops.get(count, 0.0) + cost.both
    return flops


def peak_of(device: torch.device, precision: str) -> float | None:
    """FLOP/s of a device in a compute type: of a GPU the table's in bfloat16, of a CPU what it is measured to do; None where the table has none."""
    if device.type == "cpu":
        return _own_speed(precision, torch.get_num_threads())
    named = DEVICES.get(torch.cuda.get_device_name(device)) if device.type == "cuda" and precision == "bfloat16" else None
    return hardware(named).flops if named is not None else None


@lru_cache
def _own_speed(precision: str, threads: int) -> float:
    """Measured once for each number of threads."""
    del threads
    return own_speed(torch.bfloat16 if precision == "bfloat16" else torch.float32)


def _probes(stage: StageConfig, model: Model, processor: Processor, mixture: Mixture, seed: int) -> Probes:
    """Probes that the model answers in the precision of its training. Refused where it cannot write, or where no row holds a question."""
    assert stage.probe is not None
    if "write" not in model.abilities:
        place, found = f"stages.{stage.name}.probe", f"a model that can {', '.join(model.abilities) or 'do nothing'}"
        raise Refused(Problem(code="train/probe-cannot-write", place=place, found=found, allowed="a model with a language model", fix="probe: null"))
    own = Processor(processor.config, processor.tokenizer, processor.side)  # the other one is at work in the thread that feeds

    def ask(requests: Sequence[Request]) -> list[Answer]:
        # a new one each time: what it remembers of pictures is of the encoders as they were
        return list(LocalAnswerer(model, own, "in training", stage.precision).answer(requests))

    rows = probe_rows(mixture, own, stage.probe.rows, seed)
    return Probes(stage.name, stage.probe, model, rows, ask=ask, repetition=lambda text: repetition(tokenize(text), GRAM))
