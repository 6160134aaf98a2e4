"""Encoders: what sizes promise is what transformers' modules give, for every model type of the table and every layer that may be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from torch import Tensor, nn

from sightline.errors import Refused
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Features, Pictures
from sightline.model.chat import CHAT_FORMATS
from sightline.model.connectors import MlpConnector
from sightline.model.encoder_modules import TransformersEncoder
from sightline.model.encoders import GEOMETRY, EncoderConfig, Read
from sightline.model.processor import Processor
from sightline.model.tiling import Grid, WholeTiler
from sightline.model.tokens import TextTokenizer
from sightline.model.vlm import Model

VIT = {key: value for key, value in tiny.CLIP.items() if key != "model_type"}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": tiny.CLIP,
    "siglip": {"model_type": "siglip_vision_model", **VIT},
    "dinov2": {"model_type": "dinov2", **VIT, "mlp_ratio": 2},
    "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "resnet of bottlenecks": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12, 16],
        "depths": [1, 1, 1],
        "layer_type": "bottleneck",
        "downsample_in_first_stage": True,
    },
    "convnext": {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "convnext of small patches": {"model_type": "convnext", "hidden_sizes": [8, 16, 16], "depths": [1, 1, 1], "num_stages": 3, "patch_size": 2},
}
SIZES = [(16, 16), (17, 16), (33, 21), (40, 47), (63, 65)]
ANY_SIZE = [name for name in CONFIGS if not GEOMETRY[CONFIGS[name]["model_type"]].one_size]


def encoder(name: str, **changes: Any) -> TransformersEncoder:
    torch.manual_seed(0)
    return EncoderConfig(config=CONFIGS[name], **changes).build().eval()


def pictures(width: int, height: int, count: int = 1) -> Pictures:
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(width * height))
    return Pictures(tilings=(), picture_of=torch.arange(count), pixels=tuple(pixels))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return tiny.byte_level(CHAT_FORMATS["turns"], Path())


def test_every_model_type_of_the_table_is_tested() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == set(GEOMETRY)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [(name, size) for name in CONFIGS for size in (SIZES if name in ANY_SIZE else SIZES[:1])])
@pytest.mark.parametrize("tokens", ["patches", "all"])
def test_features_have_the_grid_that_sizes_promise(name: str, size: tuple[int, int], tokens: Any) -> None:
    module = encoder(name, tokens=tokens)
    features = module(pictures(*size, count=2), module.config.read())
    grid = module.config.grid(*size)
    assert features.grids == (grid, grid)
    assert features.values.shape == (2 * grid.count, module.config.channels())
    assert grid.lead == (GEOMETRY[CONFIGS[name]["model_type"]].lead if tokens == "all" else 0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("merge", [1, 2])
def test_decoder_positions_are_slots_are_features(name: str, merge: int, tokenizer: TextTokenizer) -> None:
    # 48 px: 2 divides every grid of them; a ViT of fixed size is built for it
    config = ModelConfig(
        encoders=[EncoderConfig(config=CONFIGS[name] | ({"image_size": 48} if "image_size" in CONFIGS[name] else {}))],
        tiler=WholeTiler(size=48, fit="pad"),
        connector=MlpConnector(merge=merge),
        language_model=tiny.language(),
    )
    if any(side % merge for side in (config.encoders[0].grid(48, 48).columns, config.encoders[0].grid(48, 48).rows)):
        with pytest.raises(Refused, match=r"model/merge-grid at connector\.merge\n  found:   3x3 tokens"):
            config.measure(48, 48)
        return
    model, processor = Model(config), Processor(config, tokenizer)
    for width, height in ((1, 1), (48, 48), (3000, 2), (97, 31)):
        picture = tiny.picture(width, width, height)
        sample = tiny.sample(tiny.turn("user", 0, "yes", 0), tiny.turn("assistant", "no"), pictures=[picture])
        encoded, measure = processor.encode(sample), config.measure(width, height)
        batch = processor.collate([[encoded]])
        table = model.see(batch)
        assert table is not None
        assert measure.decoder == len(table) == len(encoded.slots) // 2 == sum(grid.count for grid in measure.grids)
        assert measure.patches == measure.decoder * merge**2
        assert batch.decoder is not None and batch.decoder.sources.tolist() == [*range(measure.decoder)] * 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2"])
def test_layers_are_counted_as_transformers_counts_them(name: str) -> None:
    module = encoder(name)
    shown = pictures(16, 16, 2)
    assert shown.pixels is not None
    outputs: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: outputs.append(out if isinstance(out, Tensor) else out[0])) for block in module.blocks]
    module(shown, Read())
    for hook in hooks:
        hook.remove()
    lead = module.config.model_copy(update={"tokens": "all"}).grid(16, 16).lead
    assert len(outputs) == 3
    for layer, expected in ((-1, outputs[2]), (-2, outputs[1]), (3, outputs[2]), (1, outputs[0])):
        kept = module(shown, Read(layer=layer, lead="keep"))
        torch.testing.assert_close(kept.values, expected.flatten(0, 1), rtol=0, atol=1e-6)
        assert kept.grids[0] == Grid(columns=2, rows=2, lead=lead)
        torch.testing.assert_close(module(shown, Read(layer=layer)).values, expected[:, lead:].flatten(0, 1), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("name", "norm"), [("clip", "post_layernorm"), ("siglip", "post_layernorm"), ("dinov2", "layernorm")])
def test_the_final_normalisation_is_the_towers_own(name: str, norm: str) -> None:
    module = encoder(name)
    own: nn.Module = getattr(module.tower, norm)
    own.weight.copy_(torch.linspace(0.5, 2, 16))  # a fresh one would do what any other fresh one does
    plain, normed = (module(pictures(16, 16), Read(lead="keep", final_norm=final)).values for final in (False, True))
    torch.testing.assert_close(normed, own(plain), rtol=0, atol=1e-6)
    assert (normed - plain).abs().max() > 0.1


@torch.no_grad()
def test_pixels_are_normalised_by_mean_and_std_of_the_config() -> None:
    module = encoder("resnet", mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    seen: list[Tensor] = []
    module.tower.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    module(Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(torch.full((3, 16, 16), 255, dtype=torch.uint8),)), Read())
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([1.0, 0.75, 0.5])


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_in_raster_order(name: str) -> None:
    size = VIT["image_size"] if name not in ANY_SIZE else 64
    module = encoder(name)
    black = torch.zeros(3, size, size, dtype=torch.uint8)
    corner = black.clone()
    corner[:, : size // 8, -size // 8 :] = 255  # top right
    values = [
        module(Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(pixels,)), Read(layer=1 if name not in ANY_SIZE else -1)) for pixels in (black, corner)
    ]
    change = (values[1].values - values[0].values).norm(dim=1)
    assert int(change.argmax()) == values[0].grids[0].columns - 1


def test_crops_of_several_sizes_are_refused() -> None:
    module = encoder("resnet")
    with pytest.raises(Refused, match=r"model/crop-sizes at encoders\.vision\n  found:   crops of \[\(3, 8, 8\), \(3, 8, 9\)\]"):
        module(Pictures(tilings=(), picture_of=torch.arange(2), pixels=(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9))), Read())


def test_a_tower_of_learnt_positions_takes_its_own_size_only() -> None:
    config = tiny.writer(tiler=WholeTiler(size=24))
    with pytest.raises(
        Refused,
        match=r"model/crop-size at encoders\.vision\n  found:   crops of 24x24 px\n  allowed: 16x16: a clip_vision_model .*\n  fix:     tiler\.size: 16",
    ):
        config.measure(100, 50)


def test_layers_of_other_grids_are_refused() -> None:
    for said in ({"layer": -2}, {"final_norm": True}, {"reads": {"text_encoder": Read(layer=-2)}}):
        with pytest.raises(Refused, match=r"model/layer-not-read at encoders\.vision\n  found:   layer -[12], final_norm (True|False) of a resnet"):
            EncoderConfig(config=CONFIGS["resnet"], **said).resolve()


def test_an_unknown_model_type_names_the_known_ones() -> None:
    with pytest.raises(
        Refused, match=r"model/unknown-encoder at encoders\.eye\n  found:   'convnex'\n  allowed: clip_vision_model, .*\n  fix:     did you mean 'convnext'\?"
    ):
        EncoderConfig(name="eye", config={"model_type": "convnex"}).grid(8, 8)


@pytest.mark.parametrize(
    ("block", "size", "grid", "channels"),
    [
        ({"model_type": "siglip_vision_model"}, 224, Grid(columns=14, rows=14), 768),
        ({"model_type": "clip_vision_model"}, 224, Grid(columns=7, rows=7), 768),
        ({"model_type": "convnext"}, 224, Grid(columns=7, rows=7), 768),
        ({"model_type": "resnet"}, 224, Grid(columns=7, rows=7), 2048),
    ],
)
def test_a_published_config_may_leave_defaults_out(block: dict[str, Any], size: int, grid: Grid, channels: int) -> None:
    config = EncoderConfig(config=block)
    assert (config.grid(size, size), config.channels()) == (grid, channels)
    resolved = config.resolve()
    assert resolved.config is not None and len(resolved.config) > 1  # copied in once: later it is plain arithmetic


def test_resolve_copies_the_checkpoints_normalisation_unless_the_recipe_says_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": CONFIGS["clip"]}))
    config = EncoderConfig(checkpoint=str(tmp_path))
    assert config.resolve().mean == GEOMETRY["clip_vision_model"].mean_std[0]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    resolved = config.resolve()
    assert (resolved.mean, resolved.std, resolved.config) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), CONFIGS["clip"])
    assert EncoderConfig(checkpoint=str(tmp_path), mean=(0.0, 0.0, 0.0)).resolve().mean == (0.0, 0.0, 0.0)


def test_features_of_a_cache_take_the_encoders_place(tokenizer: TextTokenizer) -> None:
    model, processor = tiny.built(tiny.writer(), tokenizer)
    encoded = processor.encode(tiny.sample(tiny.turn("user", 0), tiny.turn("assistant", "no"), pictures=[tiny.picture()]))
    values = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    asked: list[list[str]] = []

    def cached(hashes: list[str]) -> dict[str, Features]:
        asked.append(list(hashes))
        return {"vision": Features(values=values, grids=(Grid(columns=2, rows=2),))}

    batch = processor.collate([[encoded]], features=cached)  # pyright: ignore[reportArgumentType]
    assert asked == [[tiny.picture().hash]] and batch.pictures.pixels is None
    assert model.connector is not None
    torch.testing.assert_close(model.see(batch), model.connector(Features(values=values, grids=(Grid(columns=2, rows=2),))).values)
