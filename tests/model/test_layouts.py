"""Layouts: golden counts of the published systems, and for any size of picture that every entry stands where it must, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.model.layout_kinds.merged_layout import MergedLayout
from sightline.model.layout_kinds.rows_layout import RowsLayout
from sightline.model.layout_kinds.separated_layout import SeparatedLayout
from sightline.model.layout_kinds.tagged_layout import TaggedLayout
from sightline.model.layout_kinds.wrapped_layout import WrappedLayout
from sightline.model.layout_table import LAYOUT
from sightline.model.layouts import FlatLayout, Layout, positions
from sightline.model.pieces import Control, Piece, Slots, StreamName, Words
from sightline.model.tilers.aspect_grids import CattyTiler, InternVlTiler
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tilers.margins import MolmoTiler
from sightline.model.tilers.native import MaxSideTiler, QuadSplitTiler, SmartResizeTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tilers.slices import LlavaUhdTiler
from sightline.model.tilers.two_resolutions import DualResolutionTiler
from sightline.model.tiling import Grid, Tiling, WholeTiler

MOLMO = RowsLayout(begin="<im_start>", row_end="<im_col>", end="<im_end>")
PIXTRAL = RowsLayout(row_end="[IMG_BREAK]", end="[IMG_END]", last_row="end")
QWEN = FlatLayout(begin="<|vision_start|>", end="<|vision_end|>", film_as="block")


def decoder(role: str) -> StreamName:
    return "decoder"


def memory(role: str) -> StreamName:
    return "memory"


def hybrid(role: str) -> StreamName:
    return "decoder" if role == "overview" else "memory"


def grids_of(tiling: Tiling, cell: int, lead: int = 0) -> list[Grid]:
    """Grids of an encoder and connector whose tokens are cells of this many px; a detail is consumed by a combine."""
    none = Grid(columns=0, rows=0)
    return [none if c.role == "detail" else Grid(columns=c.window[2] // cell, rows=c.window[3] // cell, lead=lead) for c in tiling.crops]


def laid(layout: Layout, tiler: Any, size: tuple[int, int], cell: int, route: Callable[[str], StreamName] = decoder, lead: int = 0) -> list[Piece]:
    tiling = tiler.tile(*size)
    return layout.pieces(3, tiling, grids_of(tiling, cell, lead), route)


def entries(pieces: Sequence[Piece]) -> list[int]:
    return [entry for piece in pieces if isinstance(piece, Slots) for entry in piece.entries]


def words(pieces: Sequence[Piece]) -> list[str]:
    return [piece.text for piece in pieces if isinstance(piece, Words)]


def shape(pieces: Sequence[Piece]) -> list[str | int]:
    """Texts, tokens, and numbers of entries."""
    return [len(piece.entries) if isinstance(piece, Slots) else piece.text if isinstance(piece, Words) else piece.token for piece in pieces]


# golden numbers, sizes as (width, height)


@pytest.mark.parametrize(
    ("size", "rows", "columns", "tokens"), [((1000, 600), 28, 48, 1948), ((640, 480), 36, 48, 2340), ((336, 336), 24, 24, 1176), ((1200, 300), 18, 72, 1890)]
)
def test_llava_next(size: Any, rows: int, columns: int, tokens: int) -> None:
    overview, whole = laid(MergedLayout(), LlavaNextTiler(), size, 14)
    assert isinstance(overview, Slots) and isinstance(whole, Slots) and overview.entries == range(576)
    assert whole.grid == Grid(columns=columns + 1, rows=rows) and positions([overview, whole]) == tokens
    assert [index for index, entry in enumerate(whole.entries) if entry < 0] == list(range(columns, (columns + 1) * rows, columns + 1))
    assert set(whole.entries) & set(range(576)) == set() and MergedLayout().vectors == ("newline",)


def test_a_picture_without_tiles_is_followed_by_one_newline() -> None:
    pieces = laid(MergedLayout(), WholeTiler(size=336), (500, 300), 14)
    assert positions(pieces) == 577 and entries(pieces) == [*range(576), -1]
    assert positions(laid(MergedLayout(newline=False), WholeTiler(size=336), (500, 300), 14)) == 576


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_llava_next_keeps_the_entries_that_transformers_keeps(width: int, height: int) -> None:
    import torch
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    tiling = LlavaNextTiler().tile(width, height)
    columns, rows = tiling.grid
    tiles = torch.arange(576, 576 * (1 + columns * rows)).view(rows, columns, 24, 24).permute(0, 2, 1, 3).reshape(1, rows * 24, columns * 24)
    kept = unpad_image(tiles, (height, width))
    theirs = torch.cat([kept, torch.full((1, kept.shape[1], 1), -1)], dim=2).flatten().tolist()
    assert entries(laid(MergedLayout(), LlavaNextTiler(), (width, height), 14)) == [*range(576), *theirs]


def test_ferret_v2() -> None:
    layout, tiler = MergedLayout(unpad=False, newline=False), LlavaNextTiler(pinpoints=((1008, 672), (672, 672), (336, 336)))
    assert positions(laid(layout, tiler, (1000, 600), 14)) == 576 + 3456
    assert layout.vectors == () and sorted(entries(laid(layout, tiler, (1000, 600), 14))) == list(range(576 * 7))


def test_llava_uhd() -> None:
    tiling = LlavaUhdTiler(variant="paper").tile(1008, 672)
    for queries, tokens, total in ((64, 448, 454), (144, 1008, 1014)):
        pieces = SeparatedLayout().pieces(0, tiling, [Grid(columns=0, rows=0, lead=queries)] * 7, decoder)
        assert words(pieces) == [",", ",", "\n", ",", ",", "\n"]  # each one token of Llama's vocabulary
        assert positions(pieces) == tokens and positions(pieces) + len(words(pieces)) == total
        assert isinstance(pieces[-1], Slots) and pieces[-1].crop == 6 and tiling.crops[6].role == "overview"
        assert entries(pieces) == list(range(tokens))
    assert shape(laid(SeparatedLayout(), LlavaUhdTiler(), (336, 336), 14)) == [576]


def test_nvlm() -> None:
    tags = [*(f"<tile_{number}>" for number in range(1, 7)), "<tile_global_thumbnail>"]
    tiler = InternVlTiler(most=6)
    d = laid(TaggedLayout(), tiler, (1000, 600), 28)
    assert shape(d) == ["<Image>", *(part for tag in tags for part in (tag, 256)), "</Image>"]
    assert (
        positions(d) == 1792 and all(piece.stream == "decoder" for piece in d) and not any(isinstance(piece, Words) and piece.sees is not None for piece in d)
    )
    x = laid(TaggedLayout(tags="decoder"), tiler, (1000, 600), 28, memory)
    assert shape(x) == shape(d) and positions(x) == 0 and positions(x, "memory") == 1792
    assert [(piece.text, piece.sees) for piece in x if isinstance(piece, Words)] == [("<Image>", None), *zip(tags, range(7)), ("</Image>", None)]
    assert {piece.stream for piece in x if isinstance(piece, Words)} == {"decoder"}
    h = laid(TaggedLayout(), tiler, (1000, 600), 28, hybrid)
    assert shape(h) == shape(d) and positions(h) == 256 and positions(h, "memory") == 1536
    assert [piece.text for piece in h if isinstance(piece, Words) and piece.stream == "decoder"] == ["<Image>", "<tile_global_thumbnail>", "</Image>"]
    assert [piece.sees for piece in h if isinstance(piece, Words) and piece.stream == "memory"] == list(range(6))
    assert shape(laid(TaggedLayout(), tiler, (448, 448), 28)) == ["<Image>", "<tile_global_thumbnail>", 256, "</Image>"]
    paper = TaggedLayout(overview="<tile_global>")
    assert words(laid(paper, tiler, (896, 448), 28)) == ["<Image>", "<tile_1>", "<tile_2>", "<tile_global>", "</Image>"]


@pytest.mark.parametrize(("size", "columns", "rows", "tokens"), [((1000, 600), 36, 28, 1196), ((640, 480), 28, 20, 740), ((336, 336), 12, 12, 316)])
def test_molmo(size: Any, columns: int, rows: int, tokens: int) -> None:
    pieces = laid(MOLMO, MolmoTiler(), size, 28)
    assert positions(pieces) == tokens
    assert shape(pieces) == [*block(12, 12), *block(columns, rows)]
    assert [piece.token for piece in pieces if isinstance(piece, Control)].count("<im_col>") == 12 + rows
    fine = laid(MOLMO, MolmoTiler(), size, 14)  # patches before pooling: margins of four
    assert shape(fine) == [*block(24, 24), *block(2 * columns, 2 * rows)]


def block(columns: int, rows: int) -> list[str | int]:
    return ["<im_start>", *[columns, "<im_col>"] * rows, "<im_end>"]


@given(width=st.integers(1, 3000), height=st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_rows_of_overlapping_crops_are_the_rows_of_their_canvas(width: int, height: int) -> None:
    tiling = MolmoTiler().tile(width, height)
    canvas = tiling.views[0].canvas
    places = [  # of the centre of each entry, px of the canvas
        (crop.window[0] + 28 * column + 14, crop.window[1] + 28 * row + 14) for crop in tiling.crops for row in range(12) for column in range(12)
    ]
    seen = entries(MOLMO.pieces(0, tiling, grids_of(tiling, 28), decoder))
    assert seen[:144] == list(range(144))
    assert [places[entry] for entry in seen[144:]] == [(x, y) for y in range(14, canvas[1], 28) for x in range(14, canvas[0], 28)]


@pytest.mark.parametrize(
    ("size", "columns", "rows", "tokens"), [((1000, 600), 63, 38, 2432), ((1920, 1080), 64, 36, 2340), ((128, 64), 8, 4, 36), ((512, 512), 32, 32, 1056)]
)
def test_pixtral(size: Any, columns: int, rows: int, tokens: int) -> None:
    pieces = laid(PIXTRAL, MaxSideTiler(), size, 16)
    assert shape(pieces) == [*[columns, "[IMG_BREAK]"] * (rows - 1), columns, "[IMG_END]"] and positions(pieces) == tokens
    assert entries(pieces) == list(range(columns * rows)) and PIXTRAL.controls == ("[IMG_BREAK]", "[IMG_END]")


def test_idefics2() -> None:
    tiling, wrap = QuadSplitTiler().tile(1000, 600), "<fake_token_around_image>"
    pieces = WrappedLayout().pieces(0, tiling, [Grid(columns=0, rows=0, lead=64)] * 5, decoder)
    assert shape(pieces) == [wrap, 64, wrap] * 5 and positions(pieces) == 5 * 64 + 6
    assert positions([*pieces, *pieces]) == 10 * 64 + 11  # wraps of adjacent pictures meet too
    assert positions([*pieces, Words(text=" and "), *pieces]) == 10 * 64 + 12


def test_llama_3_vision() -> None:
    pieces = laid(FlatLayout(token="<|image|>"), CanvasTiler(), (1000, 600), 14, memory, lead=1)
    assert shape(pieces) == [1601] * 4 + ["<|image|>"] and positions(pieces) == 1 and positions(pieces, "memory") == 4 * 1601
    assert entries(pieces) == list(range(4 * 1601)) and [piece.crop for piece in pieces if isinstance(piece, Slots)] == [0, 1, 2, 3]
    assert all(piece.grid is None for piece in pieces if isinstance(piece, Slots))  # with a class token they are no raster


@pytest.mark.parametrize(("size", "columns", "rows"), [((1000, 600), 36, 21), ((640, 480), 23, 17), ((1920, 1080), 47, 26), ((70, 42), 2, 2)])
def test_qwen2_vl(size: Any, columns: int, rows: int) -> None:
    start, slots, end = laid(QWEN, SmartResizeTiler(), size, 28)
    assert (start, end) == (Control(token="<|vision_start|>", around=True), Control(token="<|vision_end|>", around=True))
    assert slots == Slots(picture=3, entries=range(columns * rows), grid=Grid(columns=columns, rows=rows), crop=0)


def test_points_mini_gemini_and_internvl_are_flat() -> None:
    assert positions(laid(FlatLayout(), CattyTiler(), (1000, 600), 28)) == 1296
    assert shape(laid(FlatLayout(), DualResolutionTiler(detail=1536, cells=2), (500, 300), 14)) == [576] * 5
    wrapped = laid(FlatLayout(begin="<img>", end="</img>"), InternVlTiler(most=6), (1000, 600), 28)
    assert shape(wrapped) == ["<img>", *[256] * 7, "</img>"] and positions(wrapped) == 1792
    assert shape(laid(FlatLayout(before="<Img>", after="</Img> "), WholeTiler(size=224), (9, 9), 14)) == ["<Img>", 256, "</Img> "]


def test_where_the_overview_stands() -> None:
    last, first = (laid(FlatLayout(order=order), InternVlTiler(), (896, 448), 28) for order in ("overview-last", "overview-first"))
    assert [piece.crop for piece in last if isinstance(piece, Slots)] == [0, 1, 2]
    assert [piece.crop for piece in first if isinstance(piece, Slots)] == [2, 0, 1] and entries(first) == [*range(512, 768), *range(512)]


# films


def test_frames_of_a_film_stand_after_their_texts() -> None:
    tiling = WholeTiler(size=28).tile(30, 20)
    layout = FlatLayout(frame_text="Frame at {time} s: ", begin="<img>", end="</img>")
    pieces = layout.film([4, 7], [0.0, 1.25], [tiling] * 2, [grids_of(tiling, 14)] * 2, decoder)
    assert shape(pieces) == ["Frame at 0.0 s: ", "<img>", 4, "</img>", "Frame at 1.2 s: ", "<img>", 4, "</img>"]
    assert [piece.picture for piece in pieces] == [4] * 4 + [7] * 4
    wraps = WrappedLayout().film([0, 1], [0, 1], [tiling] * 2, [grids_of(tiling, 14)] * 2, decoder)
    assert positions(wraps) == 4 + 4 + 3


def test_a_block_of_frames_is_one_grid_in_time() -> None:
    tiling = SmartResizeTiler().tile(84, 56)
    start, slots, end = QWEN.film([2, 3, 4], [0, 1, 2], [tiling] * 3, [grids_of(tiling, 28)] * 3, decoder)
    assert isinstance(start, Control) and isinstance(end, Control) and start.picture == end.picture == 2
    assert slots == Slots(picture=2, entries=range(18), grid=Grid(columns=3, rows=2), frames=3, crop=0)


def test_a_block_has_frames_of_one_size() -> None:
    tilings = [SmartResizeTiler().tile(84, 56), SmartResizeTiler().tile(56, 84)]
    with pytest.raises(
        Refused, match=r"model/layout-misfit at layout\.film_as\n  found:   frames of 2x3, 3x2 tokens\n  allowed: frames of one crop each, all of one size"
    ):
        QWEN.film([0, 1], [0, 1], tilings, [grids_of(tiling, 28) for tiling in tilings], decoder)
    many = InternVlTiler().tile(896, 448)
    with pytest.raises(Refused, match=r"found:   frames of 16x16 \+ 16x16 \+ 16x16 tokens"):
        QWEN.film([0], [0], [many], [grids_of(many, 28)], decoder)


# any size


TILERS: list[tuple[Any, int]] = [
    (WholeTiler(size=336), 56),
    (LlavaNextTiler(), 56),
    (LlavaUhdTiler(), 14),
    (LlavaUhdTiler(variant="legacy"), 14),
    (CattyTiler(), 56),
    (InternVlTiler(), 56),
    (InternVlTiler(least=2, most=6, thumbnail=False), 56),
    (MolmoTiler(), 56),
    (CanvasTiler(), 56),
    (SmartResizeTiler(max_pixels=501_760), 28),
    (MaxSideTiler(size=512), 16),
    (QuadSplitTiler(longest=504), 42),
    (DualResolutionTiler(), 56),
    (DualResolutionTiler(detail=1536, cells=2), 56),
]
STREAMS: tuple[StreamName, ...] = ("decoder", "memory")
SIDES = st.integers(20, 2000)
LAYOUTS: list[Layout] = [
    FlatLayout(token="t", begin="b", end="e", before="x", after="y"),
    FlatLayout(order="overview-last"),
    SeparatedLayout(),
    TaggedLayout(),
    WrappedLayout(),
]


@pytest.mark.parametrize(("tiler", "cell"), TILERS, ids=[f"{tiler.kind}-{number}" for number, (tiler, _) in enumerate(TILERS)])
@given(width=SIDES, height=SIDES, route=st.sampled_from([decoder, memory, hybrid]), lead=st.integers(0, 1))
@settings(max_examples=12, deadline=None)
def test_layouts_that_use_all_use_each_entry_once(tiler: Any, cell: int, width: int, height: int, route: Any, lead: int) -> None:
    tiling = tiler.tile(width, height)
    grids = grids_of(tiling, cell, lead)
    total = sum(grid.count for grid in grids)
    for layout in LAYOUTS:
        pieces = layout.pieces(0, tiling, grids, route)
        assert sorted(entries(pieces)) == list(range(total))
        for stream in STREAMS:
            counted = sum(grid.count for crop, grid in zip(tiling.crops, grids) if route(crop.role) == stream)
            written = [piece for piece in pieces if isinstance(piece, Control) and piece.stream == stream and not piece.around]
            met = sum(a == b for a, b in pairwise(pieces) if isinstance(a, Control) and a.stream == stream)  # equal wraps that meet are one
            assert positions(pieces, stream) == counted + len(written) - met
        assert {piece.token for piece in pieces if isinstance(piece, Control)} <= set(layout.controls)


@pytest.mark.parametrize(("tiler", "cell"), TILERS, ids=[f"{tiler.kind}-{number}" for number, (tiler, _) in enumerate(TILERS)])
@given(width=SIDES, height=SIDES)
@settings(max_examples=12, deadline=None)
def test_maps_hold_what_tiles_do_not_share_once(tiler: Any, cell: int, width: int, height: int) -> None:
    """`merged` without unpadding and `rows` use every entry once, but for halved overlaps; tiles that do not form a map are refused."""
    tiling = tiler.tile(width, height)
    grids = grids_of(tiling, cell)
    total = sum(grid.count for grid in grids)
    try:
        merged, padded, rows = (layout.pieces(0, tiling, grids, decoder) for layout in (MergedLayout(), MergedLayout(unpad=False, newline=False), MOLMO))
    except Refused as refused:
        assert isinstance(tiler, CattyTiler | QuadSplitTiler), refused
        assert "overlap by" in str(refused) if isinstance(tiler, CattyTiler) else "tiles of different sizes" in str(refused)
        return
    assert entries(padded) == entries(rows) and len(set(entries(padded))) == len(entries(padded))
    assert set(entries(padded)) <= set(range(total)) and (isinstance(tiler, MolmoTiler | CattyTiler) or len(entries(padded)) == total)
    kept = [entry for entry in entries(merged) if entry >= 0]
    assert len(set(kept)) == len(kept) and set(kept) <= set(entries(padded))
    if any(crop.role != "overview" and grid.count for crop, grid in zip(tiling.crops, grids)):
        assert [entry for entry in entries(padded) if entry in set(kept)] == kept  # in the same order
    for piece in merged:  # thin pictures may keep no row at all
        assert not isinstance(piece, Slots) or -1 not in piece.entries or piece.grid is None or piece.entries.count(-1) == piece.grid.rows


# what does not fit, and the table


def test_class_tokens_and_queries_are_no_map() -> None:
    with pytest.raises(
        Refused, match=r"model/layout-misfit at layout\.kind\n  found:   577 tokens of a crop with class tokens or queries among them.*\n  allowed: .*raster"
    ):
        laid(MOLMO, WholeTiler(size=336), (9, 9), 14, lead=1)
    tiling = LlavaNextTiler().tile(900, 900)
    with pytest.raises(Refused, match="64 tokens of a crop with class tokens or queries"):
        MergedLayout().pieces(0, tiling, [Grid(columns=0, rows=0, lead=64)] * len(tiling.crops), decoder)


def test_overlaps_that_no_cell_ends_in_the_middle_of_are_refused() -> None:
    with pytest.raises(Refused, match=r"tiles of 336 px and 12 cells that overlap by 75 px\n  allowed: an overlap of an even number of cells"):
        laid(MOLMO, CattyTiler(), (1000, 600), 28)


def test_tiles_that_do_not_fill_their_grid_are_refused() -> None:
    tiling = InternVlTiler().tile(896, 448)
    grids = grids_of(tiling, 28)
    with pytest.raises(Refused, match=r"1 crops on a grid of 2x1\n  allowed: one tile for each place"):
        MergedLayout().pieces(0, tiling, [Grid(columns=0, rows=0), *grids[1:]], decoder)


@pytest.mark.parametrize(
    "layout",
    [MOLMO, PIXTRAL, QWEN, MergedLayout(unpad=False), SeparatedLayout(between=";"), TaggedLayout(tags="decoder"), WrappedLayout(wrap="<w>")],
    ids=lambda one: one.kind,
)
def test_a_layout_is_found_by_its_kind(layout: Layout) -> None:
    said = json.loads(layout.model_dump_json())
    assert LAYOUT.parse(said) == layout and layout.twin() == layout
    assert len(set(layout.controls)) == len(layout.controls)


def test_the_table() -> None:
    assert sorted(LAYOUT.table()) == ["flat", "merged", "rows", "separated", "tagged", "wrapped"]
