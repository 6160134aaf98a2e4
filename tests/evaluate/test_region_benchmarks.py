"""Boxes and pixels: golden figures, and benchmarks made of sets with regions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from published_files import built, png, values
from sightline.errors import Problem, Refused
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.evaluate.localisation import Truth, average_precision, compare, detection_flags, localisation_metrics
from sightline.evaluate.mask_figures import Pixels, count_pixels, mask_metrics
from sightline.evaluate.read_sets import samples_at
from sightline.evaluate.region_benchmarks import RegionBenchmark
from sightline.samples.codecs import FORMAT_ERROR
from sightline.samples.exchange import Answer
from sightline.samples.geometry import canonical, corners, encode_mask
from sightline.samples.painting import painted
from sightline.samples.sample import Box, Region, Regions, RotatedBox


def boxes(*several: tuple[float, ...]) -> list[RotatedBox]:
    return [canonical(*map(float, one)) for one in several]


def test_golden_boxes() -> None:
    true = boxes((100, 100, 40, 20, 0), (200, 100, 40, 20, 45), (300, 300, 60, 10, -30))
    found = boxes((102, 101, 40, 20, 5), (200, 100, 40, 20, 45), (205, 104, 40, 20, 40), (50, 50, 10, 10, 0))
    one = compare(true, found)
    assert [round(pair.iou, 4) for pair in one.pairs] == [0.8171, 1.0]
    figures = {name: round(value.value, 4) for name, value in localisation_metrics([one], ["p"]).items()}
    golden = {"precision@0.5": 0.5, "recall@0.5": 0.6667, "f1@0.5": 0.5714, "mean-iou": 0.6057, "miss": 0.3333, "acc@0.5": 0.0, "angle-error": 2.5}
    assert golden.items() <= figures.items()
    assert compare(true[:2], found[:2]).right(0.75) and not compare(true[:2], found[:3]).right(0.5)
    assert compare([], found).best == () and compare(true, []).best == (0, 0, 0)


def test_angles_are_modulo_a_half_turn_and_squares_have_none() -> None:
    [pair] = compare(boxes((50, 50, 40, 20, 89)), boxes((50, 50, 40, 20, -89))).errors
    assert pair.angle == pytest.approx(2)
    [square] = compare(boxes((50, 50, 20, 20, 10)), boxes((50, 50, 20, 20, 40))).errors
    assert square.angle is None


def test_excess_is_what_lies_outside() -> None:
    one = compare(boxes((10, 10, 10, 10, 0)), boxes((15, 10, 10, 10, 0)))
    assert (one.excess, one.covered) == (pytest.approx(50), pytest.approx(100))


def test_golden_average_precision() -> None:
    flags = [sign == "1" for sign in "1011001"]
    assert average_precision(flags, 5) == pytest.approx(0.649351, abs=1e-6)
    assert average_precision(flags, 5, eleven=False) == pytest.approx(0.614286, abs=1e-6)
    assert average_precision([], 5) == average_precision([True], 0) == 0


def test_a_second_detection_is_wrong_and_a_difficult_object_counts_not_at_all() -> None:
    outlines = [corners(box) for box in boxes((20, 20, 10, 10, 0), (60, 60, 10, 10, 0))]
    found = [outlines[0], outlines[0], outlines[1], corners(*boxes((90, 90, 10, 10, 0)))]
    flags = detection_flags([0.5, 0.9, 0.8, 0.7], found, Truth(outlines=tuple(outlines), difficult=(False, True)))
    assert flags == [(0.9, True), (0.7, False), (0.5, False)]
    half = boxes((20, 20, 30, 10, 0), (20, 20, 15, 10, 0))  # IoU one half exactly: not above it
    assert detection_flags([1.0], [corners(half[1])], Truth(outlines=(corners(half[0]),), difficult=(False,))) == [(1.0, False)]


def test_golden_masks() -> None:
    true, found = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [255, 2, 2, 1]]), np.array([[0, 1, 1, 1], [0, 2, 1, 1], [2, 2, 2, 0]])
    counts = [count_pixels(true == label, found == label, true == 255) for label in (0, 1, 2)]
    figures = {name: round(value.value, 4) for name, value in mask_metrics(counts, ["a", "b", "c"], ["p"] * 3).items()}
    assert {"miou": 0.5833, "fwiou": 0.5909, "dice": 0.7302, "iou a": 0.5, "iou b": 0.5, "iou c": 0.75}.items() <= figures.items()
    assert [round(one.dice, 4) for one in counts] == [0.6667, 0.6667, 0.8571]
    several = [Pixels(50, 50, 0), Pixels(10, 5, 5), Pixels(0, 0, 40)]
    figures = mask_metrics(several, ["a"] * 3, [1, 2, 3])
    assert (figures["giou"].value, figures["ciou"].value) == (pytest.approx(1 / 3, abs=1e-4), pytest.approx(0.375))
    assert Pixels(0, 0, 0).iou == Pixels(0, 0, 0).dice == 1


def test_a_box_fills_the_pixels_whose_centres_it_holds() -> None:
    region = Region(shape=Box(x0=2, y0=1, x1=5, y1=3))
    assert painted([region], 8, 6).sum() == 6 and painted([region], 8, 6)[1:3, 2:5].all()
    assert not painted([Region(shape=encode_mask(np.ones((2, 2), bool)))], 8, 6).any()


def dota(folder: Path) -> Path:
    for name in ("images", "labelTxt"):
        (folder / name).mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (200, 120), (number, 2, 3)).save(folder / "images" / f"P{number}.png")
    ship, plane = "20 20 60 20 60 40 20 40 ship 0", "100 60 140 60 140 80 100 80 plane 0"
    (folder / "labelTxt" / "P0.txt").write_text(f"{ship}\n{plane}\n150 100 170 100 170 110 150 110 ship 1\n", encoding="utf-8")
    (folder / "labelTxt" / "P1.txt").write_text(f"{ship}\n", encoding="utf-8")
    return folder


def said(benchmark: RegionBenchmark, by: str = "t") -> list[Answer]:
    """Every question answered with the truth."""
    return [Answer(key=row.index, sample=row.index, weights=by, text="", items=(Regions(regions=row.regions),)) for row in benchmark.region_rows()]


def test_grounding_of_annotations(tmp_path: Path) -> None:
    benchmark = built("grounding", dota(tmp_path))
    assert isinstance(benchmark, RegionBenchmark)
    assert [row.index for row in benchmark.rows] == ["P0.png#ship", "P0.png#plane", "P1.png#ship"]
    right = said(benchmark)
    assert {value.value for name, value in benchmark.score(right).metrics.items() if name.startswith(("acc", "f1", "mean"))} == {1.0}
    hard = benchmark.region_rows()[0].ignored
    assert len(hard) == 1
    with_hard = [replace(right[0], items=(*right[0].items, Regions(regions=hard))), *right[1:]]
    assert benchmark.score(with_hard).metrics["acc@0.5"].value == 1.0
    fault = Problem(code=FORMAT_ERROR, place="answer", found="x", allowed="y", fix="z")
    wrong = [replace(right[0], items=(), problems=(fault,)), *right[1:]]
    assert values(benchmark.score(wrong), "acc@0.5", "format-error", "miss") == {"acc@0.5": 0.6667, "format-error": 0.3333, "miss": 0.3333}
    assert built("referring", tmp_path).rows[0].index == "P0.png#plane"


@pytest.mark.parametrize("kind", ["grounding", "referring", "rotated-map"])
def test_data_of_a_recipe_is_asked_like_a_set_at_a_path(tmp_path: Path, kind: str) -> None:
    at_path = built(kind, dota(tmp_path))
    config: Any = BENCHMARK.parse({"kind": kind, "data": "mine", "limit": 1})
    named = config.build(samples_at(tmp_path))
    assert [row.index for row in named.rows] == [row.index for row in at_path.rows if row.index.startswith("P0")]
    assert named.score(said(named)).metrics == built(kind, tmp_path, limit=1).score(said(named)).metrics
    assert named.questions[0].source.origin.source == "mine"
    with pytest.raises(ValidationError, match="one of the two"):
        BENCHMARK.parse({"kind": kind})


def test_words_are_read_by_a_codec_in_pixels(tmp_path: Path) -> None:
    path = dota(tmp_path)
    benchmark = built("grounding", path, codec="xyhwt-pad")
    words = ["{200,150,100,200,0}", "{600,350,100,200,0}", "{200,150,100,200,0}"]
    answers = [Answer(key=row.index, sample=row.index, weights="t", text=text) for row, text in zip(benchmark.rows, words, strict=True)]
    assert benchmark.score(answers).metrics["acc@0.75"].value == 1.0
    with pytest.raises(Refused, match="codec"):
        built("grounding", path).score(answers)


def test_rotated_map_of_result_files(tmp_path: Path) -> None:
    benchmark = built("rotated-map", dota(tmp_path / "set"))
    assert isinstance(benchmark, RegionBenchmark)
    results = tmp_path / "results"
    results.mkdir()
    (results / "images").symlink_to(tmp_path / "set" / "images")
    ship = "20.0 20.0 60.0 20.0 60.0 40.0 20.0 40.0"
    (results / "Task1_ship.txt").write_text(f"P0 0.9 {ship}\nP1 0.5 {ship}\nP1 0.8 90.0 90.0 99.0 90.0 99.0 99.0 90.0 99.0\n", encoding="utf-8")
    scores = benchmark.score(benchmark.read_answers(results))
    # right, wrong, right of 2: eleven points see precision 1 up to recall .5 and 2/3 beyond
    assert values(scores, "ap plane", "ap ship", "map") == {"ap plane": 0.0, "ap ship": round((6 + 5 * 2 / 3) / 11, 4), "map": round((6 + 5 * 2 / 3) / 22, 4)}
    assert benchmark.score(said(benchmark)).metrics["map-area"].value == 1.0


def test_change_of_pairs(tmp_path: Path) -> None:
    for name in ("A", "B", "label"):
        (tmp_path / name).mkdir()
    for number, changed in enumerate((True, False)):
        mask = np.zeros((20, 20), np.uint8)
        mask[5:10, 5:10] = 255 * changed
        for k, name in enumerate(("A", "B")):
            Image.new("RGB", (20, 20), (k, number, 0)).save(tmp_path / name / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "label" / f"{number}.png")
    benchmark = built("change", tmp_path)
    assert isinstance(benchmark, RegionBenchmark)
    region = Regions(regions=(Region(picture=1, shape=Box(x0=5, y0=5, x1=10, y1=15)),))
    texts = {"0.png#whether": "No.", "1.png#whether": "no"}
    answers = [
        Answer(key=row.index, sample=row.index, weights="t", text=texts.get(row.index, ""), items=() if row.index != "0.png#where" else (region,))
        for row in benchmark.rows
    ]
    scores = benchmark.score(answers)
    assert scores.metrics["changed accuracy"].value == 0.5 and scores.metrics["recall"].value == 1.0
    assert scores.metrics["iou"].value == pytest.approx(0.5)
    assert benchmark.score(benchmark.read_answers(tmp_path)).metrics["f1"].value == 1.0


def test_masks_of_a_set_beside_another(tmp_path: Path) -> None:
    benchmark = built("masks", tmp_path_set(tmp_path))
    assert isinstance(benchmark, RegionBenchmark)
    assert benchmark.score(said(benchmark)).metrics["miou"].value == 1.0
    silent = [replace(answer, items=()) for answer in said(benchmark)]
    assert benchmark.score(silent).metrics["miou"].value == 0.0


def tmp_path_set(folder: Path) -> Path:
    """Pairs of which only the later picture is asked about are no masks: a store of one picture with two masks."""
    from sightline.samples.pictures import describe
    from sightline.samples.sample import Origin, Sample
    from sightline.samples.store import Store

    mask = np.zeros((10, 12), bool)
    mask[2:5] = True
    regions = (Region(label="water", shape=encode_mask(mask)), Region(label="road", shape=encode_mask(~mask)))
    with Store.writer(folder / "store", source="t") as writer:
        writer.add(Sample(id="a", pictures=(describe(png(), "a.png", "t"),), annotations=regions, origin=Origin(source="t")))
    return folder / "store"
