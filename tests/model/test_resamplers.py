"""Resamplers and the perceiver: positions, sampling and attention against formulas written down slowly, and against transformers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from feature_cases import assert_close, assert_keeps_laws, counted, random_features, raster, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sightline.errors import Refused
from sightline.model.connector_kinds.perceiver import PerceiverConnector
from sightline.model.connector_kinds.resampler_modules import roi_weights, sincos
from sightline.model.connector_kinds.resamplers import ResamplerConnector, SpatialResamplerConnector
from sightline.model.connector_table import CONNECTOR
from sightline.model.tiling import Grid

TOY: list[Any] = [ResamplerConnector(side=2, head_width=4), SpatialResamplerConnector(side=3, head_width=4)]


@pytest.mark.parametrize(
    ("config", "channels", "width", "published"),
    [
        (ResamplerConnector(), 1024, 5120, 137_021_440),
        (ResamplerConnector(side=12), 1024, 5120, 137_840_640),
        (ResamplerConnector(), 1024, 4096, 88_645_632),
        (SpatialResamplerConnector(), 1024, 5120, 137_840_640),
    ],
)
def test_parameters_are_as_many_as_published(config: Any, channels: int, width: int, published: int) -> None:
    assert counted(lambda: config.build(channels, width)) == published
    assert config.heads(width) == width // 128


def test_positions_are_sines_and_cosines_of_the_column_then_of_the_row() -> None:
    table = sincos(2, 8)
    origin = [0, 0, 1, 1, 0, 0, 1, 1]
    assert table[0, 0].tolist() == origin
    assert table[0, 1].tolist() == pytest.approx([0.84147, 0.01, 0.5403, 0.99995, 0, 0, 1, 1], abs=1e-5)
    assert table[1, 0].tolist() == pytest.approx([0, 0, 1, 1, 0.84147, 0.01, 0.5403, 0.99995], abs=1e-5)


def test_positions_are_stored_but_never_trained() -> None:
    module = ResamplerConnector(side=2, head_width=4).build(6, 8)
    assert "pos_embed" in module.state_dict() and module.spare == ["pos_embed"] and not module.pos_embed.requires_grad
    assert torch.equal(module.positions(Grid(columns=2, rows=2)), module.pos_embed)


@pytest.mark.parametrize("channels", [6, 8])
def test_a_query_reads_the_whole_crop(channels: int) -> None:
    module = seeded(lambda: ResamplerConnector(side=2, head_width=4).build(channels, 8))
    features = random_features(raster((3, 2)), channels)
    x = functional.layer_norm(module.kv_proj(features.values), (8,), module.ln_kv.weight, module.ln_kv.bias, 1e-6)
    table = sincos(2, 8).permute(2, 0, 1)[None]
    places = functional.interpolate(table, size=(2, 3), mode="bicubic", align_corners=False)[0].permute(1, 2, 0).reshape(6, 8)
    queries = functional.layer_norm(module.query, (8,), module.ln_q.weight, module.ln_q.bias, 1e-6) + sincos(2, 8).view(4, 8)
    read = slow_attention(module.attn, queries, x + places, x)
    assert_close(module(features).values, functional.layer_norm(read, (8,), module.ln_post.weight, module.ln_post.bias, 1e-6) @ module.proj)
    assert isinstance(module.kv_proj, torch.nn.Identity) == (channels == 8)


def slow_attention(attn: torch.nn.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One unbatched call, head by head."""
    width, heads = attn.embed_dim, attn.num_heads
    q, k, v = (
        functional.linear(x, attn.in_proj_weight[part * width : (part + 1) * width], attn.in_proj_bias[part * width : (part + 1) * width])
        for part, x in enumerate((queries, keys, values))
    )
    found = [torch.softmax(q_h @ k_h.T / math.sqrt(width // heads), -1) @ v_h for q_h, k_h, v_h in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1))]
    return attn.out_proj(torch.cat(found, 1))


def test_samples_of_a_box_are_bilinear_without_a_shift() -> None:
    counting = torch.arange(576.0).view(24, 24)
    weights = roi_weights(24, 12, 3)
    found = (weights @ counting @ weights.T)[:3, :3]
    expected = [[8.333, 9, 9.667], [24.333, 25, 25.667], [40.333, 41, 41.667]]
    assert found.tolist() == [pytest.approx(row, abs=1e-3) for row in expected]


@given(st.integers(1, 90), st.integers(1, 12), st.integers(2, 4))
def test_sampling_is_roi_align_along_one_axis(length: int, side: int, samples: int) -> None:
    signal = torch.randn(length, generator=torch.Generator().manual_seed(length)).double()
    found = roi_weights(length, side, samples).double() @ signal
    box = max(length / side, 1.0)
    for number in range(side):
        for sample in range(samples):
            points = math.ceil(box / samples)
            at = [number * length / side + box / samples * (sample + (point + 0.5) / points) for point in range(points)]
            assert float(found[number * samples + sample]) == pytest.approx(sum(bilinear(signal, place) for place in at) / points, abs=1e-4)


def bilinear(signal: Tensor, at: float) -> float:
    """A row of tokens read between two of them; zero past the last one's end."""
    if at > len(signal):
        return 0.0
    at = min(at, len(signal) - 1)
    low = int(at)
    high = min(low + 1, len(signal) - 1)
    return float(signal[low] * (1 - (at - low)) + signal[high] * (at - low))


@pytest.mark.parametrize(
    ("shape", "samples"),
    [((24, 24), (3, 3)), ((28, 22), (4, 3)), ((48, 12), (4, 2)), ((30, 18), (3, 2)), ((12, 48), (2, 4)), ((18, 30), (2, 3)), ((22, 28), (3, 4))],
)
def test_boxes_are_sampled_in_the_shape_of_the_crop(shape: tuple[int, int], samples: tuple[int, int]) -> None:
    assert SpatialResamplerConnector().samples(Grid(columns=shape[0], rows=shape[1])) == samples


def test_a_spatial_query_reads_its_own_box_only() -> None:
    module = seeded(lambda: SpatialResamplerConnector(side=2, head_width=4).build(6, 8))
    features = random_features(raster((8, 4)), 6)
    features.values.requires_grad_()
    found = module(features)
    assert found.grids == (Grid(columns=2, rows=2),)
    for query, (column, row) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        [gradient] = torch.autograd.grad(found.values[query].sum(), features.values, retain_graph=True)
        touched = gradient.view(4, 8, 6).abs().sum(2) > 0
        # samples beside an edge also take from the token behind it, not from those further off
        assert not touched[:, 7 if column == 0 else 0].any() and not touched[3 if row == 0 else 0].any()
        assert touched[row * 2 : row * 2 + 2, column * 4 : column * 4 + 4].any()


def test_a_spatial_query_attends_to_its_samples() -> None:
    config = SpatialResamplerConnector(side=2, head_width=4)
    module = seeded(lambda: config.build(6, 8))
    features = random_features(raster((6, 4)), 6)
    x = functional.layer_norm(module.kv_proj(features.values), (8,), module.ln_kv.weight, module.ln_kv.bias, 1e-6)
    queries = functional.layer_norm(module.query, (8,), module.ln_q.weight, module.ln_q.bias, 1e-6) + module.pos_embed
    values, keys = (torch.stack([box_samples(y.view(4, 6, 8), 2, (3, 2), query) for query in range(4)]) for y in (x, x + module.positions(features.grids[0])))
    read = torch.cat([slow_attention(module.attn, queries[query : query + 1], keys[query], values[query]) for query in range(4)])
    assert config.samples(features.grids[0]) == (3, 2)
    assert_close(module(features).values, functional.layer_norm(read, (8,), module.ln_post.weight, module.ln_post.bias, 1e-6) @ module.proj)


def box_samples(cells: Tensor, side: int, samples: tuple[int, int], query: int) -> Tensor:
    """RoIAlign of one box by loops: (samples, channels). One point a bin."""
    rows, columns = cells.shape[:2]
    found = []
    for j in range(samples[1]):
        for i in range(samples[0]):
            x = min((query % side + (i + 0.5) / samples[0]) * columns / side, columns - 1)
            y = min((query // side + (j + 0.5) / samples[1]) * rows / side, rows - 1)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, columns - 1), min(y0 + 1, rows - 1)
            top = cells[y0, x0] * (1 - (x - x0)) + cells[y0, x1] * (x - x0)
            bottom = cells[y1, x0] * (1 - (x - x0)) + cells[y1, x1] * (x - x0)
            found.append(top * (1 - (y - y0)) + bottom * (y - y0))
    return torch.stack(found)


@pytest.mark.parametrize("config", TOY)
def test_resamplers_keep_the_laws_of_connectors(config: Any) -> None:
    module = seeded(lambda: config.build(6, 8))
    assert_keeps_laws(module, raster((5, 3), (2, 6), (6, 4), (5, 3)), 6, 8)
    assert len(module.blocks) == 1 and config.reads_text is False and config.resolve() is config


@pytest.mark.parametrize("config", TOY)
@pytest.mark.parametrize("grid", [Grid(columns=4, rows=4, lead=1), Grid(columns=0, rows=0, lead=3)])
def test_queries_need_a_raster(config: Any, grid: Grid) -> None:
    with pytest.raises(Refused, match=rf"model/needs-raster at connector\n  found:   {grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens"):
        config.grid(grid)


def test_heads_that_do_not_fill_the_width_are_refused() -> None:
    with pytest.raises(Refused, match=r"model/head-width at connector\.head_width\n  found:   heads of 128 in a language model of width 200"):
        ResamplerConnector().build(4, 200)
    with pytest.raises(Refused, match="a width divisible by 4"):
        ResamplerConnector(head_width=3).build(4, 6)


@pytest.mark.parametrize("kind", ["resampler", "spatial-resampler", "perceiver"])
def test_twins_are_small_and_of_the_same_structure(kind: str) -> None:
    config: Any = CONNECTOR.parse({"kind": kind})
    module = config.twin().build(32, 64)
    assert type(config.twin()) is type(config) and sum(parameter.numel() for parameter in module.parameters()) < 400_000
    assert module(random_features(raster((4, 4)), 32)).values.shape == (4, 64)


def test_the_perceiver_is_that_of_idefics2() -> None:
    from transformers import Idefics2Config
    from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector

    said = Idefics2Config(
        vision_config={"hidden_size": 6},
        text_config={"model_type": "mistral", "hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2},
        perceiver_config={
            "hidden_size": 16,
            "resampler_n_latents": 3,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 8,
            "num_key_value_heads": 2,
        },
    )
    theirs = seeded(lambda: Idefics2Connector(said))
    ours = PerceiverConnector(latents=3, depth=2, heads=4, key_heads=2, head_width=8, inner=20).build(6, 16)
    ours.load_state_dict(theirs.state_dict())
    features = random_features(raster((3, 2), (4, 3), (1, 1)), 6)
    rows = torch.zeros(3, 12, 6)
    mask = torch.arange(12) < torch.tensor([6, 12, 1])[:, None]
    rows[mask] = features.values
    found, expected = ours(features), theirs(rows, mask.long())
    assert found.grids == (Grid(columns=0, rows=0, lead=3),) * 3
    assert_close(found.values, expected.flatten(0, 1))
    push = torch.randn(found.values.shape, generator=torch.Generator().manual_seed(3))
    (found.values * push).sum().backward()
    (expected.flatten(0, 1) * push).sum().backward()
    wanted = dict(theirs.named_parameters())
    assert len(wanted) == len(list(ours.parameters())) == 25
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, wanted[name].grad)  # pyright: ignore[reportArgumentType]


def test_the_perceiver_has_as_many_parameters_as_published() -> None:
    from transformers import Idefics2Config
    from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector

    said = Idefics2Config(
        vision_config={"hidden_size": 1152}, text_config={"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336}, perceiver_config={}
    )
    assert counted(lambda: PerceiverConnector().build(1152, 4096)) == counted(lambda: Idefics2Connector(said)) == 743_219_200


def test_the_perceiver_keeps_the_laws_of_connectors() -> None:
    module = seeded(lambda: PerceiverConnector(latents=3, depth=2, heads=4, key_heads=2, head_width=4, inner=8).build(6, 8))
    assert_keeps_laws(module, (*raster((3, 2), (4, 4)), Grid(columns=2, rows=2, lead=1), Grid(columns=0, rows=0, lead=2)), 6, 8)
    assert len(module.blocks) == 3
    with pytest.raises(ValueError, match="heads 4 is not a multiple of key_heads 3"):
        PerceiverConnector(heads=4, key_heads=3)
