"""Readers of captions, dialogues and COCO on files with one or two values broken: samples, named problems or a refusal, never a crash."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sightline.data.readers.alpaca import Alpaca
from sightline.data.readers.capsfusion import Capsfusion
from sightline.data.readers.caption_csv import CaptionCsv
from sightline.data.readers.caption_list import CaptionList
from sightline.data.readers.caption_map import CaptionMap
from sightline.data.readers.coco import Coco
from sightline.data.readers.coco_karpathy_flat import CocoKarpathyFlat
from sightline.data.readers.coco_panoptic import CocoPanoptic
from sightline.data.readers.flickr_captions import FlickrCaptions
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.nwpu_captions import NwpuCaptions
from sightline.data.readers.openai_messages import OpenaiMessages
from sightline.data.readers.pixmo_captions import PixmoCaptions
from sightline.data.readers.reader import Reader
from sightline.data.readers.refgpt import Refgpt
from sightline.data.readers.self_instruct import SelfInstruct
from sightline.data.readers.textcaps import Textcaps
from sightline.errors import Refused
from sightline.samples.records import pack
from sightline.samples.sample import Sample

TIMES = 12
INSTANCE = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "keypoints": [1, 2, 2]}
OUTLINED = {**INSTANCE, "segmentation": [[1, 2, 4, 2, 4, 6, 1, 6], [0, 0, 3, 0, 3, 3]]}
CROWD = {**INSTANCE, "id": 2, "segmentation": {"size": [10, 12], "counts": "5k3"}}
SEGMENTS = {"image_id": 7, "file_name": "1.png", "segments_info": [{"id": 5, "category_id": 3, "bbox": [1, 2, 3, 4]}]}
SCENE = {"images": [{"id": 7, "file_name": "1.png", "width": 12, "height": 10}], "categories": [{"id": 3, "name": "ship", "isthing": 1}]}
MESSAGE = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "1.png"}}]}
JSON: list[tuple[Reader, Any]] = [
    (Coco(pictures="."), {**SCENE, "annotations": [OUTLINED, CROWD, {"image_id": 7, "caption": "a"}]}),
    (CocoPanoptic(pictures="."), {**SCENE, "annotations": [SEGMENTS]}),
    (Capsfusion(pictures=".", rule="{file}"), [{"laion_2b": "a", "laion_coco": "b", "capsfusion": "c", "image_url": "http://x/1.png"}]),
    (CaptionList(pictures=".", rule="{file}"), {"image_urls": ["http://x/1.png"], "captions": ["a"]}),
    (CaptionMap(pictures="."), {"1.png": {"split": "train", "captions": ["a"]}}),
    (CocoKarpathyFlat(pictures="."), [{"image": "1.png", "caption": ["a"], "image_id": "x"}]),
    (KarpathyCaptions(pictures="."), {"images": [{"filename": "1.png", "imgid": 0, "split": "train", "sentences": [{"raw": "a"}]}]}),
    (NwpuCaptions(pictures="."), {"c": [{"filename": "1.png", "split": "x", "raw": "a", "raw_1": "b"}]}),
    (PixmoCaptions(pictures=".", rule="{file}"), [{"image_url": "http://x/1.png", "caption": "a", "transcripts": ["b"]}]),
    (Textcaps(pictures="."), {"data": [{"image_id": "1", "caption_str": "a", "set_name": "train"}]}),
    (Alpaca(), [{"instruction": "a", "input": "b", "output": "c", "history": [["a", "b"]], "task_type": {"major": ["a"]}, "metadata": [1]}]),
    (Refgpt(), [{"dialogue": "<user> a <assistant> b", "reference": "r"}]),
    (SelfInstruct(), [{"id": 1, "name": "n", "instruction": "a", "instances": [{"input": "a", "output": "b"}], "is_classification": True}]),
    (LlavaJson(pictures="."), [{"id": 1, "image": "1.png", "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "b"}]}]),
    (OpenaiMessages(pictures="."), [{"messages": [MESSAGE, {"role": "assistant", "content": "<image>"}], "images": ["1.png"]}]),
]
TEXTS: list[tuple[Reader, str, str]] = [
    (CaptionCsv(pictures="."), "t.csv", 'filename,title,split\n1.png,"a,b",train\n1.png,c,train\n'),
    (FlickrCaptions(pictures="."), "captions.txt", "image,caption\n1.png,a\n"),
    (CaptionList(pictures=".", rule="{file}"), "t.tsv", "a\thttp://x/1.png\n"),
]
BAD: list[Any] = [None, True, 0, -1, 1e308, 10**400, "", "x" * 3000, "../../e", "/etc/passwd", "\0", "<image>", [], [[]], {}, {"a": 1}, [None], "\u6e2f"]
BAD += [{"size": [10, 12], "counts": "o" * 400}, {"size": [10, 12], "counts": [10**30]}, [[1e308] * 8], [[1, 2, 3, 4, 5, 6]] * 3]
BYTES = (b'"', b"\n", b",", b"\xff", b"\0", b"\t", b"..", b"/", b"\r", b"#", "\u6e2f".encode("gb18030"))


def places(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(one, (*here, key))


def tampered(value: Any, rng: random.Random) -> Any:
    value = json.loads(json.dumps(value))
    place, bad = rng.choice(list(places(value))), rng.choice(BAD)
    if not place:
        return bad
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[place[-1]]
    else:
        parent[place[-1]] = bad
    return value


def read(reader: Reader, file: Path) -> None:
    try:
        reader.recognise(file)
        reader.annotated(file)
        for found in reader.read(file):
            if isinstance(found, Sample):
                pack(found)
            else:
                assert found.place and found.found
    except Refused as refused:
        assert all(problem.place and problem.found for problem in refused.problems)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10)).save(stream, "PNG")
    (tmp_path / "1.png").write_bytes(stream.getvalue())
    return tmp_path


@pytest.mark.parametrize(("reader", "value"), JSON, ids=[type(reader).__name__ for reader, _ in JSON])
def test_tampered_json(folder: Path, reader: Reader, value: Any) -> None:
    (folder / "x.json").write_text(json.dumps(value))
    assert reader.recognise(folder / "x.json"), "the untampered file is of this format"
    rng = random.Random(7)
    for _ in range(TIMES):
        (folder / "x.json").write_text(json.dumps(tampered(tampered(value, rng), rng)))
        read(reader, folder / "x.json")


@pytest.mark.parametrize(("reader", "name", "text"), TEXTS, ids=[name for _, name, _ in TEXTS])
def test_tampered_text(folder: Path, reader: Reader, name: str, text: str) -> None:
    rng = random.Random(7)
    for _ in range(TIMES):
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(data) + 1)
            data[start : start + rng.randint(0, 3)] = rng.choice(BYTES)
        (folder / name).write_bytes(data)
        read(reader, folder / name)
