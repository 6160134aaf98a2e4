"""Five deaths of a run of four stages, two of them inside the writing of a checkpoint. `make soak` tries thirty."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import resume_torture


def test_five_kills_and_the_weights_are_those_of_an_undisturbed_run(tmp_path) -> None:
    outcomes = list(resume_torture.check_all(tmp_path, kills=5, inside=2))
    assert [outcome.name for outcome in outcomes if outcome.fault] == [], "\n".join(outcome.fault for outcome in outcomes)
    assert len(outcomes) == 5 + 2, "a SIGTERM and the survivor besides"
    assert '"signal": "SIGTERM"' in (tmp_path / "killed" / "events.jsonl").read_text()
    assert len(resume_torture.resumed(tmp_path / "killed")) >= 3


def test_deaths_are_spread_over_all_stages_and_all_points() -> None:
    fates = resume_torture.fates(30, 10, seed=0)
    stages = {fate.step // resume_torture.STEPS for fate in fates}
    assert stages == set(range(len(resume_torture.STAGES)))
    assert sorted(fate.point for fate in fates if fate.point) == sorted(resume_torture.POINTS)
    assert len({fate.step for fate in fates}) == len(fates) == 31
    assert [fate.code for fate in fates] == [-9] * 30 + [143]


def test_a_run_with_other_weights_is_a_fault(tmp_path) -> None:
    for name, weight in (("calm", b"1"), ("out", b"2")):
        for stage in resume_torture.STAGES:
            (tmp_path / name / "stages" / stage / "model").mkdir(parents=True)
            (tmp_path / name / "stages" / stage / "model" / "a.safetensors").write_bytes(weight if stage == "see" else b"same")
        (tmp_path / name / "graph.json").write_text("[]")
        (tmp_path / name / "events.jsonl").write_text('{"event": "resumed", "stage": "see", "step": 2}\n')
    assert list(resume_torture._faults(tmp_path / "calm", tmp_path / "out", 0)) == ["other weights: stages/see/model/a.safetensors"]
    assert list(resume_torture._faults(tmp_path / "calm", tmp_path / "calm", 0)) == []
    (tmp_path / "calm" / "stages" / "see" / "checkpoints").mkdir()
    assert list(resume_torture._faults(tmp_path / "calm", tmp_path / "calm", 0)) == ["left behind: stages/see/checkpoints"]
    assert "ended with 1" in next(resume_torture._faults(tmp_path / "calm", tmp_path / "out", 1))
