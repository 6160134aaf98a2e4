"""The tower over canvases against transformers' own: pictures of one to four tiles in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tower_checks import backward, canvas, count, noise, normalised, randomise, relative, runs, shown, worst
from transformers import MllamaVisionModel
from transformers.models.mllama.configuration_mllama import MllamaVisionConfig

from sightline.errors import Refused
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.canvas_tower import MllamaEncoder
from sightline.model.encoders import Read
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tiling import Grid

BLOCK = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_global_layers": 2,
    "attention_heads": 2,
    "image_size": 24,
    "patch_size": 8,
    "intermediate_layers_indices": [0, 2],
    "vision_output_dim": 96,
}
CANVASES = [(2, 2), (1, 1), (3, 1), (1, 4)]
FULL = {"num_hidden_layers": 32, "num_global_layers": 8, "image_size": 560}


def built(**changes: Any) -> Any:
    torch.manual_seed(0)
    module = MllamaEncoder(config=BLOCK, **changes).build()
    randomise(module, spread=0.3)
    return module


def batch(canvases: list[tuple[int, int]] = CANVASES, seed: int = 0) -> Pictures:
    tilings = [canvas(*grid, side=24) for grid in canvases]
    tiles = [noise(24, 24, seed=seed + 10 * number + tile) for number, tiling in enumerate(tilings) for tile in range(len(tiling.crops))]
    return shown(tiles, tilings)


def test_it_is_that_of_transformers() -> None:
    ours = built()
    theirs = MllamaVisionModel(MllamaVisionConfig(**BLOCK)).train()
    theirs.load_state_dict(ours.tower.state_dict())
    pictures = batch()
    assert pictures.pixels is not None
    pixels, there = torch.zeros(4, 1, 4, 3, 24, 24), torch.zeros(4, 1, 4, dtype=torch.long)
    place = [(picture, tile) for picture, (columns, rows) in enumerate(CANVASES) for tile in range(columns * rows)]
    for (picture, tile), crop in zip(place, pictures.pixels, strict=True):
        pixels[picture, 0, tile] = normalised(crop, ours)
        there[picture, 0, tile] = 1
    # [rows, columns] in published order from 1: [1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]
    ids = torch.tensor([[6], [1], [3], [8]])
    hidden = theirs(pixel_values=pixels, aspect_ratio_ids=ids, aspect_ratio_mask=there).last_hidden_state
    expected = torch.cat([hidden[picture, 0, tile] for picture, tile in place])
    features = ours(pictures, ours.config.read())
    assert features.grids == (Grid(columns=3, rows=3, lead=1),) * 12
    assert relative(features.values, expected) <= 1e-5
    gradients = backward([expected], theirs)
    assert worst(backward([features.values], ours.tower), gradients) <= 1e-5
    assert len(gradients) == len(dict(theirs.named_parameters()))
    patches = ours(pictures, Read())
    assert patches.grids == (Grid(columns=3, rows=3),) * 12
    assert torch.equal(patches.values.view(12, 9, 96), features.values.view(12, 10, 96)[:, 1:])
    swapped = theirs(pixel_values=pixels, aspect_ratio_ids=torch.tensor([[6], [1], [7], [8]]), aspect_ratio_mask=there).last_hidden_state
    assert relative(swapped[2], hidden[2]) > 0.01


def test_aspect_ids_are_those_of_the_tiler() -> None:
    config = MllamaEncoder(config=BLOCK)
    assert [config.aspect_id(*grid) for grid in CanvasTiler().canvases()] == list(range(1, 9))


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_neighbours_and_its_tiles_see_each_other() -> None:
    module = built()

    def parts(features: Features) -> list[torch.Tensor]:
        return list(features.values.view(-1, 10 * 96).split([4, 1, 3, 4]))

    together = parts(module(batch(), module.config.read()))
    pictures = batch()
    assert pictures.pixels is not None
    alone = module(shown(pictures.pixels[5:8], [canvas(3, 1, side=24)]), module.config.read())
    assert relative(together[2], alone.values.view(3, -1)) <= 1e-6
    changed = list(pictures.pixels)
    changed[6] = noise(24, 24, seed=99)
    other = parts(module(shown(changed, pictures.tilings), module.config.read()))
    assert all(torch.equal(other[place], together[place]) for place in (0, 1, 3))
    assert all(relative(after, before) > 1e-3 for after, before in zip(other[2], together[2], strict=True))


def test_every_block_runs_once_whatever_the_batch_holds() -> None:
    module = built(sees=("canvas",))
    ran = runs(module)
    empty = shown([noise(24, 24)], [canvas(1, 1, 24, role="overview")])
    for pictures, tiles in ((batch(), 12), (batch([(1, 1)]), 1), (empty, 0)):
        ran.clear()
        features = module(pictures, module.config.read())
        assert (ran, features.values.shape) == ([0, 1, 2, 3, 4, 5], (10 * tiles, 96))
        assert features.crops == tuple(range(tiles))
    features.values.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in module.parameters())


def test_full_sizes_have_the_published_numbers_of_parameters() -> None:
    full = MllamaEncoder(config=FULL)
    base = MllamaEncoder(config={**FULL, "image_size": 448})
    with torch.device("meta"):
        assert (count(full.build()), count(base.build())) == (863_567_379, 836_288_019)
        assert len(full.build().blocks) == 40
    assert (full.channels(), full.grid(560, 560), base.grid(448, 448).count) == (7680, Grid(columns=40, rows=40, lead=1), 1025)


def test_a_whole_model_gives_its_tower(tmp_path: Path) -> None:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "cross_attention_layers": [],
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }
    whole = MllamaForConditionalGeneration(MllamaConfig(vision_config=BLOCK, text_config=text, image_token_index=39))
    whole.save_pretrained(tmp_path)
    own = MllamaEncoder(checkpoint=str(tmp_path)).build().tower.state_dict()
    theirs = whole.model.vision_model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())


def test_the_twin_is_small_and_learns() -> None:
    toy = MllamaEncoder(config=FULL).twin(16)
    assert (toy.grid(16, 16), toy.channels()) == (Grid(columns=2, rows=2, lead=1), 128)
    module = toy.build()
    module(shown([noise(16, 16)] * 4, [canvas(2, 2, 16)]), toy.read()).values.square().mean().backward()
    assert count(module) < 150_000
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert MllamaEncoder.model_validate_json(toy.model_dump_json()) == toy
    assert toy.twin(16) == toy


def test_other_crops_and_reads_are_refused() -> None:
    module = built()
    with pytest.raises(Refused, match=r"model/crop-size at encoders\.vision\n  found:   crops of 16x24 px\n  allowed: 24x24.*\n  fix:     tiler\.size: 24"):
        module(shown([noise(16, 24)]), Read())
    with pytest.raises(Refused, match=r"model/canvas at encoders\.vision\n  found:   a canvas of 3x2 tiles\n  allowed: 1x1, 2x1, 3x1, 4x1, 1x2, 2x2, 1x3, 1x4"):
        module(shown([noise(24, 24)] * 6, [canvas(3, 2, 24)]), Read())
    lonely = canvas(2, 1, 24)
    mixed = type(lonely)(size=lonely.size, grid=lonely.grid, views=lonely.views, crops=(*lonely.crops, lonely.crops[0]), seen=lonely.seen)
    with pytest.raises(Refused, match=r"model/canvas.*\n  found:   3 crops of a canvas of 2x1 tiles"):
        module(shown([noise(24, 24)] * 3, [mixed]), Read())
    with pytest.raises(Refused, match=r"model/layer-not-read.*\n  found:   layer -2, final_norm False\n  allowed: layer -1 without final_norm"):
        MllamaEncoder(config=BLOCK, layer=-2).build()
