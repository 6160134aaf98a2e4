"""Picture towers as ONNX graphs: what is refused, and that onnxruntime computes what we do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_models import SENT, config_of
from tiny_models import TEXTS, built

from sightline.export.onnx_towers import OnnxTowerExporter, crop_sizes
from sightline.model import directory
from sightline.model.tokens import train_tokenizer


def saved(name: str, folder: Path) -> Any:
    """A model directory of a composition, and the model."""
    config = config_of(SENT[name])
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(400, control=tokenizer.control), tokenizer)
    folder.mkdir()
    directory.save(folder, model, processor)
    return model


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("separated", [("model.encoders.vision", "crops of ")]),
        ("pooled", [("model.connector", "a connector that also reads which tokens show padding")]),
        ("flat", []),
    ],
)
def test_what_is_no_graph_is_refused(name: str, found: list[tuple[str, str]]) -> None:
    problems = [problem for problem in OnnxTowerExporter().check(config_of(SENT[name])) if problem.code == "export/onnx"]
    assert [problem.place for problem in problems] == [place for place, _ in found]
    assert all(problem.found.startswith(said) for problem, (_, said) in zip(problems, found, strict=True))


def test_the_sizes_of_crops_are_those_of_their_roles() -> None:
    config = config_of(SENT["mined"])
    assert [crop_sizes(config, encoder) for encoder in config.encoders] == [[(32, 32)], [(64, 64)]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "files"), [("flat", ["vision"]), ("points", ["general", "text"]), ("channels", ["siglip", "dino", "connector"])])
def test_onnxruntime_computes_what_we_do(name: str, files: list[str], tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    model, exporter = saved(name, tmp_path / "model"), OnnxTowerExporter()
    exporter.write(tmp_path / "model", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "onnx.json").read_text())
    assert [one["file"] for one in record] == [f"{file}.onnx" for file in files]
    assert record[0]["takes"] == [1, 3, 32, 32] and record[0]["dtype"] == "uint8" and record[0]["gives"][0] == 1
    proof = exporter.prove(tmp_path / "model", tmp_path / "out")
    assert proof.difference <= 1e-4 and proof.golden == () and proof.through == "our pixel tensors"
    with torch.no_grad():
        for parameter in model.encoders.parameters():
            parameter.mul_(1.01)
    (tmp_path / "other").mkdir()
    directory.save(tmp_path / "other", model, directory.load(tmp_path / "model")[1])
    assert exporter.prove(tmp_path / "other", tmp_path / "out").difference > 1e-4, "the graphs are of other weights"
