"""Small whole data sets, one of every format: what a format's own writer makes of a few drawn samples, or files laid out as published where a format is only read."""

from __future__ import annotations

import importlib
import json
import pkgutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hostile_pictures import encoded, sample_picture

from sightline.data import readers
from sightline.data.readers.reader import Reader
from sightline.samples.pictures import describe
from sightline.samples.pictures import encoded as banded
from sightline.samples.sample import Box, Geo, Mask, Origin, Picture, Point, Region, RotatedBox, Sample, Show, Text, Turn

Files = dict[str, bytes]
"""Contents by path below the folder of a data set."""
_ORIGIN = Origin(source="drawn")


@cache
def kinds() -> dict[str, type[Reader]]:
    """All readers of the package by kind, whether they are registered or not."""
    for module in pkgutil.iter_modules(readers.__path__):
        importlib.import_module(f"{readers.__name__}.{module.name}")
    return {kind: reader for reader in _below(Reader) if isinstance(kind := _default(reader, "kind"), str)}


def _below(reader: type[Reader]) -> Iterator[type[Reader]]:
    for known in reader.__subclasses__():
        if known.__module__.startswith(readers.__name__):
            yield known
            yield from _below(known)


def _default(reader: type[Reader], field: str) -> object:
    return reader.model_fields[field].default if field in reader.model_fields else None


@cache
def whole(kind: str) -> Files:
    """The files of a small valid data set of one format."""
    if kind in _PUBLISHED:
        return _PUBLISHED[kind]()
    with tempfile.TemporaryDirectory(prefix="sightline-whole-") as scratch:
        folder = Path(scratch)
        kinds()[kind]().write(list(_samples()), folder)
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _picture(number: int, suffix: str = ".png") -> Picture:
    data = encoded(sample_picture(24 + number, 16), "JPEG" if suffix == ".jpg" else "PNG")
    return describe(data, f"a{number}{suffix}", "drawn")


def _asked(question: str, answer: str, *others: str) -> tuple[Turn, ...]:
    words = (Text(text=question),) if question else ()
    said = Turn(role="assistant", items=(Text(text=answer),), alternatives=tuple((Text(text=other),) for other in others))
    return (Turn(role="user", items=(Show(picture=0), *words)), said)


def _mask(picture: Picture) -> Mask:
    return Mask(width=picture.width, height=picture.height, runs=(10, 20, picture.width * picture.height - 30))


def _samples() -> Iterator[Sample]:
    """One sample of every sort; writers leave out what they cannot hold."""
    captions = {"references": ["a pond", "one pond"], "split": "train"}
    yield Sample(id="a0.png", pictures=(_picture(0),), turns=_asked("", "a pond", "one pond"), attributes=captions, origin=_ORIGIN)
    asked = {"kind": "count", "split": "train"}
    yield Sample(id="1", pictures=(_picture(1),), turns=_asked("How many ponds?", "2"), attributes=asked, origin=_ORIGIN)
    boxes = (Region(label="pond", shape=Box(x0=1, y0=2, x1=9, y1=8)), Region(label="pond", shape=Box(x0=3, y0=2, x1=12, y1=9)))
    yield Sample(id="a2.png", pictures=(_picture(2),), annotations=boxes, attributes={"split": "train"}, origin=_ORIGIN)
    known = {"difficult": False, "score": 0.5, "text": "SHIP"}
    turned = Region(label="ship", attributes=known, shape=RotatedBox(cx=10, cy=8, w=8, h=4, theta=30))
    yield Sample(id="a3", pictures=(_picture(3),), annotations=(turned,), origin=_ORIGIN)
    outlined = Region(label="pond", shape=_mask(_picture(4)))
    yield Sample(id="a4", pictures=(_picture(4),), annotations=(outlined,), origin=_ORIGIN)
    changed = Region(picture=1, label="changed building", shape=_mask(_picture(5)))
    yield Sample(id="5", pictures=(_picture(5), _picture(5)), annotations=(changed,), attributes={"changed": True}, origin=_ORIGIN)
    yield Sample(id="a6", pictures=(_picture(6),), turns=_asked("What is it?", "pond"), attributes={"class": "pond"}, origin=_ORIGIN)
    for number, name in enumerate(("pond", "ship")):
        known = {"class": name}
        region = Region(label=name, attributes=known)
        yield Sample(id=f"{name}/a{7 + number}.png", pictures=(_picture(7 + number),), annotations=(region,), origin=_ORIGIN)
    talk = (Turn(role="user", items=(Text(text="Hi"),)), Turn(role="assistant", items=(Text(text="Hello"),)))
    yield Sample(id="9", turns=talk, origin=_ORIGIN)
    yield Sample(id="10", pictures=(_picture(10),), annotations=(Region(label="pond", shape=Point(x=3, y=4)),), origin=_ORIGIN)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


def _lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def _drawn(number: int = 0, suffix: str = ".png") -> bytes:
    data = _picture(number, suffix).data
    assert isinstance(data, bytes), "a picture that was just drawn"
    return data


_URL = "https://host/a0.jpg"
_RSVQA = {"id": 1, "img_id": 5, "type": "count", "question": "How many?", "answers_ids": [9], "active": True}
_REFERENCE = {"question_id": 1, "image_id": "a0", "type": "ref", "dataset": "s", "obj_ids": [1], "size_group": "small"}
_CORNERS = [[[1, 2], [9, 2], [9, 8], [1, 8]]]
_PROBLEM = {
    **dict.fromkeys(("question", "hint", "lecture", "solution", "grade", "subject", "topic", "category", "skill"), "x"),
    "choices": ["a", "b"],
    "answer": 1,
    "image": "image.png",
    "split": "train",
}
_TEXTVQA = {"question_id": 1, "question": "What?", "image_id": "a0", "image_classes": ["Sign"], "answers": ["stop"] * 10, "set_name": "train"}
_NLVR = {"sentence": "There is one.", "label": "true", "identifier": "1-0", "directory": "0", "evals": {"r0": "true"}}
_SHAPES = [[{"y_loc": 1, "size": 5, "type": "circle", "x_loc": 2, "color": "#0099ff"}], [], []]
_SENTENCES = {"text_list": ["One.", "Two."], "image_info": [{"image_name": "a0.png", "raw_url": _URL, "matched_text_index": 1, "matched_sim": 0.5}]}
_TALK = [("human", "<image>\n[grounding] Describe it."), ("gpt", "<p>ship</p> {<10><20><50><40>|<30>}<delim>{<1><2><3><4>} here.")]


def _obelics() -> bytes:
    row = {"images": [None, "a0.png"], "texts": ["One.", None], "metadata": None, "general_metadata": "{}"}
    columns = pa.schema([("images", pa.list_(pa.string())), ("texts", pa.list_(pa.string())), ("metadata", pa.string()), ("general_metadata", pa.string())])
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row, row], columns), stream)
    return stream.getvalue().to_pybytes()


_DEEP = np.arange(16 * 24 * 4, dtype=np.uint16).reshape(16, 24, 4)
_PLACED = Geo(crs="EPSG:4326", affine=(0.001, 0.0, 8.0, 0.0, -0.001, 47.0))
_RING = [[8.002, 46.998], [8.01, 46.998], [8.01, 46.99], [8.002, 46.99], [8.002, 46.998]]
_PUBLISHED: dict[str, Callable[[], Files]] = {
    "capsfusion": lambda: {
        "c.json": _json([{"image_url": _URL, "laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}, {"laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}]),
        "images/00000/000000000.jpg": _drawn(suffix=".jpg"),
    },
    "caption-list": lambda: {"cc.tsv": f"a pond\t{_URL}\n".encode(), "images/00000/000000000.jpg": _drawn(suffix=".jpg")},
    "geochat": lambda: {
        "GeoChat_Instruct.json": _json([{"id": "1", "image": "a0.png", "conversations": [{"from": who, "value": text} for who, text in _TALK]}]),
        "images/a0.png": _drawn(),
    },
    "geochat-bench": lambda: {
        "scenes.jsonl": _lines({"question_id": "pond/1", "image": "a0.png", "text": "What?", "ground_truth": "pond"}),
        "referring.jsonl": _lines({**_REFERENCE, "question": "Where?", "ground_truth": _CORNERS}),
        "images/a0.png": _drawn(),
    },
    "geotiff": lambda: {
        "scenes/a.tif": banded(_DEEP, ("red", "green", "blue", "nir"), _PLACED),
        "scenes/a.geojson": _json(
            {
                "type": "FeatureCollection",
                "features": [{"type": "Feature", "properties": {"label": "pond"}, "geometry": {"type": "Polygon", "coordinates": [_RING]}}],
            }
        ),
    },
    "icdar": lambda: {"images/a0.png": _drawn(), "texts/a0.txt": b"1,2,9,2,9,8,1,8,STOP, NOW\n1,9,9,9,9,14,1,14,###\n"},
    "mmc4": lambda: {"mmc4.jsonl": _lines(_SENTENCES, {**_SENTENCES, "url": "x"}), "images/a0.png": _drawn()},
    "mme-answers": lambda: {"count.txt": b"a.png\tIs there one?\tYes\tyes\na.png\tAre there two?\tNo\tyes\n"},
    "nlvr": lambda: {"train/train.json": _lines({**_NLVR, "structured_rep": _SHAPES}), "train/images/0/train-1-0-0.png": _drawn()},
    "obelics": lambda: {"o.parquet": _obelics(), "images/a0.png": _drawn()},
    "ocr-vqa": lambda: {
        "dataset.json": _json(
            {"a0": {"imageURL": _URL, "questions": ["Who?", "What?"], "answers": ["x", "y"], "title": "t", "authorName": "n", "genre": "g", "split": 1}}
        ),
        "images/a0.jpg": _drawn(suffix=".jpg"),
    },
    "pixmo-captions": lambda: {
        "p.jsonl": _lines({"image_url": _URL, "caption": "a pond", "transcripts": ["a", "b"]}),
        "images/00000/000000000.jpg": _drawn(suffix=".jpg"),
    },
    "rsvqa": lambda: {
        "LR_split_train_questions.json": _json({"questions": [{"id": 0, "active": False}, _RSVQA]}),
        "LR_split_train_answers.json": _json({"answers": [{"id": 9, "question_id": 1, "answer": "11", "active": True}]}),
        "Images_LR/5.tif": encoded(sample_picture(), "TIFF"),
    },
    "science-qa": lambda: {"problems.json": _json({"1": _PROBLEM}), "images/train/1/image.png": _drawn()},
    "self-instruct": lambda: {
        "seed.jsonl": _lines({"id": "s0", "name": "n", "instruction": "Do it", "instances": [{"input": "", "output": "x"}] * 2, "is_classification": False})
    },
    "textcaps": lambda: {
        "TextCaps.json": _json({"data": [{"image_id": "a0", "caption_str": "a sign", "set_name": "train"}]}),
        "train_images/a0.jpg": _drawn(suffix=".jpg"),
    },
    "textvqa": lambda: {"TextVQA_train.json": _json({"data": [_TEXTVQA]}), "train_images/a0.jpg": _drawn(suffix=".jpg")},
}
"""Formats that are only read, or that need more than the drawn samples say."""
