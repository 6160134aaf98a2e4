"""`sightline plan`: what a recipe will build and train, at true size on the meta device, before anything costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.recipe import Recipe, load
from sightline.run_checks import absent_data, absent_weights

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

    @property
    def parameters(self) -> int:
        """All parts together."""
        return sum(part.parameters for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan --model-only` found."""

    recipe: str
    models: list[ModelPlan]
    findings: list[Problem] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The plan as JSON."""
        models = [{**asdict(model), "parameters": model.parameters} for model in self.models]
        return {"recipe": self.recipe, "models": models, "findings": [finding.record() for finding in self.findings], "seconds": round(self.seconds, 2)}

    def __str__(self) -> str:
        lines = [f"plan of {self.recipe} ({self.seconds:.1f} s)"]
        for model in self.models:
            lines.append(f"\n{model.name}: {model.parameters:,} parameters")
            lines += [f"  {part.path:<24}{part.parameters:>16,}  {part.module}" for part in model.parts]
            for size in model.picture_tokens:
                remembered = f", and {size['memory']} of memory" if size["memory"] else ""
                lines.append(f"  a picture of {size['width']}x{size['height']} takes {size['tokens']} tokens{remembered}")
            for stage in model.stages:
                lines.append(f"  stage {stage['name']} ({stage['objective']})")
                lines += [
                    f"    {row['part']:<22}{row['trained']:>16,} of {row['parameters']:>14,}  {row['how']}"
                    + (f"  {row['learning_rate']:g}" if row["learning_rate"] else "")
                    for row in stage["table"]
                ]
        lines += [f"\n{finding}" for finding in self.findings]
        return "\n".join(lines)


def plan(recipe: str | Path, overrides: Sequence[str] = (), model_only: bool = True) -> Plan:
    """Build every model of a recipe on the meta device from its published config blocks. Absent weights and data are findings, not refusals.

    Raises Refused when the recipe is wrong, when a config is not accepted, and without `model_only`: the proof with data is not part of this version.
    """
    if not model_only:
        raise Refused(
            Problem(
                code="usage/plan",
                place="plan",
                found="no --model-only",
                allowed="--model-only",
                fix="add --model-only: only models are planned in this version",
            )
        )
    start = time.monotonic()
    loaded = load(recipe, overrides)
    models = [_plan_model(loaded.recipe, name, config) for name, config in loaded.recipe.all_models().items()]
    return Plan(recipe=loaded.recipe.name, models=models, findings=[*absent_data(loaded), *absent_weights(loaded)], seconds=time.monotonic() - start)


def _plan_model(recipe: Recipe, name: str, config: ModelConfig) -> ModelPlan:
    import torch

    from sightline.model.vlm import Model
    from sightline.train.stage import prepare

    side = config.side_tokenizer
    sizes = (config.tokenizer.size if config.tokenizer.train_on else None, side.size if side is not None and side.train_on else None)
    resolved = directory.without_checkpoints(config.resolve(*sizes))
    stages = []
    parts: list[PartPlan] = []
    for stage in [None, *(stage for stage in recipe.stages if recipe.model_of(stage) == name)]:
        with torch.device("meta"):
            model = Model(resolved)
            if stage is not None:
                stages.append({"name": stage.name, "objective": stage.objective.kind, "table": [asdict(row) for row in prepare(model, stage).table]})  # pyright: ignore[reportAttributeAccessIssue]
            else:
                parts = [
                    PartPlan(path=path, module=_class(module), parameters=sum(p.numel() for p in module.parameters())) for path, module in model.parts().items()
                ]
    measured = [(size, resolved.measure(*size)) for size in _SIZES] if resolved.encoders and resolved.language_model else []
    tokens = [{"width": width, "height": height, "tokens": measure.decoder, "memory": measure.memory} for (width, height), measure in measured]
    return ModelPlan(name=name, parts=parts, stages=stages, picture_tokens=tokens)


def _class(module: Any) -> str:
    inner = getattr(module, "tower", None) or getattr(module, "model", None)
    return type(inner if inner is not None else module).__name__
