"""Every full-size recipe at its true size, without memory: planned in seconds, with exactly the parameters that were published, or with the difference that docs/parameters.md explains."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from sightline.model.assembly import ModelConfig
from sightline.plan import plan
from sightline.recipe import load
from sightline.recipe_source import find, heading

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import parameter_table

SYSTEMS = parameter_table.systems()
VARIANTS = [(recipe, variant) for recipe, own in parameter_table.VARIANTS.items() for variant in own]
NAMED = {
    "blip", "blip-2", "catty-dual-gated", "clip", "clip-resnet", "ferret-v2", "geochat", "idefics2", "instructblip", "internvl", "lisa", "llama-3.2-vision", "llava-1.5", "llava-next",
    "llava-uhd", "llava-v1", "mini-gemini", "minigpt-4", "molmo", "nvlm-d", "nvlm-h", "nvlm-x", "pixtral", "points", "qwen2-vl", "remote-sensing", "vila",
}  # fmt: skip
TOKENS = {
    "llava-1.5": [(336, 336, 576), (1024, 768, 576)],
    "llava-v1": [(1024, 768, 256)],
    "lisa": [(1024, 768, 256)],
    "llava-next": [(1000, 600, 1948), (640, 480, 2340), (336, 336, 1176), (1200, 300, 1890)],
    "geochat": [(1024, 768, 1296)],
    "llava-uhd": [(1008, 672, 448)],
    "points": [(1000, 600, 1296)],
    "internvl": [(448, 448, 256), (1000, 600, 7 * 256)],
    "nvlm-d": [(1000, 600, 7 * 256)],
    "nvlm-h": [(1000, 600, 256)],
    "nvlm-x": [(1000, 600, 0)],
    "molmo": [(1000, 600, 1196), (640, 480, 740), (336, 336, 316)],
    "qwen2-vl": [(1000, 600, 756), (640, 480, 391)],
    "pixtral": [(1000, 600, 2432), (1920, 1080, 2340), (512, 512, 1056)],
    "idefics2": [(1000, 600, 326)],
    "mini-gemini": [(1000, 600, 576)],
    "ferret-v2": [(1000, 600, 576 + 48 * 72)],
    "vila": [(1000, 600, 576)],
    "blip-2": [(1000, 600, 32)],
    "llama-3.2-vision": [(1000, 600, 1)],
}
"""Recipe -> width, height, decoder positions of a picture: worked out by hand or with the published code."""


def model_of(recipe: str) -> ModelConfig:
    """The last model of a recipe."""
    return list(load(recipe).recipe.all_models().values())[-1]


def test_the_systems_are_those() -> None:
    assert set(SYSTEMS) == NAMED == parameter_table.FIGURES.keys()
    for recipe, figures in parameter_table.FIGURES.items():
        assert list(figures) == [parameter_table.OWN, *parameter_table.VARIANTS.get(recipe, ())]


@pytest.mark.parametrize("recipe", SYSTEMS)
def test_it_is_planned_at_true_size_with_the_published_parameters(recipe: str, repository: Path) -> None:
    start = time.thread_time()
    planned = plan(recipe)
    assert time.thread_time() - start < 20
    assert {finding.severity for finding in planned.findings} == {"warn"}
    assert all(sum(row["trained"] for row in stage["table"]) > 0 for model in planned.models for stage in model.stages)
    model, figure = planned.models[-1], parameter_table.FIGURES[recipe][parameter_table.OWN]
    if figure.published is not None:
        assert model.parameters == figure.published + sum(figure.differences.values())
    parts = {part.path: part.parameters for part in model.parts}
    assert parts == parts | parameter_table.PARTS.get(recipe, {})
    page = parameter_table.PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith(f"| {recipe} |")] == parameter_table.rows(recipe, parameter_table.OWN, model), (
        "run: python tools/parameter_table.py"
    )


@pytest.mark.parametrize(("recipe", "variant"), VARIANTS)
def test_a_variant_has_the_published_parameters(recipe: str, variant: str) -> None:
    model, figure = parameter_table.built(recipe, variant), parameter_table.FIGURES[recipe][variant]
    assert figure.published is not None
    assert model.parameters == figure.published + sum(figure.differences.values())
    page = parameter_table.PAGE.read_text(encoding="utf-8").splitlines()
    assert parameter_table.rows(recipe, variant, model)[0] in page, "run: python tools/parameter_table.py"


def test_the_page_has_nothing_else() -> None:
    page = parameter_table.PAGE.read_text(encoding="utf-8").splitlines()
    names = [line.split(" | ")[0].removeprefix("| ") for line in page if line.startswith("| ") and not line.startswith(("| recipe", "| ---"))]
    wanted = [recipe if variant == parameter_table.OWN else f"{recipe}, {variant}" for recipe in SYSTEMS for variant in parameter_table.FIGURES[recipe]]
    assert list(dict.fromkeys(names)) == wanted


@pytest.mark.parametrize("recipe", TOKENS)
def test_a_picture_costs_the_published_tokens(recipe: str) -> None:
    model = model_of(recipe).resolve()
    for width, height, tokens in TOKENS[recipe]:
        assert model.measure(width, height).decoder == tokens, (width, height)


@pytest.mark.parametrize("recipe", SYSTEMS)
def test_it_says_what_it_is_and_what_it_wants(recipe: str) -> None:
    head = heading(find(recipe))
    assert head.size
    assert len(head.description) > 40
    text = find(recipe).read_text(encoding="utf-8")
    assert re.search(r"https://|of no paper|as its makers report", text.split("name:")[0])
    assert len(text.splitlines()) < 160, "a page, or two where a system trains eight stages"


@pytest.mark.parametrize("recipe", SYSTEMS)
def test_published_weights_stand_beside_their_config(recipe: str) -> None:
    for model in load(recipe).recipe.all_models().values():
        parts = [*model.encoders, model.language_model, model.text_encoder]
        for part in parts:
            checkpoint = getattr(part, "checkpoint", None)
            assert checkpoint is None or getattr(part, "config", None) is not None or getattr(part, "kind", "") == "modified-resnet", checkpoint


def test_each_system_and_each_recipe_has_its_section(repository: Path) -> None:
    page = (repository / "docs" / "systems.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    told = {name for title in titles for name in re.findall(r"`([^`]+)`", title)}
    assert told == set(SYSTEMS)
    readme = (repository / "recipes" / "README.md").read_text(encoding="utf-8")
    assert [recipe for recipe in SYSTEMS if f"`{recipe}`" not in readme] == []
