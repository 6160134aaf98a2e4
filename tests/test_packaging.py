"""What pip gets: the wheel holds every module and recipe, an editable install holds neither, and each dependency has one pin."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from sightline import __version__


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def built(repository: Path, folder: Path, version: str) -> set[str]:
    """Names in the wheel that hatchling makes, its own records left out."""
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    [wheel] = hatchling.WheelBuilder(str(repository)).build(directory=str(folder), versions=[version])
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_modules_and_recipes(repository: Path, tmp_path: Path) -> None:
    inside = built(repository, tmp_path, "standard")
    modules = {path.relative_to(repository / "src").as_posix() for path in (repository / "src").rglob("*.py")}
    recipes = {f"sightline/{path.relative_to(repository).as_posix()}" for path in (repository / "recipes").rglob("*.yaml")}
    assert modules <= inside
    assert recipes <= inside
    page = {path.relative_to(repository / "src").as_posix() for path in (repository / "src" / "sightline" / "serve" / "page").iterdir()}
    assert page and page <= inside
    assert [name for name in inside if not name.startswith("sightline/")] == []


def test_shipped_recipes_are_found_in_an_installed_wheel(repository: Path, tmp_path: Path) -> None:
    built(repository, tmp_path, "standard")
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path / "site")
    program = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from sightline.recipe_source import shipped; print(*shipped())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert sorted(found) == sorted(path.stem for path in (repository / "recipes").rglob("*.yaml") if path.parent.name != "tables")


def test_an_editable_install_is_one_line(repository: Path, tmp_path: Path) -> None:
    assert {Path(name).suffix for name in built(repository, tmp_path, "editable")} == {".pth"}


def test_versions_agree(project: dict[str, Any]) -> None:
    assert project["version"] == __version__


def test_every_dependency_has_one_pin_that_satisfies_it(repository: Path, project: dict[str, Any]) -> None:
    lines = [line for line in (repository / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines]
    assert len(set(names)) == len(names)
    pins = dict(zip(names, (line.partition("==")[2] for line in lines), strict=True))
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement
    assert "torchvision" not in pins, "beside a CPU build of torch it breaks transformers"


def test_dependencies_are_explained(repository: Path, project: dict[str, Any]) -> None:
    text = (repository / "docs" / "dependencies.md").read_text(encoding="utf-8")
    names = [Requirement(line).name for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    assert [name for name in names if f"| {name} |" not in text] == []


def test_hooks_clone_nothing(repository: Path) -> None:
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
