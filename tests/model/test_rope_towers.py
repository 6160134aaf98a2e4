"""Towers of rotary positions against transformers' own, crops of many sizes in one call, and what recipes may say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from tower_checks import backward, count, noise, normalised, randomise, relative, runs, shown, single, worst
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig, PixtralVisionModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from sightline.errors import Refused
from sightline.model.encoder_kinds.rope_tower_modules import PixtralTower, Qwen2VlTower
from sightline.model.encoder_kinds.rope_towers import PixtralEncoder, Qwen2VlEncoder
from sightline.model.encoder_table import ENCODER
from sightline.model.encoders import Read
from sightline.model.tiling import Grid

PIXTRAL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 80,
    "patch_size": 8,
    "hidden_act": "silu",
}
QWEN = {"depth": 3, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8, "hidden_size": 24}
CONFIGS: list[Any] = [PixtralEncoder(config=PIXTRAL), Qwen2VlEncoder(config=QWEN)]
SIZES = [(32, 48), (16, 16), (64, 16), (80, 48)]
KINDS = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def built(config: Any) -> Any:
    torch.manual_seed(0)
    module = config.build()
    randomise(module)
    return module


def crops(sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [noise(*size, seed=number) for number, size in enumerate(sizes)]


def raster(tokens: Tensor, columns: int, rows: int) -> Tensor:
    """Tokens in order of 2 x 2 cells to reading order."""
    return tokens.view(rows // 2, columns // 2, 2, 2, -1).transpose(1, 2).reshape(rows * columns, -1)


def test_pixtral_is_that_of_transformers() -> None:
    ours = built(CONFIGS[0])
    theirs = PixtralVisionModel(PixtralVisionConfig(**PIXTRAL)).train()
    theirs.load_state_dict(ours.tower.state_dict())
    pictures = crops()
    padded = torch.zeros(len(SIZES), 3, 48, 80)
    for place, crop in zip(padded, pictures, strict=True):
        place[:, : crop.shape[1], : crop.shape[2]] = normalised(crop, ours)
    result = theirs(padded, image_sizes=[(height, width) for width, height in SIZES], output_hidden_states=True)
    states = [*result.hidden_states[:3], result.last_hidden_state]
    for layer in range(4):
        assert relative(ours(shown(pictures), Read(layer=layer)).values, states[layer][0]) <= 1e-5
    expected = backward([states[1][0], states[3][0]], theirs)
    found = ours(shown(pictures), Read(layer=(1, -1))).values
    assert worst(backward(found.split(32, dim=1), ours.tower), expected) <= 1e-5
    assert len(expected) == len(dict(theirs.named_parameters()))


def test_qwen_is_that_of_transformers() -> None:
    ours = built(CONFIGS[1])
    theirs = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**QWEN)).train()
    randomise(theirs, seed=3)
    theirs.load_state_dict(ours.tower.state_dict(), strict=False)
    pictures = [*crops(), noise(32, 64, bands=6, seed=9)]
    grids = [(crop.shape[2] // 8, crop.shape[1] // 8) for crop in pictures]
    rows = []
    for crop, (columns, lines) in zip(pictures, grids, strict=True):
        film = normalised(crop, ours).view(-1, 3, *crop.shape[1:]).expand(2, -1, -1, -1)
        cells = film.reshape(2, 3, lines // 2, 2, 8, columns // 2, 2, 8).permute(2, 5, 3, 6, 1, 0, 4, 7)
        rows.append(cells.reshape(columns * lines, 3 * 2 * 8 * 8))
    result = theirs(torch.cat(rows), torch.tensor([[1, lines, columns] for columns, lines in grids]), output_hidden_states=True)
    ends = [columns * lines for columns, lines in grids]

    def in_order(state: Tensor) -> Tensor:
        return torch.cat([raster(part, *grid) for part, grid in zip(state.split(ends), grids, strict=True)])

    states = [in_order(state) for state in (*result.hidden_states[:3], result.last_hidden_state)]
    for layer in range(4):
        assert relative(ours(shown(pictures), Read(layer=layer)).values, states[layer]) <= 1e-5
    expected = {name: gradient for name, gradient in backward([states[1], states[3]], theirs).items() if not name.startswith("merger.")}
    found = ours(shown(pictures), Read(layer=(1, -1))).values
    assert worst(backward(found.split(32, dim=1), ours.tower), expected) <= 1e-5
    assert len(expected) == len(dict(ours.tower.named_parameters()))
    assert relative(ours(shown([pictures[0]]), Read()).values, ours(shown([torch.cat([pictures[0]] * 2)]), Read()).values) == 0


@KINDS
def test_several_layers_are_joined_as_asked(config: Any) -> None:
    module = built(config)
    one, three = (module(shown(crops()), Read(layer=layer)).values for layer in (1, -1))
    concatenated = module(shown(crops()), Read(layer=(1, -1))).values
    interleaved = module(shown(crops()), Read(layer=(1, -1), join="interleave")).values
    assert torch.equal(concatenated, torch.cat([one, three], dim=1))
    assert torch.equal(interleaved[:, 0::2], one) and torch.equal(interleaved[:, 1::2], three)
    read = config.model_copy(update={"layer": (1, -1)})
    assert (read.channels(), config.channels(), concatenated.shape[1]) == (64, 32, 64)


@KINDS
def test_a_crop_does_not_depend_on_its_neighbours(config: Any) -> None:
    module = built(config)
    pictures = crops()
    together = module(shown(pictures), Read())
    for crop, tokens, grid in zip(pictures, together.split(), together.grids, strict=True):
        alone = module(shown([crop]), Read())
        assert alone.grids == (grid,)
        assert relative(tokens, alone.values) <= 1e-6
    changed = module(shown([*pictures[:3], noise(80, 48, seed=77)]), Read()).split()
    assert all(torch.equal(one, other) for one, other in zip(changed[:3], together.split()[:3], strict=True))
    assert relative(changed[3], together.split()[3]) > 0.01


@KINDS
def test_blocks_run_once_for_any_batch_and_none_above_the_layer_that_is_read(config: Any) -> None:
    module = built(config)
    ran = runs(module)
    for pictures in (shown(crops()), shown(crops()[:1]), shown(crops()[:1], [single(32, 48, role="detail")])):
        ran.clear()
        module(pictures, Read())
        assert ran == [0, 1, 2]
    ran.clear()
    module(shown(crops()), Read(layer=(0, -2)))
    assert ran == [0, 1]


@KINDS
def test_a_batch_without_crops_for_the_encoder_gives_no_tokens_and_zero_gradients(config: Any) -> None:
    module = built(config.model_copy(update={"sees": ("detail",)}))
    features = module(shown(crops()), Read())
    assert (features.values.shape, features.grids, features.crops) == ((0, 32), (), ())
    features.values.sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@KINDS
def test_only_the_roles_that_are_seen_are_encoded(config: Any) -> None:
    pictures = crops()
    roles = ("overview", "detail", "overview", "detail")
    batch = shown(pictures, [single(crop.shape[2], crop.shape[1], role=role) for crop, role in zip(pictures, roles, strict=True)])
    features = built(config.model_copy(update={"sees": ("detail",)}))(batch, Read())
    assert features.crops == (1, 3)
    assert [grid.count for grid in features.grids] == [4, 60]
    assert relative(features.values, built(config)(shown(pictures[1::2]), Read()).values) <= 1e-6


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=3), config=st.sampled_from(CONFIGS))
def test_features_have_the_grid_that_sizes_promise(sizes: list[tuple[int, int]], config: Any) -> None:
    with torch.no_grad():
        features = built(config)(shown(crops(sizes)), Read())
    assert features.grids == tuple(config.grid(*size) for size in sizes)
    assert features.grids == tuple(Grid(columns=-(-width // 8), rows=-(-height // 8)) for width, height in sizes)
    assert len(features.values) == sum(grid.count for grid in features.grids)


@KINDS
def test_a_patch_that_is_begun_is_filled_with_the_mean_colour(config: Any) -> None:
    module = built(config)
    crop = noise(27, 21)
    whole = module.mean[0].round().to(torch.uint8).expand(3, 24, 32).clone()
    whole[:, :21, :27] = crop
    with torch.no_grad():
        found, expected = module(shown([crop]), Read()), module(shown([whole]), Read())
    assert found.grids == expected.grids
    assert relative(found.values, expected.values) < 0.01  # the mean colour is no whole number


FULL_PIXTRAL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 1024, "patch_size": 16}
MERGER = 2 * 1280 + (5120 * 5120 + 5120) + (5120 * 3584 + 3584)
"""Of Qwen2-VL-7B: norm, then two linear layers over cells of 2 x 2 tokens."""


def test_full_sizes_have_the_published_numbers_of_parameters() -> None:
    with torch.device("meta"):
        pixtral = PixtralEncoder(config={**FULL_PIXTRAL, "hidden_act": "silu"}).build()
        qwen = Qwen2VlEncoder(config={"hidden_size": 3584}).build()
    assert (count(pixtral), len(pixtral.blocks)) == (403_489_792, 24)
    assert (count(qwen) + MERGER, len(qwen.blocks)) == (675_759_104, 32)


def test_published_grids() -> None:
    pixtral, qwen = PixtralEncoder(config={**FULL_PIXTRAL, "hidden_act": "silu"}), Qwen2VlEncoder(config={"hidden_size": 3584}).resolve()
    assert pixtral.grid(1008, 608) == Grid(columns=63, rows=38)
    assert qwen.grid(1008, 588) == Grid(columns=72, rows=42)
    assert (pixtral.channels(), qwen.channels()) == (1024, 1280)


def test_a_composite_gives_its_tower(tmp_path: Path) -> None:
    torch.manual_seed(5)
    text = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    whole = LlavaForConditionalGeneration(LlavaConfig(vision_config=PixtralVisionConfig(**PIXTRAL), text_config=text, image_token_index=39))
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    config = PixtralEncoder(checkpoint=str(tmp_path)).resolve()
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert config.config is not None and config.config["hidden_act"] == "silu"
    module = config.build()
    assert isinstance(module, PixtralTower)
    whole.model.vision_tower.save_pretrained(tmp_path / "alone")
    published = whole.model.vision_tower.state_dict()
    for tower in (module.tower, PixtralEncoder(checkpoint=str(tmp_path / "alone")).build().tower):
        own = tower.state_dict()
        assert own.keys() == published.keys()
        assert all(torch.equal(tensor, published[name]) for name, tensor in own.items())
    with pytest.raises(Refused, match=r"model/unknown-encoder at encoders\.vision\n  found:   'pixtral'\n  allowed: 'qwen2_vl_vision'"):
        Qwen2VlEncoder(checkpoint=str(tmp_path)).resolve()


def test_qwen_comes_out_of_a_whole_model_without_its_merger(tmp_path: Path) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 1}
    whole = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config={**text, "rope_parameters": rope}, vision_config=QWEN))
    whole.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]["model_type"]  # as published
    (tmp_path / "config.json").write_text(json.dumps(config))
    module = Qwen2VlEncoder(checkpoint=str(tmp_path)).build()
    assert isinstance(module, Qwen2VlTower)
    theirs = whole.model.visual.state_dict()
    own = module.tower.state_dict()
    assert own.keys() == {name for name in theirs if not name.startswith("merger.")}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())


@KINDS
def test_the_twin_is_small_and_learns(config: Any) -> None:
    full: Any = type(config)(
        config={"num_hidden_layers": 24} if config.kind == "pixtral" else {"depth": 24}, layer=(8, -1, -3), reads={"other": Read(layer=-1)}
    )
    toy = full.twin(32)
    assert (toy.depth(), toy.layer, toy.reads["other"].layer, toy.grid(32, 16), toy.channels()) == (3, (1, -1, -2), -1, Grid(columns=4, rows=2), 96)
    module = toy.build()
    module(shown(crops()), toy.read("other")).values.square().mean().backward()
    assert count(module) < 50_000
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert type(toy).model_validate_json(toy.model_dump_json()) == toy
    assert toy.twin() == toy


@KINDS
@pytest.mark.parametrize("layer", [-2, (0, 1)])
def test_what_no_read_depends_on_is_spare(config: Any, layer: Any) -> None:
    module = built(config.model_copy(update={"layer": layer}))
    module(shown(crops()), module.config.read()).values.sum().backward()
    idle = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert module.spare == idle and idle
    assert (len(module.blocks), len(module.layers)) == ({-2: 2, (0, 1): 1}[layer], 3)
    assert module.spare_for([Read()]) == []


@KINDS
@torch.no_grad()
def test_lower_precision_gives_nearly_the_same(config: Any) -> None:
    exact = built(config)(shown(crops()), Read()).values
    half = built(config).to(torch.bfloat16)(shown(crops()), Read()).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = built(config)(shown(crops()), Read()).values
    assert half.dtype == torch.bfloat16
    assert relative(half.float(), exact) < 0.1
    assert relative(mixed.float(), exact) < 0.1


@KINDS
def test_what_cannot_be_read_or_seen_is_refused(config: Any) -> None:
    wrong = config.model_copy(update={"layer": 4, "bands": ("red", "nir"), "reads": {"other": Read(final_norm=True)}, "mean": (0.5,)})
    with pytest.raises(Refused) as refusal:
        wrong.build()
    codes = ["model/bands", "model/layer-not-read", "model/layer-not-read", "model/band-statistics", "model/band-statistics"]
    assert [problem.code for problem in refusal.value.problems] == codes
    assert "model/bands at encoders.vision.bands\n  found:   red, nir\n  allowed: 3 different bands" in str(refusal.value)
    assert "found:   layer 4, final_norm False\n  allowed: layers -4 to 3 without final_norm" in str(refusal.value)
    allowed = "3" if config.kind == "pixtral" else "3 or 6"
    with pytest.raises(Refused, match=rf"model/bands at encoders\.vision\n  found:   a crop of 4 bands\n  allowed: {allowed}\n"):
        built(config)(shown([noise(16, 16, bands=4)]), Read())
    with pytest.raises(Refused, match=r"model/no-checkpoint.*\n  found:   'no/where' is not on this machine"):
        type(config)(checkpoint="no/where").resolve()


def test_other_bands_need_their_own_statistics() -> None:
    bands = ("nir", "red", "green")
    with pytest.raises(Refused, match=r"model/band-statistics at encoders\.vision\.mean\n  found:   none for nir"):
        CONFIGS[0].model_copy(update={"bands": bands}).build()
    module = CONFIGS[0].model_copy(update={"bands": bands, "mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)}).build()
    assert module.mean.flatten().tolist() == pytest.approx([25.5, 51.0, 76.5])


def test_keys_of_the_recipe_win_beside_a_checkpoint(tmp_path: Path) -> None:
    PixtralVisionModel(PixtralVisionConfig(**PIXTRAL)).save_pretrained(tmp_path)
    config = PixtralEncoder(checkpoint=str(tmp_path), config={"hidden_act": "gelu"})
    assert (config.block()["hidden_act"], config.block()["hidden_size"]) == ("gelu", 32)
    with pytest.raises(Refused) as refusal:
        PixtralEncoder(checkpoint=str(tmp_path), config={"num_hidden_layers": 2, "intermediate_size": 40}).build()
    assert [problem.code for problem in refusal.value.problems] == ["model/unknown-weights", *["model/shape-mismatch"] * 6]
    assert "9 tensors have no place: transformer.layers.2.attention.k_proj.weight" in str(refusal.value)
    assert "feed_forward.down_proj.weight\n  found:   (32, 48) in the checkpoint\n  allowed: (32, 40) by the config" in str(refusal.value)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PIXTRAL))
    for content, said in ((None, r"FileNotFoundError: no \*\.safetensors in the folder"), (b"nothing", "SafetensorError")):
        if content is not None:
            (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(Refused, match=rf"model/checkpoint-not-read at encoders\.vision.*\n  found:   {said}"):
            PixtralEncoder(checkpoint=str(tmp_path)).build()


def test_the_table_knows_every_kind() -> None:
    assert {"transformers", "pixtral", "qwen2-vl", "mllama", "modified-resnet", "staged-convnext"} <= ENCODER.table().keys()
    parsed = ENCODER.parse({"kind": "pixtral", "config": PIXTRAL, "layer": [1, 2]})
    assert isinstance(parsed, PixtralEncoder) and parsed.read().layers == (1, 2)
