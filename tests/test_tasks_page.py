"""docs/tasks.md: each of the nine tasks has a recipe that asks in both languages what the table says, and a benchmark that can be built from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sightline.data.steps import make_layout, read_and_apply
from sightline.recipe import Recipe, load
from sightline.samples.store import Store

TASK = re.compile(r"^## (?P<title>.+?)$.*?^```yaml\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| \[(?P<title>[^]]+)\]\(#(?P<link>[^)]+)\) \| (?P<kinds>[^|]+) \| [^|]+ \| [^|]+ \| (?P<benchmarks>[^|]+) \|$", re.MULTILINE)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
TITLES = [
    "Description", "Scene class", "Presence", "Choice", "Count", "Grounding", "Region naming", "Change between two dates", "Picture quality",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "tasks.md").read_text(encoding="utf-8")


def made(recipe: Recipe, name: str, shared_data: Path, out: Path) -> Store:
    """A data set of a recipe, small."""
    folder, config = out / name, recipe.data[name]
    if folder.exists():
        return Store.open(folder)
    source = made(recipe, config.source, shared_data, out) if config.source else None
    layout: Path | None = None
    if config.make is not None:
        layout = out / f"made-{name}"
        make_layout(config.make.model_copy(update={"count": 24}), layout)
    reads = [(step.reader(), shared_data / Path(step.path).relative_to(Path(step.path).parent.parent) if step.path else layout) for step in config.read]
    read_and_apply(reads, source, config.then, folder, on_problem=config.on_problem, seed=0, config="")
    return Store.open(folder)


def test_the_table_and_the_blocks_are_of_the_same_nine_tasks(page: str) -> None:
    assert [match["title"] for match in TASK.finditer(page)] == TITLES
    rows = list(ROW.finditer(page))
    assert [row["title"] for row in rows] == [title.lower() for title in TITLES]
    assert [row["link"] for row in rows] == [title.lower().replace(" ", "-") for title in TITLES]


@pytest.mark.parametrize("title", TITLES)
def test_a_task_is_asked_in_both_languages_and_scored(title: str, page: str, shared_data: Path, tmp_path: Path) -> None:
    [block] = [match["block"] for match in TASK.finditer(page) if match["title"] == title]
    [row] = [row for row in ROW.finditer(page) if row["title"] == title.lower()]
    file = tmp_path / "task.yaml"
    file.write_text(block, encoding="utf-8")
    recipe = load(file).recipe
    [evaluated] = [name for name in recipe.evaluate if name not in ("questions", "notes")]
    benchmark: Any = recipe.evaluate[evaluated].benchmark
    assert f"`{benchmark.kind}`" in row["benchmarks"]
    asking = [name for name, config in recipe.data.items() if any(operator.kind == "synthesize" for operator in config.then)]  # pyright: ignore[reportAttributeAccessIssue]
    kinds: set[str] = set()
    said = ""
    for name in asking:
        store = made(recipe, name, shared_data, tmp_path)
        for number in store.kept.tolist():
            sample = store[number]
            kinds |= set(sample.attributes["kind"].split(","))
            said += "".join(sample.text(turn) for turn, one in enumerate(sample.turns) if one.role == "user")
    assert kinds == set(re.findall(r"`([\w-]+)`", row["kinds"]))
    assert CHINESE.search(said) and re.search(r"[A-Za-z]{3,}", said)
    scored = made(recipe, benchmark.data, shared_data, tmp_path)
    built = benchmark.build([scored[number] for number in scored.kept.tolist()])
    assert len(list(built.requests())) >= 10
