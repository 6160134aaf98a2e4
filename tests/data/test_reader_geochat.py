"""GeoChat conversations and benchmark: boxes in text become regions, bad boxes are refused, and what is written is read again."""

from __future__ import annotations

import io
import json
import math
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.geochat import GeoChat
from sightline.data.readers.geochat_bench import GeoChatBench
from sightline.data.readers.llava_json import LlavaJson
from sightline.errors import Problem
from sightline.samples.geometry import canonical, rotated_iou
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Region, Regions, RotatedBox, Sample, Show, Text, Turn


def png(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(stream, "PNG")
    return stream.getvalue()


def numbers(region: Region) -> tuple[float, ...]:
    assert isinstance(region.shape, RotatedBox)
    return astuple(region.shape)


def put(folder: Path, *dialogues: list[str], size: tuple[int, int] = (800, 800)) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "a.png").write_bytes(png(*size))
    rows = [
        {"id": str(k), "image": "a.png", "conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]}
        for k, turns in enumerate(dialogues)
    ]
    (folder / "GeoChat_Instruct.json").write_text(json.dumps(rows), encoding="utf-8")


def test_boxes_become_regions_of_their_phrase(tmp_path: Path) -> None:
    put(tmp_path, ["<image>\n[grounding] Describe it.", "There is <p>ship</p> {<10><20><50><40>|<30>}<delim>{<1><2><3><4>} here."])
    (sample,) = GeoChat().read(tmp_path)
    assert isinstance(sample, Sample) and sample.attributes == {"kind": "grounding"}
    assert sample.turns[0].items == (Show(picture=0), Text(text="[grounding] Describe it."))
    before, found, after = sample.turns[1].items
    assert before == Text(text="There is ") and after == Text(text=" here.") and isinstance(found, Regions) and found.label == "ship"
    assert [numbers(region) for region in found.regions] == [pytest.approx((240, 240, 320, 160, 30)), pytest.approx((16, 24, 16, 16, 0))]


def test_the_other_turn_and_axes_of_their_own(tmp_path: Path) -> None:
    put(tmp_path, ["<image>\n[identify] What is {<10><20><50><40>|<30>}?", "a ship"], size=(800, 400))
    (sample,) = GeoChat(turn="counter-clockwise").read(tmp_path)
    assert isinstance(sample, Sample)
    found = sample.turns[0].items[2]
    assert isinstance(found, Regions) and found.label is None
    assert numbers(found.regions[0]) == pytest.approx((240, 120, 320, 80, -30))


def test_bad_boxes_are_refused_with_every_one_named(tmp_path: Path) -> None:
    bad = ["{<77><981><83><100>|<29>}", "{<35><32><35><36>|<67>}", "{<1><2><3>|<4>}"]
    put(tmp_path, ["<image>\n[refer] a", bad[0]], ["<image>\nb", f"{bad[1]} and {bad[2]}"], ["<image>\nc", "{<1><2><30><40>|<0>}"])
    *problems, good = GeoChat().read(tmp_path)
    assert isinstance(good, Sample) and good.id == "2"
    texts = [str(problem) for problem in problems]
    assert [problem.code for problem in problems if isinstance(problem, Problem)] == ["data/region-text"] * 4
    assert "GeoChat_Instruct.json:row 0, turn 1, character 0" in texts[0] and "981 outside 0..100" in texts[0]
    assert "a side of nothing" in texts[1] and "row 0" in texts[1]  # once clipped, the first box has no height
    assert "row 1" in texts[2] and "a side of nothing" in texts[2] and "row 1" in texts[3] and "{<1><2><3>|<4>}" in texts[3]
    assert {problem.severity for problem in problems if isinstance(problem, Problem)} == {"refuse"}


def test_tasks_phrases_and_plain_turns_stay_text(tmp_path: Path) -> None:
    put(tmp_path, ["<image>\nWhat is it?", "A port.", "[refer] Where is <p>the ship</p>?", "{<10><20><50><40>}"])
    (sample,) = GeoChat().read(tmp_path)
    assert isinstance(sample, Sample) and sample.attributes == {"kind": "conversation,refer"}
    assert sample.turns[2].items == (Text(text="[refer] Where is <p>the ship</p>?"),)


def test_recognised_before_plain_conversations(tmp_path: Path) -> None:
    put(tmp_path, ["<image>\n[grounding] Describe.", "Nothing."])
    known, plain = GeoChat().recognise(tmp_path), LlavaJson().recognise(tmp_path)
    assert known is not None and plain is not None and known[0] > plain[0]
    assert GeoChat().annotated(tmp_path) == {tmp_path / "GeoChat_Instruct.json"}
    put(tmp_path, ["<image>\nDescribe {it}.", "Nothing [but] water."])
    assert GeoChat().recognise(tmp_path) is None and GeoChat().annotated(tmp_path) == frozenset()


SIDES = st.tuples(st.floats(200, 600), st.floats(200, 600), st.floats(80, 250), st.floats(40, 75), st.floats(-90, 89))
SIZE = 800


def located(boxes: list[tuple[float, float, float, float, float]], label: str | None) -> Sample:
    picture = describe(png(SIZE, SIZE), "a.png", "test")
    regions = Regions(regions=tuple(Region(label=label, shape=canonical(*box)) for box in boxes), label=label)
    turns = (Turn(role="user", items=(Show(picture=0), Text(text="[refer] where?"))), Turn(role="assistant", items=(Text(text="At "), regions)))
    return Sample(id="1", pictures=(picture,), turns=turns, attributes={"kind": "refer"}, origin=Origin(source="x"))


@given(boxes=st.lists(SIDES, min_size=1, max_size=3), label=st.sampled_from([None, "ship", "\u8239 A"]))
@settings(deadline=None, max_examples=20)
def test_what_is_written_is_read_again_within_the_grid(boxes: list[tuple[float, float, float, float, float]], label: str | None) -> None:
    sample = located(boxes, label)
    with tempfile.TemporaryDirectory() as folder:
        problems = GeoChat().write([sample], Path(folder))
        (again,) = GeoChat().read(Path(folder))
    assert not [problem for problem in problems if problem.severity == "refuse"]
    assert isinstance(again, Sample) and again.turns[0] == sample.turns[0] and again.attributes == sample.attributes
    text, found = again.turns[1].items
    assert text == Text(text="At ") and isinstance(found, Regions) and found.label == label and len(found.regions) == len(boxes)
    quantum, ious = SIZE / 100, []
    for region, box in zip(found.regions, boxes, strict=True):
        assert isinstance(region.shape, RotatedBox)
        assert math.hypot(region.shape.cx - box[0], region.shape.cy - box[1]) <= quantum
        ious.append(rotated_iou(region.shape, canonical(*box)))
    assert min(ious) > 0.5 and ("overlap under 0.8" in " ".join(problem.found for problem in problems)) == (min(ious) < 0.8)


def test_text_that_looks_like_boxes_is_not_written(tmp_path: Path) -> None:
    sample = located([(400, 400, 200, 100, 0)], "ship")
    turns = (sample.turns[0], Turn(role="assistant", items=(Text(text="Type {<1><2><30><40>|<0>} please."),)))
    (problem,) = GeoChat().write([Sample(id="9", pictures=sample.pictures, turns=turns, origin=sample.origin)], tmp_path)
    assert problem.place == "sample 9" and "would be read as other regions" in problem.found and problem.severity == "refuse"


def put_bench(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "P1.png").write_bytes(png(100, 100))
    (folder / "bench.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_benchmark_scenes_and_references(tmp_path: Path) -> None:
    put_bench(tmp_path / "scene", [{"question_id": "Airport/P1.png", "image": "P1.png", "text": "Classify."}])
    (scene,) = GeoChatBench().read(tmp_path / "scene")
    assert isinstance(scene, Sample) and (scene.id, scene.text(0), scene.text(1)) == ("bench/Airport/P1.png", "Classify.", "Airport")
    told = {"question_id": 4, "image_id": "P1", "question": "{<1><2><3><4>|<0>}", "type": "ref", "dataset": "DOTA", "obj_ids": [3], "size_group": "small"}
    corners = [[10, 20], [50, 20], [50, 40], [10, 40]]
    put_bench(tmp_path / "ref", [{**told, "ground_truth": "a ship"}, {**told, "question_id": 5, "ground_truth": [corners]}])
    words, places = GeoChatBench().read(tmp_path / "ref")
    assert isinstance(words, Sample) and isinstance(places, Sample)
    assert words.text(1) == "a ship" and words.attributes == {"split": "test", "kind": "ref", "dataset": "DOTA", "obj_ids": [3], "size_group": "small"}
    assert places.turns[1].items == (Regions(regions=(Region(shape=RotatedBox(cx=30, cy=30, w=40, h=20, theta=0)),)),)


@pytest.mark.parametrize("truth", [[[[1, 2], [3, 4], [5, 6]]], [[[1, 1], [1, 1], [1, 1], [1, 1]]], [7], True, ""])
def test_benchmark_answers_that_are_none(tmp_path: Path, truth: Any) -> None:
    put_bench(tmp_path, [{"question_id": 4, "image_id": "P1", "question": "q?", "ground_truth": truth}])
    (problem,) = GeoChatBench().read(tmp_path)
    assert isinstance(problem, Problem) and "as `ground_truth`" in problem.found and problem.place.endswith("bench.jsonl:1")
