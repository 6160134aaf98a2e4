"""`sightline refine train`, `refine eval` and `refine apply`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sightline.cli.main import main
from sightline.samples.sample import Box, Mask
from sightline.samples.store import Store

FILE = """
name: tiny
threads: 1
model: {size: 32, width: 16, stem: 8, depth: 1, encoder: {config: {model_type: resnet, embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}}}
data:
  scenes: {make: {scenes: {count: 6, size: 64}}, read: {format: label-masks}}
train:
  data: {scenes: 1.0}
  train: {encoder: {learning_rate: 2.0e-3}, decoder: {learning_rate: 2.0e-3}}
  steps: 4
  batch: 4
  checkpoints: {steps: 2}
  objects: {leave_out: [bare, field, forest, grass]}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refine")
    (folder / "tiny.yaml").write_text(FILE)
    assert main(["refine", "train", str(folder / "tiny.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_is_whole_and_done_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in (run / "model").iterdir()) == ["config.json", "decoder.safetensors", "encoder.safetensors", "lineage.json"]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["steps"] for event in events if event["event"] == "trained"] == [4] and not (run / "checkpoints").exists()
    before = (run / "model" / "decoder.safetensors").read_bytes()
    assert main(["refine", "train", str(run.parent / "tiny.yaml"), "--out", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] and (run / "model" / "decoder.safetensors").read_bytes() == before
    again = run.parent / "again"
    assert main(["refine", "train", str(run.parent / "tiny.yaml"), "--out", str(again)]) == 0
    assert (again / "model" / "decoder.safetensors").read_bytes() == before


def test_figures_stand_beside_their_floors(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = ["refine", "eval", str(run), "--data", str(run / "data" / "scenes"), "--leave-out", "bare,field,forest,grass", "--limit", "5"]
    assert main([*said, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["boxes"], one["refiner"]) for one in told["scores"]] == [
        (f"rotated, {off}", name) for off in ("exact", "off") for name in ("fill-box", "grab-cut", "refiner")
    ]
    value, low, high, n = told["scores"][0]["miou"]
    assert 0.5 < low <= value <= high < 1 and n == 5 and sum(told["objects"].values()) == 5
    assert main([*said, "--prompt", "upright", "--jitter", "0,0,0", "--no-baselines", "--beside", str(run / "model")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split("  ")[0] == "boxes" and [row.startswith("upright, exact") for row in rows[1:3]] == [True, True] and "5 objects" in rows[-1]


def test_boxes_of_a_store_become_masks(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Store.open(run / "data" / "scenes")
    with Store.writer(tmp_path / "boxes") as writer:
        for sample in source:
            first, *others = sample.annotations
            writer.add(
                replace(sample, annotations=(replace(first, shape=Box(x0=10, y0=10, x1=30, y1=24)), replace(first, shape=Box(x0=5, y0=5, x1=5, y1=9)), *others))
            )
    assert main(["refine", "apply", str(run), "--data", str(tmp_path / "boxes"), "--out", str(tmp_path / "masks"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["masks"] == told["boxes without an area"] == told["rows"] == 6 and told["quarantined rows left out"] == 0
    masks = Store.open(tmp_path / "masks")
    for before, after in zip(source, masks):
        assert isinstance(after.annotations[0].shape, Mask) and isinstance(after.annotations[1].shape, Box) and after.annotations[2:] == before.annotations[1:]
    assert masks.lineage.inputs == [{"id": Store.open(tmp_path / "boxes").lineage.id, "kind": "store"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.data={pictures: 1.0}", "train.data.pictures"),
        ("train.train={tower: {learning_rate: 0.1}}", "encoder or decoder"),
        ("model.size=30", "model.size"),
        ("data.scenes={read: {format: label-masks}}", "path"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(run: Path, tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refine", "train", str(run.parent / "tiny.yaml"), change, "--out", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()
