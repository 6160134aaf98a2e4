"""`sightline export` on the command line: written, checked, refused."""

from __future__ import annotations

import json
from pathlib import Path

import native_models
import pytest

from sightline.checkpoint_import import import_checkpoint
from sightline.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory, and the checkpoint that it was read from beside it."""
    folder = tmp_path_factory.mktemp("llava")
    native_models.published(native_models.CASES["llava"], folder / "published")
    import_checkpoint(folder / "published", folder / "model")
    return folder / "model"


@pytest.mark.slow
def test_it_writes_and_tells_the_proof(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), str(tmp_path / "out"), "--to", "llava"]) == 0
    told = capsys.readouterr().out
    assert "through the stock processor" in told
    assert "0 tensors" in told
    assert main(["export", str(model), str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["proof"]["target"] == "llava"


def test_a_model_is_checked(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "--check", "--to", "llava"]) == 0
    assert main(["export", str(model.parent / "published"), "--check", "--to", "mllama", "--json"]) == 1
    capsys.readouterr()
    assert main(["export", str(model.parent / "published"), str(tmp_path / "out")]) == 1
    assert "fix:     sightline checkpoint read" in capsys.readouterr().err
    assert main(["export", str(model), str(tmp_path / "out"), "--adapters"]) == 1
    assert "export/no-adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "llava-1.5", "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("  llava")] == [["llava", "yes"], ["llava-next", "no"]]
    assert main(["export", "nvlm-x", "--check", "--json"]) == 1
    models = json.loads(capsys.readouterr().out)
    assert len(models) == 1
    for model in models.values():
        assert model["target"] is None
        assert all(model["targets"].values())
        assert [one["engine"] for one in model["takings"]][:3] == ["transformers", "transformers serve", "vLLM"]


def test_a_command_that_says_too_little_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path)]) == 2
    assert main(["export", str(tmp_path), str(tmp_path / "out"), "--with-base"]) == 2
    assert main(["export", "llava-1.5", "--check", "--to", "nothing"]) == 2
    assert "usage/target" in capsys.readouterr().err
