"""`sightline recipe ...` over two recipes shipped for the test."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import jsonschema
import pytest

from sightline import recipe_source
from sightline.cli.main import main
from sightline.kinds import Config


class Recipe(Config):
    """Stands in for the real one."""

    seed: int
    """Of everything."""
    rate: float = 0.1
    """Of learning."""


@pytest.fixture(autouse=True)
def two_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "small.yaml").write_text("# A small one.\n# size: two cores\nseed: 1\n")
    (folder / "large.yaml").write_text("# A large one.\nextends: small.yaml\nrate: 1e-3\n")
    monkeypatch.setattr(recipe_source, "shipped", lambda: {path.stem: path for path in sorted(folder.glob("*.yaml"))})
    module = types.ModuleType("sightline.recipe")
    module.__dict__["Recipe"] = Recipe
    monkeypatch.setitem(sys.modules, "sightline.recipe", module)
    return folder


def test_ls(two_recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "large", "size": "", "description": "A large one.", "path": str(two_recipes / "large.yaml")},
        {"name": "small", "size": "two cores", "description": "A small one.", "path": str(two_recipes / "small.yaml")},
    ]
    assert main(["recipe", "ls"]) == 0
    assert capsys.readouterr().out.splitlines() == ["name   size       description", "large             A large one.", "small  two cores  A small one."]


def test_show(two_recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "large"]) == 0
    assert capsys.readouterr().out == (two_recipes / "large.yaml").read_text()
    assert main(["recipe", "show", "large", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "large"
    assert main(["recipe", "show", "large", "--resolved"]) == 0
    assert capsys.readouterr().out == "seed: 1\nrate: 0.001\n"
    assert main(["recipe", "show", "large", "seed=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seed": 7, "rate": 0.001}


def test_show_of_what_is_not_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "show", "lerge"]) == 2
    assert "did you mean 'large'?" in capsys.readouterr().err
    assert main(["recipe", "show", "small", "sed=2"]) == 2
    assert "override: sed" in capsys.readouterr().err


def test_a_copy_still_finds_its_base_and_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    assert main(["recipe", "copy", "large", str(mine)]) == 0
    assert main(["recipe", "show", str(mine), "--resolved"]) == 0
    assert "seed: 1" in capsys.readouterr().out
    assert main(["recipe", "copy", "small", str(mine)]) == 2
    assert "already there" in capsys.readouterr().err
    assert "large" in mine.read_text()


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "schema"]) == 0
    drawn = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(drawn)
    assert set(drawn["properties"]) == {"seed", "rate", "extends"}
