"""Every shipped recipe that trains its own weights, at the size of a toy: planned, run through all of its stages, answered, reported. Full-size ones: test_twins.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sightline import recipe_source
from sightline.model import directory
from sightline.plan import plan
from sightline.recipe import load
from sightline.run import run

NAMES = ["quickstart", "rsicd-from-scratch", "rs-quality", "rs-change", "soup-scenes", "soup-rsicd", "lisa-scenes"]
SLICES = {"rsicd": "rsicd"}
"""Last part of a path in a recipe -> folder of the real data sets that fills it."""
TAKEN = {"rsicd-from-scratch": 24, "rs-quality": 24, "soup-rsicd": 72}
"""Pictures that are taken of it: those that are dealt into sets must fill each of them."""


def tiny(name: str, shared_data: Path, folder: Path) -> list[str]:
    """Overrides that make a recipe run in seconds: few scenes, a slice of each real data set, two steps a stage, small batches."""
    recipe = load(name).recipe
    overrides = []
    for data, config in recipe.data.items():
        if config.make is not None:
            overrides.append(f"data.{data}.make.{config.make.kind}.count=10")  # pyright: ignore[reportAttributeAccessIssue]
        for number, read in enumerate(config.read):
            if read.path is not None:
                source, count = SLICES[Path(read.path).name], TAKEN[name]
                written = recipe_source.load(name, type(recipe)).tree["data"][data]["read"]
                key = f"data.{data}.read.{number}" if isinstance(written, list) else f"data.{data}.read"
                overrides.append(f"{key}.path={slice_of(shared_data / source, folder / source, count)}")
    for stage in recipe.stages:
        overrides += [f"stages.{stage.name}.steps=2", f"stages.{stage.name}.batch={min(stage.batch, 4)}"]
        overrides += [f"stages.{stage.name}.epochs=null"] if stage.epochs else []
    return overrides


def slice_of(source: Path, target: Path, count: int) -> Path:
    """The first pictures of each split of a data set in the Karpathy layout, with their annotations."""
    if target.exists():
        return target
    [annotations] = source.glob("dataset_*.json")
    told = json.loads(annotations.read_text(encoding="utf-8"))
    splits = {image["split"] for image in told["images"]}
    held = {path.name: path for path in source.rglob("*") if path.suffix in (".jpg", ".tif", ".png")}
    there = [image for image in told["images"] if image["filename"] in held]
    told["images"] = [image for split in sorted(splits) for image in [one for one in there if one["split"] == split][: count // len(splits)]]
    for image in told["images"]:
        copied = target / held[image["filename"]].relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(held[image["filename"]], copied)
    (target / annotations.name).write_text(json.dumps(told), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_without_data_or_weights(name: str) -> None:
    planned = plan(name)
    assert planned.models
    assert all(model.parameters > 0 for model in planned.models)
    assert planned.seconds < 30
    assert [stage["name"] for model in planned.models for stage in model.stages]
    assert all(sum(row["trained"] for row in stage["table"]) > 0 for model in planned.models for stage in model.stages)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "soup-rsicd" else name for name in NAMES])
def test_it_runs_through_every_stage(name: str, shared_data: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    result = run(name, tmp_path / "run", [*tiny(name, shared_data, tmp_path), "threads=1"])
    torch.set_num_threads(threads)
    recipe = load(name).recipe
    stages = [stage.name for stage in recipe.stages]
    pool = [stage.name for soup in recipe.soups for stage in recipe.pool_of(soup)]
    assert [node.name for node in result.nodes if node.name.startswith("stages/")] == [f"stages/{stage}" for stage in (*stages, *pool)]
    assert [node.name for node in result.nodes if node.name.startswith("soups/")] == [f"soups/{soup}" for soup in recipe.soups]
    assert {node.state for node in result.nodes} == {"done"}
    for node in result.nodes:
        if node.name.startswith("stages/"):
            directory.load(result.out / node.artifact)
    assert result.scores.keys() == recipe.evaluate.keys()
    for name in recipe.evaluate:
        answers = (result.out / "evaluate" / name / "answers.jsonl").read_text(encoding="utf-8").split("\n")
        assert len(answers) > 1
    report = json.loads((result.out / "report.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in report["stages"]] == [*stages, *pool]
    assert all(stage["steps"] == 2 for stage in report["stages"])
    assert report["soups"].keys() == recipe.soups.keys()
    for soup in report["soups"].values():
        singles = [line["models"][0] for line in soup["lines"] if line["name"] == "single"]
        assert singles == ["instruct", *pool] and len(pool) == 4
        others = [line["name"] for line in soup["lines"] if line["name"] != "single"]
        assert others == ["single, mean of 5", "single, best in each column", "maximum", "average", "greedy"]
        assert all(line["scores"].keys() == {"dev", "test"} for line in soup["lines"]) and soup["stamp"] == ""
