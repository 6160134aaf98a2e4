"""Encoders: what sizes promise is what transformers' modules give, for every model type of the table and every layer that may be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import tiny_towers as towers
import torch
from torch import Tensor

from sightline.errors import Refused
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Features, Pictures
from sightline.model.chat import CHAT_FORMATS
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.processor import Processor
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tiling import Grid, Tiling, WholeTiler
from sightline.model.tokens import TextTokenizer
from sightline.model.towers.tower_table import TOWERS
from sightline.model.vlm import Model

SIZES = [(16, 16), (17, 16), (33, 21), (40, 47), (63, 65)]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return tiny.byte_level(CHAT_FORMATS["turns"], Path())


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [(name, size) for name in towers.CONFIGS for size in (SIZES[:1] if name in towers.FIXED else SIZES)])
@pytest.mark.parametrize("tokens", ["patches", "all"])
def test_features_have_the_grid_that_sizes_promise(name: str, size: tuple[int, int], tokens: Any) -> None:
    module = towers.encoder(name, tokens=tokens)
    features = module(towers.pictures(*towers.crops(size, size)), module.config.read())
    grid = module.config.grid(*size)
    assert features.grids == (grid, grid) and features.crops == (0, 1)
    assert features.values.shape == (2 * grid.count, module.config.channels())
    leads = {"dinov2 with registers": 4, "siglip": 0, "idefics2": 0} | dict.fromkeys(towers.PYRAMIDS, 0)
    assert grid.lead == (leads.get(name, 1) if tokens == "all" else 0)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "idefics2", *towers.PYRAMIDS])
@pytest.mark.parametrize("merge", [1, 2])
def test_decoder_positions_are_slots_are_features(name: str, merge: int, tokenizer: TextTokenizer) -> None:
    # 48 px: 2 divides every grid of them; a ViT of fixed size is built for it
    config = ModelConfig(
        encoders=[EncoderConfig(config=towers.CONFIGS[name] | ({"image_size": 48} if name in towers.TRANSFORMERS else {}))],
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
def test_pixels_are_normalised_by_mean_and_std_of_the_config() -> None:
    module = towers.encoder("resnet", mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    seen: list[Tensor] = []
    module.tower.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    module(Pictures(tilings=(), picture_of=torch.zeros(1), pixels=(torch.full((3, 16, 16), 255, dtype=torch.uint8),)), Read())
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([1.0, 0.75, 0.5])


@torch.no_grad()
@pytest.mark.parametrize("name", towers.CONFIGS)
def test_tokens_are_in_raster_order(name: str) -> None:
    size = 64 if name in towers.PYRAMIDS else 16
    torch.manual_seed(0)
    module = EncoderConfig(config=towers.CONFIGS[name]).build().eval()
    black = torch.zeros(3, size, size, dtype=torch.uint8)
    corner = black.clone()
    corner[:, : size // 8, -size // 8 :] = 255  # top right
    values = [module(towers.pictures(pixels), Read(layer=-1 if name in towers.PYRAMIDS else 0)) for pixels in (black, corner)]
    change = (values[1].values - values[0].values).norm(dim=1)
    assert int(change.argmax()) == values[0].grids[0].columns - 1


def test_convolutions_refuse_crops_of_several_sizes() -> None:
    module = towers.encoder("resnet")
    with pytest.raises(Refused, match=r"model/crop-sizes at encoders\.vision\n  found:   crops of \[\(3, 8, 8\), \(3, 8, 9\)\]"):
        module(towers.pictures(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)), Read())


@torch.no_grad()
def test_only_crops_of_the_roles_that_it_sees_are_encoded() -> None:
    tiling = LlavaNextTiler(size=16, pinpoints=((32, 16), (16, 32))).tile(40, 20)
    shown = Pictures(tilings=(tiling, tiling), picture_of=torch.tensor([0] * 3 + [1] * 3), pixels=towers.crops(*[(16, 16)] * 6))
    assert shown.pixels is not None
    everything = towers.encoder("clip")(shown, Read())
    for roles, numbers in ((("overview",), (0, 3)), (("tile",), (1, 2, 4, 5)), (("detail",), ())):
        found = towers.encoder("clip", sees=roles)(shown, Read())
        assert found.crops == numbers and len(found.grids) == len(numbers)
        torch.testing.assert_close(found.values, torch.cat([everything.values[:0], *(everything.split()[number] for number in numbers)]), rtol=0, atol=1e-6)


def test_a_batch_without_crops_runs_every_block_and_gives_no_tokens() -> None:
    module = towers.encoder("resnet", sees=("detail",))
    found = module(towers.pictures(), Read())
    assert found.grids == found.crops == () and found.values.shape == (0, 16)
    found.values.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())


def test_a_tower_of_learnt_positions_takes_its_own_size_only() -> None:
    config = tiny.writer(tiler=WholeTiler(size=24))
    with pytest.raises(
        Refused,
        match=r"model/crop-size at encoders\.vision\n  found:   crops of 24x24 px\n  allowed: 16x16: a clip_vision_model .*\n  fix:     tiler\.size: 16, or encoders\.vision\.positions: interpolate",
    ):
        config.measure(100, 50)


def test_layers_of_other_grids_are_refused() -> None:
    for said in ({"layer": -2}, {"final_norm": True}, {"reads": {"text_encoder": Read(layer=-2)}}):
        with pytest.raises(Refused, match=r"model/layer-not-read at encoders\.vision\n  found:   layer -[12], final_norm (True|False) of a resnet"):
            EncoderConfig(config=towers.CONFIGS["resnet"], **said).resolve()


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
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": tiny.CLIP}))
    config = EncoderConfig(checkpoint=str(tmp_path))
    assert config.resolve().mean == TOWERS["clip_vision_model"].statistics[0]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    resolved = config.resolve()
    assert (resolved.mean, resolved.std, resolved.config) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), tiny.CLIP)
    assert EncoderConfig(checkpoint=str(tmp_path), mean=(0.0, 0.0, 0.0)).resolve().mean == (0.0, 0.0, 0.0)


def test_features_of_a_cache_take_the_encoders_place(tokenizer: TextTokenizer) -> None:
    model, processor = tiny.built(tiny.writer(), tokenizer)
    encoded = processor.encode(tiny.sample(tiny.turn("user", 0), tiny.turn("assistant", "no"), pictures=[tiny.picture()]))
    values = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    found = Features(values=values, grids=(Grid(columns=2, rows=2),), crops=(0,))
    asked: list[str] = []

    def cached(shown: list[tuple[str, Tiling]]) -> dict[str, Features]:
        asked.extend(hash for hash, _ in shown)
        return {"vision": found}

    batch = processor.collate([[encoded]], features=cached)
    assert asked == [tiny.picture().hash] and batch.pictures.pixels is None
    assert model.connector is not None
    torch.testing.assert_close(model.see(batch), model.connector(found).values)
