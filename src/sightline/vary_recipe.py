"""What a recipe says about its variants, rows of one table, and about choosing data sets by training; and what can be wrong with it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sightline.kinds import Config
from sightline.soup_recipe import Accept

if TYPE_CHECKING:
    from sightline.recipe import Recipe
    from sightline.train.stage import StageConfig

Changes = dict[str, Any]
"""Dotted key of the recipe -> its value in a row."""
Rule = Literal["individual", "greedy"]
ROWS, GRID = "rows", "grid"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_OWN = ("vary", "name", "extends", "writers")
"""Keys that are the same for all rows."""
MOST = 500
"""Rows of one table."""


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _weighed(value: object) -> object:
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else value


class VaryConfig(Config):
    """One table of variants: the recipe as it stands, and rows that change some of its keys. What rows have in common is made once."""

    rows: dict[str, Changes] = Field(default_factory=dict)
    """Name of a row -> dotted keys with their values, as overrides on the command line: `stages.align.steps: 100`. A mapping that is given replaces the old one."""
    grid: dict[str, dict[str, Changes]] = Field(default_factory=dict)
    """Instead of rows: name of an axis -> name of a choice -> its changes. There is a row for every combination; the first choices of all axes together are the base."""
    cumulative: bool = False
    """Each row also has the changes of all rows above it."""
    base: str = "base"
    """Name of the row with the recipe as it stands."""
    columns: tuple[str, ...] = Field(default=(), strict=False)
    """Columns of the table, EVALUATION or EVALUATION.METRIC; default: the first headline metric of every evaluation."""

    @model_validator(mode="after")
    def _whole(self) -> VaryConfig:
        if bool(self.rows) == bool(self.grid):
            raise ValueError("give either `rows` or `grid`")
        if self.grid and self.cumulative:
            raise ValueError("`cumulative` is for `rows`: a grid has every combination")
        if self.base in self.rows:
            raise ValueError(f"two rows are called {self.base}: the recipe as it stands is one, see `base`")
        for axis, choices in self.grid.items():
            if len(choices) < 2:
                raise ValueError(f"axis {axis} needs two choices or more")
        return self

    def table(self, group: str) -> dict[str, list[str]]:
        """Row -> paths inside the recipe of the mappings with its changes, in the order in which they are put in. The base comes first."""
        where = f"vary.{group}"
        if self.grid:
            chosen = [[(name, f"{where}.{GRID}.{axis}.{name}") for name in choices] for axis, choices in self.grid.items()]
            return {"-".join(name for name, _ in one): [path for _, path in one] for one in itertools.product(*chosen)}
        names = list(self.rows)
        told = {name: names[: number + 1] if self.cumulative else [name] for number, name in enumerate(names)}
        return {self.base: [], **{name: [f"{where}.{ROWS}.{one}" for one in own] for name, own in told.items()}}

    def changes(self, path: str) -> Changes:
        """The changes at a path of `table`."""
        _, _, how, *names = path.split(".")
        return self.rows[names[0]] if how == ROWS else self.grid[names[0]][names[1]]


class SelectConfig(Config):
    """Data sets of a stage, chosen by training with each of them (Individual Select, Liu et al. 2024, arXiv 2405.11850)."""

    stage: str
    """The stage whose data is chosen; what comes before it is shared by all trials."""
    base: tuple[str, ...] = Field(default=(), strict=False)
    """Data sets that are there in any case; default: the stage's own."""
    candidates: Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_weighed)] = Field(min_length=1)
    """Data sets that may join: names, or names with weights as in a stage."""
    select_on: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1, strict=False)
    """Evaluations by whose mean headline score is chosen. They share nothing with what the tables report."""
    rule: Rule = "individual"
    """individual: each candidate is tried alone beside the base, all that improve it stay. greedy: the best one that improves stays, and the others are tried beside it, until none improves."""
    accept: Accept = "better"
    """What counts as an improvement: the score rises (better), does not fall (no-worse), or rises by more than chance: the paired 95 % interval of the gain lies above 0 (surely-better)."""
    allow_test_selection: bool = False
    """Choose by what is reported. Every table and the record then say so."""

    def data_of(self, stage: StageConfig) -> dict[str, float]:
        """The base sets with their weights in the stage; 1 where it does not name them."""
        return {name: stage.data.get(name, 1.0) for name in self.base} if self.base else dict(stage.data)


def vary_faults(recipe: Recipe) -> Iterator[str]:
    """Names under `vary` and `select` that cannot be, or lead nowhere. What a row makes of the recipe is checked when it is loaded."""
    for group, config in recipe.vary.items():
        where = f"vary.{group}"
        names = [group, config.base, *config.rows, *(name for axis, choices in config.grid.items() for name in (axis, *choices))]
        yield from (
            f"{where}: name {name!r} is not allowed; names are up to 64 lower-case letters, digits and hyphens" for name in names if not _NAME.fullmatch(name)
        )
        rows = config.table(group)
        if len(rows) > MOST or len(rows) < 2:
            yield f"{where}: {len(rows)} rows; 2 to {MOST} are allowed"
        combined = 1
        for choices in config.grid.values():
            combined *= len(choices)
        if config.grid and len(rows) < combined:
            yield f"{where}.grid: some combinations would have one name; names of choices are joined by a hyphen"
        for path in dict.fromkeys(path for own in rows.values() for path in own):
            for key in config.changes(path):
                if key.split(".")[0] in _OWN:
                    yield f"{path}.{key}: {key.split('.')[0]} is the same for all rows"
    if recipe.select is not None:
        yield from _select_faults(recipe, recipe.select)


def _select_faults(recipe: Recipe, select: SelectConfig) -> Iterator[str]:
    stages = {stage.name: stage for stage in recipe.stages}
    there = ", ".join(sorted(recipe.data))
    if select.stage not in stages:
        yield f"select.stage: no stage {select.stage!r}; there is {', '.join(stages) or 'none'}"
        return
    yield from (f"select.base: no data {name!r}; there is {there}" for name in select.base if name not in recipe.data)
    base = select.data_of(stages[select.stage])
    for name in select.candidates:
        if name not in recipe.data:
            yield f"select.candidates: no data {name!r}; there is {there}"
        if name in base:
            yield f"select.candidates: {name} is there in any case"
        yield from (f"select.candidates: {name} is held out by {pattern!r}" for pattern in recipe.held_out if fnmatchcase(name, pattern))
    yield from (
        f"select.select_on: no evaluation {name!r}; there is {', '.join(recipe.evaluate) or 'none'}" for name in select.select_on if name not in recipe.evaluate
    )
    for name in select.select_on:
        asked = recipe.evaluate[name].stage if name in recipe.evaluate else None
        if asked is not None and asked in recipe.soups:
            yield f"select.select_on: {name} asks soup {asked}; what is chosen is the data of stage {select.stage}"
