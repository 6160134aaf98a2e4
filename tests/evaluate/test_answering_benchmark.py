"""The benchmark of answering asks both sides the same, and both say the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))

from answer_vs_transformers import SIDE, ours, theirs
from workload_a import write_model


@pytest.mark.slow
def test_both_sides_are_asked_the_same_and_say_the_same(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_model(tmp_path, blocks=2, side=SIDE)
    one, other = ours(tmp_path, 1, 3, "float32", None), theirs(tmp_path, 1, 3, "float32", None)
    assert one["answers"] == other["answers"] and len(one["answers"]) == 3
    assert {len(tokens) for tokens in one["answers"].values()} <= set(range(1, 17))
    assert one["counts"]["shared"] == 3 and one["counts"]["computed_tokens"] < 0.5 * one["counts"]["prompt_tokens"]
    assert min(one["peak_mib"], one["rate"], other["rate"]) > 0
