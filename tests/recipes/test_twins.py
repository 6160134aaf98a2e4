"""Every full-size recipe as its twin: all stages run, are saved, loaded and answer the same; and what writes learns rows by heart, from pictures alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sightline import recipe_source
from sightline.cli.main import main
from sightline.data.steps import make_layout
from sightline.evaluate.golden import check_golden
from sightline.model import directory
from sightline.recipe import DataConfig, ReadConfig, Recipe, load
from sightline.run import RunResult, run
from sightline.twin import MADE, REMEMBER, STEPS, twin, write_twin

SMALL = {"quickstart", "rsicd-from-scratch", "rs-quality", "rs-change", "soup-scenes", "soup-rsicd", "lisa-scenes"}
"""Recipes that are small as they are: test_recipes.py."""
SYSTEMS = sorted({name for name, path in recipe_source.shipped().items() if path.parent.name != "studies"} - SMALL)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made scenes, 32 of them; the first ones are those of a twin of fewer rows."""
    made = twin(load("llava-1.5").recipe, rows=32).data[MADE].make
    assert made is not None
    folder = tmp_path_factory.mktemp("made") / "scenes"
    make_layout(made, folder)
    return folder


SLOW = {"blip-2": 300}
"""Steps of twins that learn more slowly than the others: all of a picture passes through a few queries that start from nothing."""


def learnt(name: str, scenes: Path, folder: Path, rows: int, steps: int) -> tuple[Recipe, RunResult]:
    """The twin of a recipe on scenes that are there already, and its run."""
    small = twin(load(name).recipe, rows=rows, remember=steps)
    made = small.data[MADE]
    take = DataConfig.model_validate_json(json.dumps({"source": "all-scenes", "then": [{"take": {"first": rows}}]}))
    read = [ReadConfig(format=one.format, path=str(scenes)) for one in made.read]
    small = small.model_copy(update={"data": {"all-scenes": DataConfig(read=read), **small.data, MADE: take}})
    file = folder / "twin.yaml"
    file.write_text(recipe_source.dump(small), encoding="utf-8")
    threads = torch.get_num_threads()
    result = run(file, folder / "run")
    torch.set_num_threads(threads)
    return small, result


def answers(result: RunResult) -> list[str]:
    """What the model says about each row that it should know by heart."""
    lines = (result.out / "evaluate" / REMEMBER / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


ALIKE = {"blip", "geochat", "llava-v1", "minigpt-4", "nvlm-d", "nvlm-h", "remote-sensing", "vila"}
"""Systems whose parts and paths are those of others: their toys train in make soak, and their structure is looked at here."""


@pytest.mark.parametrize("name", SYSTEMS)
def test_its_structure_is_that_of_the_recipe(name: str) -> None:
    recipe = load(name).recipe
    small = twin(recipe)
    assert [stage.name for stage in small.stages] == [stage.name for stage in recipe.stages]
    assert small.evaluate.keys() == recipe.evaluate.keys()
    assert small.data.keys() == {MADE, *recipe.data}
    assert small.all_models().keys() == recipe.all_models().keys()
    for key, model in recipe.all_models().items():
        toy = small.all_models()[key]
        assert toy.abilities == model.abilities
        assert [encoder.name for encoder in toy.encoders] == [encoder.name for encoder in model.encoders]
        for part in ("tiler", "combine", "connector", "layout", "fusion", "language_model", "text_encoder"):
            assert getattr(getattr(toy, part), "kind", None) == getattr(getattr(model, part), "kind", None)
        assert toy.chat == model.chat
    for stage, toy in zip(recipe.stages, small.stages, strict=True):
        assert toy.train.keys() == stage.train.keys()
        assert toy.objective == stage.objective


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in SYSTEMS])
def test_it_runs_saves_loads_and_learns_by_heart(name: str, scenes: Path, tmp_path: Path) -> None:
    small, result = learnt(name, scenes, tmp_path, rows=8, steps=SLOW.get(name, 100))
    stages = [node for node in result.nodes if node.name.startswith("stages/")]
    assert [node.name for node in stages] == [f"stages/{stage.name}" for stage in small.stages]
    assert {node.state for node in result.nodes} == {"done"}
    for node in stages:
        model, processor, _ = directory.load(result.out / node.artifact)
        assert check_golden(result.out / node.artifact, model, processor) < 1e-4
    report = json.loads((result.out / "report.json").read_text(encoding="utf-8"))
    assert [stage["steps"] for stage in report["stages"] if stage["name"] != REMEMBER] == [STEPS] * len(load(name).recipe.stages)
    assert result.scores.keys() == small.evaluate.keys()
    if "write" in small.all_models()[small.model_of(small.stages[-1])].abilities:
        assert result.scores[REMEMBER]["all"] == 1.0
        assert len(answers(result)) == 8
        assert len(set(answers(result))) > 5, "one question, many answers: they come from the pictures"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if not name.startswith("clip")])
def test_it_learns_more_by_heart(name: str, scenes: Path, tmp_path: Path) -> None:
    _, result = learnt(name, scenes, tmp_path, rows=32, steps=800)
    assert len(answers(result)) == 32
    assert result.scores[REMEMBER]["all"] == 1.0


def test_its_file_is_a_recipe(tmp_path: Path) -> None:
    file = write_twin("points", ["seed=3"], tmp_path / "new")
    again = load(file).recipe
    assert again == twin(load("points", ["seed=3"]).recipe)
    assert again.seed == 3


def test_adapters_and_last_blocks_stay_what_they_are() -> None:
    small = twin(load("points").recipe)
    assert small.stages[1].train["encoders.general"].last == 1
    instruct = twin(load("remote-sensing").recipe).stages[1].train["language_model"].lora
    assert instruct is not None
    assert (instruct.rank, instruct.alpha, instruct.dropout) == (2, 4.0, 0.05)


def test_a_source_keeps_its_chain_and_a_foreign_origin_is_left_out() -> None:
    small = twin(load("blip").recipe)
    assert small.data["coco-train"].source == "coco"
    assert small.data["coco"].source == MADE
    assert load("geochat").recipe.stages[0].init.keys() == {"connector", "language_model"}
    assert twin(load("geochat").recipe).stages[0].init == {}


def test_the_verb_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["run", "clip", "--twin", "--out", str(tmp_path / "run"), "--json"]) == 0
    torch.set_num_threads(threads)
    record = json.loads(capsys.readouterr().out)
    assert record["recipe"] == "clip-twin"
    assert (tmp_path / "run" / "twin.yaml").is_file()
    assert {node["state"] for node in record["nodes"]} == {"done"}


def test_the_verb_plans_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llava-1.5", "--twin", "--model-only", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["recipe"] == "llava-1.5-twin"
    assert record["models"][0]["parameters"] < 1_000_000
    assert record["findings"] == []
