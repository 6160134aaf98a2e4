"""A recipe with `vary` or `select` as the recipes that it stands for: one for each row, and one for each trial of a selection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json
from sightline.recipe import DataConfig, Recipe, asked_stages, load
from sightline.recipe_source import Loaded
from sightline.run_checks import refuse_early
from sightline.soup_recipe import soups_under
from sightline.vary_recipe import Changes, SelectConfig

SELECTION = "selection"
"""The table of a recipe that selects and varies nothing: its base sets, and what was selected."""
BASE, SELECTED = "base", "selected"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table: a recipe of its own."""

    group: str
    name: str
    loaded: Loaded[Recipe]
    changes: Changes = field(default_factory=dict)
    """What tells it from the recipe as it stands."""

    @property
    def folder(self) -> Path:
        """Of its run, inside the folder of the study."""
        return Path("variants") / self.group / self.name


def expand(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, list[Variant]]:
    """Table -> its rows, the base first. Raises Refused with everything that is wrong with any of them, at the places where it was written."""
    whole = load(path, overrides)
    groups: dict[str, list[Variant]] = {}
    problems: list[Problem] = []
    for group, config in whole.recipe.vary.items():
        for name, paths in config.table(group).items():
            try:
                loaded = load(path, overrides, paths)
                groups.setdefault(group, []).append(
                    Variant(group=group, name=name, loaded=loaded, changes={key: value for one in paths for key, value in config.changes(one).items()})
                )
                if loaded.recipe.select is not None:
                    selected(loaded, tuple(loaded.recipe.select.candidates))
            except Refused as refused:
                problems += refused.problems
    if problems:
        raise Refused({(problem.code, problem.place, problem.found): problem for problem in problems}.values())
    if not groups and whole.recipe.select is not None:
        selected(whole, tuple(whole.recipe.select.candidates))
        groups[SELECTION] = [Variant(group=SELECTION, name=BASE, loaded=selected(whole, ())), Variant(group=SELECTION, name=SELECTED, loaded=whole)]
    return groups


def refuse_all(groups: dict[str, list[Variant]]) -> None:
    """Refused with what would stop any row later, all at once."""
    problems: dict[tuple[str, str, str], Problem] = {}
    for variant in (one for rows in groups.values() for one in rows):
        try:
            refuse_early(variant.loaded)
        except Refused as refused:
            problems |= {(problem.code, problem.place, problem.found): problem for problem in refused.problems}
    if problems:
        raise Refused(problems.values())


def selected(loaded: Loaded[Recipe], added: Sequence[str]) -> Loaded[Recipe]:
    """The recipe with these candidates beside the base sets, and nothing left to select. Refused where the rest of the recipe cannot be with them."""
    recipe, select = loaded.recipe, loaded.recipe.select
    assert select is not None, "only a recipe that selects"
    changed = recipe.model_copy(update={"select": None, "stages": _stages(recipe, select, added)})
    try:
        return replace(loaded, recipe=Recipe.model_validate_json(json.dumps(changed.model_dump(mode="json"))))
    except ValidationError as error:
        found = "; ".join(str(one["msg"]) for one in error.errors())
        allowed = "candidates that the rest of the recipe can do without and with"
        raise Refused(
            Problem(code="recipe/select", place=loaded.place("select"), found=f"with {', '.join(added) or 'the base sets'}: {found}", allowed=allowed)
        ) from error


def trial(loaded: Loaded[Recipe], added: Sequence[str]) -> Loaded[Recipe]:
    """What it takes to score the stage with these candidates: stages up to it, the evaluations that are selected on, and their data."""
    recipe, select = loaded.recipe, loaded.recipe.select
    assert select is not None, "only a recipe that selects"
    number = recipe.number_of(select.stage)
    stages = _stages(recipe, select, added)[: number + 1]
    last = number == len(recipe.stages) - 1
    asked = {name: recipe.evaluate[name] for name in select.select_on}
    evaluate = {name: one if last and one.stage is None else one.model_copy(update={"stage": select.stage}) for name, one in asked.items()}
    origins = [origin for stage in stages for origin in stage.init.values()]
    soups = {name: recipe.soups[name] for origin in dict.fromkeys(origins) for name in soups_under(recipe, origin)}
    for name in soups:
        evaluate |= {one: recipe.evaluate[one] for one in (*recipe.soups[name].select_on, *recipe.reported_of(name)) if one not in evaluate}
    small = recipe.model_copy(update={"select": None, "stages": stages, "evaluate": evaluate, "soups": soups, "writers": []})
    return replace(loaded, recipe=small.model_copy(update={"data": _needed(small)}))


def _stages(recipe: Recipe, select: SelectConfig, added: Sequence[str]) -> list[Any]:
    number = recipe.number_of(select.stage)
    stage = recipe.stages[number]
    data = {**select.data_of(stage), **{name: select.candidates[name] for name in added}}
    return [*recipe.stages[:number], stage.model_copy(update={"data": data}), *recipe.stages[number + 1 :]]


def _needed(recipe: Recipe) -> dict[str, DataConfig]:
    """Data that stages, tokenizers, evaluations and soups use, with what it is taken from."""
    names = [name for stage in recipe.stages for name in stage.data]
    for model in recipe.all_models().values():
        names += [name for said in (model.tokenizer, model.side_tokenizer) if said for name in said.train_on]
    for one in recipe.evaluate.values():
        names += [name for name in (getattr(one.benchmark, "data", None), one.thumbnails) if name is not None]
    for soup in recipe.soups:
        names += [*recipe.soup_data(soup), *(recipe.soups[soup].pool.add if recipe.soups[soup].pool else ())]  # pyright: ignore[reportOptionalMemberAccess]
    for name in names:  # grows while it is read: what something is taken from is needed too
        source = recipe.data[name].source
        names += [source] if source is not None and source not in names else []
    return {name: one for name, one in recipe.data.items() if name in names}


def trials_of(loaded: Loaded[Recipe]) -> dict[str, Loaded[Recipe]]:
    """Name -> recipe of the trials of a selection's first round: the base sets, and each candidate beside them."""
    select = loaded.recipe.select
    assert select is not None, "only a recipe that selects"
    return {trial_name(added): trial(loaded, added) for added in [(), *((name,) for name in select.candidates)]}


def trial_name(added: Sequence[str]) -> str:
    """Folder of a trial."""
    return "+".join((BASE, *added))


def static_keys(recipe: Recipe) -> dict[str, str]:
    """Node -> key that is equal for equal nodes of several recipes: what fingerprints will be made of, known before anything is read."""
    keys: dict[str, str] = {}

    def data(name: str) -> str:
        node = f"data/{name}"
        if node not in keys:
            one = recipe.data[name]
            below = [data(one.source)] if one.source is not None else []
            keys[node] = sha256_json([one.model_dump(mode="json", exclude={"expect"}), recipe.seed, below, [stage(asked) for asked in asked_stages(one)]])
        return keys[node]

    def tokenizer(model: str) -> str:
        node, config = f"tokenizer/{model}", recipe.all_models()[model]
        said = [config.tokenizer, *([config.side_tokenizer] if config.side_tokenizer else [])]
        if node not in keys:
            told = [[one.model_dump(mode="json"), [data(name) for name in one.train_on]] for one in said]
            keys[node] = sha256_json([told, config.chat_format().model_dump(mode="json"), recipe.controls(model)])
        return keys[node]

    def stage(name: str) -> str:
        if name in recipe.soups:
            return soup(name)
        node, number = f"stages/{name}", recipe.number_of(name)
        if node not in keys:
            keys[node] = _stage_key(recipe, number, recipe.stages[number], data, tokenizer, stage)
        return keys[node]

    def soup(name: str) -> str:
        node, config = f"soups/{name}", recipe.soups[name]
        if node not in keys:
            number = recipe.number_of(config.pool.stage) if config.pool else 0
            pool = {one.name: _stage_key(recipe, number, one, data, tokenizer, stage) for one in recipe.pool_of(name)}
            keys.update({f"stages/{one}": key for one, key in pool.items()})
            asked = [recipe.evaluate[one].model_dump(mode="json", exclude={"stage"}) for one in (*config.select_on, *recipe.reported_of(name))]
            below = (*config.ingredients, *([config.base] if config.base else []))
            own = [stage(one) if one in recipe.soups or any(one == each.name for each in recipe.stages) else one for one in below]
            keys[node] = sha256_json([config.model_dump(mode="json"), own, list(pool.values()), asked, [data(one) for one in recipe.soup_data(name)]])
        return keys[node]

    for name in recipe.data:
        data(name)
    for one in (*(each.name for each in recipe.stages), *recipe.soups):
        stage(one)
    for name, one in recipe.evaluate.items():
        read = [data(each) for each in (getattr(one.benchmark, "data", None), one.thumbnails) if each is not None]
        keys[f"evaluate/{name}"] = sha256_json([one.model_dump(mode="json"), stage(one.stage or recipe.stages[-1].name), read, recipe.seed])
    return keys


def _stage_key(recipe: Recipe, number: int, stage: Any, data: Any, tokenizer: Any, of: Any) -> str:
    name = recipe.model_of(stage)
    before: Iterable[Any] = (other for other in recipe.stages[:number] if recipe.model_of(other) == name)
    ours = {other.name for other in recipe.stages} | recipe.soups.keys()
    origins = {part: of(origin) if origin in ours else origin for part, origin in stage.init.items()}
    said = [stage.model_dump(mode="json", exclude={"checkpoints", "probe", "sharding"}), recipe.config_of(stage).model_dump(mode="json"), recipe.seed]
    return sha256_json([said, [data(one) for one in stage.data], tokenizer(name), [of(other.name) for other in before], origins])
