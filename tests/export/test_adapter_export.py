"""Adapters alone: peft's layout under the names of the class, one rank, scales in B; proved beside the model without them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from native_models import CASES, published
from safetensors.torch import load_file, save_file

from sightline.checkpoint_import import _golden, import_checkpoint
from sightline.errors import Refused
from sightline.export import adapter_export
from sightline.export.adapter_export import export_adapters, read_layers
from sightline.export.exporters import Proof
from sightline.lineage import Lineage, write_json
from sightline.model import directory
from sightline.train.adapters import Lora, insert_lora, merge_lora


def adapted(folder: Path, lora: Lora) -> tuple[Path, Path]:
    """A model before and after adapters that were made up, as a stage leaves it."""
    published(CASES["llava"], folder / "published")
    import_checkpoint(folder / "published", folder / "before")
    model, processor, _ = directory.load(folder / "before")
    part = model.parts()["language_model"]
    assert insert_lora("language_model", part, lora) == []
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.normal_(std=0.3)
    tensors = merge_lora(part)
    after = folder / "after"
    (after / "adapter").mkdir(parents=True)
    weights = directory.save(after, model.eval(), processor, folder / "before")
    save_file(tensors, after / "adapter" / "language_model.safetensors")
    write_json(after / "adapter" / "language_model.json", lora.model_dump(mode="json"))
    _golden(after, model, processor, weights)
    Lineage(id="after", kind="model", config="test").write(after)
    return folder / "before", after


VARIED = Lora(rank=4, alpha=6, targets=("q_proj", "v_proj", "up_proj"), ranks={"up_proj": 2}, alphas={"v_proj": 3}, rank_stabilized=True)


def test_ranks_and_scales_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, after = adapted(tmp_path, VARIED)
    stand_in = Proof(target="llava", difference=0.0, golden=(), through="a stand-in", software={})
    monkeypatch.setattr(adapter_export, "prove_writer", lambda *_: stand_in)
    model, _, _ = directory.load(after)
    scales = {layer.name.rpartition(".")[2]: layer.scale for layer in read_layers(after, model.parts())}
    assert scales == pytest.approx({"q_proj": 3.0, "v_proj": 1.5, "up_proj": 6 / 2**0.5})
    assert export_adapters(after, tmp_path / "out").proof == stand_in
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (said["peft_type"], said["r"], said["lora_alpha"], said["use_dora"], said["rank_pattern"]) == ("LORA", 4, 4, False, {})
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {len(tensor) for name, tensor in tensors.items() if "lora_A" in name} == {4}
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in tensors)
    assert json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))["vllm"]["takes"]
    assert not (tmp_path / "out" / "base").exists()


@pytest.mark.slow
def test_the_model_beside_is_written_and_says_the_same_with_them(tmp_path: Path) -> None:
    _, after = adapted(tmp_path, VARIED)
    found = export_adapters(after, tmp_path / "out", with_base=True)
    assert found.proof.difference <= 1e-3
    assert found.proof.golden and all(ours == theirs for ours, theirs in found.proof.golden)
    assert "peft" in found.proof.software
    own, published = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out" / "base", tmp_path / "published"))
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose(own[name], published[name], atol=1e-6)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == "base"


@pytest.mark.slow
def test_dora_needs_what_was_before(tmp_path: Path) -> None:
    before, after = adapted(tmp_path, Lora(rank=2, alpha=4, dora=True))
    with pytest.raises(Refused, match="export/dora-base"):
        export_adapters(after, tmp_path / "out")
    found = export_adapters(after, tmp_path / "out", base=before)
    assert all(ours == theirs for ours, theirs in found.proof.golden)
    assert json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))["vllm"] == {"takes": False, "how": "vLLM has no DoRA"}


def test_a_model_without_adapters_is_refused(tmp_path: Path) -> None:
    published(CASES["llava"], tmp_path / "published")
    import_checkpoint(tmp_path / "published", tmp_path / "model")
    with pytest.raises(Refused, match="export/no-adapters"):
        export_adapters(tmp_path / "model", tmp_path / "out")
