"""The published tilers: golden numbers of each, and for any size of picture what every tiling must hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from sightline.errors import Refused
from sightline.model.assembly import ModelConfig
from sightline.model.connectors import MlpConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.language import LanguageModelConfig
from sightline.model.tiler_table import TILER
from sightline.model.tilers.aspect_grids import CattyTiler, InternVlTiler
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tilers.margins import MolmoTiler
from sightline.model.tilers.native import MaxSideTiler, QuadSplitTiler, SmartResizeTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.slices import LlavaUhdTiler, score
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tilers.windows import source_box
from sightline.model.tiling import Tiling, WholeTiler, cut

PUBLISHED: list[Any] = [
    LlavaNextTiler(),
    LlavaUhdTiler(),
    LlavaUhdTiler(variant="paper"),
    LlavaUhdTiler(variant="legacy"),
    CattyTiler(),
    InternVlTiler(),
    InternVlTiler(least=2, most=6, thumbnail=False),
    MolmoTiler(),
    CanvasTiler(),
    SmartResizeTiler(),
    MaxSideTiler(),
    QuadSplitTiler(),
    QuadSplitTiler(split=False),
    DualResolutionTiler(),
    DualResolutionTiler(detail=1536, cells=2),
]
NAMES = [f"{tiler.kind}-{number}" for number, tiler in enumerate(PUBLISHED)]
SIDES = st.integers(1, 3000)


def takes(tiler: Any, width: int, height: int) -> bool:
    """What is refused is tested by itself."""
    if isinstance(tiler, SmartResizeTiler):
        return max(width, height) <= 200 * min(width, height)
    return not (isinstance(tiler, QuadSplitTiler) and tiler.split) or min(width, height) > 1


def slack(tiler: Any, tiling: Tiling) -> tuple[float, float]:
    """Px of the picture per axis that no crop shows: the remainders of CATTY's whole strides."""
    if not isinstance(tiler, CattyTiler):
        return 1e-6, 1e-6
    lost = [max(0, count - 2) * side / scaled for count, side, scaled in zip(tiling.grid, tiling.size, tiling.views[0].resized, strict=True)]
    return lost[0] + 1e-6, lost[1] + 1e-6


@pytest.mark.parametrize("tiler", PUBLISHED, ids=NAMES)
@given(width=SIDES, height=SIDES)
@settings(max_examples=60, deadline=None)
def test_windows_lie_in_their_canvas_and_together_show_the_picture(tiler: Any, width: int, height: int) -> None:
    if not takes(tiler, width, height):
        return
    tiling = tiler.tile(width, height)
    assert tiling == tiler.tile(width, height) and hash(tiling) == hash(tiler.tile(width, height)) and tiling.size == (width, height)
    assert {crop.role for crop in tiling.crops} <= set(tiler.roles)
    for index, view in enumerate(tiling.views):
        assert min(view.resized) >= 1 and (view.of is None or 0 <= view.of < index)
        assert view.offset[0] >= 0 and view.offset[1] >= 0, "nothing is cropped away"
        assert view.offset[0] + view.resized[0] <= view.canvas[0] and view.offset[1] + view.resized[1] <= view.canvas[1]
    for crop in tiling.crops:
        x, y, w, h = crop.window
        canvas = tiling.views[crop.view].canvas
        assert 0 <= x < x + w <= canvas[0] and 0 <= y < y + h <= canvas[1]
        x0, y0, x1, y1 = crop.valid
        assert 0 <= x0 <= x1 <= w and 0 <= y0 <= y1 <= h
        sliver = min(width, height) == 1 or max(width, height) > 100 * min(width, height)
        assert (x0 < x1 and y0 < y1) or sliver, "each crop shows something of all but slivers"
    tiles = [crop for crop in tiling.crops if crop.role in ("tile", "canvas")] or list(tiling.crops)
    assert covers(tiling, tiles, slack(tiler, tiling))
    wholes = [crop for crop in tiling.crops if crop.role in ("overview", "detail")]
    assert all(source_box(tiling, crop) == pytest.approx((0, 0, width, height), abs=1e-6) for crop in wholes)


def covers(tiling: Tiling, crops: list[Any], slack: tuple[float, float]) -> bool:
    """Whether rows of boxes reach from edge to edge and touch; rows are told apart by `place`."""
    boxes = {crop.place: source_box(tiling, crop) for crop in crops}
    columns, rows = (max(place[axis] for place in boxes) + 1 for axis in (0, 1))
    if len(boxes) != columns * rows:
        return False
    for (column, row), (x0, y0, x1, y1) in boxes.items():
        left = boxes[column - 1, row][2] if column else 0
        above = boxes[column, row - 1][3] if row else 0
        right_ok = column < columns - 1 or x1 >= tiling.size[0] - slack[0]
        below_ok = row < rows - 1 or y1 >= tiling.size[1] - slack[1]
        if x0 > left + 1e-6 or y0 > above + 1e-6 or not right_ok or not below_ok:
            return False
    return True


@pytest.mark.parametrize("tiler", PUBLISHED, ids=NAMES)
@given(width=SIDES, height=SIDES)
@settings(max_examples=30, deadline=None)
def test_tiles_fill_their_grid_in_reading_order(tiler: Any, width: int, height: int) -> None:
    if not takes(tiler, width, height):
        return
    tiling = tiler.tile(width, height)
    columns, rows = tiling.grid
    tiles = [crop for crop in tiling.crops if crop.role in ("tile", "canvas")]
    assert not tiles or [crop.place for crop in tiles] == [(column, row) for row in range(rows) for column in range(columns)]
    assert bool(tiles) or tiling.grid == (1, 1)
    main = tiling.views[0]
    if isinstance(tiler, LlavaNextTiler | InternVlTiler | CanvasTiler):
        assert main.canvas == (columns * tiler.size, rows * tiler.size)
    if isinstance(tiler, MolmoTiler):
        assert main.canvas == (columns * 224 + 112, rows * 224 + 112)
    if isinstance(tiler, LlavaUhdTiler):
        assert not tiles or tiling.grid in tiler.candidates(width, height)
        assert all(side % 14 == 0 for crop in tiling.crops for side in crop.window[2:])
    corners = (*tiling.seen.to(0, 0), *tiling.seen.to(width, height))
    if isinstance(tiler, DualResolutionTiler):  # resized after it was padded: px at the edges show both and are valid
        main, outward = tiling.views[tiling.crops[-1].view], tiling.crops[-1].valid
        assert outward == (*(math.floor(edge + 1e-6) for edge in corners[:2]), *(math.ceil(edge - 1e-6) for edge in corners[2:]))
    else:
        (x, y), (w, h) = main.offset, main.resized
        assert corners == pytest.approx((x, y, x + w, y + h))
    assert (tiling.seen.width, tiling.seen.height) == main.canvas


@pytest.mark.parametrize("tiler", PUBLISHED, ids=NAMES)
@given(width=st.integers(2, 120), height=st.integers(2, 120), grey=st.integers(0, 255))
@settings(max_examples=12, deadline=None)
def test_cut_gives_what_was_promised(tiler: Any, width: int, height: int, grey: int) -> None:
    tiling = tiler.twin().tile(width, height)
    crops = cut(np.full((height, width, 3), grey, np.uint8), tiling)
    assert [(crop.shape, crop.dtype) for crop in crops] == [((3, c.window[3], c.window[2]), np.uint8) for c in tiling.crops]
    for crop, pixels in zip(tiling.crops, crops, strict=True):
        x0, y0, x1, y1 = crop.valid
        inside = pixels[:, y0:y1, x0:x1]
        assert (inside == grey).all() or isinstance(tiler, DualResolutionTiler)  # its views of a padded view blend at the edge
        outside = np.ones(pixels.shape[1:], bool)
        outside[y0:y1, x0:x1] = False
        assert not outside.any() or (pixels[:, outside] == np.array(tiler.fill)[:, None]).all() or isinstance(tiler, DualResolutionTiler)


@pytest.mark.parametrize("tiler", [CattyTiler(), SmartResizeTiler(), MaxSideTiler(), QuadSplitTiler()], ids=lambda tiler: tiler.kind)
@given(width=st.integers(10, 1500), height=st.integers(10, 1500))
@settings(max_examples=40, deadline=None)
def test_a_turned_picture_has_the_turned_grid(tiler: Any, width: int, height: int) -> None:
    """Of these; where grids tie, the others take the first of a list that does not turn."""
    one, other = tiler.tile(width, height), tiler.tile(height, width)
    assert one.grid == other.grid[::-1]
    assert one.views[0].resized == pytest.approx(other.views[0].resized[::-1], abs=1)


def test_a_scene_lands_where_its_box_says() -> None:
    """Each crop of CATTY, cut from a picture that holds its own coordinates, shows the coordinates of its box."""
    across, down = np.meshgrid(np.arange(250), np.arange(150))
    picture = np.stack([across, down, np.zeros_like(across)], -1).astype(np.uint8)
    tiling = CattyTiler(size=84).tile(250, 150)
    for crop, pixels in zip(tiling.crops, cut(picture, tiling), strict=True):
        x0, y0, x1, y1 = source_box(tiling, crop)
        assert pixels[0].mean() == pytest.approx((x0 + x1) / 2 - 0.5, abs=1.2)
        assert pixels[1].mean() == pytest.approx((y0 + y1) / 2 - 0.5, abs=1.2)


# golden numbers, sizes as (width, height)


@pytest.mark.parametrize(
    ("size", "canvas", "resized", "crops", "kept", "tokens"),
    [
        ((1000, 600), (672, 672), (672, 404), 5, (48, 28), 1948),
        ((640, 480), (672, 672), (672, 504), 5, (48, 36), 2340),
        ((336, 336), (672, 336), (336, 336), 3, (24, 24), 1176),
        ((1200, 300), (1008, 336), (1008, 252), 4, (72, 18), 1890),
    ],
)
def test_llava_next(size: Any, canvas: Any, resized: Any, crops: int, kept: tuple[int, int], tokens: int) -> None:
    tiling = LlavaNextTiler().tile(*size)
    assert (tiling.views[0].canvas, tiling.views[0].resized, len(tiling.crops)) == (canvas, resized, crops)
    assert tiling.crops[0].role == "overview" and tiling.crops[0].window == (0, 0, 336, 336)
    x, y = tiling.views[0].offset
    assert ((canvas[0] - resized[0]) // 2, (canvas[1] - resized[1]) // 2) == (x, y)
    # the whole tokens that an unpadding layout keeps lie around the picture, less than two tokens from its edge
    patches = [side / 14 for side in resized]
    assert all(abs(side - whole) < 2 for side, whole in zip(patches, kept, strict=True))
    assert 576 + kept[1] * (kept[0] + 1) == tokens
    left = [crop.valid for crop in tiling.crops[1:]]
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in left) == resized[0] * resized[1]


def test_uhd_scores() -> None:
    expected = {(3, 2): 0, (2, 3): -0.8109, (5, 1): -1.2040, (6, 1): -1.3863, (1, 6): -2.1972, (1, 7): -2.3514}
    assert {grid: round(score(1008, 672, *grid), 4) for grid in expected} == expected
    expected = {(3, 2): -0.1054, (2, 3): -0.9163, (6, 1): -1.2809}
    assert {grid: round(score(1000, 600, *grid), 4) for grid in expected} == expected
    assert score(1008, 672, 6, 1) == pytest.approx(-math.log(4)) and score(1008, 672, 2, 3) == pytest.approx(-2 * math.log(1.5))


@pytest.mark.parametrize(
    ("size", "grid", "tile", "overview"),
    [
        ((1344, 1008), (3, 2), (308, 350), (378, 280)),
        ((672, 672), (2, 2), (336, 336), (336, 336)),
        ((1200, 300), (4, 1), (336, 336), (672, 168)),
        ((1000, 600), (3, 2), (350, 308), (420, 252)),
        ((640, 480), (2, 2), (378, 280), (378, 280)),
        ((800, 600), (3, 2), None, None),
        ((336, 336), (1, 1), None, (336, 336)),
        ((800, 800), (3, 2), None, None),
    ],
)
def test_uhd_release(size: Any, grid: Any, tile: Any, overview: Any) -> None:
    tiling = LlavaUhdTiler().tile(*size)
    assert tiling.grid == grid and tiling.crops[-1].role == "overview"
    assert tile is None or {crop.window[2:] for crop in tiling.crops[:-1]} == {tile}
    assert overview is None or tiling.crops[-1].window == (0, 0, *overview)
    assert (len(tiling.crops) == 1) == (size == (336, 336))


@pytest.mark.parametrize("variant", ["paper", "legacy"])
def test_uhd_by_patches(variant: Any) -> None:
    tiler = LlavaUhdTiler(variant=variant)
    tiling = tiler.tile(1008, 672)
    assert tiling.grid == (3, 2) and [crop.window[2:] for crop in tiling.crops] == [(336, 336)] * 6 + [(406, 266)]
    tiling = tiler.tile(1000, 600)
    assert tiling.grid == (3, 2) and tiling.crops[-1].window[2:] == (30 * 14, 18 * 14)
    assert tiling.crops[0].window[2:] == (25 * 14, 22 * 14)
    assert tiler.tile(640, 480).grid == (2, 2) and tiler.tile(800, 600).grid == (3, 2)
    assert tiler.tile(2000, 300).grid == (7, 1), "one more than N may be taken"


def test_uhd_candidates() -> None:
    assert LlavaUhdTiler(variant="paper").candidates(600, 300) == [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1)]
    assert LlavaUhdTiler(variant="legacy").candidates(600, 300) == [(1, 2), (2, 1), (1, 3), (3, 1)]
    assert LlavaUhdTiler().candidates(600, 300) == [(1, 2), (2, 1), (1, 3), (3, 1)]
    assert LlavaUhdTiler(most=2).candidates(3000, 3000) == [(1, 2), (2, 1)]
    assert LlavaUhdTiler().candidates(336, 336) == []


@pytest.mark.parametrize(
    ("size", "grid", "target", "stride", "crops"),
    [
        ((1000, 600), (4, 2), (1120, 672), (261, 336), 9),
        ((600, 1000), (2, 4), (672, 1120), (336, 261), 9),
        ((1280, 720), (4, 2), (1194, 672), (286, 336), 9),
        ((1010, 1000), (3, 2), (678, 672), (171, 336), 7),
        ((700, 700), (2, 2), (672, 672), (336, 336), 5),
        ((4000, 300), (8, 1), (2688, 336), (336, 336), 9),
        ((300, 4000), (1, 8), (336, 2688), (336, 336), 9),
    ],
)
def test_catty(size: Any, grid: Any, target: Any, stride: Any, crops: int) -> None:
    tiling = CattyTiler().tile(*size)
    assert (tiling.grid, tiling.views[0].resized, len(tiling.crops)) == (grid, target, crops)
    *tiles, thumbnail = tiling.crops
    assert [crop.window for crop in tiles] == [(c * stride[0], r * stride[1], 336, 336) for r in range(grid[1]) for c in range(grid[0])]
    assert thumbnail.role == "overview" and thumbnail.window == (0, 0, 336, 336) and tiling.views[thumbnail.view].of == 0


def test_catty_costs_what_points_costs() -> None:
    block = {"model_type": "clip_vision_model", "hidden_size": 24, "patch_size": 14, "image_size": 336}
    language = {"model_type": "qwen2", "hidden_size": 8}
    model = ModelConfig(
        encoders=[EncoderConfig(config=block)], tiler=CattyTiler(), connector=MlpConnector(merge=2), language_model=LanguageModelConfig(config=language)
    )
    assert model.measure(1000, 600).decoder == 1296
    read_back = ModelConfig.model_validate_json(model.model_dump_json())
    assert read_back == model and read_back.measure(1010, 1000).decoder == 144 * 7


@pytest.mark.parametrize(
    ("size", "most", "grid", "crops"),
    [
        ((1000, 600), 6, (3, 2), 7),
        ((1000, 600), 12, (3, 2), 7),
        ((896, 448), 6, (2, 1), 3),
        ((896, 448), 12, (2, 1), 3),
        ((1120, 448), 6, (3, 1), 4),
        ((1120, 448), 12, (5, 2), 11),
        ((1920, 1080), 6, (2, 1), 3),
        ((1920, 1080), 12, (4, 2), 9),
        ((448, 448), 6, (1, 1), 1),
        ((448, 448), 12, (1, 1), 1),
    ],
)
def test_internvl(size: Any, most: int, grid: Any, crops: int) -> None:
    tiling = InternVlTiler(most=most).tile(*size)
    assert (tiling.grid, len(tiling.crops)) == (grid, crops) and tiling.views[0].resized == (grid[0] * 448, grid[1] * 448)
    assert [crop.role for crop in tiling.crops] == ["tile"] * (crops - 1) + ["overview"]
    assert len(InternVlTiler(most=most, thumbnail=False).tile(*size).crops) == grid[0] * grid[1]


def test_minimum_of_tiles() -> None:
    assert InternVlTiler(least=4, most=6).tile(448, 448).grid == (2, 2)


@pytest.mark.parametrize(
    ("size", "grid", "canvas", "crops", "pooled", "tokens"),
    [
        ((1000, 600), (4, 3), (1008, 784), 13, (36, 28), 1196),
        ((640, 480), (3, 2), (784, 560), 7, (28, 20), 740),
        ((336, 336), (1, 1), (336, 336), 2, (12, 12), 316),
    ],
)
def test_molmo(size: Any, grid: Any, canvas: Any, crops: int, pooled: Any, tokens: int) -> None:
    tiling = MolmoTiler().tile(*size)
    assert (tiling.grid, tiling.views[0].canvas, len(tiling.crops)) == (grid, canvas, crops)
    assert [crop.window[:2] for crop in tiling.crops[1:]] == [(224 * c, 224 * r) for r in range(grid[1]) for c in range(grid[0])]
    assert tiling.crops[0].role == "overview" and tiling.crops[0].window == (0, 0, 336, 336)
    # pooled 2 x 2, outer margins kept: 12 for one crop, else 10 + 8 * (n - 2) + 10; im_col after each row, im_start and im_end around each map
    assert tuple(side // 28 for side in canvas) == pooled == tuple(12 if n == 1 else 20 + 8 * (n - 2) for n in grid)
    assert (12 * 13 + 2) + (pooled[0] + 1) * pooled[1] + 2 == tokens


def test_molmo_of_pictures_within_the_margins() -> None:
    assert MolmoTiler().tile(1000, 100).grid == (1, 1)
    assert MolmoTiler().tile(112, 112).grid == (1, 1)


@pytest.mark.parametrize(
    ("size", "side", "grid", "resized"),
    [
        ((1000, 600), 560, (2, 2), (1000, 600)),
        ((640, 480), 560, (2, 1), (640, 480)),
        ((2000, 500), 560, (4, 1), (2000, 500)),
        ((1920, 1080), 560, (2, 2), (1120, 630)),
        ((300, 200), 560, (1, 1), (560, 373)),
        ((1000, 600), 448, (2, 2), (896, 537)),
        ((2158, 1079), 560, (2, 1), (1119, 560)),
    ],
)
def test_canvas(size: Any, side: int, grid: Any, resized: Any) -> None:
    tiling = CanvasTiler(size=side).tile(*size)
    assert (tiling.grid, tiling.views[0].resized, tiling.views[0].offset) == (grid, resized, (0, 0))
    assert tiling.views[0].canvas == (grid[0] * side, grid[1] * side) and len(tiling.crops) == grid[0] * grid[1]


def test_canvases_are_numbered_as_published() -> None:
    order = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
    assert [(rows, columns) for columns, rows in CanvasTiler().canvases()] == order
    assert CanvasTiler().canvases().index(CanvasTiler().tile(1000, 600).grid) + 1 == 6
    assert CanvasTiler().canvases().index(CanvasTiler().tile(640, 480).grid) + 1 == 2
    assert CanvasTiler().canvases().index(CanvasTiler().tile(2000, 500).grid) + 1 == 4


@pytest.mark.parametrize(
    ("size", "resized", "tokens"),
    [((1000, 600), (1008, 588), 756), ((640, 480), (644, 476), 391), ((1920, 1080), (1316, 728), 1222), ((42, 70), (56, 56), 4), ((28, 28), (56, 56), 4)],
)
def test_smart_resize(size: Any, resized: Any, tokens: int) -> None:
    [crop] = SmartResizeTiler().tile(*size).crops
    assert crop.window == (0, 0, *resized) and resized[0] * resized[1] // 28**2 == tokens


def test_smart_resize_of_the_checkpoints() -> None:
    assert SmartResizeTiler(max_pixels=12_845_056).tile(1920, 1080).views[0].resized == (1932, 1092)
    assert 1932 * 1092 // 28**2 == 2691


@pytest.mark.parametrize(
    ("size", "resized", "tokens"),
    [((1000, 600), (1008, 608), 2432), ((1920, 1080), (1024, 576), 2340), ((128, 64), (128, 64), 36), ((512, 512), (512, 512), 1056)],
)
def test_max_side(size: Any, resized: Any, tokens: int) -> None:
    [crop] = MaxSideTiler().tile(*size).crops
    columns, rows = resized[0] // 16, resized[1] // 16
    assert crop.window == (0, 0, *resized) and rows * (columns + 1) == tokens


@pytest.mark.parametrize(
    ("size", "resized", "patches"),
    [((1000, 600), (980, 588), (70, 42)), ((640, 480), (640, 480), (45, 34)), ((300, 200), (378, 378), (27, 27)), ((4000, 3000), (980, 735), (70, 52))],
)
def test_quad_split(size: Any, resized: Any, patches: Any) -> None:
    [crop] = QuadSplitTiler(split=False).tile(*size).crops
    assert crop.window == (0, 0, *resized) and (resized[0] // 14, resized[1] // 14) == patches
    tiling = QuadSplitTiler().tile(*size)
    assert [crop.role for crop in tiling.crops] == ["tile"] * 4 + ["overview"] and tiling.crops[-1].window == crop.window
    half = QuadSplitTiler(split=False).tile(size[0] // 2, size[1] // 2).crops[0].window
    assert all(tile.window == half for tile in tiling.crops[:-1])


def test_quarters_of_an_odd_picture() -> None:
    tiling = QuadSplitTiler().tile(901, 701)
    assert [tiling.views[crop.view].source for crop in tiling.crops] == [(0, 0, 450, 350), (450, 0, 901, 350), (0, 350, 450, 701), (450, 350, 901, 701), None]


def test_dual_resolution() -> None:
    tiling = DualResolutionTiler().tile(1000, 600)
    assert [(crop.role, crop.window[2:]) for crop in tiling.crops] == [("overview", (336, 336)), ("detail", (768, 768))]
    assert [(view.canvas, view.of) for view in tiling.views] == [((1000, 1000), None), ((768, 768), 0), ((336, 336), 1)]
    assert [crop.view for crop in tiling.crops] == [2, 1] and tiling.crops[1].valid == (0, 153, 768, 615) and tiling.crops[0].valid == (0, 66, 336, 270)
    tiling = DualResolutionTiler(detail=1536, cells=2).tile(1000, 600)
    assert [crop.role for crop in tiling.crops] == ["overview", "tile", "tile", "tile", "tile", "detail"]
    assert sum(crop.window[2] * crop.window[3] // 14**2 for crop in tiling.crops if crop.role != "detail") == 2880
    assert [(view.canvas, view.of) for view in tiling.views] == [((1000, 1000), None), ((1536, 1536), 0), ((672, 672), 1), ((336, 336), 2)]
    assert tiling.grid == (2, 2) and [crop.view for crop in tiling.crops] == [3, 2, 2, 2, 2, 1]
    square = DualResolutionTiler(detail=1536, cells=2).tile(600, 600)
    assert [view.of for view in square.views] == [None, 0, 1] and [crop.view for crop in square.crops] == [2, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("size", [(90, 61), (41, 90), (64, 64)])
def test_both_resolutions_show_one_padded_square(size: tuple[int, int]) -> None:
    """Pixel by pixel: the detail is what `whole` makes, the tiles and the overview are that, resampled."""
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    overview, *tiles, detail = cut(picture, DualResolutionTiler(size=24, detail=80, cells=2).tile(*size))
    assert np.array_equal(detail, cut(picture, WholeTiler(size=80).tile(*size))[0])
    both = Image.fromarray(detail.transpose(1, 2, 0)).resize((48, 48), Image.Resampling.BILINEAR)
    parts = [np.asarray(both)[y : y + 24, x : x + 24].transpose(2, 0, 1) for y in (0, 24) for x in (0, 24)]
    assert all(np.array_equal(tile, part) for tile, part in zip(tiles, parts, strict=True))
    assert np.array_equal(overview, np.asarray(both.resize((24, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1))


# what is refused


def test_shapes_that_cannot_be_taken() -> None:
    with pytest.raises(Refused, match=r"model/picture-shape at tiler\n  found:   a picture of 2010x10 px\n  allowed: sides of at most 200:1"):
        SmartResizeTiler().tile(2010, 10)
    assert SmartResizeTiler().tile(2000, 10).crops
    with pytest.raises(Refused, match=r"found:   a picture of 1x300 px\n  allowed: sides of at least 2 px"):
        QuadSplitTiler().tile(1, 300)
    assert QuadSplitTiler(split=False).tile(1, 300).crops


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("llava-next", {"size": 300}, "pinpoints must be multiples of size 300, found 672x336"),
        ("llava-next", {"pinpoints": []}, "at least 1 item"),
        ("llava-next", {"pinpoints": [[0, 336]]}, "greater than or equal to 1"),
        ("llava-uhd", {"size": 330}, "size 330 is not a multiple of patch 14"),
        ("llava-uhd", {"variant": "new"}, "'release', 'paper' or 'legacy'"),
        ("internvl", {"least": 7, "most": 6}, "least 7 is more than most 6"),
        ("molmo", {"margin": 168}, "two margins of 168 leave nothing of size 336"),
        ("smart-resize", {"min_pixels": 700}, r"found 784, 700, 1003520"),
        ("smart-resize", {"max_pixels": 3000}, r"found 784, 3136, 3000"),
        ("quad-split", {"shortest": 981}, "shortest 981 is more than longest 980"),
        ("dual-resolution", {"cells": 3}, "detail 768 is less than size 336 x cells 3"),
    ],
)
def test_impossible_settings(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TILER.parse({"kind": kind, **options})


def test_the_table_holds_every_kind() -> None:
    kinds = {tiler.kind for tiler in (*PUBLISHED, WholeTiler(size=1))}
    assert kinds == set(TILER.table())
    assert all(TILER.parse(tiler.model_dump(mode="json")) == tiler for tiler in PUBLISHED)


@pytest.mark.parametrize("tiler", PUBLISHED, ids=NAMES)
def test_twins_are_small_and_valid(tiler: Any) -> None:
    twin = tiler.twin()
    assert TILER.parse(twin.model_dump(mode="json")) == twin and twin.roles == tiler.roles and twin.twin() == twin
    assert all(max(crop.window[2:]) <= 136 for crop in twin.tile(300, 200).crops)
