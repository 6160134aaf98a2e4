"""What `sightline env` tells, and the torchvision that is there but does not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline import environment as module
from sightline.cli.main import main
from sightline.lineage import software


def test_facts_are_json_and_true(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["software"] == software()
    assert facts["torch"]["version"] == torch.__version__
    assert len(facts["torch"]["gpus"]) == torch.cuda.device_count()
    assert 1 <= facts["machine"]["usable cores"] <= facts["machine"]["cores"]
    assert main(["env"]) == 0
    assert f"torch.version {torch.__version__}".split() in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(("source", "state", "fixed"), [("", "ok", False), ("raise RuntimeError('operator torchvision::nms does not exist')", "broken", True)])
def test_torchvision_is_really_imported(source: str, state: str, fixed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told = module._torchvision()
    assert told["state"].startswith(state)
    assert ("pip uninstall -y torchvision" in told.get("fix", "")) == fixed
    if fixed:
        assert "torchvision::nms" in told["state"]
