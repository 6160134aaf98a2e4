"""Operators over a store outside a recipe: the steps of a YAML file, and whoever answers those that ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from sightline import recipe_source
from sightline.data.engine import Engine
from sightline.data.steps import OPERATOR, read_and_apply
from sightline.kinds import Config
from sightline.lineage import sha256_json
from sightline.named_answerers import remembered
from sightline.recipe import short
from sightline.samples.store import Store


class Steps(Config):
    """What a file of steps may say."""

    then: list[Annotated[Config, OPERATOR, BeforeValidator(short)]] = Field(min_length=1)
    """Operators, in order."""
    seed: int | None = Field(default=None, ge=0)
    """Everything random follows from it."""


def load_steps(path: str, overrides: Sequence[str] = ()) -> Steps:
    """The steps of a YAML file. Refused with every fault, each with its line."""
    return recipe_source.load(path, Steps, overrides).recipe


def apply_steps(store: Path, operators: Sequence[Config], out: Path, *, seed: int, engine: Engine, fresh: bool = False) -> dict[str, Any]:
    """Write what operators make of the kept rows of `store` to `out`; a killed pass goes on when it is done again, unless `fresh`.

    Returns the counts of each operator, of each rule, and of the store written. Operators that ask name a folder or an endpoint in `with:`; answers are kept beside `out` and never asked twice.
    """
    answerers = remembered(lambda name, precision: out.parent / f"{out.name}.answers.jsonl")
    config = sha256_json([operator.model_dump(mode="json") for operator in operators])
    counts = read_and_apply(
        [], Store.open(store), operators, out, on_problem="refuse", seed=seed, config=config, answerers=answerers, engine=engine, fresh=fresh
    )
    rules = Counter(rule for _, rule in Store.open(out).quarantined())
    return {**counts, "rules": dict(sorted(rules.items()))}
