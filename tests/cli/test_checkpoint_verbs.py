"""`sightline checkpoint read` and `write`: there and back, asked in between, told as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import native_models
import pytest
import torch
from safetensors.torch import load_file

from sightline.cli.main import main


def test_a_checkpoint_goes_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native_models.published(native_models.CASES["llava"], tmp_path / "published")
    assert main(["checkpoint", "read", str(tmp_path / "published"), str(tmp_path / "model"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["problems"]) == ("llava", [])
    assert main(["chat", str(tmp_path / "model"), "Where?", "--json"]) == 0
    capsys.readouterr()
    assert main(["checkpoint", "write", str(tmp_path / "model"), str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out.split()[-1] == "nothing"
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("published", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert main(["chat", str(tmp_path / "published"), "Where?", "--json"]) == 0


def test_another_form_is_refused_with_both_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native_models.published(native_models.CASES["llava"], tmp_path / "published")
    assert main(["checkpoint", "read", str(tmp_path / "published"), str(tmp_path / "model")]) == 0
    assert "llava" in capsys.readouterr().out
    assert main(["checkpoint", "write", str(tmp_path / "model"), str(tmp_path / "other"), "--format", "mllama"]) == 1
    assert "model/native-" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
