"""Windows and merging: with an answerer that knows, every object comes back once, wherever the seams are; and what the rules do with boxes that are off."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotated_scene import LABELS, boxes, objects, oracle, scene_file
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.evaluate.answers import AnswerFile
from sightline.evaluate.localisation import overlaps
from sightline.refine.annotate import AnnotateConfig, Annotated, annotate
from sightline.refine.scene_merging import MergeConfig, Piece, merge_pieces
from sightline.refine.scene_reading import opened_scene
from sightline.samples.geometry import canonical, mask_area
from sightline.samples.sample import Region, RotatedBox

ROW = [(0.0, 0.0, 64.0, 64.0), (40.0, 0.0, 104.0, 64.0), (80.0, 0.0, 144.0, 64.0)]
SIZE = (144, 64)


def annotated(path: Path, truth: list[Region], window: int, overlap: int, rate: float = 1.0) -> Annotated:
    """A scene annotated by the answerer that knows."""
    with opened_scene(path) as scene, tempfile.TemporaryDirectory() as folder:
        config = AnnotateConfig(labels=LABELS, window=window, overlap=overlap, rate=rate)
        return annotate(scene, oracle(truth), AnswerFile(Path(folder) / "answers.jsonl"), config)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), window=st.integers(48, 100), share=st.floats(0.3, 0.6), width=st.integers(50, 260), height=st.integers(50, 260))
def test_every_object_smaller_than_the_overlap_comes_back_once(seed: int, window: int, share: float, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    overlap = int(share * window)
    truth = objects(rng, width, height, 60, overlap - 2 * MergeConfig().edge)
    with tempfile.TemporaryDirectory() as folder:
        found = annotated(scene_file(Path(folder), rng, width, height), truth, window, overlap)
    for label in LABELS:
        true, told = boxes(truth, label), boxes(found.regions, label)
        assert len(told) == len(true), found.counts
        assert (overlaps(true, told).max(1, initial=0) > 0.8).all() if true else True
    assert found.counts["fragments without the rest"] == 0


@pytest.mark.parametrize("rate", [0.5, 1.5])
def test_a_scaled_scene_gives_px_of_the_scene(rate: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    truth = objects(rng, 204, 156, 30, 17.0)
    found = annotated(scene_file(tmp_path, rng, 204, 156), truth, 64, 32, rate)
    for label in LABELS:
        assert overlaps(boxes(truth, label), boxes(found.regions, label)).max(1).min() > 0.75
    assert len(found.regions) == len(truth)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(4, 140), st.floats(4, 60), st.floats(3, 40), st.floats(3, 20), st.floats(-90, 89), st.integers(0, 2)), max_size=25),
    st.randoms(),
)
def test_the_order_of_pieces_and_windows_does_not_matter(numbers: list[tuple[float, float, float, float, float, int]], random: object) -> None:
    pieces = [Piece(label="ship", box=canonical(x, y, w, h, t), window=k, score=0.5) for x, y, w, h, t, k in numbers]
    order = list(range(len(pieces)))
    random.shuffle(order)  # type: ignore[attr-defined]
    turned = [replace(pieces[place], window=2 - pieces[place].window) for place in order]
    first, second = merge_pieces(pieces, ROW, SIZE, MergeConfig()), merge_pieces(turned, ROW[::-1], SIZE, MergeConfig())
    shown = [[(one.box, one.cut, one.score) for one in merge.regions] for merge in (first, second)]
    assert shown[0] == shown[1] and first.counts == second.counts
    gone = sum(first.counts[name] for name in ("repeated", "fragments dropped"))
    assert gone + sum(len(one.pieces) for one in first.regions) <= len(pieces)


def box(cx: float, cy: float, w: float, h: float, window: int, score: float = 0.5, label: str = "ship") -> Piece:
    """An upright piece."""
    return Piece(label=label, box=canonical(cx, cy, w, h, 0.0), window=window, score=score)


def merged(*pieces: Piece, config: MergeConfig | None = None) -> list[tuple[RotatedBox, bool]]:
    """Boxes of a row of three windows merged, and whether they are cut."""
    return [(one.box, one.cut) for one in merge_pieces(pieces, ROW, SIZE, config or MergeConfig()).regions]


def test_the_box_farther_from_its_windows_edges_is_kept() -> None:
    near, far = box(54, 30, 10, 8, 0, 0.9), box(54.5, 30, 10, 8, 1, 0.1)
    assert merged(near, far) == [(far.box, False)]


def test_a_fragment_goes_where_a_window_holds_the_whole() -> None:
    whole, fragment = box(60, 30, 20, 8, 1), box(57, 30, 14, 8, 0)
    assert merged(fragment, whole) == [(whole.box, False)]
    assert merged(fragment) == [(fragment.box, True)]
    assert merged(replace(fragment, label="plane"), whole) == [(replace(fragment).box, True), (whole.box, False)]


def test_a_sliver_at_a_corner_goes_although_half_of_its_box_lies_beside_the_object() -> None:
    whole = Piece(label="ship", box=canonical(67, 30, 16, 10, 45), window=1)
    left = 67 - 13 / 2**0.5
    sliver = box((left + 64) / 2, 30 + 1, 64 - left, 12, 0)
    assert [found for found, _ in merged(whole, sliver)] == [whole.box]


def test_fragments_of_what_no_window_holds_are_joined() -> None:
    first, second, third = box(47, 30, 34, 8, 0, 0.2), box(72, 30, 64, 8, 1, 0.4), box(95, 30.2, 30, 8, 2, 0.9)
    [(joined, cut)] = merged(first, second, third)
    assert not cut
    assert (joined.cx, joined.w) == pytest.approx((70, 80)) and joined.h == pytest.approx(8.2)
    [one] = merge_pieces([first, second, third], ROW, SIZE, MergeConfig()).regions
    assert one.score == pytest.approx((34 * 0.2 + 64 * 0.4 + 30 * 0.9) / 128)
    assert sorted(one.pieces) == [0, 1, 2]


def test_neighbours_at_a_seam_stay_apart() -> None:
    assert len(merged(box(57, 20, 14, 8, 0), box(57, 30, 14, 8, 0), box(47, 40, 14, 8, 1))) == 3


def test_boxes_of_one_window_within_each_other_stay() -> None:
    large, small = box(55, 30, 12, 12, 0), box(52, 27, 5, 5, 0)
    seen = box(55, 30, 12, 12, 1), box(52, 27, 5, 5, 1)
    assert len(merged(large, small, *seen)) == 2
    assert len(merged(large, seen[1])) == 1, "one window says large, the other small: they are off, not two"


def test_twice_in_one_window_counts_once() -> None:
    merge = merge_pieces([box(20, 30, 12, 12, 0), box(20.5, 30, 12, 12, 0)], ROW, SIZE, MergeConfig())
    assert len(merge.regions) == 1 and merge.counts["repeated"] == 1


def test_a_scene_without_boxes_and_one_window() -> None:
    assert merge_pieces([], ROW, SIZE, MergeConfig()).regions == ()
    assert merge_pieces([box(0.5, 30, 1, 9, 0)], [(0, 0, 144, 64)], SIZE, MergeConfig()).regions[0].cut is False


@pytest.mark.slow
def test_a_hundred_thousand_boxes_merge() -> None:
    rng = np.random.default_rng(0)
    side, window = 20000, 512
    starts = range(0, side - 128, 384)
    windows = [(float(x), float(y), float(x + window), float(y + window)) for y in starts for x in starts]
    truth = [(x * 62.0 + rng.uniform(-9, 9), y * 62.0 + rng.uniform(-9, 9)) for y in range(1, 220) for x in range(1, 220)]
    pieces = []
    for x, y in truth:
        columns, rows = ([k for k, start in enumerate(starts) if start + 20 < at < start + window - 20] for at in (x, y))
        pieces += [box(x, y, 20, 12, row * len(starts) + column) for row in rows for column in columns]
    assert len(pieces) > 70000
    merge = merge_pieces(pieces, windows, (side, side), MergeConfig())
    assert len(merge.regions) == len({(one.box.cx, one.box.cy) for one in pieces})


def test_masks_of_joined_fragments_are_one(tmp_path: Path) -> None:
    from sightline.refine.box_masks import FillBox
    from sightline.refine.scene_outputs import whole_mask

    rng = np.random.default_rng(1)
    truth = [Region(label="ship", shape=canonical(75, 30, 100, 9, 5)), Region(label="ship", shape=canonical(40, 50, 12, 8, 30))]
    with opened_scene(scene_file(tmp_path, rng, 150, 64)) as scene:
        config = AnnotateConfig(labels=("ship",), window=64, overlap=24)
        found = annotate(scene, oracle(truth), AnswerFile(tmp_path / "answers.jsonl"), config, refiner=FillBox())
        again = annotate(scene, oracle(truth), AnswerFile(tmp_path / "answers.jsonl"), config, refiner=FillBox())
    assert found.counts["masks"] == len(found.regions) == 2
    for one, other, true in zip(found.regions, again.regions, truth, strict=True):
        assert one.mask is not None and other.mask is not None and isinstance(true.shape, RotatedBox)
        assert (one.mask.pixels == other.mask.pixels).all()
        assert mask_area(whole_mask(one.mask, 150, 64)) == one.mask.pixels.sum() == pytest.approx(true.shape.w * true.shape.h, rel=0.15)
