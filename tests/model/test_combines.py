"""Combines: order, sums and refusals by hand, and mining against its formula written down slowly."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
import torch
from feature_cases import assert_close, counted, pictures_of, random_features, raster, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError, model_validator
from torch import Tensor, nn
from torch.nn import functional

from sightline.errors import Refused
from sightline.kinds import Config
from sightline.model.batch import Features
from sightline.model.combine_modules import Mine
from sightline.model.combines import COMBINE, AddCombine, AverageCombine, Combine, ConcatCombine, MineCombine, UnionCombine, part_of_map
from sightline.model.connectors import MlpConnector
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tilers.windows import made, source_box, whole, window
from sightline.model.tiling import Grid, Tiling, View, WholeTiler

MINE = MineCombine(queries="clip", candidates="conv")
HD = DualResolutionTiler(size=32, detail=128, cells=2)
TILES = LlavaNextTiler(size=32, pinpoints=((64, 32), (32, 64))).tile(80, 40)


def test_every_kind_is_in_the_table_and_alone_needs_no_settings() -> None:
    assert set(COMBINE.table()) == {"union", "average", "add", "concat", "mine"}
    assert COMBINE.parse({}) == UnionCombine()
    kinds: list[Any] = [COMBINE.parse({"kind": kind} | ({"queries": "a", "candidates": "b"} if kind == "mine" else {})) for kind in COMBINE.table()]
    assert [kind.place for kind in kinds] == ["after", "after", "after", "before", "before"]
    assert all(kind.twin() is kind and kind.build({"a": 4, "b": 4}).blocks is not None for kind in kinds)


# union


def test_each_crop_comes_from_the_encoder_that_sees_it_in_batch_order() -> None:
    features = {
        "clip": random_features(raster((2, 2), (2, 1)), 3, 1, crops=(0, 4)),
        "dino": random_features(raster((1, 3), (2, 2), (1, 1)), 3, 2, crops=(1, 2, 5)),
    }
    found = UnionCombine().build({"clip": 3, "dino": 3})(features, pictures_of())
    assert found.crops == (0, 1, 2, 4, 5) and found.grids == raster((2, 2), (1, 3), (2, 2), (2, 1), (1, 1))
    (a, d), (b, c, e) = features["clip"].split(), features["dino"].split()
    assert torch.equal(found.values, torch.cat([a, b, c, d, e]))


def test_an_encoder_without_crops_stays_part_of_the_sum() -> None:
    seen, unseen = random_features(raster((2, 2)), 3), random_features((), 3)
    unseen.values.requires_grad_()
    found = UnionCombine().build({})({"clip": seen, "dino": unseen}, pictures_of())
    assert torch.equal(found.values, seen.values) and found.crops == (0,)
    found.values.sum().backward()  # its encoder and connector run and get gradients, of zero
    assert unseen.values.grad is not None
    assert UnionCombine().build({})({"clip": seen}, pictures_of()) is seen
    assert UnionCombine().build({})({"clip": unseen, "dino": unseen}, pictures_of()).crops == ()


def test_a_role_belongs_to_one_encoder() -> None:
    overview, *tiles = TILES.crops
    grid = Grid(columns=2, rows=2)
    crops = [overview, *tiles]
    rest = [None] * len(tiles)
    assert UnionCombine().grids({"clip": [grid, *rest], "dino": [None, *([grid] * len(tiles))]}, crops) == [grid] * len(crops)
    with pytest.raises(Refused, match=r"model/combine-roles at combine\n  found:   a crop of role overview is seen by clip and dino"):
        UnionCombine().grids({"clip": [grid, *rest], "dino": [grid] * len(crops)}, crops)
    with pytest.raises(Refused, match=r"a crop of role tile is seen by no encoder"):
        UnionCombine().grids({"clip": [grid, *rest]}, crops)


# average, add, concat


def test_encoders_are_added_averaged_and_joined_token_by_token() -> None:
    features = {"general": random_features(raster((2, 1)), 3, 1), "ocr": random_features(raster((2, 1)), 3, 2)}
    general, ocr = features["general"].values, features["ocr"].values
    channels = {"general": 3, "ocr": 3}
    cases: list[tuple[Any, Tensor]] = [
        (AverageCombine(), (general + ocr) / 2),
        (AverageCombine(weights=(0.25, 0.75)), general / 4 + ocr * 3 / 4),
        (AddCombine(), general + ocr),
        (ConcatCombine(), torch.cat([general, ocr], 1)),
    ]
    for config, expected in cases:
        found = config.build(channels)(features, pictures_of())
        assert_close(found.values, expected, 1e-6)
        assert found.grids == raster((2, 1)) and found.crops == (0,)
    assert [config.channels({"general": 3, "ocr": 5}) for config in (ConcatCombine(), AddCombine())] == [8, 3]


def test_two_equal_encoders_averaged_behind_a_shared_connector_equal_one() -> None:
    features = random_features(raster((4, 4)), 6)
    connector = seeded(lambda: MlpConnector(merge=2).build(6, 8))
    found = AverageCombine().build({"general": 8, "ocr": 8})({"general": connector(features), "ocr": connector(features)}, pictures_of())
    assert torch.equal(found.values, connector(features).values)


@pytest.mark.parametrize("config", [AverageCombine(), AddCombine(), ConcatCombine()])
def test_tokens_are_only_added_to_tokens_of_the_same_place(config: Any) -> None:
    [crop] = WholeTiler(size=32).tile(32, 32).crops
    grid, other = Grid(columns=2, rows=2), Grid(columns=4, rows=1, lead=1)
    assert config.grids({"a": [grid], "b": [grid]}, [crop]) == [grid]
    with pytest.raises(Refused, match=r"model/combine-grids at combine\n  found:   crop 0: a 2x2 tokens, b 4x1 and 1 lead tokens"):
        config.grids({"a": [grid], "b": [other]}, [crop])
    with pytest.raises(Refused, match="crop 0: a nothing, b 2x2 tokens"):
        config.grids({"a": [None], "b": [grid]}, [crop])


@pytest.mark.parametrize("kind", [UnionCombine, AverageCombine, AddCombine])
def test_channels_before_the_connector_are_equal(kind: Any) -> None:
    assert kind(place="before").channels({"a": 4, "b": 4}) == 4 == kind().channels({"a": 4, "b": 6})
    with pytest.raises(Refused, match=r"model/combine-channels at combine\n  found:   a 4, b 6"):
        kind(place="before").channels({"a": 4, "b": 6})


class Whole(Config):
    """A larger Config whose combine must suit its encoders."""

    combine: Annotated[Combine, COMBINE]

    @model_validator(mode="after")
    def _fits(self) -> Whole:
        self.combine.check(["a", "b", "c"])
        return self


def test_weights_are_as_many_as_encoders_and_one_together() -> None:
    AverageCombine(weights=(0.5, 0.5)).check(["a", "b"])
    AverageCombine().check(["a", "b", "c"])
    with pytest.raises(ValidationError, match="one weight for each of a, b, c") as refused:
        Whole.model_validate({"combine": {"kind": "average", "weights": [0.5, 0.5]}})
    assert refused.value.errors()[0]["loc"] == ("combine", "weights")
    with pytest.raises(ValidationError, match=r"weights are 1 together, not 1\.5"):
        AverageCombine(weights=(0.5, 1.0))


# mining


def slow_mining(module: Any, queries: Tensor, cells: Tensor) -> Tensor:
    """Token by token: (n, C) over (n, m, A)."""
    found = []
    for query, own in zip(queries, cells, strict=True):
        a = torch.softmax(module.key(own) @ module.query(query) / math.sqrt(len(query)), 0)
        found.append(query + a @ module.value(own))
    return torch.stack(found)


def bare_mine() -> Mine:
    """Projections that hand on what they are given, without LayerNorm."""
    module = MINE.build({"clip": 2, "conv": 2})
    with torch.no_grad():
        for projection in (module.query, module.key, module.value):
            projection[0] = nn.Identity()
            weight, bias = projection.parameters()
            weight.copy_(torch.eye(2))
            bias.zero_()
    return module


def test_a_token_adds_what_it_mined_by_the_published_numbers() -> None:
    tiling = DualResolutionTiler(size=32, detail=64).tile(64, 64)
    cells = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    module = bare_mine()
    features = {
        "clip": Features(values=torch.tensor([[1.0, 0]]), grids=raster((1, 1)), crops=(0,)),
        "conv": Features(values=cells, grids=raster((2, 2)), crops=(1,)),
    }
    found = module(features, pictures_of(tiling))
    assert found.values[0].tolist() == pytest.approx([1.66976, 0.5], abs=1e-5)
    assert found.grids == raster((1, 1)) and found.crops == (0,)
    assert torch.softmax(cells @ torch.tensor([1.0, 0]) / math.sqrt(2), 0).tolist() == pytest.approx([0.33488, 0.16512, 0.33488, 0.16512], abs=1e-5)


def test_parameters_are_as_many_as_published() -> None:
    assert counted(lambda: MINE.build({"clip": 1024, "conv": 2880})) == 6_963_456
    assert MINE.channels({"clip": 1024, "conv": 2880}) == 1024


def mined_case(*sizes: tuple[int, int], query: int = 2, cells: int = 16) -> tuple[dict[str, Features], list[Tiling]]:
    """Pictures at high resolution: an overview and four tiles of query x query tokens each, and a map of cells x cells, at 4 and 6 channels."""
    tilings = [HD.tile(*size) for size in sizes]
    reading = [6 * number + crop for number in range(len(sizes)) for crop in range(5)]
    clip = random_features(raster(*[(query, query)] * len(reading)), 4, 1, crops=reading)
    return {
        "clip": clip,
        "conv": random_features(raster(*[(cells, cells)] * len(sizes)), 6, 2, crops=[6 * number + 5 for number in range(len(sizes))]),
    }, tilings


def test_tiles_mine_their_quarter_and_the_overview_mines_the_halved_map() -> None:
    features, tilings = mined_case((100, 60))
    module = seeded(lambda: MINE.build({"clip": 4, "conv": 6}))
    assert [crop.role for crop in tilings[0].crops] == ["overview", "tile", "tile", "tile", "tile", "detail"]
    found = module(features, pictures_of(*tilings))
    whole = features["conv"].values.view(16, 16, 6)
    halved = functional.interpolate(whole.permute(2, 0, 1)[None], scale_factor=0.5, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    maps = [halved, *(whole[row : row + 8, column : column + 8] for row in (0, 8) for column in (0, 8))]
    for number, (own, part) in enumerate(zip(features["clip"].split(), maps, strict=True)):
        windows = torch.stack([part[row : row + 4, column : column + 4].reshape(16, 6) for row in (0, 4) for column in (0, 4)])
        assert_close(found.split()[number], slow_mining(module, own, windows))
    assert found.crops == (0, 1, 2, 3, 4) and found.grids == raster(*[(2, 2)] * 5)


def test_one_overview_mines_the_map_as_it_is() -> None:
    tiling = DualResolutionTiler(size=32, detail=64).tile(90, 50)
    module = seeded(lambda: MINE.build({"clip": 4, "conv": 6}))
    features = {"clip": random_features(raster((2, 2)), 4, 1), "conv": random_features(raster((4, 4)), 6, 2, crops=(1,))}
    whole = features["conv"].values.view(4, 4, 6)
    windows = torch.stack([whole[row : row + 2, column : column + 2].reshape(4, 6) for row in (0, 2) for column in (0, 2)])
    assert_close(module(features, pictures_of(tiling)).values, slow_mining(module, features["clip"].values, windows))


def test_a_picture_mines_alone_what_it_mines_in_company() -> None:
    features, tilings = mined_case((100, 60), (31, 97), (64, 64))
    module = seeded(lambda: MINE.build({"clip": 4, "conv": 6}))
    for own in features.values():
        own.values.requires_grad_()
    found = module(features, pictures_of(*tilings))
    found.values.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() for p in module.parameters() if p is not module.key[1].bias)
    assert all(own.values.grad is not None and bool(own.values.grad.abs().sum(1).all()) for own in features.values())
    for number, tiling in enumerate(tilings):
        clip = Features(values=torch.cat(features["clip"].split()[5 * number : 5 * number + 5]), grids=features["clip"].grids[:5], crops=(0, 1, 2, 3, 4))
        conv = Features(values=features["conv"].split()[number], grids=features["conv"].grids[:1], crops=(5,))
        alone = module({"clip": clip, "conv": conv}, pictures_of(tiling))
        assert_close(alone.values, torch.cat(found.split()[5 * number : 5 * number + 5]), 5e-6)
    assert len(module.blocks) == 3
    nothing = module({"clip": random_features((), 4), "conv": random_features((), 6)}, pictures_of())
    assert nothing.values.shape == (0, 4) and nothing.crops == ()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
@settings(max_examples=60)
def test_tiles_share_the_map_out_and_show_what_their_part_of_it_shows(width: int, height: int, cells: int, query: int, each: int) -> None:
    tiling = DualResolutionTiler(size=16, detail=48 * cells, cells=cells).tile(width, height)
    *reading, detail = tiling.crops
    grid, map_grid = Grid(columns=query, rows=query), Grid(columns=cells * query * each, rows=cells * query * each)
    boxes = [part_of_map(tiling, crop, grid, detail, map_grid) for crop in reading]
    assert boxes[0] == (0, 0, map_grid.columns, map_grid.rows)
    covered = [(x, y) for x0, y0, x1, y1 in boxes[1:] for y in range(y0, y1) for x in range(x0, x1)]
    assert cells == 1 or sorted(covered) == [(x, y) for x in range(map_grid.columns) for y in range(map_grid.rows)]
    side = 48 // (query * each)  # px of the detail in a cell
    rounded = 3 * cells / min(tiling.seen.scale)  # px of the picture in one of a crop
    for crop, (x0, y0, x1, y1) in zip(reading, boxes, strict=True):
        part = window(detail.view, x0 * side, y0 * side, ((x1 - x0) * side, (y1 - y0) * side), "detail", detail.valid)
        if part.valid[0] < part.valid[2] and part.valid[1] < part.valid[3]:
            assert all(abs(ours - theirs) <= rounded for ours, theirs in zip(source_box(tiling, part), source_box(tiling, crop), strict=True))


def test_crops_of_views_that_were_padded_differently_find_each_other() -> None:
    padded = View(resized=(64, 32), offset=(0, 16), canvas=(64, 64))
    bare = View(source=(20, 10, 100, 50), resized=(32, 16), canvas=(32, 16))
    tiling = made((100, 50), (1, 1), [padded, bare], [whole(1, bare), whole(0, padded, "detail")])
    grid, cells = Grid(columns=4, rows=2), Grid(columns=20, rows=20)
    assert part_of_map(tiling, tiling.crops[0], grid, tiling.crops[1], cells) == (4, 7, 20, 15)


def test_reading_crops_keep_their_grids_and_the_detail_is_used_up() -> None:
    crops = list(HD.tile(100, 60).crops)
    grid, cells = Grid(columns=2, rows=2), Grid(columns=16, rows=16)
    grids: dict[str, list[Grid | None]] = {"clip": [grid] * 5 + [None], "conv": [None] * 5 + [cells]}
    assert MINE.grids(grids, crops) == [grid] * 5 + [Grid(columns=0, rows=0)]
    with pytest.raises(
        Refused, match=r"model/mine-roles at combine\n  found:   overview: clip 2x2 tokens, conv nothing; .*detail: clip 2x2 tokens, conv 16x16 tokens"
    ):
        MINE.grids(grids | {"clip": [grid] * 6}, crops)
    with pytest.raises(Refused, match="model/mine-roles"):
        MINE.grids(grids | {"conv": [None] * 6}, crops)
    with pytest.raises(Refused, match=r"model/mine-grids at combine\n  found:   3x2 tokens read 16x16 tokens"):
        MINE.grids(grids | {"clip": [Grid(columns=3, rows=2)] * 5 + [None]}, crops)
    with pytest.raises(Refused, match="2x2 and 1 lead tokens read 16x16 tokens"):
        MINE.grids(grids | {"clip": [Grid(columns=2, rows=2, lead=1)] * 5 + [None]}, crops)


def test_tiles_whose_edges_cut_cells_are_refused() -> None:
    tiling = HD.tile(100, 60)
    grid = Grid(columns=2, rows=2)
    with pytest.raises(Refused, match=r"model/mine-area at combine\n  found:   2x2 tokens of a tile cover cells 0\.\.5 x 0\.\.5 of 10x10 tokens"):
        part_of_map(tiling, tiling.crops[1], grid, tiling.crops[5], Grid(columns=10, rows=10))
    with pytest.raises(Refused, match=r"cover cells 0\.\.3\.5 x 0\.\.3\.5 of 7x7 tokens"):
        part_of_map(tiling, tiling.crops[1], grid, tiling.crops[5], Grid(columns=7, rows=7))
    with pytest.raises(Refused, match=r"cover cells -8\.\.8 x -8\.\.8 of 8x8 tokens"):
        part_of_map(tiling, tiling.crops[0], grid, tiling.crops[4], Grid(columns=8, rows=8))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["clip", "dino"], r"one of clip, dino"),
        (["clip", "conv", "dino"], r"two encoders, one that reads and one that is read, not clip, conv, dino"),
    ],
)
def test_mining_needs_its_two_encoders(names: list[str], said: str) -> None:
    MINE.check(["conv", "clip"])
    with pytest.raises(ValidationError, match=said):
        MINE.check(names)
    with pytest.raises(ValidationError, match="two encoders"):
        MineCombine(queries="clip", candidates="clip").check(["clip"])
