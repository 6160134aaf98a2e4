"""Adapters at the end of a stage: merged, proved by what the model says, kept beside the weights; and nothing saved where the proof fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sightline.errors import Refused
from sightline.model import directory
from sightline.run import run
from sightline.run_events import Events
from sightline.train import adapters

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
LORA = "{rank: 2, quantize: int8, ranks: {q_proj: 3}, targets: [blocks.0-0.*.q_proj, down_proj]}"
STAGE = f"{{name: instruct, objective: answer-likelihood, data: {{questions: 1.0}}, batch: 4, steps: 3, neftune: 5.0, train: {{language_model: {{learning_rate: 1.0e-2, lora: {LORA}}}}}}}"


def test_merged_proved_and_kept_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = [f"stages=[{STAGE}]", "evaluate={}", "model.text_encoder=null"]
    monkeypatch.setitem(adapters.MERGED, "float32", -1.0)
    with pytest.raises(Refused, match="train/merge-differs"):
        run(TINY, tmp_path / "run", said)
    stage = tmp_path / "run" / "stages" / "01-instruct"
    assert not (stage / "model").exists()
    monkeypatch.setitem(adapters.MERGED, "float32", 1e-4)
    run(TINY, tmp_path / "run", said)
    [event] = [one for one in Events(tmp_path / "run" / "events.jsonl").read() if one["event"] == "merged"]
    assert event["parts"] == ["language_model"] and event["quantized"] == {"language_model": "int8"} and event["rows"] == 4
    assert event["differences"].keys() == {"float32", "bfloat16"} and event["differences"]["float32"] < 1e-4
    assert "saved in full precision" in "".join(capsys.readouterr())
    tensors = load_file(stage / "model" / "adapter" / "language_model.safetensors")
    ranks = {name.split(".layers.")[1].split(".lora_A")[0]: len(tensor) for name, tensor in tensors.items() if "lora_A" in name}
    assert ranks == {"0.self_attn.q_proj": 3, "0.mlp.down_proj": 2, "1.mlp.down_proj": 2}
    assert json.loads((stage / "model" / "adapter" / "language_model.json").read_text(encoding="utf-8"))["quantize"] == "int8"
    assert not [name for name in directory.read_tensors(stage / "model") if "lora_" in name or "rounded" in name]
