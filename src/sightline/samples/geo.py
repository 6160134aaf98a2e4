"""From pixels to places on the earth and back, and regions as GeoJSON (RFC 7946).

A georeference is an affine map by the convention of rasterio: pixel (0, 0) is the outer corner of the top-left pixel, so that x = a*column + b*row + c, y = d*column + e*row + f.
That is the origin of regions too, and nothing is half a pixel off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shapely import box as boxes
from shapely import transform, union_all
from shapely.geometry import MultiPolygon, mapping
from shapely.geometry import Polygon as Outline
from shapely.geometry.polygon import orient

from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.geometry import Points, corners, decode_mask
from sightline.samples.sample import Box, Geo, Mask, Picture, Point, Polygon, Region, RotatedBox, Shape

LONGITUDE_LATITUDE = "EPSG:4326"
"""WGS 84; in GeoJSON the longitude comes first."""
Project = Callable[[Points], Points]
"""From places (n, 2) in one coordinate system, x or longitude first, to places in another."""


def to_map(geo: Geo, points: Points) -> Points:
    """Places (n, 2) in the coordinate system of `geo`, of points in px."""
    a, b, c, d, e, f = geo.affine
    x, y = points[:, 0], points[:, 1]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def to_pixels(geo: Geo, places: Points) -> Points:
    """Points (n, 2) in px, of places in the coordinate system of `geo`."""
    a, b, c, d, e, f = geo.affine
    determinant = a * e - b * d
    assert determinant, f"a map without an inverse: {geo.affine}"
    x, y = places[:, 0] - c, places[:, 1] - f
    return np.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=1)


def moved(geo: Geo, left: float, top: float, across: float = 1.0, down: float = 1.0) -> Geo:
    """The georeference of a part: its point p is the point (p * (across, down) + (left, top)) of the whole, in px of the whole. `across` and `down` are above 1 where it was made smaller."""
    a, b, c, d, e, f = geo.affine
    return Geo(crs=geo.crs, affine=(a * across, b * down, c + a * left + b * top, d * across, e * down, f + d * left + e * top))


def turned_geo(geo: Geo, where: Callable[[float, float], tuple[float, float]]) -> Geo:
    """The georeference of a picture whose point p lies at `where(p)` after a turn or a mirroring: `where` is affine."""
    origin, right, down = (np.array(where(x, y)) for x, y in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    turn = np.array([[*(right - origin), 0], [*(down - origin), 0], [*origin, 1]]).T
    a, b, c, d, e, f = geo.affine
    made = np.array([[a, b, c], [d, e, f], [0, 0, 1]]) @ np.linalg.inv(turn)
    a, b, c, d, e, f = made[:2].ravel().tolist()
    return Geo(crs=geo.crs, affine=(a, b, c, d, e, f))


def feature(region: Region, geo: Geo, project: Project | None, properties: Mapping[str, Any], digits: int) -> dict[str, Any]:
    """One Feature. Polygons are closed and wind counterclockwise (RFC 7946, section 3.1.6), holes clockwise; a region of the whole picture, or a control token, has no geometry.

    Properties: `label`, `score` and others of its attributes, `theta`, `w`, `h` (degrees and px) of a rotated box, and `properties`.
    """
    said: dict[str, Any] = {"label": region.label, **region.attributes}
    if isinstance(region.shape, RotatedBox):
        said |= {"theta": region.shape.theta, "w": region.shape.w, "h": region.shape.h}
    return {"type": "Feature", "geometry": _geometry(region.shape, geo, project, digits), "properties": {**said, **properties}}


def feature_collection(
    pictures: Sequence[Picture], regions: Iterable[Region], project: Callable[[str], Project] | None = None, source: str = ""
) -> dict[str, Any]:
    """Regions of georeferenced pictures as a FeatureCollection.

    `project` gives for a coordinate system the way to WGS 84; without it coordinates stay in the system of the pictures, which the member `crs` then names (GeoJSON of 2008: RFC 7946
    knows no other system). Coordinates have 7 digits after the point in degrees (1 cm) and 3 otherwise.
    Refused: a region on a picture without a georeference, or of two systems in one collection that stays in its own.
    """
    found = list(regions)
    shown = [pictures[region.picture] for region in found]
    problems = [
        Problem(
            code="samples/no-georeference",
            place=picture.name or picture.hash[:12],
            found="a picture that does not say where it lies",
            allowed="pictures with a coordinate system and an affine map, as GeoTIFF has them",
            fix="give the GeoTIFF itself, or write regions in pixels",
        )
        for picture in dict.fromkeys(shown)
        if picture.geo is None
    ]
    systems = sorted({picture.geo.crs for picture in shown if picture.geo is not None})
    if project is None and len(systems) > 1:
        problems.append(
            Problem(
                code="samples/several-systems",
                place="geojson",
                found=", ".join(systems),
                allowed="one coordinate system in a file",
                fix="write in WGS 84, the default",
            )
        )
    if problems:
        raise Refused(problems)
    ways = {system: None if project is None or system == LONGITUDE_LATITUDE else project(system) for system in systems}
    named = {"source": source} if source else {}
    features = []
    for region, picture in zip(found, shown, strict=True):
        assert picture.geo is not None
        degrees = project is not None or picture.geo.crs == LONGITUDE_LATITUDE
        features.append(feature(region, picture.geo, ways[picture.geo.crs], {"source": picture.name, **named}, 7 if degrees else 3))
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if project is None and systems and systems != [LONGITUDE_LATITUDE]:
        collection["crs"] = {"type": "name", "properties": {"name": _urn(systems[0])}}
    return collection


def write_geojson(path: Path, collection: Mapping[str, Any]) -> None:
    """Write a collection, whole or not at all."""
    write_text(path, json.dumps(collection, ensure_ascii=False, allow_nan=False) + "\n")


def _urn(crs: str) -> str:
    name, _, code = crs.partition(":")
    return f"urn:ogc:def:crs:{name}::{code}" if code else crs


def _geometry(shape: Shape | None, geo: Geo, project: Project | None, digits: int) -> dict[str, Any] | None:
    def placed(points: Points) -> Points:
        places = to_map(geo, points)
        return np.round(places if project is None else project(places), digits)

    if isinstance(shape, Point):
        return {"type": "Point", "coordinates": placed(np.array([(shape.x, shape.y)]))[0].tolist()}
    if isinstance(shape, Mask):
        pieces = [orient(transform(part, placed)) for part in mask_outlines(shape)]
        return None if not pieces else _plain(mapping(pieces[0] if len(pieces) == 1 else MultiPolygon(pieces)))
    if isinstance(shape, Box | RotatedBox | Polygon):
        return _plain(mapping(orient(Outline(placed(outline(shape))))))
    return None


def _plain(geometry: Any) -> dict[str, Any]:
    return json.loads(json.dumps(geometry))


def outline(shape: Box | RotatedBox | Polygon) -> Points:
    """Corners (n, 2) in px, in order."""
    if isinstance(shape, Box):
        return np.array([(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)], np.float64)
    return corners(shape) if isinstance(shape, RotatedBox) else np.array(shape.points, np.float64)


def mask_outlines(mask: Mask) -> list[Outline]:
    """The parts of a mask along the edges of its pixels, with their holes, px; parts that touch at a corner only are apart."""
    padded = np.pad(decode_mask(mask), ((1, 1), (0, 0))).astype(np.int8)
    steps = np.diff(padded, axis=0).T
    columns, tops = np.nonzero(steps == 1)
    _, bottoms = np.nonzero(steps == -1)
    whole = union_all(boxes(columns, tops, columns + 1, bottoms)).simplify(0)
    return [part for part in getattr(whole, "geoms", [whole]) if isinstance(part, Outline) and part.area]


def polygons_in(geometry: Mapping[str, Any], place: str) -> list[list[Points]]:
    """Polygons of a GeoJSON geometry, each as [shell, hole, ..] of points (n, 2); invalid ones are made valid first. Refused: other geometry, and coordinates that are no finite numbers."""
    kind, given = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        return [polygon for part in geometry.get("geometries") or [] for polygon in polygons_in(part, place)]
    if kind not in ("Polygon", "MultiPolygon"):
        fix = "buffer points and lines in your GIS program, or remove them"
        raise Refused(Problem(code="samples/geometry-kind", place=place, found=str(kind)[:60], allowed="Polygon and MultiPolygon", fix=fix))
    try:
        polygons: list[Any] = [given] if kind == "Polygon" else list(given or ())
        rings = [[np.array([point[:2] for point in ring], np.float64).reshape(-1, 2) for ring in polygon] for polygon in polygons]
    except (TypeError, ValueError, KeyError, OverflowError):
        rings = []
    if not rings or any(not polygon or any(len(ring) < 3 or not np.isfinite(ring).all() for ring in polygon) for polygon in rings):
        raise Refused(
            Problem(code="samples/geometry", place=place, found=json.dumps(given, default=str)[:120], allowed="rings of finite [x, y]", fix="mend the geometry")
        )
    return rings
