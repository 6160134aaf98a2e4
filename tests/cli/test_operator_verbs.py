"""Operators over a store from the command line."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.cli.main import main
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Region, Sample, Show, Text, Turn
from sightline.samples.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Four rows: two with one picture, one of them a benchmark's; one with another, one without."""
    rows: list[Sample] = []
    for name, seed, split in (("a", 0, "train"), ("b", 0, "test"), ("c", 1, "train")):
        out = io.BytesIO()
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)).save(out, "PNG")
        turns = (Turn(role="user", items=(Show(),)), Turn(role="assistant", items=(Text(text="two ships in the upper left corner"),)))
        known = (Region(label="ships", shape=Box(x0=4, y0=4, x1=60, y1=40)),)
        rows.append(
            Sample(
                id=name, pictures=(describe(out.getvalue(), "", "x"),), turns=turns, annotations=known, attributes={"split": split}, origin=Origin(source="set")
            )
        )
    rows.append(
        Sample(id="d", turns=(Turn(role="user", items=(Text(text="?"),)), Turn(role="assistant", items=(Text(text="!"),))), origin=Origin(source="set"))
    )
    with Store.writer(tmp_path / "store") as writer:
        for row in rows:
            writer.add(row)
    return tmp_path / "store"


def test_dedup_takes_leaks_out_of_training(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "dedup", str(store), str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rules"] == {"dedup/leak": 1} and told["written"] == {"kept": 3, "quarantined": 1, "refused": 0}
    assert main(["data", "dedup", str(store), str(tmp_path / "two"), "--protect", "--pictures", "bytes"]) == 0
    assert "dedup/same: 1" in capsys.readouterr().out


def test_steps_of_a_file(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = tmp_path / "steps.yaml"
    steps.write_text("then:\n- unify-labels: {}\n- dihedral: {turns: [2]}\n", encoding="utf-8")
    assert main(["data", "apply", str(store), str(tmp_path / "out"), str(steps)]) == 0
    assert "dihedral: 4 rows in, 1 kept, 3 replaced, 0 quarantined" in capsys.readouterr().out
    turned = Store.open(tmp_path / "out")[0]
    assert turned.text(1) == "two ships in the lower right corner" and turned.annotations[0].label == "ship"
    assert turned.annotations[0].shape == Box(x0=68, y0=88, x1=124, y1=124)
    assert main(["data", "apply", str(store), str(tmp_path / "again"), str(steps), "then.1.dihedral.turns=[0]"]) == 0
    assert Store.open(tmp_path / "again")[0].text(1) == "two ships in the upper left corner"


def test_wrong_steps_are_told_with_their_line(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = tmp_path / "steps.yaml"
    steps.write_text("then:\n- dedupe: {}\n", encoding="utf-8")
    assert main(["data", "apply", str(store), str(tmp_path / "out"), str(steps)]) == 2
    assert f"{steps}:2" in capsys.readouterr().err
    assert main(["data", "dedup", str(store), str(tmp_path / "out"), "--within", "99"]) == 2
    assert "within: Input should be less than or equal to 16" in capsys.readouterr().err


def test_tiles(store: Path, tmp_path: Path) -> None:
    with Store.writer(tmp_path / "known") as writer:
        for sample in list(Store.open(store))[1:3]:
            writer.add(replace(sample, turns=()))
    assert main(["data", "tile", str(tmp_path / "known"), str(tmp_path / "out"), "--window", "64", "--gap", "0", "--empty"]) == 0
    tiles = list(Store.open(tmp_path / "out"))
    assert {(sample.pictures[0].width, sample.pictures[0].height) for sample in tiles} == {(64, 64)} and len(tiles) == 8


def test_mix_says_how_often_a_row_comes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "mix", f"tiles={store}", f"web:2={store}", "--method", "explicit", "--rows", "12", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert [(one["name"], one["visits"], one["times"]) for one in told] == [("tiles", 4, 1.0), ("web", 8, 2.0)]
    assert main(["data", "mix", f"tiles={store}", f"web:2={store}", "--not-above", "web=tiles"]) == 0
    assert "50.0%" in capsys.readouterr().out
    assert main(["data", "mix", "tiles"]) == 1 or "NAME=VALUE" in capsys.readouterr().err
