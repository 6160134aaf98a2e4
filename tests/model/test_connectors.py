"""Connectors: merging by hand, coordinates by formula, grids that add up, one connector per encoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from feature_cases import assert_close, assert_keeps_laws, counted, random_features, raster, seeded
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sightline.errors import Refused
from sightline.model.batch import Features
from sightline.model.connector_kinds.by_encoder import ByEncoderConnector
from sightline.model.connector_kinds.merger import MergerConnector
from sightline.model.connector_modules import coordinates, padded
from sightline.model.connector_table import CONNECTOR
from sightline.model.connectors import MlpConnector
from sightline.model.tiling import Grid

COUNTS = {
    "llava-1.5": (MlpConnector(), 1024, 4096, 20_979_712),
    "vila": (MlpConnector(depth=1), 1024, 4096, 4_198_400),
    "vila-1.5": (MlpConnector(merge=2, merge_pad=True, merge_order="columns", norm=True), 1152, 4096, 35_668_992),
    "points": (MlpConnector(merge=2), 1024, 4096, 33_562_624),
    "nvlm-d": (MlpConnector(merge=2, norm=True, bias=False, inner=29568), 3200, 8192, 620_717_056),
    "internvl": (MlpConnector(merge=2, norm=True), 3200, 8192, 172_008_448),
    "minigpt-4": (MlpConnector(depth=1), 768, 4096, 3_149_824),
    "mllama": (MlpConnector(depth=1), 7680, 4096, 31_461_376),
    "ferret-v2": (ByEncoderConnector(connectors={"clip": MlpConnector()}), 1024, 4096, 20_979_712),
}


def identity(config: MlpConnector, channels: int) -> torch.nn.Module:
    """A connector of one layer that hands on what it was given."""
    module = config.build(channels, channels * config.merge**2 * config.concat)
    linear = module.blocks[0]
    assert isinstance(linear, torch.nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(linear.in_features)[: linear.out_features])
        linear.bias.zero_()
    return module


def numbered(*grids: Grid) -> Features:
    """One channel that counts the tokens of all crops."""
    return Features(values=torch.arange(float(sum(grid.count for grid in grids)))[:, None], grids=grids, crops=tuple(range(len(grids))))


def test_merging_puts_neighbours_side_by_side_rows_first() -> None:
    # 4 x 2 tokens numbered in raster order become 2 x 1, each of 4 numbers
    found = identity(MlpConnector(depth=1, merge=2), 1)(numbered(Grid(columns=4, rows=2)))
    assert found.values.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert found.grids == (Grid(columns=2, rows=1),) and found.crops == (0,)


def test_merged_tokens_leave_by_rows_or_by_columns() -> None:
    raster_order, by_columns = (identity(MlpConnector(depth=1, merge=2, merge_order=order), 1)(numbered(*raster((4, 4)))) for order in ("raster", "columns"))
    assert raster_order.values.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert by_columns.values.tolist() == [[0, 1, 4, 5], [8, 9, 12, 13], [2, 3, 6, 7], [10, 11, 14, 15]]
    assert MlpConnector(merge=2, merge_order="columns").grid(Grid(columns=4, rows=2)) == Grid(columns=1, rows=2)


def test_a_raster_that_does_not_divide_is_filled_up_at_the_right_and_the_bottom() -> None:
    module = identity(MlpConnector(depth=1, merge=2, merge_pad=True), 1)
    found = module(numbered(Grid(columns=3, rows=1)))
    assert found.values.tolist() == [[0, 1, 0, 0], [2, 0, 0, 0]]
    assert MlpConnector(merge=2, merge_pad=True).grid(Grid(columns=27, rows=27)) == Grid(columns=14, rows=14)


def test_tokens_that_follow_each_other_are_joined_in_raster_order() -> None:
    config = MlpConnector(depth=1, concat=4)
    found = identity(config, 1)(numbered(*raster((8, 1), (4, 2))))
    assert found.values.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert found.grids == raster((2, 1), (1, 2))
    assert config.grid(Grid(columns=16, rows=16)).count == 64
    assert config.grid(Grid(columns=6, rows=2)) == Grid(columns=0, rows=0, lead=3)  # the second group goes round the end of the first row


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4), st.integers(1, 3), st.booleans(), st.sampled_from(["raster", "columns"])
)
def test_crops_of_different_grids_are_merged_each_for_itself(sizes: list[tuple[int, int]], merge: int, pad: bool, order: Any) -> None:
    scale = 1 if pad else merge
    grids = raster(*((columns * scale, rows * scale) for columns, rows in sizes))
    said = {} if merge == 1 else {"merge_pad": pad, "merge_order": order}
    module = identity(MlpConnector(depth=1, merge=merge, **said), 1)
    features = numbered(*grids)
    features.values.add_(1)
    if merge == 1 and pad:
        assert module(features).grids == grids
        return
    found = module(features)
    alone = [module(Features(values=own, grids=(grid,), crops=(0,))).values for own, grid in zip(features.split(), grids, strict=True)]
    assert torch.equal(found.values, torch.cat(alone))
    assert sum(grid.count for grid in found.grids) == len(found.values)
    assert sorted(value for value in found.values.flatten().tolist() if value) == features.values.flatten().tolist()


@pytest.mark.parametrize("grid", [Grid(columns=3, rows=4), Grid(columns=4, rows=3), Grid(columns=4, rows=4, lead=1)])
def test_what_cannot_be_merged_is_refused(grid: Grid) -> None:
    said = rf"{grid.columns}x{grid.rows} tokens with {grid.lead} lead tokens"
    for config in (MlpConnector(merge=2), MergerConnector()):
        with pytest.raises(Refused, match=rf"model/merge-grid at connector\.merge\n  found:   {said}"):
            config.grid(grid)
    with pytest.raises(Refused, match=rf"model/merge-grid at connector\.concat\n  found:   {said}"):
        MlpConnector(concat=5).grid(grid)
    assert MlpConnector().grid(grid) == grid


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ({"merge": 2, "concat": 2}, "choose one"),
        ({"merge_pad": True}, "set merge"),
        ({"merge_order": "columns"}, "set merge"),
        ({"depth": 1, "inner": 8}, "depth 1 has one layer"),
        ({"concat": 2, "coordinates": 1}, "raster order"),
        ({"merge": 2, "merge_order": "columns", "coordinates": 1}, "raster order"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(said: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValidationError, match=allowed):
        MlpConnector(**said)


def test_coordinates_are_centres_and_their_waves() -> None:
    grid = Grid(columns=2, rows=2, lead=1)
    assert coordinates(grid, 1, torch.device("cpu")).tolist() == [[0, 0], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    waves = coordinates(grid, 3, torch.device("cpu"))
    assert waves.shape == (5, 10) and waves[0].tolist() == [0.0] * 10
    x, y = 0.5, -0.5
    expected = [x, y, *(wave(octave * math.pi * at) for octave in (1, 2) for wave in (math.sin, math.cos) for at in (x, y))]
    assert waves[2].tolist() == pytest.approx(expected, abs=1e-6)


def test_places_of_each_crop_join_its_own_tokens() -> None:
    config = MlpConnector(depth=1, merge=2, coordinates=1)
    module = config.build(1, 6)
    with torch.no_grad():
        module.layers[0].weight.copy_(torch.eye(6))  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        module.layers[0].bias.zero_()  # pyright: ignore[reportIndexIssue, reportCallIssue]
    found = module(Features(values=torch.zeros(24, 1), grids=raster((4, 2), (4, 4)), crops=(0, 1)))
    assert found.values[:, 4:].tolist() == [[-0.5, 0], [0.5, 0], [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(("depth", "norm"), [(1, False), (2, True), (3, False)])
def test_depth_is_the_number_of_linear_layers(depth: int, norm: bool) -> None:
    module = MlpConnector(depth=depth, norm=norm, bias=norm, inner=5 if depth > 1 else None).build(4, 6)
    found = module(random_features(raster((5, 1)), 4))
    assert len(module.blocks) == depth and found.values.shape == (5, 6)
    assert [layer.out_features for layer in module.blocks] == [5] * (depth - 1) + [6]  # pyright: ignore[reportAttributeAccessIssue]
    assert all((layer.bias is not None) == norm for layer in module.blocks)
    assert sum(isinstance(layer, torch.nn.GELU) for layer in module.layers) == depth - 1
    assert isinstance(module.norm, torch.nn.LayerNorm) == norm


@pytest.mark.parametrize(
    "config",
    [
        MlpConnector(norm=True),
        MlpConnector(merge=2, merge_pad=True, merge_order="columns", norm=True),
        MlpConnector(merge=2, norm=True, bias=False, inner=7),
        MlpConnector(concat=4, coordinates=0),
        MlpConnector(merge=2, coordinates=2),
        MergerConnector(),
    ],
)
def test_perceptrons_keep_the_laws_of_connectors(config: Any) -> None:
    assert_keeps_laws(seeded(lambda: config.build(6, 10)), raster((4, 4), (4, 2), (8, 4)), 6, 10)
    assert config.reads_text is False and config.resolve(600) is config


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    config, channels, width, published = COUNTS[name]
    assert counted(lambda: config.build(channels, width)) == published


def test_a_merging_perceptron_is_the_projector_of_internvl() -> None:
    from transformers import InternVLConfig
    from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector

    said = InternVLConfig(vision_config={"hidden_size": 8}, text_config={"model_type": "qwen2", "hidden_size": 12})
    theirs = seeded(lambda: InternVLMultiModalProjector(said))
    ours = MlpConnector(merge=2, norm=True).build(8, 12)
    names = {"layer_norm": "norm", "linear_1": "layers.0", "linear_2": "layers.2"}
    ours.load_state_dict({f"{names[key.split('.')[0]]}.{key.split('.')[1]}": value for key, value in theirs.state_dict().items()})
    features = random_features(raster((4, 4), (4, 4)), 8)
    shuffled = InternVLModel.pixel_shuffle(None, features.values.view(2, 4, 4, 8), 0.5)  # pyright: ignore[reportArgumentType]
    same_with_gradients(ours, features, theirs, theirs(shuffled.flatten(0, 2)), {ours_name: name for name, ours_name in names.items()})


def test_the_merger_is_that_of_qwen2_vl() -> None:
    from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger

    theirs = seeded(lambda: PatchMerger(dim=12, context_dim=8, spatial_merge_size=2))
    ours = MergerConnector().build(8, 12)
    ours.load_state_dict(theirs.state_dict())
    features = random_features(raster((4, 2), (6, 4)), 8)
    # theirs takes the tokens of each block of 2 x 2 one after another
    blocks = [own.view(grid.rows // 2, 2, grid.columns // 2, 2, 8).transpose(1, 2).reshape(-1, 8) for own, grid in zip(features.split(), features.grids)]
    same_with_gradients(ours, features, theirs, theirs(torch.cat(blocks)), {"ln_q": "ln_q", "mlp": "mlp"})


def same_with_gradients(ours: Any, features: Features, theirs: torch.nn.Module, expected: torch.Tensor, names: dict[str, str]) -> None:
    """Equal outputs, and equal gradients of every parameter; `names`: our module's name -> theirs."""
    found = ours(features).values
    assert_close(found, expected)
    push = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    (found * push).sum().backward()
    (expected * push).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        head = next(start for start in names if name.startswith(start + "."))
        assert_close(parameter.grad, wanted[names[head] + name[len(head) :]].grad)  # pyright: ignore[reportArgumentType]


def test_padding_keeps_every_token_and_marks_the_rest() -> None:
    rows, real = padded(random_features(raster((2, 1), (3, 2)), 4))
    assert rows.shape == (2, 6, 4) and real.tolist() == [[True] * 2 + [False] * 4, [True] * 6]
    assert torch.equal(rows[real], random_features(raster((2, 1), (3, 2)), 4).values) and not rows[~real].any()


def test_each_encoder_has_a_connector_of_its_own() -> None:
    config = CONNECTOR.parse({"kind": "by-encoder", "connectors": {"clip": {"kind": "mlp", "merge": 2}, "dino": {"kind": "mlp", "depth": 1}}})
    assert isinstance(config, ByEncoderConnector) and CONNECTOR.parse(config.model_dump(mode="json")) == config
    assert {"ByEncoderConnector", "MlpConnector"} <= set(config.model_json_schema()["$defs"])
    assert config.grid_of("clip", Grid(columns=4, rows=4)) == Grid(columns=2, rows=2)
    assert config.grid_of("dino", Grid(columns=3, rows=5)) == Grid(columns=3, rows=5)
    module = seeded(lambda: config.build_each({"clip": 6, "dino": 4}, 10))
    given = {"clip": random_features(raster((4, 4)), 6, crops=[0]), "dino": random_features(raster((3, 5)), 4, crops=[1])}
    found = module.forward_each(given)
    for name, own in given.items():
        assert torch.equal(found[name].values, module.connectors[name](own).values) and found[name].crops == own.crops
    assert found["clip"].values.shape == (4, 10) and found["dino"].values.shape == (15, 10)
    assert len(module.blocks) == 3
    assert config.twin() == config == config.resolve(600)


class Reading(MlpConnector):
    """A connector that says that it reads text."""

    @property
    def reads_text(self) -> bool:
        """Always."""
        return True


def test_connectors_and_encoders_of_other_names_are_refused() -> None:
    config = ByEncoderConnector(connectors={"clip": MlpConnector(), "dyno": MlpConnector()})
    with pytest.raises(Refused) as refused:
        config.build_each({"clip": 4, "dino": 4}, 8)
    assert [(problem.place, problem.found) for problem in refused.value.problems] == [
        ("connector.connectors.dino", "an encoder without a connector"),
        ("connector.connectors.dyno", "no such encoder"),
    ]
    assert refused.value.problems[1].fix == "did you mean 'dino'?"
    with pytest.raises(Refused, match=r"model/connector-encoders at connector\.connectors\.dino"):
        config.grid_of("dino", Grid(columns=1, rows=1))
    with pytest.raises(Refused, match=r"clip, dyno behind one set of tokens\n  allowed: a combine that stands after the connectors"):
        config.build(4, 8)
    with pytest.raises(ValidationError, match=r"connectors\.clip is by-encoder again"):
        ByEncoderConnector(connectors={"clip": config})
    with pytest.raises(ValidationError, match=r"connectors\.clip reads text: only a connector that serves all encoders can"):
        ByEncoderConnector(connectors={"clip": Reading()})
    with pytest.raises(ValidationError, match="at least 1 item"):
        ByEncoderConnector(connectors={})
