"""Attention pooling: which tokens show picture, the two vectors for those that do not, and the pooling itself against transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from feature_cases import assert_close, assert_keeps_laws, counted, pictures_of, random_features, raster, seeded
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.connector_kinds.attention_pool import AttentionPoolConnector
from sightline.model.connector_kinds.attention_pool_modules import shown
from sightline.model.tilers.margins import MolmoTiler
from sightline.model.tiling import Crop, Grid

TOY = AttentionPoolConnector(heads=2, inner=10)
TILING = MolmoTiler(size=48, margin=8).tile(60, 40)


def test_parameters_are_as_many_as_published() -> None:
    for inner, width, published in ((18944, 3584, 106_692_608), (11008, 4096, 67_633_152), (29568, 8192, 302_776_320)):
        assert counted(lambda inner=inner, width=width: AttentionPoolConnector(inner=inner).build(2048, width)) == 7_348_224 + published


def test_tokens_are_told_apart_by_what_their_patch_shows() -> None:
    crop = Crop(view=0, window=(100, 0, 40, 20), role="tile", valid=(10, 5, 25, 20))
    # columns of 10 px: none, all, half, none; rows of 10 px: half, all
    assert shown(crop, Grid(columns=4, rows=2)).tolist() == [0, 1, 1, 0, 0, 2, 1, 0]
    assert not shown(Crop(view=0, window=(0, 0, 40, 20), role="tile", valid=(15, 0, 15, 20)), Grid(columns=4, rows=2)).any()


@given(st.integers(1, 5), st.integers(1, 5), st.tuples(*[st.integers(0, 40)] * 4))
def test_what_a_token_shows_is_what_its_pixels_show(columns: int, rows: int, edges: tuple[int, int, int, int]) -> None:
    width, height = columns * 6, rows * 6
    x0, x1, y0, y1 = *sorted(min(edge, width) for edge in edges[:2]), *sorted(min(edge, height) for edge in edges[2:])
    pixels = torch.zeros(height, width)
    pixels[y0:y1, x0:x1] = 1
    share = pixels.view(rows, 6, columns, 6).mean((1, 3)).flatten()
    expected = (share > 0).long() + (share == 1).long()
    crop = Crop(view=0, window=(7, 9, width, height), role="tile", valid=(x0, y0, x1, y1))
    assert shown(crop, Grid(columns=columns, rows=rows)).tolist() == expected.tolist()


@pytest.mark.parametrize("padding", ["own", "next"])
def test_vectors_for_padding_join_the_tokens_before_pooling(padding: Any) -> None:
    module = seeded(lambda: TOY.model_copy(update={"padding": padding}).build(8, 6))
    bare = seeded(lambda: TOY.model_copy(update={"padding": "none"}).build(8, 6))
    bare.load_state_dict({name: tensor for name, tensor in module.state_dict().items() if name != "pad_embed"})
    features = random_features(raster(*[(6, 6)] * 3), 8)
    own = [shown(crop, Grid(columns=6, rows=6)) for crop in TILING.crops]
    assert set(own[0].tolist()) == {0, 2} and set(own[1].tolist()) == {1, 2}  # the overview has bars of fill, the tiles cut a patch
    # next: of the crop after it; the last crop counts as partly padded throughout
    states = torch.cat(own if padding == "own" else [*own[1:], torch.ones(36, dtype=torch.int64)])
    added = torch.stack([module.pad_embed[0], module.pad_embed[1], torch.zeros(8)])[states]
    expected = bare(replace(features, values=features.values + added))
    assert_close(module(features, pictures=pictures_of(TILING)).values, expected.values)


def test_pooling_and_perceptron_are_those_of_molmo2() -> None:
    from transformers.models.molmo2.configuration_molmo2 import Molmo2AdapterConfig
    from transformers.models.molmo2.modeling_molmo2 import Molmo2Adapter

    said = Molmo2AdapterConfig(
        vision_feature_layer=[2, 1], hidden_size=4, num_attention_heads=2, num_key_value_heads=2, head_dim=2, intermediate_size=10, text_hidden_size=6
    )
    theirs = seeded(lambda: Molmo2Adapter(said))
    ours = TOY.model_copy(update={"padding": "none"}).build(8, 6)
    renamed = {name.replace("image_pooling_2d", "pooling").replace("image_projector", "projector"): value for name, value in theirs.state_dict().items()}
    ours.load_state_dict(renamed)
    features = random_features(raster((4, 2), (2, 4)), 8)
    windows = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]])
    expected = theirs(features.values[None], windows).last_hidden_state
    found = ours(features)
    assert_close(found.values, expected)
    assert found.grids == raster((2, 1), (1, 2))
    push = torch.randn(found.values.shape, generator=torch.Generator().manual_seed(3))
    (found.values * push).sum().backward()
    (expected * push).sum().backward()
    wanted = {name.replace("image_pooling_2d", "pooling").replace("image_projector", "projector"): p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        if name == "pooling.k_proj.bias":  # attention does not change when all keys move together: both gradients are rounding
            assert parameter.grad is not None and parameter.grad.abs().max() < 1e-6
            continue
        assert_close(parameter.grad, wanted[name])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("padding", ["own", "next", "none"])
def test_attention_pooling_keeps_the_laws_of_connectors(padding: Any) -> None:
    config = TOY.model_copy(update={"padding": padding})
    module = seeded(lambda: config.build(8, 6))
    grids = raster((6, 6), (6, 6), (6, 6))
    features = random_features(grids, 8)
    found = module(features, pictures=pictures_of(TILING))
    assert found.grids == raster((3, 3), (3, 3), (3, 3)) and len(module.blocks) == 2
    module.pooling.k_proj.bias.requires_grad_(False)  # see above
    assert_keeps_laws(module, grids, 8, 6, pictures_of(TILING))


def test_windows_and_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(Refused, match=r"model/merge-grid at connector\.pool\n  found:   5x4 tokens"):
        AttentionPoolConnector().grid(Grid(columns=5, rows=4))
    with pytest.raises(Refused, match=r"model/head-width at connector\.heads\n  found:   16 heads on one of 2 layers in 40 channels"):
        AttentionPoolConnector().build(40, 64)


def test_the_twin_pools_a_toy_tower() -> None:
    twin = AttentionPoolConnector().twin()
    module = twin.build(64, 64)
    tiling = MolmoTiler().twin().tile(200, 120)
    found = module(random_features(raster(*[(6, 6)] * len(tiling.crops)), 64), pictures=pictures_of(tiling))
    assert found.values.shape == (9 * len(tiling.crops), 64)
