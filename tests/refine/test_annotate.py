"""Whole scenes to files: GeoJSON on the map and in px, COCO, DOTA and a label picture read back; kills; no data; answers that say nothing or nonsense."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_scene import LABELS, UTM, boxes, codec, objects, oracle, scene_file
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.geo_tiling import RasterTiles, tile_rasters
from sightline.data.readers.coco import Coco
from sightline.data.readers.dota import parse_labels
from sightline.data.reading import read_sets, sets_of
from sightline.errors import Refused
from sightline.evaluate.answers import AnswerFile
from sightline.evaluate.localisation import overlaps
from sightline.lineage import sha256_tree
from sightline.refine.annotate import AnnotateConfig, Patch, annotate
from sightline.refine.annotate_folder import Wanted, annotate_into
from sightline.refine.annotate_oracle import Oracle
from sightline.refine.box_masks import FillBox
from sightline.refine.scene_outputs import whole_mask
from sightline.refine.scene_reading import opened_scene, read_window, windows_of
from sightline.samples.exchange import Answer, Request
from sightline.samples.geometry import corners, encode_mask
from sightline.samples.sample import Region, RotatedBox
from sightline.samples.store import Store

FORMS = ("geojson", "coco", "dota", "png")
CONFIG = AnnotateConfig(labels=LABELS, window=64, overlap=32)


def truth_of(seed: int = 0, width: int = 180, height: int = 130) -> list[Region]:
    """Objects of a small scene."""
    return objects(np.random.default_rng(seed), width, height, 25, 20.0)


def run(path: Path, out: Path, answerer: Any, config: AnnotateConfig = CONFIG, **options: Any) -> list[dict[str, Any]]:
    """The scene annotated into a folder."""
    wanted = Wanted(forms=options.pop("forms", FORMS), crs=options.pop("crs", "wgs84"))
    return annotate_into(path, out, answerer, AnswerFile(out / "answers.jsonl"), config, wanted=wanted, **options)


def ring(one: dict[str, Any]) -> np.ndarray:
    """Corners of a feature."""
    return np.array(one["geometry"]["coordinates"][0][:-1])


def test_geojson_lies_where_rasterio_says_and_trains_again(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.warp import transform

    truth = truth_of()
    path = scene_file(tmp_path / "in", np.random.default_rng(0), 180, 130, UTM)
    run(path, tmp_path / "out", oracle(truth))
    collection = json.loads((tmp_path / "out" / "scene.geojson").read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection" and "crs" not in collection and len(collection["features"]) == len(truth)
    with rasterio.open(path) as dataset:
        for one in collection["features"]:
            outline = one["geometry"]["coordinates"][0]
            assert one["type"] == "Feature" and one["geometry"]["type"] == "Polygon" and outline[0] == outline[-1] and len(outline) == 5
            x, y = transform("EPSG:4326", dataset.crs, *ring(one).T.tolist())[:2]
            inverse, x, y = ~dataset.transform, np.array(x), np.array(y)
            columns, rows = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
            true = boxes(truth, one["properties"]["label"])
            nearest = min(true, key=lambda box: float(np.hypot(box.cx - columns.mean(), box.cy - rows.mean())))
            assert np.hypot(nearest.cx - columns.mean(), nearest.cy - rows.mean()) < 0.5
    config = RasterTiles(window=256, gap=0, label="label")
    tile_rasters(path, tmp_path / "tiles", config, vectors=tmp_path / "out" / "scene.geojson")
    [tile] = list(Store.open(tmp_path / "tiles"))
    assert len(tile.annotations) == len(truth)
    for label in LABELS:
        first, second = boxes(truth, label), boxes(tile.annotations, label)
        for box in first:
            near = min(second, key=lambda other: float(np.hypot(box.cx - other.cx, box.cy - other.cy)))
            assert max(abs(box.cx - near.cx), abs(box.cy - near.cy), abs(box.w - near.w), abs(box.h - near.h)) < 0.5


def test_the_files_own_system_and_px(tmp_path: Path) -> None:
    truth = truth_of()
    for folder, geo in (("map", UTM), ("px", None)):
        path = scene_file(tmp_path / folder, np.random.default_rng(0), 180, 130, geo)
        run(path, tmp_path / folder / "out", oracle(truth), crs="file", forms=("geojson",))
    there, here = (json.loads((tmp_path / folder / "out" / "scene.geojson").read_text(encoding="utf-8")) for folder in ("map", "px"))
    assert there["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32650"
    assert "crs" not in here and here["sightline"] == {"units": "px", "width": 180, "height": 130}
    a, b, c, d, e, f = UTM.affine
    for one, other in zip(there["features"], here["features"], strict=True):
        x, y = ring(other).mean(0)
        assert ring(one).mean(0) == pytest.approx((a * x + b * y + c, d * x + e * y + f), abs=0.01)


def test_coco_dota_and_the_label_picture_say_the_same(tmp_path: Path) -> None:
    truth = truth_of()
    path = scene_file(tmp_path / "out" / "images", np.random.default_rng(0), 180, 130)
    [record] = run(path, tmp_path / "out", oracle(truth))
    assert record["counts"]["regions"] == len(truth) and set(record["files"]) >= {"scene.geojson", "scene.labels.png", "scene.quicklook.webp"}
    read_sets(sets_of([(Coco(pictures="images"), tmp_path / "out")]), tmp_path / "coco", on_problem="refuse")
    [sample] = list(Store.open(tmp_path / "coco"))
    lines, _ = parse_labels((tmp_path / "out" / "labelTxt" / "scene.txt").read_text(encoding="utf-8"), "scene")
    raster = np.asarray(Image.open(tmp_path / "out" / "scene.labels.png"))
    assert raster.shape == (130, 180) and Image.open(tmp_path / "out" / "scene.labels.png").mode == "P"
    names = {one["id"]: one["name"] for one in json.loads((tmp_path / "out" / "scene.labels.json").read_text(encoding="utf-8"))}
    assert len(sample.annotations) == len(lines) == len(truth)
    for label in LABELS:
        true = boxes(truth, label)
        assert overlaps(true, boxes(lines, label.replace(" ", "-"))).max(1).min() > 0.9
        for box in true:
            assert names[int(raster[int(box.cy), int(box.cx)])] == label
    assert 0 < (raster > 0).sum() - sum(one.shape.w * one.shape.h for one in truth if isinstance(one.shape, RotatedBox)) + 60 < 120


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 10**6))
def test_a_patch_is_the_same_mask_in_a_large_picture(wide: int, high: int, left: int, top: int, right: int, bottom: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((high, wide)) < 0.6
    whole = np.zeros((high + top + bottom, wide + left + right), bool)
    whole[top : top + high, left : left + wide] = pixels
    assert whole_mask(Patch(left=left, top=top, pixels=pixels), whole.shape[1], whole.shape[0]) == encode_mask(whole)


def test_masks_reach_every_form(tmp_path: Path) -> None:
    truth = truth_of(4)
    path = scene_file(tmp_path / "in", np.random.default_rng(0), 180, 130)
    run(path, tmp_path / "out", oracle(truth), refiner=FillBox())
    coco = json.loads((tmp_path / "out" / "annotations" / "instances_scene.json").read_text(encoding="utf-8"))
    collection = json.loads((tmp_path / "out" / "scene.geojson").read_text(encoding="utf-8"))
    raster = np.asarray(Image.open(tmp_path / "out" / "scene.labels.png"))
    assert sum(row["area"] for row in coco["annotations"]) == (raster > 0).sum()
    assert all(row["segmentation"]["size"] == [130, 180] for row in coco["annotations"])
    areas = sorted(
        abs(np.dot(ring(one)[:, 0], np.roll(ring(one)[:, 1], 1)) - np.dot(ring(one)[:, 1], np.roll(ring(one)[:, 0], 1))) / 2 for one in collection["features"]
    )
    assert areas == pytest.approx(sorted(row["area"] for row in coco["annotations"]))


class Dying(Oracle):
    """An oracle whose process ends after so many answers."""

    left = 10**9

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers until the end."""
        for answer in super().answer(requests):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield answer


def test_a_killed_pass_asks_nothing_twice_and_writes_the_same_bytes(tmp_path: Path) -> None:
    truth = truth_of()
    path = scene_file(tmp_path / "in", np.random.default_rng(0), 180, 130)
    whole = oracle(truth)
    run(path, tmp_path / "whole", whole, refiner=FillBox())
    given = 0
    for after in (3, 11, 10**9):
        dying = Dying(truth, codec())
        dying.left = after
        try:
            run(path, tmp_path / "killed", dying, refiner=FillBox())
        except KeyboardInterrupt:
            with (tmp_path / "killed" / "answers.jsonl").open("ab") as stream:
                stream.write(b'{"key": "torn')
            (tmp_path / "killed" / ".tmp-scene.geojson-1").write_text("torn", encoding="utf-8")
        given += min(after, dying.asked)
    assert given == whole.asked
    first, second = (
        {p.name: sha256_tree(p) for p in (tmp_path / name).rglob("*") if p.is_file() and p.name != "answers.jsonl"} for name in ("whole", "killed")
    )
    assert first == second


class Fixed:
    """Says the same of everything."""

    def __init__(self, text: str, finish: str = "stop") -> None:
        self.text, self.finish = text, finish

    def measure(self, sample: object) -> int:
        """Nothing."""
        return 0

    def key(self, request: Request) -> str:
        """By place."""
        return request.sample.id

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Always that."""
        for request in requests:
            choice = {"vector": (-2.0, -0.1) if request.sample.attributes["label"] == "ship" else (-0.1, -2.0)} if request.ask == "choose" else {}
            yield Answer(key=request.sample.id, sample=request.sample.id, weights="fixed", text=self.text, finish=self.finish, **choice)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said", "errors"),
    [
        ("none", "nothing", 0),
        ("没有。", "nothing", 0),
        ("There is no ship.", "nothing", 0),
        ("over there", "unreadable", 0),
        ("{1,2,3}", "unreadable", 1),
        ("{500,500,100,200,0}", "regions", 0),
    ],
)
def test_what_answers_say_is_counted(text: str, said: str, errors: int, tmp_path: Path) -> None:
    with opened_scene(scene_file(tmp_path, np.random.default_rng(0), 64, 64)) as scene:
        found = annotate(scene, Fixed(text), AnswerFile(tmp_path / "a.jsonl"), replace_labels("ship"), codec=codec())
    assert found.counts[f"answers: {said}"] == 1 and len(found.regions) == (said == "regions")
    assert sum(found.counts["format errors"].values()) == errors
    assert bool(found.counts["examples"]) == (said == "unreadable")


def replace_labels(*labels: str) -> AnnotateConfig:
    """The settings with these labels."""
    return CONFIG.model_copy(update={"labels": labels})


def test_presence_comes_first_and_scales_the_score(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"presence": 0.5})
    with opened_scene(scene_file(tmp_path, np.random.default_rng(0), 64, 64)) as scene:
        file = AnswerFile(tmp_path / "a.jsonl")
        found = annotate(scene, Fixed("{500,500,100,200,0}"), file, config, codec=codec())
    assert [one.label for one in found.regions] == ["small plane"]
    assert found.counts["labels not there, not asked further"] == 1 and found.counts["questions where it is"] == 1
    assert len(file) == 3


def test_windows_without_data_are_skipped_and_counted(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "half.tif"
    pixels = np.random.default_rng(0).integers(1, 255, (3, 64, 192), dtype=np.uint8)
    pixels[:, :, 100:] = 0
    transform = rasterio.Affine(*UTM.affine)
    profile = {
        "driver": "GTiff",
        "width": 192,
        "height": 64,
        "count": 3,
        "dtype": "uint8",
        "nodata": 0,
        "photometric": "RGB",
        "crs": UTM.crs,
        "transform": transform,
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)
    with opened_scene(path) as scene:
        found = annotate(scene, Fixed("none"), AnswerFile(tmp_path / "a.jsonl"), AnnotateConfig(labels=("ship",), window=64, overlap=0))
    assert (found.counts["windows"], found.counts["windows without data, skipped"], found.counts["questions where it is"]) == (3, 1, 2)


def test_windows_of_a_raster_are_those_of_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    rng = np.random.default_rng(5)
    raster, plain = scene_file(tmp_path, np.random.default_rng(5), 150, 90, UTM), scene_file(tmp_path, rng, 150, 90)
    with opened_scene(raster) as one, opened_scene(plain) as other:
        for rate in (1.0, 0.6, 1.5):
            for window in windows_of(one, 48, 16, rate):
                assert (read_window(one, window)[0] == read_window(other, window)[0]).all()


def test_what_cannot_be_done_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    asked = oracle([])
    with pytest.raises(Refused, match="refine/no-scene"):
        run(tmp_path / "none", tmp_path / "out", asked)
    path = scene_file(tmp_path / "in", np.random.default_rng(0), 64, 64)
    with pytest.raises(Refused, match="refine/out-in-scenes"):
        run(tmp_path / "in", tmp_path / "in" / "out", asked)
    Image.open(path).save(path.with_suffix(".bmp"))
    with pytest.raises(Refused, match="two pictures named scene"):
        run(tmp_path / "in", tmp_path / "out", asked)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
    scene_file(tmp_path / "bad", np.random.default_rng(0), 64, 64)
    with pytest.raises(Refused, match="not-a-picture"):
        run(tmp_path / "bad", tmp_path / "out", asked)
    assert asked.asked == 0


def test_a_folder_of_scenes_and_a_picture_to_look_at(tmp_path: Path) -> None:
    for name in ("a", "deep/b"):
        scene_file(tmp_path / "in" / Path(name).parent, np.random.default_rng(1), 100, 70, name=Path(name).name)
    records = run(tmp_path / "in", tmp_path / "out", oracle(truth_of(2, 100, 70)), forms=("dota",))
    assert [record["scene"]["file"] for record in records] == ["a.png", "b.png"]
    assert (tmp_path / "out" / "deep" / "labelTxt" / "b.txt").is_file() and (tmp_path / "out" / "deep" / "b.scene.json").is_file()
    look = Image.open(tmp_path / "out" / "a.quicklook.webp").convert("RGB")
    assert look.width == 200 and look.height > 140
    plain = np.asarray(Image.open(tmp_path / "in" / "a.png"))
    box = next(one.shape for one in truth_of(2, 100, 70) if isinstance(one.shape, RotatedBox))
    x, y = corners(box).mean(0)
    assert np.abs(np.asarray(look)[int(2 * y), int(2 * x)].astype(int) - plain[int(y), int(x)]).max() < 90, (
        "the middle of a box without a mask is not painted over"
    )
