"""`sightline plan`: what a recipe will build and train, at true size on the meta device, before anything costs. Rows: plan_rows, memory: plan_memory, hours: plan_time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused
from sightline.export.engines import Engines, engines
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.plan_rows import vocabulary
from sightline.plan_serving import ServingPlan, plan_serving
from sightline.plan_soups import SoupPlan, plan_soups
from sightline.plan_stages import Known, StagePlan, plan_stage, record
from sightline.plan_text import serving_text, soup_text, stage_text, summary
from sightline.plan_time import Hardware, hardware
from sightline.recipe import Recipe, load
from sightline.recipe_source import Loaded
from sightline.run_checks import absent_data, absent_weights, refuse_early

if TYPE_CHECKING:
    from sightline.plan_variants import StudyPlan

_ABSENT = ("run/absent-data", "run/absent-weights", "run/no-tokenizer", "run/no-origin")
"""Findings that more files would remove."""
_SIZES = ((224, 224), (336, 336), (1024, 768))


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """One part: its path, the class that computes it, parameters."""

    path: str
    module: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model at true size."""

    name: str
    parts: list[PartPlan]
    stages: list[dict[str, Any]]
    """Per stage: name, objective, and the table part / parameters / trained / how / learning rate."""
    picture_tokens: list[dict[str, int]]
    """Decoder and memory positions of a picture, by its size."""
    engines: Engines
    """Which engines answer with it once it is exported."""

    @property
    def parameters(self) -> int:
        """All parts together."""
        return sum(part.parameters for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` found; with `--model-only`, of models alone."""

    recipe: str
    models: list[ModelPlan]
    findings: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    machine: Hardware | None = None
    stages: list[StagePlan] = field(default_factory=list)
    soups: list[SoupPlan] = field(default_factory=list)
    serving: dict[str, ServingPlan] = field(default_factory=dict)
    """By model, those that write."""

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        models = [{**asdict(model), "parameters": model.parameters} for model in self.models]
        found = {"recipe": self.recipe, "models": models, "findings": [finding.record() for finding in self.findings], "seconds": round(self.seconds, 2)}
        if self.machine is None:
            return found
        served = {name: asdict(one) for name, one in self.serving.items()}
        return {
            **found,
            "hardware": asdict(self.machine),
            "stages": [record(stage) for stage in self.stages],
            "soups": [soup.record() for soup in self.soups],
            "serving": served,
        }

    def __str__(self) -> str:
        lines = [f"plan of {self.recipe} ({self.seconds:.1f} s)"]
        for model in self.models:
            lines.append(f"\n{model.name}: {model.parameters:,} parameters")
            lines += [f"  {part.path:<24}{part.parameters:>16,}  {part.module}" for part in model.parts]
            for size in model.picture_tokens:
                remembered = f", and {size['memory']} of memory" if size["memory"] else ""
                lines.append(f"  a picture of {size['width']}x{size['height']} takes {size['tokens']} tokens{remembered}")
            lines += [f"  {engine:<24}{takes:<5}{how}" for engine, takes, how in model.engines.rows()]
            lines += [line for stage in model.stages for line in _stage_lines(stage)] if self.machine is None else []
        if self.machine is not None:
            lines += [stage_text(stage, self.machine) for stage in self.stages]
            lines += [soup_text(soup, self.machine) for soup in self.soups]
            lines += [serving_text(name, one) for name, one in self.serving.items()]
            lines.append(summary(self.stages, self.soups))
        lines += [f"\n{finding}" for finding in self.findings]
        return "\n".join(lines)


def _stage_lines(stage: dict[str, Any]) -> list[str]:
    rows = [
        f"    {row['part']:<22}{row['trained']:>16,} of {row['parameters']:>14,}  {row['how']}"
        + (f"  {row['learning_rate']:g}" if row["learning_rate"] else "")
        for row in stage["table"]
    ]
    return [f"  stage {stage['name']} ({stage['objective']})", *rows]


def plan(
    recipe: str | Path, overrides: Sequence[str] = (), model_only: bool = True, machine: str = "cpu", sharding: str | None = None, run: Path | None = None
) -> Plan | StudyPlan:
    """Build every model of a recipe on the meta device from its published config blocks. Absent weights and data are findings, not refusals.

    A recipe that varies or selects is planned as a study, everything that rows share once: plan_variants.py. With `model_only`, it is that of its base.
    Without `model_only`, every stage too: rows (measured in the folder `run` of a run where it has the data), memory, hours and disk on `machine` (`8xA40`, `cpu`), and what serving
    takes. `sharding`: none or fsdp on several devices; default: what each stage says. Raises Refused when the recipe is wrong, a config is not accepted, or the hardware is not known.
    """
    start = time.monotonic()
    loaded = load(recipe, overrides)
    if (loaded.recipe.vary or loaded.recipe.select is not None) and not model_only:
        from sightline.plan_variants import plan_study

        return plan_study(recipe, overrides, machine, sharding, run)
    if model_only:
        findings = [*absent_data(loaded), *absent_weights(loaded)]
        models = [_plan_model(loaded.recipe, name, config) for name, config in loaded.recipe.all_models().items()]
        return Plan(recipe=loaded.recipe.name, models=models, findings=findings, seconds=time.monotonic() - start)
    named = hardware(machine)
    findings = absent(loaded)
    spread = [(sharding or stage.sharding) if named.devices > 1 else "none" for stage in loaded.recipe.stages]
    steps: Known = {}
    stages = [plan_stage(loaded.recipe, number, named, own, run, steps) for number, own in enumerate(spread)]
    models, serving = [], {}
    for name, config in loaded.recipe.all_models().items():
        model = _empty(loaded.recipe, name, config)
        models.append(_model_plan(name, model, []))
        seen = models[-1].picture_tokens
        served = plan_serving(model, seen[-1]["tokens"] if seen else 0, named)
        serving |= {name: served} if served is not None else {}
    soups = plan_soups(loaded.recipe, named, spread[-1], run, steps) if spread else []
    findings += [finding for stage in (*stages, *(one for soup in soups for one in soup.pool)) for finding in stage.findings]
    return Plan(
        recipe=loaded.recipe.name,
        models=models,
        findings=list({(finding.code, finding.place): finding for finding in findings}.values()),
        seconds=time.monotonic() - start,
        machine=named,
        stages=stages,
        soups=soups,
        serving=serving,
    )


def absent(loaded: Loaded[Recipe]) -> list[Problem]:
    """What is not on this machine, as warnings. Refused with what would stop a run even if it were."""
    try:
        refuse_early(loaded)
    except Refused as refused:
        wrong = [problem for problem in refused.problems if problem.code not in _ABSENT]
        if wrong:
            raise Refused(wrong) from None
        return [replace(problem, severity="warn") for problem in refused.problems]
    return []


def _plan_model(recipe: Recipe, name: str, config: ModelConfig) -> ModelPlan:
    import torch

    from sightline.model.vlm import Model
    from sightline.train.stage import prepare

    whole = _empty(recipe, name, config)
    stages = []
    with torch.device("meta"):
        for stage in (stage for stage in recipe.stages if recipe.model_of(stage) == name):
            table = prepare(Model(whole.config), stage).table
            stages.append({"name": stage.name, "objective": stage.objective.kind, "table": [asdict(row) for row in table]})  # pyright: ignore[reportAttributeAccessIssue]
    return _model_plan(name, whole, stages)


def _empty(recipe: Recipe, name: str, config: ModelConfig) -> Any:
    """The model without memory."""
    import torch

    from sightline.model.vlm import Model

    with torch.device("meta"):
        return Model(resolved(recipe, name, config))


def resolved(recipe: Recipe, name: str, config: ModelConfig) -> ModelConfig:
    """A model of a recipe with everything that its checkpoints say, built from its configs alone."""
    return directory.without_checkpoints(config.resolve(*vocabulary(recipe, name)))


def _model_plan(name: str, model: Any, stages: list[dict[str, Any]]) -> ModelPlan:
    parts = [PartPlan(path=path, module=_class(part), parameters=sum(p.numel() for p in part.parameters())) for path, part in model.parts().items()]
    config = model.config
    measured = [(size, config.measure(*size)) for size in _SIZES] if config.encoders and config.language_model else []
    tokens = [{"width": width, "height": height, "tokens": measure.decoder, "memory": measure.memory} for (width, height), measure in measured]
    return ModelPlan(name=name, parts=parts, stages=stages, picture_tokens=tokens, engines=engines(config))


def _class(module: Any) -> str:
    inner = getattr(module, "tower", None) or getattr(module, "model", None)
    return type(inner if inner is not None else module).__name__
