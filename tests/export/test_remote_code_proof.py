"""The proof of an exported folder: a process of its own, in which Sightline cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from exported_models import send

from sightline.errors import Refused
from sightline.export import remote_code_reload
from sightline.export.remote_code import RemoteCodeExporter


def test_the_package_is_blocked() -> None:
    program = f"import runpy, sys; reload = runpy.run_path({remote_code_reload.__file__!r}); sys.meta_path.insert(0, reload['Blocked']('sightline')); import sightline"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "it is blocked here" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["separated", "points", "mined", "merged"])
def test_stock_transformers_computes_what_we_do(name: str, tmp_path: Path) -> None:
    sent = send(name, tmp_path)
    proof = RemoteCodeExporter().prove(sent.home, sent.out)
    assert proof.difference <= 1e-5
    assert len(proof.golden) == 3 and all(ours == theirs for ours, theirs in proof.golden) and any(ours for ours, _ in proof.golden)
    assert proof.through == "our own processor code" and set(proof.software) >= {"torch", "transformers"}


@pytest.mark.slow
def test_a_folder_that_does_not_load_is_refused(tmp_path: Path) -> None:
    sent = send("flat", tmp_path)
    (sent.out / "tiling.py").unlink()
    with pytest.raises(Refused, match="export/not-reloaded"):
        RemoteCodeExporter().prove(sent.home, sent.out)


@pytest.mark.slow
def test_other_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    sent = send("points", tmp_path)
    tensors = load_file(sent.out / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0)
    save_file(tensors, sent.out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="export/other-answers"):
        RemoteCodeExporter().prove(sent.home, sent.out)
