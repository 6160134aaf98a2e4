"""`show tiles` and `show model` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.cli.main import main
from sightline.export.engines import Engines
from sightline.plan import ModelPlan, Plan


@pytest.fixture
def toy(repository: Path) -> str:
    """A recipe at the size of a toy."""
    return str(repository / "tests" / "recipes" / "tiny.yaml")


def test_sizes_and_overrides_in_any_order(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = tmp_path / "sizes.json"
    sizes.write_text("[[30, 20]]")
    tiler = "model.tiler={kind: catty, size: 32}"
    assert main(["show", "tiles", toy, "--size", "1000x600", "600x1000", tiler, "--sizes", str(sizes), "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert [(row["size"], row["grid"], row["tiles"]) for row in before] == [([1000, 600], [4, 2], 9), ([600, 1000], [2, 4], 9), ([30, 20], [3, 2], 7)]
    assert set(before[0]) == {"size", "grid", "resized", "tiles", "boxes", "roles", "tokens"}
    assert main(["show", "tiles", toy, tiler, "--sizes", str(sizes), "--size", "1000x600", "--size", "600x1000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == before


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiles", "quickstart"]) == 0
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["size", "grid", "resized", "crops", "tokens"] and len(rest) == 4
    assert first.split() == ["336x336", "1x1", "96x96", "1", "(1", "overview)", "36"]


def test_over_a_picture(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, out = tmp_path / "picture.png", tmp_path / "tiles.png"
    Image.new("RGB", (90, 40), (10, 200, 10)).save(picture)
    assert main(["show", "tiles", toy, "model.tiler={kind: internvl, size: 32}", "--image", str(picture), "--out", str(out), "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["size"] == [90, 40] and row["grid"] == [2, 1]
    with Image.open(out) as drawn:
        assert drawn.convert("RGB").getpixel((700, 40)) == (10, 200, 10), "crops on the sheet show the picture"


def test_what_is_refused(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiles", toy, "--size", "1000", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["code"] == "usage/size"
    assert main(["show", "tiles", toy, "--out", str(tmp_path / "tiles.jpg")]) == 2
    assert "allowed: a file that ends in .png" in capsys.readouterr().err
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert main(["show", "tiles", toy, "--image", str(text)]) == 1
    assert "samples/not-a-picture" in capsys.readouterr().err
    assert main(["show", "tiles", toy, "model.tiler={kind: smart-resize}", "--size", "900x1"]) == 1
    assert "found:   a picture of 900x1 px" in capsys.readouterr().err


def test_show_model_is_the_plan_of_the_model(toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def stand_in(recipe: str, overrides: list[str], model_only: bool) -> Plan:
        asked.append((recipe, overrides, model_only))
        return Plan(recipe="tiny", models=[ModelPlan(name="model", parts=[], stages=[], picture_tokens=[], engines=Engines(target=None, takings=()))])

    monkeypatch.setattr("sightline.plan.plan", stand_in)
    assert main(["show", "model", toy, "seed=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "model"
    assert main(["show", "model", toy]) == 0
    assert "model: 0 parameters" in capsys.readouterr().out
    assert asked == [(toy, ["seed=3"], True), (toy, [], True)]
