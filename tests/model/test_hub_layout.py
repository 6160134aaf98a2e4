"""Checkpoints in the Hugging Face layout: equal outputs after loading, everything that does not fit listed at once, and no code of a checkpoint ever run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from sightline.errors import Refused
from sightline.model import hub_layout
from sightline.model.batch import Pictures, SideTexts
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.language import LanguageModelConfig
from sightline.model.text_tower import TextEncoderConfig

TOWER = {key: value for key, value in tiny.CLIP.items() if key != "model_type"}
TEXT = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 12}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole CLIPModel as transformers saves it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=8)).eval()
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A CLIPVisionModel alone."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(1)
    model = CLIPVisionModel(CLIPVisionConfig(**TOWER)).eval()
    folder = tmp_path_factory.mktemp("vision")
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A Qwen2ForCausalLM in several files, with tied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(2)
    block = {key: value for key, value in tiny.language("qwen2", tie_word_embeddings=True).block().items() if key != "model_type"}
    model = Qwen2ForCausalLM(Qwen2Config(**block)).eval()
    folder = tmp_path_factory.mktemp("qwen")
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder, model


def copied(source: Path, target: Path) -> Path:
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def change(folder: Path, **changes: Any) -> None:
    """Change keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True])
def test_a_vision_tower_gives_the_outputs_of_the_checkpoint(whole: bool, clip: tuple[Path, Any], vision: tuple[Path, Any]) -> None:
    folder, model = clip if whole else vision
    encoder = EncoderConfig(checkpoint=str(folder)).build().eval()
    pixels = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = encoder(Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(pixels,)), Read(lead="keep"))
    tower = model.vision_model if whole else model
    expected = tower((pixels - encoder.mean) / encoder.std).last_hidden_state
    torch.testing.assert_close(found.values, expected[0], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_text_tower_gives_the_outputs_of_the_checkpoint(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    tower = TextEncoderConfig(checkpoint=str(folder), width=8).build(16).eval()
    ids = torch.tensor([[3, 4, 49]])
    expected = model.text_model(input_ids=ids).last_hidden_state[0, 2]
    found = tower.embed_texts(SideTexts(ids=ids, lengths=torch.tensor([3]), picture_of=torch.tensor([-1])))
    torch.testing.assert_close(found[0], torch.nn.functional.normalize(tower.text_projection(expected), dim=-1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_language_model_in_several_files_gives_the_logits_of_the_checkpoint(qwen: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = qwen
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    ids = torch.arange(5, 13)[None]
    expected = model(input_ids=ids).logits
    for checkpoint in (folder, tmp_path):
        language_model = LanguageModelConfig(checkpoint=str(checkpoint), attention="eager").build().eval()
        language_model.prove_logits()
        hidden = language_model.hidden(language_model.embed(ids), torch.arange(8)[None], torch.ones(1, 8, 8, dtype=torch.bool).tril())
        torch.testing.assert_close(language_model.logits(hidden[0]), expected[0], rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_weights_of_half_precision_are_loaded_as_float32(vision: tuple[Path, Any], tmp_path: Path) -> None:
    copied(vision[0], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    change(tmp_path, dtype="bfloat16", torch_dtype="bfloat16")
    encoder = EncoderConfig(checkpoint=str(tmp_path)).build()
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_wrong_shapes_and_missing_tensors_are_listed_all_at_once(vision: tuple[Path, Any], tmp_path: Path) -> None:
    copied(vision[0], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    layers = sorted(name for name in tensors if "layers.0.mlp" in name)
    kept = {name: tensor for name, tensor in tensors.items() if name not in layers[:2]}
    kept[layers[2]], kept[layers[3]] = torch.zeros(7), torch.zeros(3, 5)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused) as refused:
        EncoderConfig(checkpoint=str(tmp_path)).build()
    codes = [problem.code for problem in refused.value.problems]
    assert codes == ["model/shape-mismatch", "model/shape-mismatch", "model/missing-weights"]
    text = str(refused.value)
    assert "found:   (7,) in the checkpoint" in text and "found:   (3, 5) in the checkpoint" in text and "allowed: (16, 24) by the config" in text
    assert "found:   2 tensors are not in the checkpoint: " in text and all(name.split("layers.")[1] in text for name in layers)


def test_a_checkpoint_of_another_architecture_is_refused(qwen: tuple[Path, Any], tmp_path: Path) -> None:
    copied(qwen[0], tmp_path)
    change(tmp_path, model_type="llama", attention_bias=True)
    with pytest.raises(Refused, match=r"model/missing-weights at .*\n  found:   \d+ tensors are not in the checkpoint: .*o_proj\.bias"):
        LanguageModelConfig(checkpoint=str(tmp_path)).build()


def test_truncated_weights_are_refused_with_the_folder(vision: tuple[Path, Any], tmp_path: Path) -> None:
    copied(vision[0], tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refused, match=rf"model/checkpoint-not-read at encoders\.vision \({tmp_path}\)"):
        EncoderConfig(checkpoint=str(tmp_path)).build()


def test_pickled_weights_are_refused(vision: tuple[Path, Any], tmp_path: Path) -> None:
    copied(vision[0], tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"model/checkpoint-not-read[^$]*allowed: safetensors weights"):
        EncoderConfig(checkpoint=str(tmp_path)).build()


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_checkpoint_is_never_run(known: bool, vision: tuple[Path, Any], tmp_path: Path) -> None:
    copied(vision[0], tmp_path)
    witness = tmp_path / "was-run"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(witness)!r}, 'w').write('x')\nclass Evil: ...\n")
    change(tmp_path, auto_map={"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"}, **({} if known else {"model_type": "evil"}))
    config = EncoderConfig(checkpoint=str(tmp_path))
    if known:
        config.build()
        EncoderConfig(config=config.block()).build()
    else:
        with pytest.raises(Refused, match=r"model/unknown-encoder[^$]*'evil'|model/config-not-accepted[^$]*evil"):
            config.build()
    assert not witness.exists()


def test_an_absent_checkpoint_is_planned_from_its_config_and_refused_without(tmp_path: Path) -> None:
    absent = str(tmp_path / "nowhere")
    assert EncoderConfig(checkpoint=absent, config=tiny.CLIP).grid(16, 16).count == 4
    assert EncoderConfig(checkpoint=absent, config=tiny.CLIP).build().blocks
    with pytest.raises(
        Refused, match=rf"model/no-checkpoint at encoders\.vision\n  found:   '{absent}' is not on this machine[^$]*fix:     download the checkpoint"
    ):
        EncoderConfig(checkpoint=absent).build()
    with pytest.raises(Refused, match="model/no-checkpoint at language_model"):
        LanguageModelConfig(checkpoint=absent).build()


def test_a_folder_is_found_before_the_hub_cache_is_asked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert hub_layout.find(str(tmp_path)) == tmp_path
    assert hub_layout.find(str(tmp_path / "x")) is None
    assert hub_layout.find("no-such-owner/no-such-model") is None
    assert hub_layout.find("./a") is None


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_broken_json_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Refused, match=rf"model/broken-json at {path}"):
        EncoderConfig(checkpoint=str(tmp_path)).grid(8, 8)


def test_the_part_of_a_composite_is_taken_and_keys_of_the_file_left_out() -> None:
    block = {
        "model_type": "clip",
        "vision_config": {"model_type": "clip_vision_model", "dtype": "float16"},
        "text_config": {"model_type": "clip_text_model", "a": 1},
    }
    assert hub_layout.config_block(None, block, "x", sub="vision_config") == {"model_type": "clip_vision_model"}
    assert hub_layout.config_block(None, block, "x", sub="text_config") == {"model_type": "clip_text_model", "a": 1}
