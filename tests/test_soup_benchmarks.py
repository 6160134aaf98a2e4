"""The benchmarks of soups at toy size: a pool from its recipe to its figures, the line of `make bench`, and averaging beside mergekit where mergekit is not there."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench
import soup_pools
import soup_vs_mergekit as averaging
from figures import Unmeasured

from sightline.evaluate.metrics import Value
from sightline.evaluate.run_facts import SoupGain
from sightline.lineage import write_json
from sightline.soup_search import SoupTable, table_lines

TINY = [
    *(f"data.{name}.make.scenes.count=6" for name in ("scenes", "dev-scenes", "test-scenes")),
    *(f"stages.{name}.{key}" for name in ("see", "read", "join", "instruct") for key in ("steps=2", "batch=4")),
    *(f"evaluate.{name}.benchmark.questions.max_tokens=2" for name in ("dev", "test")),
    "evaluate.test.controls=false",
    "threads=1",
]
POOL = ["instruct", "instruct-count", "instruct-where", "instruct-at", "instruct-ground"]


# pools


def score(value: float) -> dict[str, Value]:
    """Dev and test of one line."""
    return {"dev": Value(0.9, 0.8, 1.0, 10), "test": Value(value, value - 0.1, value + 0.1, 10)}


def write_table(run: Path, stamp: str = "") -> None:
    """What a run of two leaves."""
    soups = {"maximum": (("a",), score(0.5)), "average": (("a", "b"), score(0.55)), "greedy": (("a", "b"), score(0.55))}
    gain = SoupGain(name="average", over="maximum", evaluation="test", gain=0.05, low=-0.01, high=0.11)
    lines = table_lines({"a": score(0.5), "b": score(0.4)}, soups)
    table = SoupTable(name="mean", selected_on=("dev",), reported_on=("test",), lines=lines, gains=(gain,), stamp=stamp)
    folder = run / "soups" / "mean"
    folder.mkdir(parents=True)
    write_json(folder / "table.json", table.record())
    (folder / "table.md").write_text(table.markdown())


def test_figures_are_those_of_what_chose_nothing(tmp_path: Path) -> None:
    write_table(tmp_path)
    found = soup_pools.figures_of(tmp_path)
    assert found["singles"] == {"a": {"value": 0.5, "low": 0.4, "high": 0.6}, "b": {"value": 0.4, "low": 0.30000000000000004, "high": 0.5}}
    assert found["mean"]["value"] == pytest.approx(0.45) and found["greedy"]["value"] == 0.55 and found["in_greedy"] == ["a", "b"]
    assert found["gains"] == {"average over maximum": {"value": 0.05, "low": -0.01, "high": 0.11}}


@pytest.mark.slow
def test_a_pool_goes_from_its_recipe_to_its_figures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert soup_pools.main(["--only", "scenes", "--out", str(tmp_path), *(f"--set={one}" for one in TINY)]) == 0
    *page, last = capfd.readouterr().out.splitlines()
    found = json.loads(last)["scenes"]
    assert list(found["singles"]) == POOL and found["stamp"] == ""
    assert (found["selected_on"], found["reported_on"]) == (["dev"], ["test"])
    assert all(one["low"] <= one["value"] <= one["high"] for name in ("mean", *soup_pools.SOUPS) for one in [found[name]])
    assert all(f"| {name} |" in "\n".join(page) for name in ("single", "single, mean of 5", "maximum", "average", "greedy"))
    html = (tmp_path / "scenes" / "report.html").read_text(encoding="utf-8")
    assert "Soup: mean" in html and "instruct-ground" in html


def test_a_pool_that_fails_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    failing = (sys.executable, "-c", "raise SystemExit(2)")
    monkeypatch.setattr(soup_pools, "run_pool", partial(soup_pools.run_pool, program=failing))
    assert soup_pools.main(["--only", "rsicd", "--out", str(tmp_path), "--data", str(tmp_path / "sets")]) == 1
    told = capfd.readouterr()
    assert json.loads(told.out) == {"rsicd": None}
    assert "soup-rsicd.yaml" in told.err and f"data.captions.read.path={tmp_path / 'sets' / 'rsicd'} ended with 2" in told.err


def test_the_line_has_singles_and_soups_and_fails_where_the_test_chose(tmp_path: Path) -> None:
    done = bench.Bench(out=tmp_path, data=tmp_path, program=(sys.executable, "-c", ""))
    for pool in soup_pools.RECIPES:
        write_table(tmp_path / "soups" / pool)
    with pytest.raises(Unmeasured, match="rsicd is not there"):
        list(bench.soups(done))
    (tmp_path / "rsicd").mkdir()
    found = list(bench.soups(done))
    assert [one.name for one in found[:5]] == [f"soups scenes {name}" for name in ("singles", "average", "maximum", "greedy", "selected on test")]
    assert found[0].values == (0.5, 0.4) and all(one.passed for one in found) and len(found) == 10
    assert found[1].note == "95 % 0.450 to 0.650; average over maximum +0.050 (-0.010 to +0.110, paired)"
    shutil.rmtree(tmp_path / "soups" / "scenes")
    write_table(tmp_path / "soups" / "scenes", "selected on what is reported")
    assert [one.name for one in bench.soups(done) if not one.passed] == ["soups scenes selected on test"]


# averaging beside mergekit


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of about 1 MB."""
    folders = [tmp_path_factory.mktemp("made") / f"made-{number}" for number in range(2)]
    for number, folder in enumerate(folders):
        averaging.make_checkpoint(folder, 1, number)
    return folders


def test_made_checkpoints_have_about_the_size_and_differ(checkpoints: list[Path]) -> None:
    files = [folder / "model.safetensors" for folder in checkpoints]
    assert all(0.5e6 < file.stat().st_size < 1.5e6 for file in files)
    first, second = (load_file(file) for file in files)
    assert first.keys() == second.keys() and not np.array_equal(first["model.norm.weight"], second["model.norm.weight"])
    assert averaging.read_all(checkpoints) > 0


def test_every_number_of_our_mean_is_the_rounded_one_and_a_wrong_one_is_seen(checkpoints: list[Path], tmp_path: Path) -> None:
    told = averaging.ours(checkpoints, tmp_path / "ours")
    assert told["seconds"] > 0 and told["peak_mb"] >= told["imports_mb"]
    found = averaging.equal_numbers(checkpoints, tmp_path / "ours")
    tensors = load_file(tmp_path / "ours" / "model.safetensors")
    assert found == {"numbers": sum(tensor.size for tensor in tensors.values()), "equal": found["numbers"], "furthest_ulp": found["furthest_ulp"]}
    assert found["furthest_ulp"] == 0
    shutil.copytree(tmp_path / "ours", tmp_path / "wrong")
    tensors["model.norm.weight"][3] = np.nextafter(tensors["model.norm.weight"][3], np.float32(9), dtype=np.float32)
    save_file(tensors, tmp_path / "wrong" / "model.safetensors")
    wrong = averaging.equal_numbers(checkpoints, tmp_path / "wrong")
    assert wrong["equal"] == wrong["numbers"] - 1 and wrong["furthest_ulp"] == pytest.approx(1)


@pytest.mark.slow
def test_without_mergekit_our_side_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = averaging.measure(2, 1, 1, tmp_path, None)
    assert found["ours"]["equal"] == found["ours"]["numbers"] > 0 and "peer" not in found
    assert found["time_over_reading"] == pytest.approx(found["ours"]["seconds"] / found["reading_seconds"])
    with pytest.raises(RuntimeError, match="no numbers today"):
        averaging.run_apart([sys.executable, "-c", "raise SystemExit('no numbers today')"])
