"""`plan`: true sizes without memory; what is absent is a finding, what is wrong is refused. Stages: test_plan_time, test_plan_memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.plan import plan
from sightline.recipe import load
from sightline.run_checks import absent_weights

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


def test_a_plan_counts_what_a_model_has() -> None:
    planned = plan(TINY)
    [model] = planned.models
    config = load(TINY).recipe.all_models()["model"].resolve(400)
    built = Model(config)
    assert model.parameters == sum(p.numel() for p in built.parameters())
    assert {part.path: part.parameters for part in model.parts} == {path: sum(p.numel() for p in part.parameters()) for path, part in built.parts().items()}
    assert {part.path: part.module for part in model.parts}["language_model"] == "Qwen2ForCausalLM"
    assert model.picture_tokens[0] == {"width": 224, "height": 224, "tokens": config.measure(224, 224).decoder, "memory": 0}
    tables = {stage["name"]: {row["part"]: row["trained"] for row in stage["table"]} for stage in model.stages}
    assert list(tables) == ["see", "read", "align", "instruct"]
    assert tables["align"] == {"encoders.vision": 0, "connector": model.parts[1].parameters, "language_model": 0, "text_encoder": 0}
    assert 0 < tables["instruct"]["language_model"] < 0.2 * model.parts[2].parameters, "adapters only"
    assert planned.findings == []


def test_a_plan_as_text_and_json() -> None:
    planned = plan(TINY)
    said = str(planned)
    assert f"{planned.models[0].parameters:,} parameters" in said
    assert "lora r=2 alpha=32" in said
    assert json.loads(json.dumps(planned.record()))["models"][0]["parameters"] == planned.models[0].parameters


def test_what_is_absent_is_a_finding() -> None:
    planned = plan(TINY, ["data.more={read: {path: not/here}}", "model.language_model.checkpoint=nobody/nothing"])
    assert [(finding.code, finding.severity) for finding in planned.findings] == [("run/absent-data", "warn"), ("run/absent-weights", "warn")]
    assert all(str(finding) in str(planned) for finding in planned.findings)


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(Refused, match="usage/hardware"):
        plan(TINY, model_only=False, machine="8xB40")
    with pytest.raises(Refused, match="train/too-few-blocks"):
        plan(TINY, ["stages.read.train={language_model: {learning_rate: 1e-3, last: 3}}"])
    with pytest.raises(Refused, match="no data 'x'"):
        plan(TINY, ["stages.read.data={x: 1.0}"])


def test_an_open_clip_file_is_at_hand(tmp_path: Path) -> None:
    (tmp_path / "tower.pt").write_bytes(b"PK")
    loaded = load(TINY, [f"model.encoders.0.checkpoint={tmp_path / 'tower.pt'}"])
    assert list(absent_weights(loaded)) == []
    assert [problem.code for problem in absent_weights(load(TINY, [f"model.encoders.0.checkpoint={tmp_path / 'other.pt'}"]))] == ["run/absent-weights"]
