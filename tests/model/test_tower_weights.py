"""Weights of towers: out of whole systems, with positions resized on the way, and refused with every tensor that does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_towers as towers
import torch
from torch import nn

from sightline.errors import Refused
from sightline.model import hub_layout
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.towers.position_tables import resized

TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PERCEIVER = {"hidden_size": 16, "resampler_n_latents": 2, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8, "num_key_value_heads": 2}


def system(name: str, vision: dict[str, Any]) -> nn.Module:
    """A whole published system around a vision tower."""
    import transformers as library

    vision = dict(vision)  # composites take the model_type out of it

    match name:
        case "clip":
            return library.CLIPModel(library.CLIPConfig(vision_config=vision, text_config=TEXT | {"max_position_embeddings": 8}))
        case "siglip":
            return library.SiglipModel(library.SiglipConfig(vision_config=vision, text_config=TEXT | {"max_position_embeddings": 8}))
        case "dinov2":
            return library.Dinov2ForImageClassification(library.Dinov2Config(**{key: value for key, value in vision.items() if key != "model_type"}))
        case "internvit":
            text = library.Qwen2Config(**TEXT)
            return library.InternVLForConditionalGeneration(library.InternVLConfig(vision_config=library.InternVLVisionConfig(**vision), text_config=text))
        case "blip":
            return library.BlipModel(library.BlipConfig(vision_config=vision, text_config=TEXT | {"encoder_hidden_size": 16, "max_position_embeddings": 8}))
        case "idefics2":
            text = {"model_type": "mistral", **TEXT}
            return library.Idefics2ForConditionalGeneration(library.Idefics2Config(vision_config=vision, perceiver_config=PERCEIVER, text_config=text))
        case "llava":
            text = library.LlamaConfig(**TEXT)
            return library.LlavaForConditionalGeneration(library.LlavaConfig(vision_config=vision, text_config=text, image_token_index=49))
    raise AssertionError(name)


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "internvit", "blip", "idefics2", "llava"])
def test_the_tower_of_a_whole_system_is_found(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = system(name, towers.CONFIGS["clip" if name == "llava" else name])
    for parameter in whole.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    whole.save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
    module = EncoderConfig(checkpoint=str(tmp_path)).build()
    theirs = whole.state_dict()
    [prefix] = {key.removesuffix(end) for key in theirs for end in (".patch_embedding.weight", ".patch_embeddings.projection.weight") if key.endswith(end)}
    prefix = prefix.removesuffix("embeddings")
    own = module.tower.state_dict()
    assert set(own) == {key.removeprefix(prefix) for key in theirs if key.startswith(prefix)}
    assert all(torch.equal(tensor, theirs[prefix + key]) for key, tensor in own.items())


@torch.no_grad()
def test_a_published_vision_config_may_carry_the_systems_name(tmp_path: Path) -> None:
    system("idefics2", towers.CONFIGS["idefics2"]).save_pretrained(tmp_path)  # pyright: ignore[reportCallIssue]
    path = tmp_path / "config.json"
    said = json.loads(path.read_text())
    said["vision_config"]["model_type"] = "idefics2"  # as on the hub
    path.write_text(json.dumps(said))
    config = EncoderConfig(checkpoint=str(tmp_path))
    assert config.block()["model_type"] == "idefics2_vision"
    assert config.build()(towers.pictures(*towers.crops((16, 24))), Read()).values.shape == (6, 16)


def saved(name: str, folder: Path) -> Any:
    tower = towers.reference(towers.encoder(name))
    tower.save_pretrained(folder)
    return tower


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip", "blip", "blip-2", "dinov2", "dinov2 with registers", "internvit"])
@pytest.mark.parametrize("positions", ["interpolate", "interpolate-aligned"])
def test_positions_are_resized_when_the_weights_are_loaded(name: str, positions: Any, tmp_path: Path) -> None:
    tower = saved(name, tmp_path)
    size: Any = [32, 24] if name == "internvit" else 32
    module = EncoderConfig(checkpoint=str(tmp_path), config={"image_size": size}, positions=positions).build().eval()
    [key] = [key for key in module.tower.state_dict() if "position_embedding" in key]
    table, grown = (model.state_dict()[key].view(-1, 16) for model in (tower, module.tower))
    lead = len(table) - 4
    assert torch.equal(grown, resized(table, lead, (2, 2), (4, 3) if name == "internvit" else (4, 4), positions))
    others = {other: tensor for other, tensor in tower.state_dict().items() if other != key}
    assert all(torch.equal(tensor, module.tower.state_dict()[other]) for other, tensor in others.items())
    # what was learnt at 16 px and is interpolated for each crop gives the same tokens as the resized table
    crop = towers.crops((24, 32) if name == "internvit" else (32, 32))
    sized = EncoderConfig(checkpoint=str(tmp_path), positions=positions).build().eval()
    assert towers.apart(module(towers.pictures(*crop), Read()).values, sized(towers.pictures(*crop), Read()).values) <= 1e-5
    again = module.config.model_copy(update={"checkpoint": None}).build()  # as a model directory is read
    again.load_state_dict(module.state_dict())


def test_other_sizes_are_refused_where_positions_are_fixed(tmp_path: Path) -> None:
    saved("clip", tmp_path)
    config = EncoderConfig(checkpoint=str(tmp_path), config={"image_size": 32})
    with pytest.raises(
        Refused, match=r"model/image-size at encoders\.vision\.config\n  found:   image_size 32, the checkpoint has 16[^$]*fix:     .*positions: interpolate"
    ):
        config.resolve()


def test_settings_of_the_recipe_win_over_those_of_the_checkpoint(tmp_path: Path) -> None:
    saved("clip", tmp_path)
    config = EncoderConfig(checkpoint=str(tmp_path), config={"hidden_act": "gelu"})
    assert config.resolve().block() == config.block() == hub_layout.config_block(None, config.published(), "x") | {"hidden_act": "gelu"}
    with pytest.raises(
        Refused, match=r"model/config-not-accepted at encoders\.vision\.config\n  found:   model_type siglip_vision_model\n  allowed: clip_vision_model"
    ):
        EncoderConfig(checkpoint=str(tmp_path), config={"model_type": "siglip_vision_model"}).block()


def test_positions_are_refused_where_there_are_none_to_interpolate() -> None:
    for name in ("resnet", "idefics2"):
        with pytest.raises(
            Refused, match=r"model/positions at encoders\.vision\.positions\n  found:   interpolate\n  allowed: nothing: a \w+ takes crops of any size"
        ):
            EncoderConfig(config=towers.CONFIGS[name], positions="interpolate").resolve()


def test_reads_that_a_tower_cannot_give_are_refused_all_at_once() -> None:
    with pytest.raises(Refused) as refused:
        EncoderConfig(
            config=towers.CONFIGS["internvit"], layer=(-1, 4), final_norm=True, reads={"text_encoder": Read(final_norm=True), "x": Read(layer=())}
        ).resolve()
    found = [problem.found for problem in refused.value.problems]
    assert found == [f"layer {layer}, final_norm {norm} of a internvl_vision" for layer, norm in (((-1, 4), True), (-1, True), ((), False))]
    assert "layers -4..3: the input of the first of 3 blocks" in refused.value.problems[0].allowed
    assert "use_mean_pooling" in refused.value.problems[1].allowed
