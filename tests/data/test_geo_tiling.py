"""Large rasters with outlines: nothing lost between windows, places kept, splits by scene, a pass that goes on, and memory that does not grow with the scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import Polygon as Outline

from sightline.cli.main import main
from sightline.data import geo_tiling
from sightline.data.engine import Local
from sightline.data.geo_tiling import RasterTiles, split_of, tile_rasters
from sightline.data.readers.geotiff import GeoTiff
from sightline.data.reading import choose
from sightline.data.tiling_annotations import FRAGMENT
from sightline.errors import Problem, Refused
from sightline.samples.geo import to_map
from sightline.samples.geometry import corners, decode_mask, mask_area
from sightline.samples.pictures import pixels
from sightline.samples.sample import Mask, RotatedBox, Sample
from sightline.samples.store import Store

rasterio = pytest.importorskip("rasterio")
AFFINE = (2.0, 0.0, 500000.0, 0.0, -2.0, 4000000.0)
BANDS = ("blue", "green", "red", "nir")
ONE = Local(workers=1)


def raster(
    path: Path, width: int = 150, height: int = 110, depth: str = "uint16", bands: tuple[str, ...] = BANDS, empty: int = 0, **options: Any
) -> np.ndarray:
    """A scene of noise; `empty` columns at the right hold no data."""
    array = (np.random.default_rng(width).random((len(bands), height, width)) * 2000 + 1).astype(depth)
    if empty:
        array[..., width - empty :] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"crs": "EPSG:32650", "transform": rasterio.Affine(*AFFINE), "nodata": 0} | options
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=len(bands), dtype=depth, **known) as opened:
        opened.write(array)
        opened.descriptions = bands
    return array.transpose(1, 2, 0)


def outlines(path: Path, shapes: list[tuple[str, list[tuple[float, float]]]], crs: str | None = None) -> None:
    """A GeoJSON file of polygons in px of the scene; without `crs` in longitude and latitude."""
    from rasterio.warp import transform

    features = []
    for label, points in shapes:
        x, y = zip(*[rasterio.Affine(*AFFINE) @ point for point in points], strict=True)
        if crs is None:
            x, y = transform("EPSG:32650", "EPSG:4326", x, y)
        ring = [[float(a), float(b)] for a, b in zip(x, y, strict=True)]
        features.append({"type": "Feature", "properties": {"class": label}, "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}})
    value: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(value | ({"crs": {"type": "name", "properties": {"name": crs}}} if crs else {})))


def turned(cx: float, cy: float, w: float, h: float, theta: float) -> list[tuple[float, float]]:
    return [(x, y) for x, y in corners(RotatedBox(cx=cx, cy=cy, w=w, h=h, theta=theta)).tolist()]


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, np.ndarray]:
    path = tmp_path / "scenes" / "a.tif"
    array = raster(path, empty=40)
    outlines(path.with_suffix(".geojson"), [("ship", turned(30, 40, 20, 8, 30)), ("tank", turned(64, 20, 14, 14, 0)), ("ship", turned(900, 40, 20, 8, 0))])
    return path, array


def test_tiles_have_pixels_place_and_regions_of_their_window(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, array = scene
    tiled = tile_rasters(path, tmp_path / "out", RasterTiles(window=64, gap=14, label="class", empty=1.0), engine=ONE)
    assert (tiled.windows, tiled.tiles, tiled.nodata, tiled.empty, tiled.outside) == (6, 4, 2, 0, 1)
    store = Store.open(tmp_path / "out")
    assert [problem.code for problem in store.warnings()] == ["data/outlines-outside"]
    found = {(one.attributes["left"], one.attributes["up"]): one for one in store}
    assert set(found) == {(0, 0), (50, 0), (0, 46), (50, 46)}
    for (left, top), one in found.items():
        [picture] = one.pictures
        assert (picture.bands, picture.depth) == (BANDS, "uint16")
        assert np.array_equal(pixels(picture), array[top : top + 64, left : left + 64])
        assert picture.geo is not None and np.allclose(to_map(picture.geo, np.zeros((1, 2))), [(500000 + 2 * left, 4000000 - 2 * top)])
    ship = next(region for region in found[0, 0].annotations if region.label == "ship")
    assert isinstance(ship.shape, RotatedBox) and "difficult" not in ship.attributes
    assert np.allclose([ship.shape.cx, ship.shape.cy, ship.shape.w, ship.shape.h, ship.shape.theta], [30, 40, 20, 8, 30], atol=1e-3)
    cut = next(region for region in found[0, 0].annotations if region.label == "tank")
    assert cut.attributes["difficult"] == FRAGMENT and isinstance(cut.shape, RotatedBox) and cut.shape.w * cut.shape.h == pytest.approx(7 * 14, rel=1e-3)
    whole = next(region for region in found[50, 0].annotations if region.label == "tank")
    assert "difficult" not in whole.attributes and whole.attributes["feature"] == 1
    assert (tiled.regions, tiled.fragments) == (sum(len(one.annotations) for one in store), 2)


def test_no_region_between_the_windows_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    raster(path, 300, 200)
    rng = np.random.default_rng(3)
    drawn = [turned(rng.uniform(15, 285), rng.uniform(15, 185), rng.uniform(6, 20), rng.uniform(4, 12), rng.uniform(-90, 90)) for _ in range(60)]
    outlines(path.with_suffix(".geojson"), [("x", points) for points in drawn], "urn:ogc:def:crs:EPSG::32650")
    tile_rasters(path, tmp_path / "out", RasterTiles(window=80, gap=30, shapes="polygon"), engine=ONE)
    covered: dict[int, Any] = {}
    whole = set()
    for one in Store.open(tmp_path / "out"):
        for region in one.annotations:
            points = np.add(region.shape.points, (one.attributes["left"], one.attributes["up"]))  # type: ignore[union-attr]
            number = region.attributes["feature"]
            covered[number] = Outline(points).union(covered.get(number, Outline()))
            whole |= {number} if "difficult" not in region.attributes else set()
    for number, points in enumerate(drawn):
        assert covered[number].symmetric_difference(Outline(points)).area < 0.05
    assert whole == set(range(60))  # the overlap is larger than each of them


def test_empty_tiles_are_kept_by_share_and_counted(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = scene
    common = {"window": 16, "gap": 0, "label": "class", "nodata": 1.0}
    none, half, every = (tile_rasters(path, tmp_path / f"out{share}", RasterTiles(empty=share, **common), engine=ONE) for share in (0.0, 0.5, 1.0))
    assert none.windows == half.windows == every.windows == every.tiles == 70
    assert none.empty + none.tiles == 70 and half.empty + half.tiles == 70
    assert none.tiles < half.tiles < every.tiles and abs(half.empty / none.empty - 0.5) < 0.2


def test_all_tiles_of_a_scene_are_in_one_split(tmp_path: Path) -> None:
    for number in range(5):
        raster(tmp_path / "scenes" / f"{number}.tif", 70 + number, 70)
    raster(tmp_path / "scenes" / "test" / "x.tif", 70, 70)
    config = RasterTiles(window=40, gap=10, empty=1.0, split={"train": 0.6, "val": 0.4})
    tiled = tile_rasters(tmp_path / "scenes", tmp_path / "out", config, engine=ONE)
    splits: dict[str, set[str]] = {}
    for one in Store.open(tmp_path / "out"):
        splits.setdefault(one.attributes["scene"], set()).add(one.attributes["split"])
    assert all(len(found) == 1 for found in splits.values()) and splits["test/x"] == {"test"}
    assert tiled.splits.keys() == {"train", "val", "test"} and sum(tiled.splits.values()) == tiled.tiles == 32
    names = [f"s{number}" for number in range(10)]
    assert split_of(names, {"train": 0.8, "val": 0.2}, 1) == split_of(names[::-1], {"train": 0.8, "val": 0.2}, 1)
    assert sorted(split_of(names, {"train": 0.8, "val": 0.2}, 1).values()) == ["train"] * 8 + ["val"] * 2


def test_a_killed_pass_goes_on_and_ends_with_the_same_store(scene: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = scene
    config = RasterTiles(window=64, gap=14, label="class", empty=1.0)
    monkeypatch.setattr(geo_tiling, "CHUNK_BYTES", 1)
    whole = tile_rasters(path, tmp_path / "whole", config, engine=ONE)
    cut, done = geo_tiling._cut, []

    def dies(task: Any) -> Path:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(task)
        return cut(task)

    monkeypatch.setattr(geo_tiling, "_cut", dies)
    with pytest.raises(KeyboardInterrupt):
        tile_rasters(path, tmp_path / "out", config, engine=ONE)
    assert len(list((tmp_path / ".parts-out").glob("*.parquet"))) == 3 and not (tmp_path / "out").exists()
    monkeypatch.setattr(geo_tiling, "_tile", None, raising=True)
    monkeypatch.setattr(geo_tiling, "_cut", lambda task: task.part)
    with pytest.raises(FileNotFoundError):  # the fourth part is not there: the first three were taken as they are
        tile_rasters(path, tmp_path / "out", config, engine=ONE)
    monkeypatch.undo()
    monkeypatch.setattr(geo_tiling, "CHUNK_BYTES", 1)
    again = tile_rasters(path, tmp_path / "out", config, engine=ONE)
    assert again == whole and Store.open(tmp_path / "out").id == Store.open(tmp_path / "whole").id
    assert not (tmp_path / ".parts-out").exists()


def test_bands_are_named_and_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    array = raster(path, 40, 40, bands=("", "", "", ""))
    tile_rasters(path, tmp_path / "out", RasterTiles(window=40, gap=0, empty=1.0, bands=BANDS, take=("red", "nir")), engine=ONE)
    [one] = Store.open(tmp_path / "out")
    assert one.pictures[0].bands == ("red", "nir") and np.array_equal(pixels(one.pictures[0]), array[..., 2:])
    with pytest.raises(Refused, match=r"data/missing-band at .*a.tif\n  found:   no swir among its bands blue, green, red, nir"):
        tile_rasters(path, tmp_path / "other", RasterTiles(window=40, gap=0, bands=BANDS, take=("swir",)), engine=ONE)


def test_numbers_that_are_no_data_are_filled_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    raster(path, 40, 40, depth="float32", nodata=None)
    with rasterio.open(path, "r+") as opened:
        values = opened.read()
        values[1, :10] = np.nan
        opened.write(values)
    tile_rasters(path, tmp_path / "out", RasterTiles(window=40, gap=0, empty=1.0), engine=ONE)
    [one] = Store.open(tmp_path / "out")
    assert one.attributes["nodata"] == 0.25 and (pixels(one.pictures[0])[:10, :, 1] == 0).all()


def test_masks_hold_all_outlines_of_a_label_with_their_holes(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = scene
    tile_rasters(path, tmp_path / "out", RasterTiles(window=110, gap=0, label="class", shapes="mask"), engine=ONE)
    one = Store.open(tmp_path / "out")[0]
    sizes = {region.label: mask_area(region.shape) for region in one.annotations if isinstance(region.shape, Mask)}
    assert sizes["tank"] == 14 * 14 and abs(sizes["ship"] - 160) < 12
    assert all(decode_mask(region.shape).shape == (110, 110) for region in one.annotations if isinstance(region.shape, Mask))


def test_a_shapefile_says_the_same_as_geojson(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    shapefile = pytest.importorskip("shapefile")
    path, _ = scene
    with shapefile.Writer(str(tmp_path / "drawn.shp"), shapeType=shapefile.POLYGON) as writer:
        writer.field("class", "C")
        for label, points in (("ship", turned(30, 40, 20, 8, 30)), ("tank", turned(64, 20, 14, 14, 0))):
            ring = [rasterio.Affine(*AFFINE) @ point for point in points]
            writer.poly([[*ring, ring[0]]])
            writer.record(label)
    (tmp_path / "drawn.prj").write_text(rasterio.crs.CRS.from_epsg(32650).to_wkt(version="WKT1_ESRI"))
    config = RasterTiles(window=110, gap=0, label="class")
    tile_rasters(path, tmp_path / "a", config, engine=ONE, vectors=tmp_path / "drawn.shp")
    tile_rasters(path, tmp_path / "b", config, engine=ONE)
    for one, other in zip(Store.open(tmp_path / "a"), Store.open(tmp_path / "b"), strict=True):
        for region, same in zip(one.annotations, other.annotations, strict=True):
            assert region.label == same.label and isinstance(region.shape, RotatedBox) and isinstance(same.shape, RotatedBox)
            assert np.allclose(sorted(map(tuple, corners(region.shape))), sorted(map(tuple, corners(same.shape))), atol=1e-3)
    (tmp_path / "drawn.prj").unlink()
    with pytest.raises(Refused, match=r"data/crs at .*drawn.shp\n  found:   no drawn.prj beside it"):
        tile_rasters(path, tmp_path / "c", config, engine=ONE, vectors=tmp_path / "drawn.shp")
    (tmp_path / "drawn.prj").write_text("nonsense")
    with pytest.raises(Refused, match=r"samples/unknown-crs"):
        tile_rasters(path, tmp_path / "c", config, engine=ONE, vectors=tmp_path / "drawn.shp")
    (tmp_path / "drawn.shp").write_bytes((tmp_path / "drawn.shp").read_bytes()[:90])
    with pytest.raises(Refused, match=r"data/not-a-shapefile"):
        tile_rasters(path, tmp_path / "c", config, engine=ONE, vectors=tmp_path / "drawn.shp")


def test_what_is_wrong_with_outlines_is_listed(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = scene
    value = json.loads(path.with_suffix(".geojson").read_text())
    value["features"][0]["geometry"] = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    value["features"][1]["properties"] = {"other": 1}
    value["features"][2]["geometry"]["coordinates"] = [[["a", 2], [3, 4], [5, 6]]]
    path.with_suffix(".geojson").write_text(json.dumps(value))
    with pytest.raises(Refused) as refused:
        tile_rasters(path, tmp_path / "out", RasterTiles(window=64, gap=0, label="class"), engine=ONE)
    assert [problem.code for problem in refused.value.problems] == ["samples/geometry-kind", "data/no-label", "samples/geometry"]
    path.with_suffix(".geojson").write_text('{"type": "Topology"}')
    with pytest.raises(Refused, match=r"data/no-features"):
        tile_rasters(path, tmp_path / "out", RasterTiles(window=64, gap=0), engine=ONE)


@pytest.mark.parametrize("name", ["a.vrt", "b.tif", "c.tif", "d.tif"])
def test_what_is_no_raster_of_this_disk_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    secret = tmp_path / "secret.tif"
    raster(secret, 20, 20)
    vrt = f'<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    path.write_bytes({"a.vrt": vrt.encode(), "b.tif": vrt.encode(), "c.tif": secret.read_bytes()[:300], "d.tif": b"II*\0" + b"\xff" * 60}[name])
    with pytest.raises(Refused, match=r"samples/broken-raster"):
        tile_rasters(path, tmp_path / "out", RasterTiles(window=64, gap=0, empty=1.0), engine=ONE)


def test_a_raster_that_is_cut_off_in_its_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    raster(path, 300, 300)
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(Refused, match=r"samples/broken-raster at .*a.tif"):
        tile_rasters(path, tmp_path / "out", RasterTiles(window=64, gap=0, empty=1.0), engine=ONE)
    assert not (tmp_path / "out").exists()


def test_the_verb_tiles_rasters(scene: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = scene
    words = [
        "data",
        "tile",
        str(path.parent),
        str(tmp_path / "out"),
        "--window",
        "64",
        "--gap",
        "14",
        "--label",
        "class",
        "--split",
        "train=1",
        "--workers",
        "1",
    ]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["windows"], told["tiles"] + told["empty"] + told["nodata"], told["splits"]) == (6, 6, {"train": told["tiles"]})
    assert main([*words, "--rate", "2"]) == 2
    assert "found:   --rate" in capsys.readouterr().err
    assert main(["data", "tile", str(tmp_path / "out"), str(tmp_path / "twice"), "--vectors", "x.geojson"]) == 2
    assert main(["data", "tile", str(tmp_path / "out"), str(tmp_path / "twice"), "--window", "32", "--gap", "4", "--workers", "1"]) == 0
    for one in Store.open(tmp_path / "twice"):
        assert one.pictures[0].bands == BANDS and one.pictures[0].geo is not None


def test_the_reader_reads_the_same_scene_as_one_picture(scene: tuple[Path, np.ndarray]) -> None:
    path, array = scene
    assert choose(path.parent).sets[0][0].candidate.kind == "geotiff"
    found = list(GeoTiff(label="class").read(path.parent))
    [sample], [problem] = [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Problem)]
    assert problem.code == "data/outlines-outside" and problem.severity == "warn"
    assert np.array_equal(pixels(sample.pictures[0]), array) and sample.pictures[0].geo is not None
    assert [region.label for region in sample.annotations] == ["ship", "tank"]
    renamed = [one for one in GeoTiff(bands=("a", "b", "c", "d")).read(path.parent) if isinstance(one, Sample)]
    assert renamed[0].pictures[0].bands == ("a", "b", "c", "d")
    wrong = [one for one in GeoTiff(bands=("a", "b", "c")).read(path.parent) if isinstance(one, Problem)]
    assert [one.code for one in wrong] == ["samples/bands"]


_GROWTH = """
import resource, sys
from pathlib import Path
import pyarrow.parquet, rasterio.warp, shapely
from sightline.data.engine import Local
from sightline.data.geo_tiling import RasterTiles, tile_rasters
from sightline.data.parts import Parts
from sightline.samples.store import Store
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tile_rasters(Path(sys.argv[1]), Path(sys.argv[2]), RasterTiles(empty=1.0), engine=Local(workers=1))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    block = np.random.default_rng(0).integers(1, 3000, (4, 512, 512), dtype=np.uint16)
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw", "crs": "EPSG:32650", "transform": rasterio.Affine(*AFFINE)}
    with rasterio.open(path, "w", driver="GTiff", width=8192, height=8192, count=4, dtype="uint16", **options) as opened:
        for top in range(0, 8192, 512):
            for left in range(0, 8192, 512):
                opened.write(block, window=rasterio.windows.Window(left, top, 512, 512))
    told = subprocess.run([sys.executable, "-c", _GROWTH, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 300  # MB; the scene has 512
    assert len(Store.open(tmp_path / "out")) == 100
