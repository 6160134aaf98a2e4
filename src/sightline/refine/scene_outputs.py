"""Objects of a scene as files: GeoJSON, COCO, DOTA and a label picture. Each is written whole or not at all, and the same objects give the same bytes.

NAME.geojson                     outlines on the map, WGS 84 unless the file's own system is wanted; in px where the scene does not say where it lies
annotations/instances_NAME.json  COCO
labelTxt/NAME.txt                DOTA: put the pictures into images/ beside it
NAME.labels.png, .json, .pgw     numbers of labels with a palette, their names, and the georeference as a world file
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from shapely.geometry import Polygon as Outline

from sightline.data.geo_vectors import filled
from sightline.data.readers.coco_masks import write_runs
from sightline.data.readers.dota import coordinate, quad_of
from sightline.data.tiling_annotations import FRAGMENT
from sightline.errors import Problem, Refused
from sightline.lineage import write_json, write_text
from sightline.refine.annotate import Patch, SceneRegion
from sightline.refine.scene_reading import OpenScene
from sightline.samples.drawing import colours_of
from sightline.samples.geo import feature_collection, moved, write_geojson
from sightline.samples.geo_rasters import projection
from sightline.samples.geometry import Points, corners, encode_mask
from sightline.samples.pictures import MAX_PIXELS
from sightline.samples.sample import Geo, Mask, Picture, Region

Form = Literal["geojson", "coco", "dota", "png"]
PX = Geo(crs="", affine=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
"""Of scenes that do not say where they lie."""
_DIGITS = 3


def write_bytes(path: Path, data: bytes) -> None:
    """Write one file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:8]}"
    temporary.write_bytes(data)
    temporary.replace(path)


def check_forms(scene: OpenScene, forms: Sequence[Form], crs: Literal["wgs84", "file"]) -> None:
    """Refused before anything is asked: a label picture that would be too large, and a coordinate system from which no way to WGS 84 is known here."""
    if "png" in forms and scene.width * scene.height > MAX_PIXELS:
        found, fix = f"{scene.width}x{scene.height} px", "write geojson, or cut the scene"
        raise Refused(Problem(code="refine/labels-too-large", place=str(scene.path), found=found, allowed=f"at most {MAX_PIXELS} px for png", fix=fix))
    if "geojson" in forms and scene.geo is not None and crs == "wgs84":
        projection(scene.geo.crs)


def write_forms(
    scene: OpenScene, regions: Sequence[SceneRegion], labels: Sequence[str], forms: Sequence[Form], crs: Literal["wgs84", "file"], out: Path
) -> list[Path]:
    """Write the objects in these forms below `out`; the files that were written, the main one of each form."""
    writers: dict[Form, Callable[[], Path]] = {
        "geojson": lambda: write_scene_geojson(scene, regions, crs, out),
        "coco": lambda: write_scene_coco(scene, regions, labels, out),
        "dota": lambda: write_scene_dota(scene, regions, out),
        "png": lambda: write_scene_png(scene, regions, labels, out),
    }
    return [writers[form]() for form in forms]


def write_scene_geojson(scene: OpenScene, regions: Sequence[SceneRegion], crs: Literal["wgs84", "file"], out: Path) -> Path:
    """A FeatureCollection: `label`, `score`, `cut`, and `theta`, `w`, `h` of boxes in px. Without a georeference y goes down, and a member says that the units are px."""
    geo = scene.geo or PX
    pictures, placed = [], []
    for number, one in enumerate(regions):
        left, top = (one.mask.left, one.mask.top) if one.mask else (0, 0)
        pictures.append(Picture(hash="", width=scene.width, height=scene.height, data=b"", geo=moved(geo, left, top), name=scene.path.name))
        said: dict[str, Any] = {**({"score": round(one.score, 4)} if one.score is not None else {}), **({"cut": True} if one.cut else {})}
        shape = encode_mask(one.mask.pixels) if one.mask else one.box
        placed.append(Region(picture=number, label=one.label, attributes=said, shape=shape))
    project = projection if scene.geo is not None and crs == "wgs84" else None
    collection = feature_collection(pictures, placed, project)
    if scene.geo is None:
        collection.pop("crs", None)
        collection["sightline"] = {"units": "px", "width": scene.width, "height": scene.height}
    path = out / f"{scene.name}.geojson"
    write_geojson(path, collection)
    return path


def write_scene_coco(scene: OpenScene, regions: Sequence[SceneRegion], labels: Sequence[str], out: Path) -> Path:
    """One picture with its annotations: outlines of boxes or runs of masks, `bbox`, `area`, and `score` where there is one. Categories are the labels that were asked for, in their order."""
    numbers = {label: number for number, label in enumerate(labels, 1)}
    rows = []
    for number, one in enumerate(regions, 1):
        points = corners(one.box)
        box = [*points.min(0).tolist(), *(points.max(0) - points.min(0)).tolist()]
        segmentation: Any = [np.round(points.ravel(), _DIGITS).tolist()]
        area = one.box.w * one.box.h
        if one.mask is not None:
            height, width = one.mask.pixels.shape
            box, area, segmentation = [one.mask.left, one.mask.top, width, height], int(one.mask.pixels.sum()), write_runs(whole_mask(one.mask, *scene.size))
        row = {"id": number, "image_id": 1, "category_id": numbers[one.label], "iscrowd": 0, "segmentation": segmentation}
        row |= {"bbox": [round(value, _DIGITS) for value in box], "area": round(area, _DIGITS)}
        rows.append(row | ({"score": round(one.score, 4)} if one.score is not None else {}))
    image = {"id": 1, "file_name": scene.path.name, "width": scene.width, "height": scene.height}
    name = Path(scene.name)
    path = out / name.parent / "annotations" / f"instances_{name.name}.json"
    write_json(path, {"images": [image], "annotations": rows, "categories": [{"id": number, "name": label} for label, number in numbers.items()]})
    return path


def whole_mask(patch: Patch, width: int, height: int) -> Mask:
    """The mask of a patch in a picture of width x height px, without a picture of that size in between."""
    steps = np.diff(np.pad(patch.pixels, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    columns, tops = np.nonzero(steps == 1)
    _, bottoms = np.nonzero(steps == -1)
    first = (columns + patch.left) * height + patch.top
    edges = np.stack([first + tops, first + bottoms], axis=1).ravel()
    if len(edges):  # a run that fills a column to its end goes on in the next one
        apart = edges[2::2] != edges[1:-1:2]
        edges = np.stack([edges[::2][np.r_[True, apart]], edges[1::2][np.r_[apart, True]]], axis=1).ravel()
    runs = np.diff(np.concatenate([[0], edges, [width * height]])).tolist()
    return Mask(width=width, height=height, runs=tuple(runs if runs[-1] else runs[:-1]))


def write_scene_dota(scene: OpenScene, regions: Sequence[SceneRegion], out: Path) -> Path:
    """Lines of four corners, class and difficulty: 2 for what an edge has cut off. Masks are their boxes; a space in a label becomes a hyphen, as in DOTA's own names."""
    lines = []
    for one in regions:
        quad = quad_of(Region(shape=one.box)) or []
        lines.append(f"{' '.join(coordinate(round(value, _DIGITS)) for value in quad)} {'-'.join(one.label.split())} {FRAGMENT if one.cut else 0}\n")
    name = Path(scene.name)
    path = out / name.parent / "labelTxt" / f"{name.name}.txt"
    write_text(path, "".join(lines))
    return path


def write_scene_png(scene: OpenScene, regions: Sequence[SceneRegion], labels: Sequence[str], out: Path) -> Path:
    """Numbers of labels from 1, 0 elsewhere, where objects overlap the likelier one; up to 255 labels with a palette. Refused above that."""
    if len(labels) > 255:
        raise Refused(
            Problem(code="refine/too-many-labels", place=scene.name, found=f"{len(labels)} labels", allowed="at most 255 for png", fix="write geojson")
        )
    numbers = {label: number for number, label in enumerate(labels, 1)}
    raster = np.zeros((scene.height, scene.width), np.uint8)
    for one in sorted(regions, key=lambda region: -1.0 if region.score is None else region.score):
        patch = one.mask or box_patch(corners(one.box), *scene.size)
        rows, columns = patch.pixels.shape
        raster[patch.top : patch.top + rows, patch.left : patch.left + columns][patch.pixels] = numbers[one.label]
    picture = Image.fromarray(raster)
    palette = [(0, 0, 0), *colours_of(labels).values()]
    picture.putpalette([value for entry in palette for value in entry])
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    path = out / f"{scene.name}.labels.png"
    write_bytes(path, stream.getvalue())
    write_text(
        out / f"{scene.name}.labels.json",
        json.dumps([{"id": 0, "name": "ignore"}, *({"id": numbers[label], "name": label} for label in labels)], ensure_ascii=False) + "\n",
    )
    if scene.geo is not None:
        a, b, c, d, e, f = scene.geo.affine
        # a world file gives the centre of the first pixel: A, D, B, E, C, F on a line each
        write_text(out / f"{scene.name}.labels.pgw", "".join(f"{value!r}\n" for value in (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)))
    return path


def box_patch(points: Points, width: int, height: int) -> Patch:
    """The pixels of a scene of width x height px whose centre lies in an outline (n, 2)."""
    x0, y0 = np.clip(np.floor(points.min(0)), 0, (width, height)).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(points.max(0)), 0, (width, height)).astype(int).tolist()
    return Patch(left=x0, top=y0, pixels=filled([Outline(points - (x0, y0))], max(0, x1 - x0), max(0, y1 - y0)))
