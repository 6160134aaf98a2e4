"""`sightline annotate` against a scripted endpoint: what is asked and written, what is refused; nothing is asked twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.scripted_endpoint import scripted

from sightline.cli.main import main


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A picture of two windows."""
    path = tmp_path / "harbour.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 112, 3), dtype=np.uint8)).save(path)
    return path


def words(scene: Path, model: str, *more: str) -> list[str]:
    """The command line."""
    return ["annotate", str(scene), "--model", model, "--labels", "ship, pond", "--out", str(scene.parent / "out"), *more]


def test_windows_are_asked_about_each_label_and_never_again(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(asked: dict[str, object], number: int) -> str:
        return "{500,500,200,300,30}" if "ship" in json.dumps(asked["messages"]) else "none"

    with scripted(reply) as endpoint:
        line = words(scene, f"{endpoint.url}#seer", "--codec", "xyhwt-pad", "--window", "64", "--to", "geojson,dota", "--json")
        assert main(line) == 0
        [first] = json.loads(capsys.readouterr().out)
        assert main(line) == 0
        [second] = json.loads(capsys.readouterr().out)
    texts = sorted(part["text"] for asked in endpoint.asked for part in asked["messages"][0]["content"] if part["type"] == "text")
    assert texts == ["where is the pond?"] * 2 + ["where is the ship?"] * 2
    assert first == second and first["counts"]["labels"] == {"ship": 2} and first["counts"]["answers: nothing"] == 2
    out = scene.parent / "out"
    assert len(json.loads((out / "harbour.geojson").read_text(encoding="utf-8"))["features"]) == 2
    assert (out / "labelTxt" / "harbour.txt").read_text(encoding="utf-8").count("ship") == 2
    assert (out / "harbour.quicklook.webp").stat().st_size > 500
    assert json.loads((out / "harbour.scene.json").read_text(encoding="utf-8")) == first


def test_people_read_the_counts(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: "over there") as endpoint:
        assert main(words(scene, f"{endpoint.url}#seer", "--codec", "xyhwt-pad", "--window", "64", "--overlap", "16")) == 0
    told = capsys.readouterr().out
    assert told.startswith("harbour.png: nothing\n  2 windows, 0 without data; 0 boxes named")
    assert "4 answers that say neither regions nor nothing" in told


@pytest.mark.parametrize(
    ("more", "code", "found"),
    [
        (["--to", "shapefile"], 2, "shapefile"),
        (["--codec", "xyhwt-pad"], 2, "--window"),
        (["--codec", "xyhwt-pad", "--window", "64", "--presence", "0.5"], 2, "--presence"),
        (["--codec", "morse", "--window", "64"], 2, "morse"),
        (["--codec", "xyhwt-pad", "--window", "64", "--overlap", "64"], 2, "below the window of 64"),
        (["--codec", "xyhwt-pad", "--window", "64", "--ask", "where is it?"], 1, "where is it?"),
        (["--codec", "xyhwt-pad", "--window", "64", "--labels", "all"], 1, "refine/labels"),
    ],
)
def test_what_makes_no_sense_is_refused(more: list[str], code: int, found: str, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(scene, "http://127.0.0.1:9/v1#seer", *more)) == code
    assert found in capsys.readouterr().err


def test_a_model_that_is_not_there(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(scene, str(scene.parent / "absent"))) == 1
    assert "data/no-model" in capsys.readouterr().err
