"""Which engines take a model: one line for each, with a reason, for every target and for what no target takes."""

from __future__ import annotations

import pytest

from sightline.export.engines import ENGINES, engines
from sightline.export.engines import TAKEN as LINES
from sightline.export.exporters import EXPORTERS
from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.plan import plan, resolved
from sightline.recipe import load

TAKEN = {
    "llava-1.5": {"transformers", "transformers serve", "vLLM", "SGLang"},
    "qwen2-vl": {"transformers", "transformers serve", "vLLM", "SGLang", "llama.cpp"},
    "llama-3.2-vision": {"transformers", "transformers serve", "SGLang", "Ollama"},
    "blip-2": {"transformers", "vLLM"},
    "clip": {"transformers", "vLLM", "SGLang"},
    "points": {"transformers", "transformers serve", "vLLM", "SGLang"},
    "nvlm-x": set(),
}
"""Recipe -> who answers with it."""


def config_of(name: str) -> ModelConfig:
    """The last model of a shipped recipe."""
    recipe = load(name).recipe
    last = recipe.model_of(recipe.stages[-1])
    return resolved(recipe, last, recipe.all_models()[last])


@pytest.mark.parametrize("name", TAKEN)
def test_each_engine_says_yes_or_why_not(name: str) -> None:
    found = engines(config_of(name))
    assert [one.engine for one in found.takings] == list(ENGINES)
    assert {one.engine for one in found.takings if one.takes} == TAKEN[name]
    assert all(one.how for one in found.takings)
    assert (found.target in EXPORTERS) == bool(TAKEN[name])


def test_what_no_target_takes_says_what_is_missing() -> None:
    found = engines(config_of("nvlm-x"))
    assert all("no target takes it; " in one.how and "fusion: " in one.how for one in found.takings)


def test_a_tokenizer_of_ones_own_keeps_the_converter_away() -> None:
    config = config_of("qwen2-vl").model_copy(update={"tokenizer": TokenizerConfig(train_on=("pairs",))})
    [converter] = [one for one in engines(config).takings if one.engine == "llama.cpp"]
    assert not converter.takes
    assert "trained by the recipe" in converter.how


def test_every_target_has_a_line_for_every_engine() -> None:
    assert LINES.keys() == EXPORTERS.keys()
    assert all(tuple(lines) == ENGINES for lines in LINES.values())


def test_plan_shows_a_line_for_each() -> None:
    told = str(plan("llava-1.5")).splitlines()
    lines = {engine: [line for line in told if line.startswith(f"  {engine:<24}")] for engine in ENGINES}
    assert all(len(found) == 1 for found in lines.values())
    assert lines["vLLM"][0].split(maxsplit=1)[1] == "yes  native class"
