"""What a recipe says about soups, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from sightline.data.captioning import is_outside
from sightline.kinds import Config

if TYPE_CHECKING:
    from sightline.recipe import Recipe

Method = Literal["greedy", "average", "maximum"]
Accept = Literal["better", "no-worse", "surely-better"]


def _weighed(value: object) -> object:
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else value


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class PoolConfig(Config):
    """One stage trained several times from the same start, each time with one more data set: the ingredients of POINTS."""

    stage: str
    """The stage that is trained again; what comes before it is shared."""
    add: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_weighed)] = Field(min_length=1)
    """Data sets, each added alone to the stage's own: names, or names with weights as in a stage. The model is called STAGE-SET."""


class SoupConfig(Config):
    """The mean of the weights of several models. Later stages start from it (`init`) and evaluations ask it (`stage`) by its name."""

    method: Method = "greedy"
    """average: all ingredients; maximum: the one that scores best; greedy: from the best one on, each ingredient that improves the mean."""
    ingredients: tuple[str, ...] = Field(default=(), strict=False)
    """Stages, other soups, run folders and model folders (paths are written with a `/`)."""
    pool: PoolConfig | None = None
    """Ingredients that are trained for the soup."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Of an average: ingredient -> weight; 1 where none is given."""
    parts: tuple[str, ...] = Field(default=(), strict=False)
    """Only these parts are mixed; empty = all."""
    base: str | None = None
    """With `parts`: the stage, soup or folder that gives all else."""
    by_part: bool = False
    """Greedy: choose ingredients for each of `parts` apart, one part after the other."""
    select_on: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(default=(), strict=False)
    """Evaluations by whose headline scores, each as a share of its largest value, is chosen: their mean; maximum and greedy need one."""
    report_on: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(default=(), strict=False)
    """Evaluations of the closing table, which nothing was chosen by; default: those whose `stage` is this soup."""
    accept: Accept = "better"
    """Greedy: an ingredient stays when the score rises (better), does not fall (no-worse), or rises by more than chance: the paired 95 % interval of the gain lies above 0 (surely-better)."""
    allow_test_selection: bool = False
    """Choose by what is reported, as the paper did. Every table and the lineage say so."""

    @model_validator(mode="after")
    def _whole(self) -> SoupConfig:
        if not self.ingredients and self.pool is None:
            raise ValueError("give `ingredients`, a `pool`, or both")
        if self.method != "average" and not self.select_on:
            raise ValueError(f"{self.method} chooses by scores: give `select_on`")
        if self.method != "average" and self.weights:
            raise ValueError("`weights` are those of an average")
        if bool(self.parts) != (self.base is not None):
            raise ValueError("`parts` and `base` belong together: what is mixed, and what gives all else")
        if self.by_part and (self.method != "greedy" or not self.parts):
            raise ValueError("`by_part` needs the method greedy and `parts`")
        return self


def _below(soup: SoupConfig) -> list[str]:
    """Names of what a soup is made of and rests on: ingredients, its pool's stage, its base."""
    return [*soup.ingredients, *([soup.pool.stage] if soup.pool else []), *([soup.base] if soup.base else [])]


def soups_under(recipe: Recipe, name: str) -> list[str]:
    """A soup and those that it is made of, each after what it needs; empty for any other name. A circle, which is refused elsewhere, is cut."""
    found: list[str] = []

    def visit(one: str, above: tuple[str, ...]) -> None:
        if one in recipe.soups and one not in above and one not in found:
            for other in _below(recipe.soups[one]):
                visit(other, (*above, one))
            found.append(one)

    visit(name, ())
    return found


def stages_under(recipe: Recipe, name: str) -> list[str]:
    """Names of the stages and folders that a soup is made of in the end, those of its pools' stages and bases among them."""
    below = [one for soup in soups_under(recipe, name) for one in _below(recipe.soups[soup])]
    return [one for one in dict.fromkeys(below) if one not in recipe.soups]


def soup_faults(recipe: Recipe) -> Iterator[str]:
    """Names under `soups` that lead nowhere, ingredients of several models, and stages that start from a soup which is made after them."""
    stages = {stage.name: stage for stage in recipe.stages}
    for name, soup in recipe.soups.items():
        where = f"soups.{name}"
        if name in stages:
            yield f"{where}: a stage has this name"
        if name in [one for other in _below(soup) for one in soups_under(recipe, other)]:
            yield f"{where}: is made of itself, through {', '.join(one for one in _below(soup) if one in recipe.soups)}"
        asked = [*((f"{where}.ingredients", one) for one in soup.ingredients), *([(f"{where}.base", soup.base)] if soup.base else [])]
        yield from (
            f"{path}: no stage {one!r}; there is {_there([*stages, *(other for other in recipe.soups if other != name)])}; a folder is written with a `/`"
            for path, one in asked
            if one not in stages and one not in recipe.soups and not is_outside(one)
        )
        yield from _pool_faults(recipe, name)
        for key in ("select_on", "report_on"):
            unknown = [one for one in getattr(soup, key) if one not in recipe.evaluate]
            yield from (f"{where}.{key}: no evaluation {one!r}; there is {_there(recipe.evaluate)}" for one in unknown)
        pool = soup.pool
        names = [*soup.ingredients, *([f"{pool.stage}-{data}" for data in pool.add] if pool else ())]
        yield from (f"{where}.weights: {one!r} is no ingredient; there is {', '.join(names)}" for one in soup.weights if one not in names)
        if len(set(names)) < len(names):
            yield f"{where}.ingredients: names must differ, found {', '.join(names)}"
        known = [stages[one] for one in stages_under(recipe, name) if one in stages]
        models = dict.fromkeys(stage.model or next(iter(recipe.all_models()), "") for stage in known)
        built = [recipe.all_models().get(model) for model in models]
        if any(one != built[0] for one in built):  # a model that is built like another may be mixed with it
            yield f"{where}: ingredients are of one model, found {', '.join(models)}"
    yield from _too_late(recipe)


def _pool_faults(recipe: Recipe, name: str) -> Iterator[str]:
    pool, stages = recipe.soups[name].pool, {stage.name: stage for stage in recipe.stages}
    if pool is None:
        return
    where = f"soups.{name}.pool"
    if pool.stage not in stages:
        yield f"{where}.stage: no stage {pool.stage!r}; there is {_there(stages)}"
        return
    for data in pool.add:
        made = f"{pool.stage}-{data}"
        if data not in recipe.data:
            yield f"{where}.add: no data {data!r}; there is {_there(recipe.data)}"
        if data in stages[pool.stage].data:
            yield f"{where}.add: {data} is among the data of stage {pool.stage} already"
        if made in stages or made in recipe.soups or len(made) > 64:
            yield f"{where}.add: the model would be called {made}, a name that is taken or longer than 64 letters"
        yield from (f"{where}.add: {data} is held out by {pattern!r}" for pattern in recipe.held_out if fnmatchcase(data, pattern))
    for other, soup in recipe.soups.items():
        if other != name and soup.pool is not None and soup.pool.stage == pool.stage:
            differ = [data for data in pool.add if soup.pool.add.get(data, pool.add[data]) != pool.add[data]]
            yield from (f"{where}.add: {data} has another weight in soups.{other}: both would be called {pool.stage}-{data}" for data in differ)


def _too_late(recipe: Recipe) -> Iterator[str]:
    """Stages that start from a soup which is not made yet."""
    names = [stage.name for stage in recipe.stages]
    for number, stage in enumerate(recipe.stages):
        for part, origin in stage.init.items():
            soups = [recipe.soups[one] for one in soups_under(recipe, origin)]
            wanted = [one for soup in soups for one in _below(soup)]
            asked = [one for soup in soups for one in (*soup.select_on, *soup.report_on)]
            if soups and all(one in names or one in recipe.soups or is_outside(one) for one in wanted) and all(one in recipe.evaluate for one in asked):
                after = recipe.soup_after(origin)
                if after >= number:
                    yield f"stages.{stage.name}.init.{part}: soup {origin} is made after stage {names[after]}, which comes no earlier"


def _there(names: object) -> str:
    return ", ".join(names) or "none"  # pyright: ignore[reportArgumentType, reportCallIssue]
