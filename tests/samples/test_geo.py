"""Georeference: pixels to the map as rasterio has it, through tiles and turns, and GeoJSON that others read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely.geometry import shape as shapely_shape

from sightline.errors import Refused
from sightline.samples.dihedral import TURNS, turned_point
from sightline.samples.geo import feature_collection, mask_outlines, moved, to_map, to_pixels, turned_geo, write_geojson
from sightline.samples.geometry import encode_mask
from sightline.samples.sample import Box, Geo, Mask, Picture, Point, Polygon, Region, RotatedBox

UTM = Geo(crs="EPSG:32650", affine=(0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0))
NUMBERS = st.floats(-1e4, 1e4, allow_nan=False)
AFFINES = st.tuples(st.floats(-50, 50), st.floats(-5, 5), st.floats(-1e6, 1e6), st.floats(-5, 5), st.floats(-50, 50), st.floats(-1e7, 1e7))


def geo_of(affine: tuple[float, ...]) -> Geo:
    assume(abs(affine[0] * affine[4] - affine[1] * affine[3]) > 0.1)
    return Geo(crs="EPSG:32650", affine=affine)  # type: ignore[arg-type]


def picture(geo: Geo | None, name: str = "a.tif") -> Picture:
    return Picture(hash="0" * 64, width=100, height=80, data=b"", geo=geo, name=name)


@settings(max_examples=100, deadline=None)
@given(AFFINES, st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=5))
def test_places_are_those_of_rasterio_and_come_back(affine: tuple[float, ...], points: list[tuple[float, float]]) -> None:
    transform = pytest.importorskip("rasterio.transform")
    geo = geo_of(affine)
    places = to_map(geo, np.array(points))
    theirs = transform.Affine(*affine)
    wanted = np.array([theirs @ point for point in points])
    assert np.allclose(places, wanted, rtol=1e-12, atol=1e-6)
    # rows and columns of rasterio at the corner of a pixel: the same origin, and not its centre
    xs, ys = transform.xy(theirs, [int(y) for _, y in points], [int(x) for x, _ in points], offset="ul")
    assert np.allclose(to_map(geo, np.array([(int(x), int(y)) for x, y in points])), np.array([xs, ys]).T, rtol=1e-12, atol=1e-6)
    assert np.abs(to_pixels(geo, places) - np.array(points)).max() < 0.5 / 100


@settings(max_examples=50, deadline=None)
@given(AFFINES, NUMBERS, NUMBERS, st.floats(0.1, 8), st.floats(0, 100), st.floats(0, 100))
def test_a_part_lies_where_it_lay(affine: tuple[float, ...], left: float, top: float, rate: float, x: float, y: float) -> None:
    geo = geo_of(affine)
    part = moved(geo, left, top, 1 / rate, 1 / rate)
    assert np.allclose(to_map(part, np.array([(x, y)])), to_map(geo, np.array([(left + x / rate, top + y / rate)])), rtol=1e-9, atol=1e-4)


@pytest.mark.parametrize("turn", range(TURNS))
def test_a_turned_picture_lies_where_it_lay(turn: int) -> None:
    geo, size = Geo(crs="EPSG:32650", affine=(0.5, 0.1, 500000.0, 0.2, -0.5, 4000000.0)), (100, 80)
    turned = turned_geo(geo, lambda x, y: turned_point(x, y, size, turn))
    for point in ((0.0, 0.0), (100.0, 80.0), (13.0, 59.5)):
        assert np.allclose(to_map(turned, np.array([turned_point(*point, size, turn)])), to_map(geo, np.array([point])), atol=1e-6)


def test_regions_are_features_in_the_system_of_the_file() -> None:
    regions = [
        Region(label="ship", attributes={"score": 0.75}, shape=RotatedBox(cx=50, cy=40, w=20, h=10, theta=30)),
        Region(label="pond", shape=Polygon(points=((0, 0), (10, 0), (10, 10)))),
        Region(label="tree", shape=Point(x=4, y=6)),
        Region(label="all", shape=None),
    ]
    made = feature_collection([picture(UTM)], regions, source="model-1")
    assert made["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32650"
    first, second, third, fourth = made["features"]
    known = {"label": "ship", "score": 0.75, "theta": 30, "w": 20, "h": 10, "source": "model-1"}
    assert first["properties"] == known
    for feature in (first, second):
        [ring] = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert shapely_shape(feature["geometry"]).exterior.is_ccw  # RFC 7946, section 3.1.6
    assert shapely_shape(first["geometry"]).area == pytest.approx(50, rel=1e-3)
    assert third["geometry"] == {"type": "Point", "coordinates": [500002.0, 3999997.0]} and fourth["geometry"] is None


def test_wgs84_is_the_default_of_geojson_and_agrees_with_rasterio(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp")
    from sightline.samples.geo_rasters import projection

    made = feature_collection([picture(UTM)], [Region(label="ship", shape=Box(x0=10, y0=20, x1=30, y1=40))], projection)
    assert "crs" not in made
    ring = made["features"][0]["geometry"]["coordinates"][0]
    x, y = warp.transform("EPSG:32650", "EPSG:4326", [500005.0, 500015.0], [3999980.0, 3999990.0])
    assert {round(lon, 5) for lon, _ in ring} == {round(lon, 5) for lon in x} and {round(lat, 5) for _, lat in ring} == {round(lat, 5) for lat in y}
    back = projection("EPSG:4326", "EPSG:32650")(np.array(ring))
    assert np.abs(to_pixels(UTM, back) - np.round(to_pixels(UTM, back))).max() < 0.5
    write_geojson(tmp_path / "a.geojson", made)
    assert json.loads((tmp_path / "a.geojson").read_text()) == made


def test_masks_become_polygons_with_their_holes() -> None:
    pixels = np.zeros((12, 12), bool)
    pixels[1:8, 1:8], pixels[3:5, 3:6], pixels[8, 8] = True, False, True  # the last touches at a corner only
    parts = mask_outlines(encode_mask(pixels))
    assert sorted((part.area, len(part.interiors)) for part in parts) == [(1.0, 0), (43.0, 1)]
    feature = feature_collection([picture(UTM)], [Region(label="field", shape=encode_mask(pixels))])["features"][0]
    assert feature["geometry"]["type"] == "MultiPolygon" and shapely_shape(feature["geometry"]).area == pytest.approx(44 * 0.25)
    assert mask_outlines(Mask(width=3, height=2, runs=(6,))) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=7))
def test_outlines_of_a_mask_cover_its_pixels(rows: list[list[bool]]) -> None:
    pixels = np.array(rows)
    parts = mask_outlines(encode_mask(pixels))
    assert sum(part.area for part in parts) == pixels.sum() and all(part.is_valid for part in parts)


def test_pictures_without_a_place_and_two_systems_are_refused() -> None:
    region = Region(label="a", shape=Point(x=1, y=1))
    with pytest.raises(Refused, match=r"samples/no-georeference at a.tif"):
        feature_collection([picture(None)], [region])
    other = picture(Geo(crs="EPSG:32651", affine=UTM.affine), "b.tif")
    with pytest.raises(Refused, match=r"samples/several-systems at geojson\n  found:   EPSG:32650, EPSG:32651"):
        feature_collection([picture(UTM), other], [region, Region(picture=1, label="a", shape=Point(x=1, y=1))])
