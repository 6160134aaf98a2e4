"""DOTA labels: published traps, exact rectangles, and messages for lines that are no boxes. ICDAR texts share the quadrangles."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.dota import Dota, parse_labels, tile_of
from sightline.data.readers.dota_results import DotaResults
from sightline.data.readers.icdar import Icdar
from sightline.errors import Problem, Refused
from sightline.samples.geometry import canonical, corners, rotated_iou
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Picture, Region, RotatedBox, Sample


def put_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def test_line_ends_missing_difficult_and_null_gsd() -> None:
    regions, attributes = parse_labels("imagesource:GF\r\ngsd:null\r\n0 0 10 0 10 5 0 5 ship\r\n", "p")
    assert attributes == {"imagesource": "GF", "gsd": None}
    (region,) = regions
    assert region.label == "ship" and region.shape == RotatedBox(cx=5, cy=2.5, w=10, h=5, theta=0)
    assert region.attributes == {"quad": [0, 0, 10, 0, 10, 5, 0, 5], "difficult": 0}


def test_a_byte_order_mark_and_no_headers(tmp_path: Path) -> None:
    put_picture(tmp_path / "val" / "images" / "P1.png")
    put_text(tmp_path / "val" / "labelTxt" / "P1.txt", "\ufeff1 1 9 1 9 5 1 5 small-vehicle 2\n\n")
    (sample,) = Dota().read(tmp_path)
    assert isinstance(sample, Sample) and sample.attributes == {"split": "val"} and sample.id == "val/P1.png"
    assert sample.annotations[0].attributes["difficult"] == 2


def test_tiles_say_where_they_were_cut(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "P0706__0.5__512___1024.png")
    put_text(tmp_path / "labelTxt" / "P0706__0.5__512___1024.txt", "1 1 9 1 9 5 1 5 ship 2\n")
    (sample,) = Dota().read(tmp_path)
    assert isinstance(sample, Sample) and sample.annotations[0].attributes["difficult"] == 2
    assert sample.attributes == {"tile_of": "P0706", "rate": 0.5, "left": 512, "up": 1024}
    assert tile_of("P0706_1_512_1024") == {}


@pytest.fixture(scope="module")
def picture() -> Picture:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    return describe(stream.getvalue(), "P1.png", "p")


QUADS = st.builds(
    lambda cx, cy, w, h, theta: canonical(cx, cy, w, h, theta), st.floats(0, 900), st.floats(0, 900), st.floats(3, 80), st.floats(3, 80), st.floats(-90, 89)
)


@given(st.lists(st.tuples(QUADS, st.sampled_from(["ship", "large-vehicle", "\u8239"]), st.integers(0, 2)), max_size=5), st.sampled_from([None, 0.25]))
@settings(deadline=None, max_examples=40)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, picture: Picture, things: list[tuple[RotatedBox, str, int]], gsd: float | None
) -> None:
    lines = [" ".join(map(repr, corners(box).ravel().tolist())) + f" {label} {difficult}" for box, label, difficult in things]
    regions, _ = parse_labels("\n".join(lines), "p")
    attributes = {"split": "train", "imagesource": "GF", "gsd": gsd}
    sample = Sample(id="train/P1.png", pictures=(picture,), annotations=tuple(regions), attributes=attributes, origin=Origin(source="s", row="train/P1.png"))
    root = tmp_path_factory.mktemp("dota")
    assert Dota().write([sample], root) == []
    assert list(Dota(source="s").read(root)) == [sample]


def test_boxes_without_published_corners_and_what_cannot_be_held(tmp_path: Path, picture: Picture) -> None:
    turned, upright = RotatedBox(cx=20, cy=15, w=12, h=6, theta=30), Box(x0=1, y0=2, x1=9, y1=8)
    shapes = (Region(label="small vehicle", shape=turned), Region(label="ship", shape=upright), Region(label="x"), Region(shape=upright))
    sample = Sample(id="P1", pictures=(picture,), annotations=shapes, attributes={"language": "en"}, origin=Origin(source="s"))
    found = [problem.found for problem in Dota().write([sample], tmp_path)]
    assert found == [
        "attributes: 1 sample written without",
        "spaces in labels: 1 sample written without",
        "regions that are no named boxes: 2 samples written without",
    ]
    (back,) = Dota().read(tmp_path)
    assert isinstance(back, Sample) and [region.label for region in back.annotations] == ["small-vehicle", "ship"]
    first, second = (region.shape for region in back.annotations)
    assert isinstance(first, RotatedBox) and rotated_iou(first, turned) == pytest.approx(1, abs=1e-9)
    assert second == RotatedBox(cx=5, cy=5, w=8, h=6, theta=0)


def test_detections_come_back(tmp_path: Path, picture: Picture) -> None:
    put_picture(tmp_path / "images" / "P1.png")
    Image.new("RGB", (50, 30)).save(tmp_path / "images" / "P2.png")
    put_text(tmp_path / "Task1_large-vehicle.txt", "P1 0.75 1 1 9 1 9 5 1 5\nP1 0.5 0 0 10 0 10 5 0 5\n")
    put_text(tmp_path / "Task1_ship.txt", "P1 0.25 11 1 19 1 19 5 11 5\n")
    known = DotaResults().recognise(tmp_path)
    assert known is not None and known[1] == "Task1_large-vehicle.txt has lines of a name, a score and four corners"
    samples = [sample for sample in DotaResults().read(tmp_path) if isinstance(sample, Sample)]
    first, second = samples
    assert [(region.label, region.attributes["score"]) for region in first.annotations] == [("large-vehicle", 0.75), ("large-vehicle", 0.5), ("ship", 0.25)]
    assert first.annotations[0].shape == RotatedBox(cx=5, cy=3, w=8, h=4, theta=0) and second.annotations == ()
    assert DotaResults().write(samples, tmp_path / "copy") == []
    back = [replace(sample, origin=first.origin) for sample in DotaResults().read(tmp_path / "copy") if isinstance(sample, Sample)]
    assert back == [replace(sample, origin=first.origin) for sample in samples]


def test_bad_detections_are_named(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "P1.png")
    put_text(tmp_path / "Task1_ship.txt", "P1 high 1 1 9 1 9 5 1 5\nP9 0.5 1 1 9 1 9 5 1 5\nP1 0.5 1 1\nP1 1 3 3 3 3 3 3 3 3\n")
    found = [(problem.code, problem.place.rpartition("/")[2]) for problem in DotaResults().read(tmp_path) if isinstance(problem, Problem)]
    assert found == [
        ("data/box-line", "Task1_ship.txt:3"),
        ("data/box-line", "Task1_ship.txt:1"),
        ("data/degenerate-box", "Task1_ship.txt:4"),
        ("data/missing-picture", "Task1_ship.txt:2"),
    ]


@given(st.floats(0, 900), st.floats(0, 900), st.floats(3, 80), st.floats(3, 80), st.floats(-90, 89), st.integers(0, 3))
@settings(deadline=None)
def test_any_rectangle_comes_back(cx: float, cy: float, w: float, h: float, theta: float, first: int) -> None:
    made = canonical(cx, cy, w, h, theta)
    quad = np.roll(corners(made), first, axis=0)
    regions, _ = parse_labels(" ".join(map(repr, quad.ravel().tolist())) + " plane 0", "p")
    shape = regions[0].shape
    assert isinstance(shape, RotatedBox) and rotated_iou(shape, made) == pytest.approx(1, abs=1e-6)


def test_every_bad_line_is_named() -> None:
    text = "gsd:0.5\n1 1 9 1 9 5 1 5 ship 0\n1 1 9 1 9 5 1 ship 0\n1 1 9 1 9 5 1 nan ship 0\n3 3 3 3 3 3 3 3 ship 0\n1 1 9 1 9 5 1 5 ship maybe\n"
    with pytest.raises(Refused) as refused:
        parse_labels(text, "labelTxt/P1.txt")
    assert [problem.place for problem in refused.value.problems] == [f"labelTxt/P1.txt:{line}" for line in (3, 4, 5, 6)]
    assert [problem.code for problem in refused.value.problems] == ["data/box-line", "data/box-line", "data/degenerate-box", "data/box-line"]
    assert "allowed: x1 y1 x2 y2 x3 y3 x4 y4 class difficult" in str(refused.value)


def test_pictures_and_labels_without_their_partner(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "a.png")
    put_text(tmp_path / "labelTxt" / "b.txt", "gsd:1\n")
    problems = list(Dota().read(tmp_path))
    assert [problem.code for problem in problems if isinstance(problem, Problem)] == ["data/missing-labels", "data/missing-picture"]
    assert "no a.txt in" in str(problems[0]) and "no picture of this name in" in str(problems[1])


def test_dota_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["dota"]
    found = {Path(sample.id).stem: sample for sample in Dota().read(shared_data / "dota") if isinstance(sample, Sample)}
    assert len(found) == facts["images"] and sum(len(sample.annotations) for sample in found.values()) == facts["boxes"]
    assert Dota().annotated(shared_data / "dota") == frozenset((shared_data / "dota" / "labelTxt").glob("*.txt"))
    for name, expected in facts["per_image"].items():
        sample = found[name]
        assert (sample.pictures[0].width, sample.pictures[0].height) == (expected["width"], expected["height"])
        labels = [region.label for region in sample.annotations]
        assert {label: labels.count(label) for label in set(labels)} == expected["boxes_by_class"]
        assert sum(region.attributes["difficult"] for region in sample.annotations) == expected["difficult_1"]
        assert sample.attributes["gsd"] == expected["gsd_m"]
        past = [
            region
            for region in sample.annotations
            if any(xy >= side for xy, side in zip(region.attributes["quad"], 4 * (expected["width"], expected["height"])))
        ]
        assert len(past) == expected["boxes_with_a_corner_outside_0_to_size_minus_1"]
    ship = found["P0706"].annotations[1].shape
    assert isinstance(ship, RotatedBox)
    assert (ship.cx, ship.cy, ship.w, ship.h, ship.theta) == pytest.approx((811.77, 320.20, 22.67, 9.88, -41.42), abs=0.005)


def test_texts_with_commas_and_unreadable_ones(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_picture(tmp_path / "images" / f"{name}.png")
    put_text(tmp_path / "texts" / "gt_a.txt", "\ufeff1,1,9,1,9,5,1,5,12, Main St\r\n1,10,9,10,9,15,1,15,###\r\n")
    first, second = Icdar(label="marking").read(tmp_path)
    assert isinstance(first, Sample) and isinstance(second, Sample) and second.annotations == ()
    assert [(region.label, region.attributes.get("text")) for region in first.annotations] == [("marking", "12, Main St"), ("marking", None)]
    assert first.annotations[0].shape == RotatedBox(cx=5, cy=3, w=8, h=4, theta=0)


def test_a_line_that_is_no_text(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "a.png")
    put_text(tmp_path / "texts" / "a.txt", "1,1,9,1,9,5,1,5,ok\n1,1,9,1,hello\n")
    (problem,) = Icdar().read(tmp_path)
    assert isinstance(problem, Problem) and problem.place.endswith("a.txt:2") and problem.found == "1,1,9,1,hello"
