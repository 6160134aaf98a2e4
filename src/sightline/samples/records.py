"""Samples as columns of text and back: the one serialised form, read by the store, by operators' logs and by people.

Values at their default are left out, so that a record is short and two equal samples have equal records. The forms:

    item      {"type": "text", "text"} | {"type": "picture", "picture"} | {"type": "film", "pictures", "times"} | {"type": "regions", "regions", "label"}
    region    {"picture", "label", "attributes", SHAPE}
    SHAPE     "box": [x0, y0, x1, y1] | "rotated_box": [cx, cy, w, h, theta] | "point": [x, y] | "polygon": [[x, y], ..] | "mask": [width, height, runs] | "tap": index
    turn      {"role", "content": [item, ..], "weight", "alternatives": [[item, ..], ..]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.lineage import sha256_bytes
from sightline.samples.sample import (
    Box,
    Film,
    Geo,
    Item,
    Mask,
    Origin,
    Picture,
    Point,
    Polygon,
    Region,
    Regions,
    RotatedBox,
    Sample,
    Shape,
    Show,
    Tap,
    Text,
    Turn,
)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _shape_record(shape: Shape) -> dict[str, Any]:
    if isinstance(shape, Box):
        return {"box": (shape.x0, shape.y0, shape.x1, shape.y1)}
    if isinstance(shape, RotatedBox):
        return {"rotated_box": (shape.cx, shape.cy, shape.w, shape.h, shape.theta)}
    if isinstance(shape, Point):
        return {"point": (shape.x, shape.y)}
    if isinstance(shape, Polygon):
        return {"polygon": shape.points}
    if isinstance(shape, Mask):
        return {"mask": (shape.width, shape.height, shape.runs)}
    return {"tap": shape.index}


def _shape_of(record: Mapping[str, Any]) -> Shape | None:
    if (value := record.get("mask")) is not None:
        return Mask(width=value[0], height=value[1], runs=tuple(value[2]))
    if (value := record.get("rotated_box")) is not None:
        return RotatedBox(cx=value[0], cy=value[1], w=value[2], h=value[3], theta=value[4])
    if (value := record.get("box")) is not None:
        return Box(x0=value[0], y0=value[1], x1=value[2], y1=value[3])
    if (value := record.get("point")) is not None:
        return Point(x=value[0], y=value[1])
    if (value := record.get("polygon")) is not None:
        return Polygon(points=tuple((x, y) for x, y in value))
    return Tap(index=record["tap"]) if "tap" in record else None


def region_record(region: Region) -> dict[str, Any]:
    """A region as plain JSON."""
    record: dict[str, Any] = {} if region.shape is None else _shape_record(region.shape)
    if region.picture:
        record["picture"] = region.picture
    if region.label is not None:
        record["label"] = region.label
    if region.attributes:
        record["attributes"] = dict(region.attributes)
    return record


def region_of(record: Mapping[str, Any]) -> Region:
    """The region of a plain record."""
    return Region(picture=record.get("picture", 0), label=record.get("label"), attributes=record.get("attributes", {}), shape=_shape_of(record))


def item_record(item: Item) -> dict[str, Any]:
    """An item of a turn as plain JSON."""
    if isinstance(item, Text):
        return {"type": "text", "text": item.text}
    if isinstance(item, Show):
        return {"type": "picture", "picture": item.picture}
    if isinstance(item, Film):
        return {"type": "film", "pictures": item.pictures, "times": item.times}
    record: dict[str, Any] = {"type": "regions", "regions": [region_record(region) for region in item.regions]}
    return record if item.label is None else {**record, "label": item.label}


def item_of(record: Mapping[str, Any]) -> Item:
    """The item of a plain record."""
    kind = record["type"]
    if kind == "text":
        return Text(text=record["text"])
    if kind == "picture":
        return Show(picture=record["picture"])
    if kind == "film":
        return Film(pictures=tuple(record["pictures"]), times=tuple(record["times"]))
    assert kind == "regions", f"no such item: {kind!r}"
    return Regions(regions=tuple(region_of(region) for region in record["regions"]), label=record.get("label"))


def turn_record(turn: Turn) -> dict[str, Any]:
    """A turn as plain JSON."""
    record: dict[str, Any] = {"role": turn.role, "content": [item_record(item) for item in turn.items]}
    if turn.weight != 1.0:
        record["weight"] = turn.weight
    if turn.alternatives:
        record["alternatives"] = [[item_record(item) for item in items] for items in turn.alternatives]
    return record


def turn_of(record: Mapping[str, Any]) -> Turn:
    """The turn of a plain record."""
    alternatives = tuple(tuple(item_of(item) for item in items) for items in record.get("alternatives", ()))
    return Turn(role=record["role"], items=tuple(item_of(item) for item in record["content"]), weight=record.get("weight", 1.0), alternatives=alternatives)


def origin_record(origin: Origin) -> dict[str, Any]:
    """An origin as plain JSON."""
    record: dict[str, Any] = {"source": origin.source}
    for key in ("row", "licence", "parents"):
        if value := getattr(origin, key):
            record[key] = value
    return record if origin.maker == "human" else {**record, "maker": origin.maker}


def origin_of(record: Mapping[str, Any]) -> Origin:
    """The origin of a plain record."""
    return Origin(**{**record, "parents": tuple(record.get("parents", ()))})


_PICTURE_DEFAULTS: dict[str, Any] = {"bands": ("red", "green", "blue"), "depth": "uint8", "name": ""}


def picture_record(picture: Picture) -> dict[str, Any]:
    """What is known about a picture, without its bytes."""
    record: dict[str, Any] = {"hash": picture.hash, "width": picture.width, "height": picture.height}
    record.update({key: value for key, default in _PICTURE_DEFAULTS.items() if (value := getattr(picture, key)) != default})
    return record if picture.geo is None else {**record, "geo": {"crs": picture.geo.crs, "affine": picture.geo.affine}}


def picture_of(record: Mapping[str, Any], data: bytes | str) -> Picture:
    """The picture of a plain record and its bytes."""
    fields = dict(record)
    if "bands" in fields:
        fields["bands"] = tuple(fields["bands"])
    if "geo" in fields:
        fields["geo"] = Geo(crs=record["geo"]["crs"], affine=tuple(record["geo"]["affine"]))
    return Picture(**fields, data=data)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A sample whose nested fields are JSON text: cheap to send between processes, ready to be written as columns."""

    id: str
    source: str
    licence: str
    known: tuple[dict[str, Any], ...]
    """`picture_record` of each picture."""
    data: tuple[bytes | None, ...]
    """Encoded bytes of each picture; None where the writer that takes the row holds them already."""
    pictures: str
    messages: str
    annotations: str
    attributes: str
    origin: str
    hash: str
    """sha256 over all text columns and the picture hashes: two rows are equal exactly when their hashes are."""


def pack(sample: Sample) -> Packed:
    """A sample as columns. Pictures must hold their bytes; ValueError when an attribute is no JSON value (a NaN, an object)."""
    data = []
    for picture in sample.pictures:
        assert isinstance(picture.data, bytes), f"sample {sample.id}: a picture is a path of another store"
        data.append(picture.data)
    known = tuple(picture_record(picture) for picture in sample.pictures)
    texts = {
        "pictures": _dump(known),
        "messages": _dump([turn_record(turn) for turn in sample.turns]),
        "annotations": _dump([region_record(region) for region in sample.annotations]),
        "attributes": _dump(dict(sample.attributes)),
        "origin": _dump(origin_record(sample.origin)),
    }
    digest = sha256_bytes("\0".join((sample.id, *texts.values())).encode("utf-8", "surrogatepass"))
    return Packed(id=sample.id, source=sample.origin.source, licence=sample.origin.licence, known=known, data=tuple(data), hash=digest, **texts)


def unpack(texts: Mapping[str, str], data: Sequence[bytes]) -> Sample:
    """The sample of one row: its text columns by name, and the bytes of its pictures."""
    known: Iterable[dict[str, Any]] = json.loads(texts["pictures"])
    return Sample(
        id=texts["id"],
        pictures=tuple(picture_of(record, encoded) for record, encoded in zip(known, data, strict=True)),
        turns=tuple(turn_of(turn) for turn in json.loads(texts["messages"])),
        annotations=tuple(region_of(region) for region in json.loads(texts["annotations"])),
        attributes=json.loads(texts["attributes"]),
        origin=origin_of(json.loads(texts["origin"])),
    )
