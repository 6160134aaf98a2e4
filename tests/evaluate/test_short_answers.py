"""Short answers: published rules and their figures, files of their makers, a user's own lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from published_files import answered, built, coded, lines, png, tsv, values
from sightline.errors import Refused
from sightline.evaluate import short_answers
from sightline.recipe import EvaluateConfig


def written(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(number))


@pytest.mark.parametrize(("agree", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_each_of_ten_people_is_left_out_once(agree: int, worth: float) -> None:
    assert short_answers.vqa_accuracy("Yes.", ["yes"] * agree + ["no"] * (10 - agree)) == pytest.approx(worth)


@pytest.mark.parametrize(
    ("text", "evalai", "vlmevalkit"),
    [
        ("3.", "3", "3."),
        ("1,000", "1000", "1000"),
        ("it's", "it 's", "it's"),
        ("none", "0", "0"),
        ("The Two dont", "2 don't", "2 don't"),
        ("a/b c", "b c", "b c"),
    ],
)
def test_both_normalisers(text: str, evalai: str, vlmevalkit: str) -> None:
    assert (short_answers.vqa_normal(text), short_answers.vqa_normal(text, "vlmevalkit")) == (evalai, vlmevalkit)


@pytest.mark.parametrize(
    ("said", "right", "worth"), [("104.9", "100", 1), ("105.1", "100", 0), ("0", "0.0", 0), ("50%", "0.5", 1), ("Blue", "blue", 1), ("nan", "100", 0)]
)
def test_relaxed_numbers(said: str, right: str, worth: float) -> None:
    assert short_answers.relaxed(said, [right]) == worth


@pytest.mark.parametrize(("said", "right", "worth"), [("harbor", "harbour", 0.8571), ("Bridge", "fridge", 0.8333), ("road", "river", 0.0), ("", "x", 0.0)])
def test_edit_similarity(said: str, right: str, worth: float) -> None:
    assert short_answers.anls(said, ["something else", right]) == pytest.approx(worth, abs=1e-4)


def test_vqa_of_published_files(tmp_path: Path) -> None:
    name = "COCO_val2014_000000000009.jpg"
    pictures(tmp_path / "val2014", name)
    question = {"image_id": 9, "question": "How many?", "question_id": 1}
    people = [{"answer": "2"}] * 2 + [{"answer": "three"}] * 8
    note = {"question_id": 1, "image_id": 9, "question_type": "how many", "answer_type": "number", "multiple_choice_answer": "three", "answers": people}
    path = written(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": [question]})
    written(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    for seen in (True, False):
        benchmark = built("vqav2", path, seen=seen)
        assert values(benchmark.score(answered(benchmark, "two")), "all", "number") == {"all": 0.6, "number": 0.6}
    assert next(iter(built("vqav2", path).requests())).sample.pictures[0].name == name


def test_text_vqa_and_tables(tmp_path: Path) -> None:
    path = tsv(tmp_path / "TextVQA_VAL.tsv", "index image question answer", [1, coded(), "q", str(["3."] * 10)])
    for normaliser, worth in (("evalai", 1.0), ("vlmevalkit", 0.0)):
        benchmark = built("textvqa", path, normaliser=normaliser)
        assert benchmark.score(answered(benchmark, "3.")).metrics["all"].value == 1.0
        assert benchmark.score(answered(benchmark, "3")).metrics["all"].value == worth


def test_gqa_and_ocr_vqa(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "7.jpg", "A.jpg")
    types = {"structural": "query", "semantic": "attr", "detailed": "x"}
    path = written(tmp_path / "testdev_balanced_questions.json", {"01": {"question": "q", "imageId": "7", "answer": "brown bear", "types": types}})
    benchmark = built("gqa", path)
    assert values(benchmark.score(answered(benchmark, "Brown bear."))) == {"all": 1.0, "query": 1.0}
    cover = {"imageURL": "u", "questions": ["Who?", "What?"], "answers": ["Ann Lee", "Art"], "title": "t", "authorName": "a", "genre": "g"}
    path = written(tmp_path / "dataset.json", {"A": {**cover, "split": 3}, "B": {**cover, "split": 1}})
    benchmark = built("ocr-vqa", path)
    assert [row.index for row in benchmark.rows] == ["A#0", "A#1"]
    assert values(benchmark.score(answered(benchmark, " ann lee", "arts"))) == {"all": 0.5}


def test_charts_and_documents(tmp_path: Path) -> None:
    pictures(tmp_path / "png", "1.png")
    for part, label in (("human", "14"), ("augmented", "Yes")):
        written(tmp_path / f"test_{part}.json", [{"imgname": "1.png", "query": "q?", "label": label}])
    benchmark = built("chartqa", tmp_path)
    assert values(benchmark.score(answered(benchmark, "14.5", "no"))) == {"all": 0.5, "human": 1.0, "augmented": 0.0}
    pictures(tmp_path / "documents", "d.png")
    rows = [{"questionId": 5, "question": "q", "image": "documents/d.png", "answers": ["harbour", "bay"], "question_types": ["layout"]}]
    for kind in ("docvqa", "infovqa"):
        benchmark = built(kind, written(tmp_path / "val_v1.0.json", {"data": rows}))
        assert values(benchmark.score(answered(benchmark, "Harbor"))) == {"all": 0.8571, "layout": 0.8571}


def test_questions_about_satellite_pictures(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "Images_LR").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "Images_LR" / "3.tif")
    kinds = ["presence", "count", "count"]
    questions = [{"id": k, "img_id": 3, "type": kind, "question": f"q{k}", "answers_ids": [k], "active": True} for k, kind in enumerate(kinds)]
    path = written(tmp_path / "LR_split_test_questions.json", {"questions": [*questions, {"id": 9, "active": False}]})
    answers = [{"id": k, "question_id": k, "answer": text, "active": True} for k, text in enumerate(["yes", "12", "0"])]
    written(tmp_path / "LR_split_test_answers.json", {"answers": answers})
    benchmark = built("rsvqa", path)
    scores = benchmark.score(answered(benchmark, "Yes", "87", "1"))
    assert values(scores) == {"all": 0.6667, "average": 0.75, "presence": 1.0, "count": 0.5}
    assert built("rsvqa", path, numbers="raw").score(answered(benchmark, "yes", "87", "0")).metrics["count"].value == 0.5
    assert len(built("rsvqa", path, leave_out=["count"]).rows) == 1


def test_open_and_closed_questions_of_radiology(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "a.jpg")
    base = {"image_name": "a.jpg", "image_organ": "HEAD", "phrase_type": "freeform"}
    rows = [
        {**base, "qid": 1, "question": "q", "answer": "Yes", "answer_type": "CLOSED ", "question_type": "PRES"},
        {**base, "qid": 2, "question": "r", "answer": "left upper lobe", "answer_type": "OPEN", "question_type": "POS"},
    ]
    path = written(tmp_path / "testset.json", rows)
    benchmark = built("vqa-rad", path)
    scores = values(benchmark.score(answered(benchmark, "yes.", "the left lobe")))
    assert scores == {"all": 0.5, "closed": 1.0, "open": 0.0, "open recall": 0.6667, "PRES": 1.0, "POS": 0.0}
    assert [row.index for row in built("vqa-rad", path, answers="open").rows] == ["2"]


def test_own_lines(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "b.png")
    rows: list[dict[str, Any]] = [
        {"question": "Is it?", "answer": "yes", "image": "a.png", "kind": "presence"},
        {"question": "Which?", "answer": "red", "images": ["a.png", "b.png"], "options": ["blue", "red"]},
        {"question": "Name?", "answer": ["pier", "jetty"], "image": "b.png"},
    ]
    path = lines(tmp_path / "my.jsonl", *rows)
    said = EvaluateConfig.model_validate({"benchmark": {"kind": "jsonl", "path": str(path)}}).benchmark
    benchmark = said.build()  # pyright: ignore[reportAttributeAccessIssue]
    shown = [len(request.sample.pictures) for request in benchmark.requests()]
    assert shown == [1, 2, 1] and "B. red\nAnswer with" in next(iter(list(benchmark.requests())[1:2])).sample.text(0)
    scores = benchmark.score(answered(benchmark, "Yes, it is.", "B", "Jetty."))
    assert values(scores) == {"all": 1.0, "presence": 1.0}
    assert values(benchmark.score(answered(benchmark, "no", "A", "a jetty")), "all") == {"all": 0.0}
    assert values(built("jsonl", path, rule="contains").score(answered(benchmark, "no", "A", "a jetty")), "all") == {"all": 0.3333}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q"}, "answer"),
        ({"answer": "a"}, "question"),
        ({"question": "q", "answer": "c", "options": ["a", "b"]}, "'c'"),
        ({"question": "q", "answer": "a", "image": "../x.png"}, "leads out"),
    ],
)
def test_a_broken_line_is_told(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said):
        built("jsonl", lines(tmp_path / "my.jsonl", row))
