"""What a soup will take: models that are trained for it, means that are scored, hours of scoring, and disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sightline.data.captioning import is_outside
from sightline.model import directory
from sightline.model.vlm import Model
from sightline.plan_rows import DataRows, processor_of, rows_of, vocabulary
from sightline.plan_stages import Known, StagePlan, plan_stage
from sightline.plan_time import Hardware
from sightline.recipe import Recipe
from sightline.soup_recipe import soups_under, stages_under


@dataclass(frozen=True, kw_only=True)
class SoupPlan:
    """One soup."""

    name: str
    method: str
    ingredients: list[str]
    scored: int
    """Means and single models that are asked at most, over all evaluations."""
    requests: int
    """Rows of all evaluations together; a row may hold several questions."""
    hours: float
    """Of asking, by the tokens of prompts and longest answers."""
    disk: dict[str, int]
    """model and candidate (there for a while): bytes."""
    pool: list[StagePlan]
    """Stages that are trained for it."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def plan_soups(recipe: Recipe, machine: Hardware, sharding: str, run: Path | None, steps: Known) -> list[SoupPlan]:
    """The plan of every soup of a recipe. `steps`: see plan_stage."""
    return [_plan_soup(recipe, name, machine, sharding, run, steps) for name in recipe.soups]


def _plan_soup(recipe: Recipe, name: str, machine: Hardware, sharding: str, run: Path | None, steps: Known) -> SoupPlan:
    config, names = recipe.soups[name], recipe.ingredients_of(name)
    pool = [plan_stage(small, number, machine, sharding, run, steps) for small, number in _pool_recipes(recipe, name)]
    means = {"greedy": len(names) - 1, "average": 0, "maximum": 0}[config.method] * (len(config.parts) if config.by_part else 1)
    shown = len(names) + 1 + (config.method == "greedy")  # the table: singles, their average, and the soup
    selected, reported = (_rows(recipe, some, name, run) for some in (config.select_on, recipe.reported_of(name)))
    model = _model(recipe, name)
    size = sum(p.numel() * p.element_size() for p in model.parameters()) if model is not None else 0
    changed = sum(p.numel() * p.element_size() for path, part in model.parts().items() if _mixed(recipe, name, path) for p in part.parameters()) if model else 0
    tokens = sum((len(names) + means + 1) * count * length for count, length in selected) + sum(shown * count * length for count, length in reported)
    # a number takes four bytes in memory; prompts are computed at the share of the peak that stages reach
    flops = 2 * size / 4 * tokens
    return SoupPlan(
        name=name,
        method=config.method,
        ingredients=names,
        scored=(len(names) + means + 1) * bool(selected) + shown * bool(reported),
        requests=round(sum(count for count, _ in (*selected, *reported))),
        hours=flops / (machine.devices * machine.flops * machine.utilisation) / 3600,
        disk={"model": changed, "candidate": changed if selected or reported else 0},
        pool=pool,
    )


def _pool_recipes(recipe: Recipe, name: str) -> Iterator[tuple[Recipe, int]]:
    """The recipe with each of the pool's stages in the place of the stage it varies."""
    pool = recipe.soups[name].pool
    for variant in recipe.pool_of(name) if pool else ():
        number = recipe.number_of(pool.stage)  # pyright: ignore[reportOptionalMemberAccess]
        yield recipe.model_copy(update={"stages": [*recipe.stages[:number], variant, *recipe.stages[number + 1 :]]}), number


def _rows(recipe: Recipe, evaluations: tuple[str, ...] | list[str], soup: str, run: Path | None) -> list[tuple[float, float]]:
    """(rows, tokens of a row with its longest answer) of each evaluation over data."""
    stage = _stage(recipe, soup)
    found = []
    for name in evaluations:
        benchmark = recipe.evaluate[name].benchmark
        data = getattr(benchmark, "data", None)
        if data is None or stage is None:
            continue
        asked = stage.model_copy(update={"data": {data: 1.0}})
        resolved = directory.without_checkpoints(recipe.config_of(stage).resolve(*vocabulary(recipe, recipe.model_of(stage))))
        processor, known = processor_of(recipe, asked, resolved, run)
        rows: list[DataRows] = rows_of(recipe, asked, processor, known, run)
        count = min(rows[0].rows, getattr(benchmark, "limit", None) or rows[0].rows)
        found.append((float(count), rows[0].mean("tokens") + getattr(benchmark, "max_tokens", 0)))
    return found


def _stage(recipe: Recipe, soup: str) -> Any:
    """A stage that an ingredient comes from; None where all come from elsewhere."""
    return next((stage for stage in recipe.stages if stage.name in stages_under(recipe, soup)), None)


def _model(recipe: Recipe, soup: str) -> Model | None:
    stage = _stage(recipe, soup)
    if stage is None:
        return None
    with torch.device("meta"):
        return Model(directory.without_checkpoints(recipe.config_of(stage).resolve(*vocabulary(recipe, recipe.model_of(stage)))))


def _mixed(recipe: Recipe, soup: str, part: str) -> bool:
    """Whether a part's file is written anew: it is mixed, and some ingredient's stage trains it."""
    config = recipe.soups[soup]
    if config.parts and not any(part == path or part.startswith(path + ".") or path.startswith(part + ".") for path in config.parts):
        return False
    below = soups_under(recipe, soup)
    names = [one for each in below for one in recipe.ingredients_of(each)]
    trained = {path for stage in (*recipe.stages, *(one for each in below for one in recipe.pool_of(each))) if stage.name in names for path in stage.train}
    return any(part == path or part.startswith(path + ".") or path.startswith(part + ".") for path in trained) or any(is_outside(one) for one in names)
