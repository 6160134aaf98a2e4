"""The worked example of docs/kinds.md: another package adds kinds, and recipes use them like ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest


@pytest.fixture(scope="module")
def installed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the example installed: its wheel, unpacked into a folder of its own."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("installed")
    [wheel] = WheelBuilder(str(repository / "docs/examples/sightline-stripes")).build(directory=str(folder / "dist"), versions=["standard"])
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}


def sightline(installed: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """`sightline ...` with the example installed."""
    return subprocess.run([str(Path(sys.executable).with_name("sightline")), *arguments], env=installed, capture_output=True, text=True, timeout=240)


def test_tiles_of_another_package(repository: Path, installed: dict[str, str]) -> None:
    shown = sightline(installed, "show", "tiles", str(repository / "docs/examples/sightline-stripes/recipe.yaml"), "--size", "1200x400", "--json")
    assert shown.returncode == 0, shown.stderr
    [tiles] = json.loads(shown.stdout)
    assert tiles["tiles"] == 2 and tiles["grid"] == [1, 2]
    assert tiles["boxes"] == [[0.0, 0.0, 1200.0, 200.0], [0.0, 200.0, 1200.0, 400.0]]


@pytest.mark.slow
def test_a_recipe_with_kinds_of_another_package_is_planned_and_trains(repository: Path, installed: dict[str, str], tmp_path: Path) -> None:
    recipe = str(repository / "docs/examples/sightline-stripes/recipe.yaml")
    planned = sightline(installed, "plan", recipe, "--model-only", "--json")
    assert planned.returncode == 0, planned.stderr
    assert "GatedLinear" in [part["module"] for part in json.loads(planned.stdout)["models"][0]["parts"]]
    small = [f"data.{name}.make.scenes.count=10" for name in ("scenes", "held-out")]
    ran = sightline(installed, "run", recipe, "--out", str(tmp_path / "run"), "threads=1", "stages.all.steps=2", "stages.all.batch=4", *small)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run/stages/01-all/model/connector-00001-of-00001.safetensors").is_file()


@pytest.mark.slow
def test_without_the_package_the_kind_is_refused_by_name(repository: Path) -> None:
    shown = sightline(dict(os.environ), "plan", str(repository / "docs/examples/sightline-stripes/recipe.yaml"), "--model-only")
    assert shown.returncode == 2
    assert '"stripes"' in shown.stderr and "llava-next" in shown.stderr and '"gated-linear"' in shown.stderr
