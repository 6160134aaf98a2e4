"""Outlines of GeoJSON and Shapefile as regions of a raster: read once, brought into the raster's coordinate system, then into pixels.

GeoJSON is longitude and latitude (RFC 7946) unless a member `crs` of the older standard names another system; a Shapefile says its system in the .prj beside it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field
from shapely import box as rectangle
from shapely import contains_xy, make_valid, prepare
from shapely.geometry import Polygon as Outline

from sightline.data.joining import summary
from sightline.data.parts import state
from sightline.data.readers.files import plain, read_json, refuse
from sightline.data.tiling_annotations import FRAGMENT, Window
from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.samples.geo import LONGITUDE_LATITUDE, polygons_in, to_pixels
from sightline.samples.geo_rasters import EXTRA, projection, same_crs
from sightline.samples.geometry import Points, encode_mask, min_area_rect
from sightline.samples.sample import Box, Geo, Polygon, Region, Shape

SUFFIXES = (".geojson", ".json", ".shp")
"""Endings of files of outlines, the preferred one first."""
LARGEST = 1 << 30
"""Bytes of a file of outlines."""
_LEAST = 1.0
"""Pieces below this area in px are the touch of an edge, not a remainder."""


class OutlineConfig(Config):
    """How outlines become regions."""

    label: str = ""
    """Property of an outline that holds its label; empty: all are `common_label`."""
    common_label: str = "object"
    """Label of all outlines where `label` names no property."""
    shapes: Literal["rotated", "box", "polygon", "mask"] = "rotated"
    """rotated: the rectangle of least area around what is visible of an outline; box: the upright one; polygon: its outer ring; mask: one mask per label, with holes."""
    kept: float = Field(default=0.7, gt=0, le=1)
    """Share of its area above which a cut outline still counts as that object; a smaller remainder is marked `difficult` 2."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One polygon of a file: shell and holes (n, 2), its label and the number of its feature."""

    rings: tuple[Points, ...]
    label: str
    feature: int


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """All polygons of a file, in one coordinate system."""

    crs: str
    drawn: tuple[Drawn, ...]


def vectors_beside(raster: Path) -> Path | None:
    """The file of outlines with a raster's stem, in its folder."""
    return next((file for suffix in SUFFIXES if (file := raster.with_suffix(suffix)).is_file()), None)


def read_vectors(path: Path, config: OutlineConfig) -> Vectors:
    """The polygons of a GeoJSON file or a Shapefile. Refused with all features that have another geometry or lack the property of the label."""
    plain(path, LARGEST)
    return _read_vectors(path, tuple(state(map(str, vector_files(path)))), config.label, config.common_label)


def vector_files(path: Path) -> list[Path]:
    """The files that say what is read at `path`: a Shapefile is several."""
    return [path.with_suffix(suffix) for suffix in (".shp", ".shx", ".dbf", ".prj")] if path.suffix.lower() == ".shp" else [path]


@lru_cache(maxsize=2)
def _read_vectors(path: Path, _state: tuple[Any, ...], label: str, common: str) -> Vectors:
    crs, features = _shapefile(path) if path.suffix.lower() == ".shp" else _geojson(path)
    drawn: list[Drawn] = []
    problems: list[Problem] = []
    for number, geometry, properties in features:
        place = f"{path}:feature {number}"
        value = properties.get(label) if label else common
        if value is None or not str(value).strip():
            problems.append(refuse("no-label", place, f"no property {label!r} among {', '.join(map(str, properties)) or 'none'}", "a label", "correct `label`"))
            continue
        try:
            drawn += [Drawn(rings=tuple(rings), label=str(value).strip(), feature=number) for rings in polygons_in(geometry, place)]
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(summary(problems))
    return Vectors(crs=crs, drawn=tuple(drawn))


Feature = tuple[int, Mapping[str, Any], Mapping[str, Any]]


def _geojson(path: Path) -> tuple[str, Iterator[Feature]]:
    value = read_json(path)
    features = value.get("features") if isinstance(value, dict) else None
    if not isinstance(features, list):
        raise Refused(refuse("no-features", str(path), "no FeatureCollection", "a GeoJSON FeatureCollection", "export it again as GeoJSON"))

    def listed() -> Iterator[Feature]:
        for number, one in enumerate(features):
            known = one if isinstance(one, dict) else {}
            geometry, properties = known.get("geometry"), known.get("properties")
            yield number, geometry if isinstance(geometry, dict) else {"type": geometry}, properties if isinstance(properties, dict) else {}

    return _named_crs(value.get("crs"), str(path)), listed()


def _named_crs(said: Any, place: str) -> str:
    if said is None:
        return LONGITUDE_LATITUDE
    try:
        name = str(said["properties"]["name"])
    except (TypeError, KeyError):
        raise Refused(
            refuse("crs", place, f"crs {str(said)[:80]}", 'no `crs`, or {"type": "name", "properties": {"name": "EPSG:32650"}}', "name the coordinate system")
        ) from None
    # urn:ogc:def:crs:EPSG::32650 and urn:ogc:def:crs:OGC:1.3:CRS84
    parts = name.split(":")
    code = f"EPSG:{parts[-1]}" if parts[0] == "urn" and "EPSG" in parts else name
    return LONGITUDE_LATITUDE if code.endswith("CRS84") else code


def _shapefile(path: Path) -> tuple[str, Iterator[Feature]]:
    if find_spec("shapefile") is None:
        raise Refused(Problem(code="data/no-pyshp", place=str(path), found="a Shapefile, and pyshp is not installed", allowed="the extra `geo`", fix=EXTRA))
    beside = path.with_suffix(".prj")
    if not beside.is_file():
        raise Refused(
            refuse("crs", str(path), f"no {beside.name} beside it", "a Shapefile that says its coordinate system", "copy the .prj too, or export as GeoJSON")
        )
    plain(beside, 1 << 16)
    return beside.read_text(encoding="utf-8", errors="replace").strip(), _shapes(path)


def _shapes(path: Path) -> Iterator[Feature]:
    import shapefile

    try:
        with closing(shapefile.Reader(str(path))) as reader:
            for number, one in enumerate(reader.iterShapeRecords()):
                drawn: Any = one.shape
                yield number, drawn.__geo_interface__ if drawn.points else {"type": "Null"}, cast(Any, one.record).as_dict()
    # pyshp lets through whatever its parsing meets
    except (shapefile.ShapefileException, struct.error, ArithmeticError, AssertionError, LookupError, OSError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
        raise Refused(refuse("not-a-shapefile", str(path), found, ".shp, .shx and .dbf that belong together", "copy all its files again")) from None


class Placed:
    """Polygons in px of a raster, found by window."""

    def __init__(self, vectors: Vectors, geo: Geo) -> None:
        """Refused where the systems differ and rasterio is not there, or a place is nowhere in the raster's system."""
        known = vectors.drawn
        points = np.concatenate([ring for one in known for ring in one.rings]) if known else np.zeros((0, 2))
        if len(points) and not same_crs(vectors.crs, geo.crs):
            points = projection(vectors.crs, geo.crs)(points)
        pixels = to_pixels(geo, points)
        ends = np.cumsum([len(ring) for one in known for ring in one.rings])
        rings = iter(np.split(pixels, ends[:-1]) if known else [])
        self._drawn = [(one, tuple(next(rings) for _ in one.rings)) for one in known]
        self._bounds = np.array([(*own[0].min(0), *own[0].max(0)) for _, own in self._drawn], np.float64).reshape(-1, 4)

    def outside(self, width: int, height: int) -> int:
        """How many polygons have no px in a raster of this size."""
        return len(self._drawn) - len(self._at(0, 0, width, height))

    def _at(self, left: int, top: int, width: int, height: int) -> list[int]:
        x0, y0, x1, y1 = self._bounds.T
        return np.flatnonzero((x0 < left + width) & (x1 > left) & (y0 < top + height) & (y1 > top)).tolist()

    def regions(self, window: Window, config: OutlineConfig) -> list[Region]:
        """Regions in a window, in its px: each polygon clipped, then in the form that is wanted. What has lost more than it may is marked as a fragment."""
        frame = rectangle(0, 0, window.width, window.height)
        found: list[Region] = []
        masked: dict[str, list[Outline]] = {}
        for number in self._at(window.left, window.top, window.width, window.height):
            one, rings = self._drawn[number]
            shell, *holes = [ring - (window.left, window.top) for ring in rings]
            whole = Outline(shell, holes)
            whole = whole if whole.is_valid else make_valid(whole)
            pieces = _polygons(whole.intersection(frame), min(_LEAST, whole.area / 2))
            share = sum(piece.area for piece in pieces) / whole.area if whole.area else 0.0
            if config.shapes == "mask":
                masked.setdefault(one.label, []).extend(pieces)
                continue
            fragment = {"difficult": FRAGMENT} if share <= config.kept or len(pieces) > len(_polygons(whole, 0.0)) else {}
            found += [Region(label=one.label, shape=_shape(piece, config.shapes), attributes={"feature": one.feature, **fragment}) for piece in pieces]
        return found + [
            Region(label=label, shape=mask)
            for label, pieces in masked.items()
            if pieces and len((mask := encode_mask(filled(pieces, window.width, window.height))).runs) > 1
        ]


def _polygons(geometry: Any, least: float) -> list[Outline]:
    return [piece for piece in getattr(geometry, "geoms", [geometry]) if isinstance(piece, Outline) and piece.area > least]


def _shape(piece: Outline, form: str) -> Shape:
    points = np.array(piece.exterior.coords)[:-1]
    if form == "rotated":
        return min_area_rect(points)
    if form == "box":
        (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    return Polygon(points=tuple((float(x), float(y)) for x, y in points))


def filled(pieces: Sequence[Outline], width: int, height: int) -> np.ndarray:
    """(height, width) of the pixels whose centre lies in one of the polygons and in none of its holes."""
    made = np.zeros((height, width), bool)
    for piece in pieces:
        x0, y0, x1, y1 = piece.bounds
        left, top, right, bottom = max(0, int(x0)), max(0, int(y0)), min(width, int(x1) + 1), min(height, int(y1) + 1)
        prepare(piece)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        made[top:bottom, left:right] |= contains_xy(piece, x, y)
    return made
