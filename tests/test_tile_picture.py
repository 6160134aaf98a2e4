"""Tilings of a recipe's model in numbers and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import Refused
from sightline.model.assembly import TokenizerConfig
from sightline.model.tilers.aspect_grids import CattyTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tiling import Tiler, WholeTiler
from sightline.samples.pictures import MAX_PIXELS
from sightline.tile_picture import COLOURS, chosen_model, draw_tiles, read_sizes, resized_picture, tile_rows, write_drawing

CATTY = "model.tiler={kind: catty, size: 32}"


@pytest.fixture
def toy(repository: Path) -> Path:
    """A recipe at the size of a toy."""
    return repository / "tests" / "recipes" / "tiny.yaml"


def test_the_quickstart() -> None:
    [row] = tile_rows(chosen_model("quickstart"), [(1000, 600)])
    assert row.record() == {
        "size": (1000, 600),
        "grid": (1, 1),
        "resized": (96, 96),
        "tiles": 1,
        "boxes": [(0.0, 0.0, 1000.0, 600.0)],
        "roles": ["overview"],
        "tokens": 36,
    }


def test_a_tiler_with_overlaps(toy: Path) -> None:
    model = chosen_model(toy, [CATTY])
    wide, tall = tile_rows(model, [(1000, 600), (600, 1000)])
    assert (wide.grid, wide.resized, wide.tiles) == ((4, 2), (106, 64), 9)
    across = 1000 / 106
    assert wide.boxes[1] == pytest.approx((24 * across, 0, 56 * across, 300), abs=0.01)
    assert wide.boxes[-1] == (0, 0, 1000, 600) and wide.roles == ["tile"] * 8 + ["overview"]
    assert wide.tokens == sum(grid.count for grid in model.measure(1000, 600).grids) == 9 * model.measure(1000, 600).grids[0].count
    assert tall.boxes[1] == pytest.approx((300, 0, 600, 1000 * 32 / 106), abs=0.01)
    assert wide.cells() == ("1000x600", "4x2", "106x64", "9 (8 tile, 1 overview)", str(wide.tokens))


@pytest.mark.parametrize(
    ("tiler", "size", "resized"),
    [
        (WholeTiler(size=32), (1000, 600), (32, 19)),
        (WholeTiler(size=32), (1, 20_000), (1, 32)),
        (WholeTiler(size=32), (1, 4000), (1, 32)),
        (WholeTiler(size=32, fit="crop"), (1000, 600), (53, 32)),
        (DualResolutionTiler(size=32, detail=96, cells=2), (1000, 600), (96, 58)),
        (LlavaNextTiler(), (1000, 600), (672, 404)),
    ],
)
def test_the_size_that_is_said_leaves_padding_apart(tiler: Tiler, size: tuple[int, int], resized: tuple[int, int]) -> None:
    assert resized_picture(tiler.tile(*size)) == resized


def test_which_model(toy: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    own = chosen_model(toy).model_copy(update={"tokenizer": TokenizerConfig()})
    text = json.dumps(own.model_dump(mode="json", exclude={"tokenizer"}))
    both.write_text(f"name: both\nmodels:\n  one: {text}\n  two: {text}\n  blind: {{}}\n")
    with pytest.raises(
        Refused, match=r"usage/model at .*both.yaml\n  found:   2 models that see pictures\n  allowed: one, two\n  fix:     name one with --model"
    ):
        chosen_model(both)
    assert chosen_model(both, name="two") == own
    with pytest.raises(Refused, match=r"found:   no model 'blind' that sees pictures\n  allowed: one, two"):
        chosen_model(both, name="blind")


def test_sizes(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text('[[640, 480], "30x20"]')
    assert read_sizes(["1000x600"], file) == [(1000, 600), (640, 480), (30, 20)]
    file.write_text('[[640, 0], [1], 7, [true, 3], "3x4"]')
    with pytest.raises(Refused) as refused:
        read_sizes(["1000x", "99999x99999"], file)
    assert [(problem.place, problem.found) for problem in refused.value.problems] == [
        ("--size", '"1000x"'),
        ("--size", '"99999x99999"'),
        (f"{file}:0", "[640, 0]"),
        (f"{file}:1", "[1]"),
        (f"{file}:2", "7"),
        (f"{file}:3", "[true, 3]"),
    ]
    assert refused.value.problems[0].allowed == f"WIDTHxHEIGHT or [WIDTH, HEIGHT], whole numbers above 0, at most {MAX_PIXELS} px"


@pytest.mark.parametrize(("text", "found"), [("{}", "{}"), ("[]", r"\[\]"), ("[1", "Expecting")])
def test_files_of_sizes_that_are_none(text: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(text)
    with pytest.raises(Refused, match=rf"usage/sizes at .*sizes.json\n  found:   {found}.*\n  allowed: a JSON list of sizes"):
        read_sizes([], file)
    with pytest.raises(Refused, match="No such file"):
        read_sizes([], tmp_path / "absent.json")


def test_all_sizes_that_a_model_cannot_take_are_told(toy: Path) -> None:
    model = chosen_model(toy, ["model.tiler={kind: smart-resize, factor: 16}"])
    with pytest.raises(Refused) as refused:
        tile_rows(model, [(201, 1), (64, 64), (1, 300)])
    assert [problem.found for problem in refused.value.problems] == ["a picture of 201x1 px", "a picture of 1x300 px"]


def test_a_drawing_shows_every_box_and_every_crop() -> None:
    picture = np.full((60, 100, 3), 255, np.uint8)
    picture[:, 50:] = 0
    tiling = CattyTiler(size=32).tile(100, 60)
    drawn = np.asarray(draw_tiles(picture, tiling))
    red, blue = ((drawn == COLOURS[role]).all(2) for role in ("tile", "overview"))
    left = red[16 : 16 + 336, 16 : 16 + 560]  # 560 px stand for 100
    edges = [round(x * 560 / 106) for x in (24, 48, 72)]
    assert all(left[2:160, edge].mean() > 0.8 for edge in edges) and left[2:160, 20].mean() < 0.3
    # overlaps are tinted twice: the picture is white there
    shade = drawn[30, [16 + 60, 16 + round(28 * 560 / 106)], 1].astype(int)
    assert 255 > shade[0] > shade[1] + 10
    assert blue[:, : 16 + 560].sum() == 0 and blue[:, 16 + 560 :].sum() > 4 * 100, "an overview stands on the sheet alone"


@pytest.mark.parametrize(
    "kind", ["whole, size: 32", "quad-split, longest: 64, shortest: 32", "molmo, size: 48, margin: 8", "llava-uhd, size: 28, variant: legacy"]
)
@pytest.mark.parametrize("size", [(100, 60), (3, 90)])
def test_drawings_of_any_tiler(kind: str, size: tuple[int, int], toy: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiles.png"
    write_drawing(file, [("toy", chosen_model(toy, [f"model.tiler={{kind: {kind}}}"]))], size, None)
    with Image.open(file) as drawn:
        assert drawn.format == "PNG" and drawn.width > 150 and len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 3


def test_a_drawing_that_cannot_be_written(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"usage/out at .*tiles.png\n  found:   .*No such file"):
        write_drawing(tmp_path / "absent" / "tiles.png", [("toy", chosen_model(toy))], (8, 8), None)
