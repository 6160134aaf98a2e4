"""Question sets that were tampered with: any value anywhere in a file may be another one, and no row is lost without a word."""

from __future__ import annotations

import copy
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.easy_vqa import EasyVqa
from sightline.data.readers.geochat import GeoChat
from sightline.data.readers.geochat_bench import GeoChatBench
from sightline.data.readers.gqa import Gqa
from sightline.data.readers.mme_answers import MmeAnswers
from sightline.data.readers.nlvr import Nlvr
from sightline.data.readers.ocr_vqa import OcrVqa
from sightline.data.readers.pixmo_points import PixmoPoints
from sightline.data.readers.reader import Reader
from sightline.data.readers.rsivqa import Rsivqa
from sightline.data.readers.rsvqa import Rsvqa
from sightline.data.readers.science_qa import ScienceQa
from sightline.data.readers.sroie import Sroie
from sightline.data.readers.textvqa import Textvqa
from sightline.data.readers.visual_genome import VisualGenome
from sightline.data.readers.vqa_rad import VqaRad
from sightline.data.readers.vqa_v2 import VqaV2
from sightline.errors import Problem, Refused
from sightline.samples.sample import Sample

QUESTION = {"question": "q?", "question_id": 1, "answer": ["a"], "image": "1.jpg"}
BOOK = {"imageURL": "x", "questions": ["q?"], "answers": ["a"], "title": "t", "split": 1}
LESSON = {"question": "q?", "choices": ["a", "b"], "answer": 1, "hint": "h", "image": None, "lecture": "l", "solution": "s", "split": "train", "grade": "g"}
SHAPES = [[{"x_loc": 1, "y_loc": 2, "type": "square", "color": "Black", "size": 10}], [], []]
RECORD = {"sentence": "s", "label": "true", "identifier": "1-0", "directory": "0", "evals": {"r": "true"}, "structured_rep": SHAPES}
SAYS = {
    "id": "1",
    "image": "1.jpg",
    "conversations": [{"from": "human", "value": "<image>\n[refer] a"}, {"from": "gpt", "value": "<p>b</p> {<1><2><30><40>|<5>}"}],
}
QUAD = [[1, 1], [9, 1], [9, 5], [1, 5]]
VQA = {"question_id": 1, "image_id": 1, "question_type": "t", "answer_type": "o", "multiple_choice_answer": "a", "answers": [{"answer": "a"}]}

SETS: list[tuple[Reader, dict[str, Any]]] = [
    (VqaV2(), {"vqa_val.json": [QUESTION]}),
    (
        VqaV2(),
        {
            "v2_val2014_questions.json": {"data_subtype": "val2014", "questions": [{"image_id": 1, "question": "q?", "question_id": 1}]},
            "v2_val2014_annotations.json": {"annotations": [VQA]},
        },
    ),
    (Gqa(), {"val_balanced_questions.json": {"1": {"question": "q?", "imageId": "1", "answer": "a", "types": {"structural": "v"}, "fullAnswer": "f"}}}),
    (OcrVqa(), {"dataset.json": {"1": BOOK}}),
    (Textvqa(), {"t.json": {"data": [{"question": "q?", "question_id": 1, "image_id": "1", "answers": ["a"], "set_name": "val", "image_classes": ["c"]}]}}),
    (ScienceQa(), {"problems.json": {"1": LESSON}}),
    (
        Rsvqa(),
        {
            "LR_split_val_questions.json": {"questions": [{"id": 1, "img_id": 1, "type": "count", "question": "q?", "active": True}]},
            "LR_split_val_answers.json": {"answers": [{"id": 1, "question_id": 1, "answer": "3", "active": True}]},
        },
    ),
    (
        VisualGenome(),
        {
            "region_descriptions.json": [{"id": 1, "regions": [{"region_id": 1, "phrase": "p", "x": 1, "y": 1, "width": 2, "height": 2}]}],
            "question_answers.json": [{"id": 1, "qas": [{"qa_id": 1, "question": "q?", "answer": "a"}]}],
            "objects.json": [{"image_id": 1, "objects": [{"object_id": 1, "names": ["n"], "x": 1, "y": 1, "w": 2, "h": 2}]}],
        },
    ),
    (PixmoPoints(), {"p.json": [{"image": "1.jpg", "label": "l", "points": [{"x": 1.5, "y": 2}], "count": 1}]}),
    (VqaRad(), {"testset.json": [{"qid": 1, "image_name": "1.jpg", "image_organ": "A", "question": "q?", "answer": 4, "question_type": "X"}]}),
    (Nlvr(), {"dev.json": [RECORD]}),
    (EasyVqa(), {"questions.json": [["q?", "a", 1]]}),
    (GeoChat(), {"g.json": [SAYS]}),
    (GeoChatBench(), {"b.jsonl": [{"question_id": 1, "image_id": "1", "question": "q?", "ground_truth": [QUAD], "type": "ref", "obj_ids": [1]}]}),
    (Sroie(), {"key/1.json": {"company": "c", "date": "d"}}),
]
PICTURES = ("1.jpg", "images/1.jpg", "images/1.png", "images/1.tif", "img/1.jpg", "images/0/dev-1-0-0.png", "val2014/COCO_val2014_000000000001.jpg")
ONE = ("images/1.jpg",)
"""For readers that look for a picture by its stem."""
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    1e308,
    10**40,
    "",
    " ",
    "\u0000",
    "../../etc/passwd",
    "/etc/passwd",
    "x" * 5000,
    [],
    {},
    [[]],
    [{}],
    {"a": 1},
    ["a", 1],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(value: Any, path: tuple[Any, ...], hostile: Any) -> Any:
    if not path:
        return hostile
    value = copy.deepcopy(value)
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = hostile
    return value


def needed(reader: Reader) -> tuple[str, ...]:
    return ONE if isinstance(reader, OcrVqa | VisualGenome) else PICTURES


def put(folder: Path, files: dict[str, Any], pictures: tuple[str, ...]) -> None:
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / name)
    (folder / "key").mkdir()
    (folder / "box").mkdir()
    (folder / "box" / "1.csv").write_text("1,1,9,1,9,5,1,5,a\n")
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize("number", range(len(SETS)), ids=[f"{type(reader).__name__}-{len(files)}" for reader, files in SETS])
@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_tampered_values_are_read_or_named(number: int, seed: int) -> None:
    reader, files = SETS[number]
    rng = random.Random(seed)
    name = rng.choice(sorted(files))
    path, hostile = rng.choice(list(places(files[name]))), rng.choice(HOSTILE)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        put(root, {**files, name: changed(files[name], path, hostile)}, needed(reader))
        reader.recognise(root)
        reader.annotated(root)
        try:
            found = list(reader.read(root if isinstance(reader, Sroie) or len(files) > 1 else root / name))
        except Refused as refused:
            found = list(refused.problems)
    for one in found:
        if isinstance(one, Problem):
            assert one.found and one.place and len(one.found) < 5000
        else:
            assert one.problems("here") == [] and all(len(turn.items) for turn in one.turns)
            assert all("etc" not in picture.name for picture in one.pictures)


@pytest.mark.parametrize("text", ["a:" + "x" * 10**6, "a:" + "? " * 10**5, "[[" + '"a' * 10**5, '{"question": ' * 10**4, "\t" * 10**5, "{<1" * 10**5])
def test_long_lines_cost_no_time(tmp_path: Path, text: str) -> None:
    for name in ("a.txt", "questions.json", "b.jsonl"):
        (tmp_path / name).write_text(text)
    start = time.thread_time()
    assert [type(reader).__name__ for reader, _ in [*SETS, (Rsivqa(), {}), (MmeAnswers(), {})] if reader.recognise(tmp_path)] == []
    assert time.thread_time() - start < 30


@pytest.mark.parametrize("number", range(len(SETS)), ids=[f"{type(reader).__name__}-{len(files)}" for reader, files in SETS])
def test_untouched_sets_are_recognised_and_read(tmp_path: Path, number: int) -> None:
    reader, files = SETS[number]
    put(tmp_path, files, needed(reader))
    assert reader.recognise(tmp_path) is not None
    found = list(reader.read(tmp_path))
    assert found and all(isinstance(one, Sample) for one in found)
    assert reader.annotated(tmp_path) >= {tmp_path / name for name in files}
