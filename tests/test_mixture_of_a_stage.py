"""Shares of a stage's data in a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sightline.run import run

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


def test_a_stage_is_fed_the_shares_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    mix = "stages.instruct.mix={method: equal, rows: 12, most: {notes: 0.25}}"
    run(TINY, tmp_path / "run", overrides=[mix, "stages.instruct.data={questions: 1.0, notes: 1.0}"])
    torch.set_num_threads(threads)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    (mixture,) = [event for event in events if event["event"] == "mixture"]
    assert [(one["name"], one["visits"]) for one in mixture["data"]] == [("questions", 9), ("notes", 3)]
    assert "a row comes" in capsys.readouterr().err
