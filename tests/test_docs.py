"""The pages in docs/: their blocks run, their recipes load, their links lead somewhere, the table of keys is that of today."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sightline.recipe import Recipe
from sightline.recipe_source import load
from test_readme import blocks, run, tools

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import recipe_keys

__all__ = ["tools"]
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#([^)]+))?\)")


@pytest.fixture
def docs(repository: Path) -> Path:
    """The folder of the pages."""
    return repository / "docs"


def test_the_table_of_keys_is_of_today(docs: Path) -> None:
    text = (docs / "recipes.md").read_text(encoding="utf-8")
    assert recipe_keys.page(text) == text, "run: python tools/recipe_keys.py"
    assert recipe_keys.page(text.replace("| `seed` |", "| `sead` |")) == text


def test_the_table_names_every_key_with_its_meaning() -> None:
    whole = recipe_keys.drawn()
    lines = recipe_keys.tables(whole).splitlines()
    assert {"### `stages[].train.NAME.lora`", "### `data.NAME.read[]`, format `dota`", "### `model.tiler`, kind `whole`"} <= set(lines)
    assert "| `batch` | whole number from 1 | **needed** | Rows per optimizer step. |" in lines
    keys = [line for line in lines if line.startswith("| `")]
    assert len(keys) == sum(len([key for key in section["properties"] if key != "kind"]) for _, section in recipe_keys.sections(whole))
    assert [line for line in keys if line.endswith("|  |") or "anything" in line] == []


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"recipes.md has lost its marks"):
        recipe_keys.page("# Recipes\n")


def test_recipes_on_the_pages_load(docs: Path, tmp_path: Path) -> None:
    found = [text for page in sorted(docs.glob("*.md")) for text in YAML.findall(page.read_text(encoding="utf-8")) if "extends:" in text]
    assert len(found) >= 3
    for number, text in enumerate(found):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        load(file, Recipe)


def test_links_lead_somewhere(docs: Path) -> None:
    links = [(page, *link) for page in docs.glob("*.md") for link in LINK.findall(page.read_text(encoding="utf-8"))]
    assert len(links) > 5
    for page, name, heading in links:
        target = page.parent / name
        assert target.exists(), f"{page.name}: {name}"
        if not heading:
            continue
        titles = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in target.read_text(encoding="utf-8").splitlines()
            if line.startswith("#")
        ]
        assert heading in titles, f"{page.name}: {name}#{heading}"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["quickstart.md", "data.md", "bands.md", "export.md"])
def test_the_blocks_of_a_page_run(page: str, docs: Path, tmp_path: Path, tools: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    found = blocks((docs / page).read_text(encoding="utf-8"))
    assert len(found) >= 4
    for block in found:
        run(block, folder, tools)


def test_the_chinese_page_says_the_same_commands(docs: Path) -> None:
    english, chinese = (blocks((docs / name).read_text(encoding="utf-8")) for name in ("quickstart.md", "quickstart.zh.md"))
    assert [block.code for block in chinese] == [block.code for block in english]
    headings = [len(re.findall("^## ", (docs / name).read_text(encoding="utf-8"), re.MULTILINE)) for name in ("quickstart.md", "quickstart.zh.md")]
    assert headings[0] == headings[1]
