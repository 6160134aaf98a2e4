"""Question sets in small: fixtures of every format, messages for what cannot be read, and the way back into a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.easy_vqa import EasyVqa
from sightline.data.readers.gqa import Gqa
from sightline.data.readers.mme_answers import MmeAnswers
from sightline.data.readers.nlvr import Nlvr
from sightline.data.readers.ocr_vqa import OcrVqa
from sightline.data.readers.pixmo_points import PixmoPoints
from sightline.data.readers.question_sets import agreed, split_in
from sightline.data.readers.reader import Reader
from sightline.data.readers.rsivqa import Rsivqa
from sightline.data.readers.rsvqa import Rsvqa, bucket
from sightline.data.readers.science_qa import ScienceQa
from sightline.data.readers.sroie import Sroie
from sightline.data.readers.textvqa import Textvqa
from sightline.data.readers.visual_genome import VisualGenome
from sightline.data.readers.vqa_rad import VqaRad
from sightline.data.readers.vqa_v2 import VqaV2
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Point, Region, RotatedBox, Sample, Show, Text, Turn


def put_picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(path)


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def samples_of(reader: Reader, path: Path) -> list[Sample]:
    assert reader.recognise(path), "not recognised"
    found = list(reader.read(path))
    assert not [one for one in found if isinstance(one, Problem) and one.severity == "refuse"], found
    return [one for one in found if isinstance(one, Sample)]


def alternatives(sample: Sample) -> list[str]:
    return [item.text for items in sample.turns[1].alternatives for item in items if isinstance(item, Text)]


def ten(**votes: int) -> list[str]:
    return [answer for answer, times in votes.items() for _ in range(times)]


def test_answers_of_three_people_are_fully_right() -> None:
    assert agreed(ten(no=3, yes=5, maybe=2)) == ["yes", "no"]
    assert agreed(ten(a=2, b=2)) == ["a"]
    assert agreed(ten(a=4, b=5), "c") == ["c", "b", "a"]
    assert agreed([" ", ""]) == []


def test_splits_in_file_names() -> None:
    assert split_in("v2_OpenEnded_mscoco_train2014_questions") == "train"
    assert split_in("LR_split_val_questions") == "val" and split_in("trainset") is None


def vqa_v2(folder: Path) -> None:
    put_picture(folder / "val2014" / "COCO_val2014_000000000042.jpg")
    questions = [{"image_id": 42, "question": "What is it?", "question_id": 42000}, {"image_id": 42, "question": "Is it?", "question_id": 42001}]
    put(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"task_type": "Open-Ended", "data_subtype": "val2014", "questions": questions})
    answers = [
        [{"answer": text, "answer_confidence": "yes", "answer_id": k} for k, text in enumerate(given, 1)] for given in (ten(dog=6, puppy=3, cat=1), ten(yes=10))
    ]
    told = [
        {"question_id": 42001, "image_id": 42, "question_type": "is it", "answer_type": "yes/no", "multiple_choice_answer": "yes", "answers": answers[1]},
        {"question_id": 42000, "image_id": 42, "question_type": "what is", "answer_type": "other", "multiple_choice_answer": "dog", "answers": answers[0]},
    ]
    put(folder / "v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": told})


def test_vqa_v2_joins_by_question(tmp_path: Path) -> None:
    vqa_v2(tmp_path)
    first, second = samples_of(VqaV2(), tmp_path)
    assert (first.id, first.text(0), first.text(1), alternatives(first)) == ("42000", "What is it?", "dog", ["puppy"])
    assert first.attributes == {"split": "val", "kind": "other", "question_type": "what is", "answers": ten(dog=6, puppy=3, cat=1)}
    assert (second.text(1), second.attributes["kind"], second.turns[0].items[0]) == ("yes", "yes/no", Show(picture=0))
    assert {file.name for file in VqaV2().annotated(tmp_path)} == {"v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json"}


def test_vqa_v2_without_annotations_and_with_a_gap(tmp_path: Path) -> None:
    vqa_v2(tmp_path)
    partner = tmp_path / "v2_mscoco_val2014_annotations.json"
    told = json.loads(partner.read_text())
    put(partner, {**told, "annotations": told["annotations"][:1]})
    (problem, sample) = VqaV2().read(tmp_path)
    assert isinstance(problem, Problem) and isinstance(sample, Sample)
    assert problem.code == "data/missing-answer" and "no annotation of question 42000" in problem.found
    partner.unlink()
    assert [len(one.turns) for one in samples_of(VqaV2(), tmp_path)] == [1, 1]


def test_vqa_v2_flat(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "val2014" / "1.jpg")
    put(tmp_path / "vqa_val.json", [{"image": "val2014/1.jpg", "question": "What?", "question_id": 7, "answer": ten(a=2, b=4)}])
    (sample,) = samples_of(VqaV2(), tmp_path)
    assert (sample.id, sample.text(1), alternatives(sample)) == ("7", "b", []) and sample.attributes == {"split": "val", "answers": ten(a=2, b=4)}
    assert Gqa().recognise(tmp_path) is None


def test_gqa_by_id_and_flat(tmp_path: Path) -> None:
    put_picture(tmp_path / "a" / "images" / "5.jpg")
    types = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
    question = {
        "question": "Is it red?",
        "imageId": "5",
        "answer": "no",
        "fullAnswer": "No, it is blue.",
        "isBalanced": True,
        "types": types,
        "groups": {"global": None},
    }
    put(tmp_path / "a" / "testdev_balanced_questions.json", {"201": question})
    (sample,) = samples_of(Gqa(), tmp_path / "a")
    assert (sample.id, sample.text(0), sample.text(1)) == ("201", "Is it red?", "no")
    assert sample.attributes == {"split": "testdev", "kind": "verify", "semantic": "attr", "detailed": "verifyAttr", "full_answer": "No, it is blue."}
    put_picture(tmp_path / "b" / "5.jpg")
    put(tmp_path / "b" / "gqa_val.json", [{"image": "5.jpg", "question": "Is it red?", "answer": "no", "question_id": "201"}])
    (flat,) = samples_of(Gqa(), tmp_path / "b")
    assert (flat.id, flat.text(1), flat.attributes) == ("201", "no", {"split": "val"}) and VqaV2().recognise(tmp_path / "b") is None


def test_ocr_vqa_whatever_the_suffix(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "b1.gif")
    book = {
        "imageURL": "http://x/b1.gif",
        "questions": ["Who?", "What genre?"],
        "answers": ["A. B.", "Travel"],
        "title": "T",
        "authorName": "A. B.",
        "genre": "Travel",
    }
    put(tmp_path / "dataset.json", {"b1": {**book, "split": 2}, "b2": {**book, "split": 1}, "b3": {**book, "answers": ["A. B."], "split": 1}})
    found = list(OcrVqa().read(tmp_path))
    first, second, *problems = found
    assert isinstance(first, Sample) and isinstance(second, Sample)
    assert [(one.id, one.text(1)) for one in (first, second)] == [("b1#0", "A. B."), ("b1#1", "Travel")]
    assert first.attributes == {"split": "val", "title": "T", "authorName": "A. B.", "genre": "Travel"} and first.pictures[0].name == "b1.gif"
    assert [problem.code for problem in problems if isinstance(problem, Problem)] == ["samples/missing-picture"] * 2 + ["data/question-answers"]
    assert "images/b2.jpg is not there" in str(problems[0]) and "2 questions and 1 answers" in str(problems[2])
    put(tmp_path / "dataset.json", [{"sample_id": "b1", "questions": ["Who?"], "answers": ["A. B."]}])
    assert [sample.id for sample in samples_of(OcrVqa(), tmp_path)] == ["b1#0"]


def test_textvqa(tmp_path: Path) -> None:
    put_picture(tmp_path / "train_images" / "0a.jpg")
    row = {"question": "what brand?", "image_id": "0a", "image_classes": ["Phone"], "answers": ten(nokia=7, nokla=3), "question_id": 3, "set_name": "train"}
    put(tmp_path / "TextVQA_0.5.1_train.json", {"dataset_name": "textvqa", "data": [row]})
    (sample,) = samples_of(Textvqa(), tmp_path)
    assert (sample.id, sample.text(1), alternatives(sample), sample.attributes["split"]) == ("3", "nokia", ["nokla"], "train")
    assert sample.attributes["answers"] == row["answers"] and sample.attributes["image_classes"] == ["Phone"]


def test_science_qa_prompt_picture_and_answer(tmp_path: Path) -> None:
    problem = {"question": "Which is bigger?", "choices": ["ant", "cat"], "answer": 1, "hint": "", "image": None, "task": "closed choice", "grade": "grade2"}
    problem |= {
        "subject": "natural science",
        "topic": "biology",
        "category": "c",
        "skill": "s",
        "lecture": "Cats grow.\n",
        "solution": "Look.",
        "split": "train",
    }
    put(tmp_path / "problems.json", {"1": problem, "2": {**problem, "hint": "Look at it.", "image": "image.png"}, "3": {**problem, "answer": 2}})
    put_picture(tmp_path / "images" / "train" / "2" / "image.png")
    plain, shown, bad = ScienceQa().read(tmp_path)
    assert isinstance(plain, Sample) and isinstance(shown, Sample) and isinstance(bad, Problem)
    assert plain.turns[0].items == (Text(text="Question: Which is bigger?\nContext: N/A\nOptions: (A) ant (B) cat"),) and plain.pictures == ()
    assert plain.text(1) == "Cats grow. Look. The answer is B." and plain.attributes["options"] == ["ant", "cat"]
    assert shown.turns[0].items == (Text(text="Question: Which is bigger?\nContext: Look at it.\nOptions: (A) ant (B) cat"), Show(picture=0))
    assert "2 as `answer`" in bad.found and "0..1" in bad.allowed
    short = next(iter(ScienceQa(target="A").read(tmp_path)))
    assert isinstance(short, Sample) and short.text(1) == "The answer is B."


def rsvqa(folder: Path, prefix: str = "LR_split_train", kind: str = "count", answer: str = "11") -> None:
    put_picture(folder / "Images_LR" / "5.tif")
    row = {"id": 1, "img_id": 5, "type": kind, "question": "How many?", "answers_ids": [9], "active": True}
    put(folder / f"{prefix}_questions.json", {"questions": [{"id": 0, "active": False}, row]})
    put(folder / f"{prefix}_answers.json", {"answers": [{"id": 8, "active": False}, {"id": 9, "question_id": 1, "answer": answer, "active": True}]})


def test_rsvqa_joins_active_rows_and_counts_the_others(tmp_path: Path) -> None:
    rsvqa(tmp_path)
    note, sample = Rsvqa().read(tmp_path)
    assert isinstance(note, Problem) and isinstance(sample, Sample)
    assert (note.code, note.severity, note.found) == ("data/inactive-rows", "warn", "1 of 2 rows have `active: false`")
    assert (sample.id, sample.pictures[0].name, sample.text(1)) == ("1", "5.tif", "between 11 and 100")
    assert sample.attributes == {"split": "train", "kind": "count", "answers": ["11"]}
    (raw,) = samples_of(Rsvqa(numbers="raw"), tmp_path)
    assert raw.text(1) == "11" and raw.attributes == {"split": "train", "kind": "count"}
    assert {file.name for file in Rsvqa().annotated(tmp_path)} == {"LR_split_train_questions.json", "LR_split_train_answers.json"}
    put(tmp_path / "LR_split_train_answers.json", {"answers": [{"id": 9, "question_id": 2, "answer": "11", "active": True}]})
    problem, note = Rsvqa().read(tmp_path)
    assert isinstance(problem, Problem) and "no active answer to question 1" in problem.found
    assert isinstance(note, Problem) and note.found.startswith("1 of 2 rows")


def test_rsvqa_buckets() -> None:
    found = [bucket(number) for number in (0, 1, 10, 11, 100, 101, 1000, 1001)]
    ranges = ["between 1 and 10", "between 11 and 100", "between 101 and 1000"]
    assert found == ["0", ranges[0], ranges[0], ranges[1], ranges[1], ranges[2], ranges[2], "more than 1000"]
    assert bucket(12, "m2") == "between 11m2 and 100m2" and bucket(0, "m2") == "0m2"


@pytest.mark.parametrize(("kind", "answer", "said"), [("count", "11", "11"), ("area", "12m2", "between 11m2 and 100m2"), ("presence", "yes", "yes")])
def test_rsvqa_high_resolution_keeps_counts(tmp_path: Path, kind: str, answer: str, said: str) -> None:
    rsvqa(tmp_path, "USGS_split_test_phili", kind, answer)
    (sample,) = samples_of(Rsvqa(), tmp_path)
    assert sample.text(1) == said and sample.attributes["split"] == "test"


def test_visual_genome_regions_objects_and_questions(tmp_path: Path) -> None:
    put_picture(tmp_path / "VG_100K_2" / "7.jpg")
    phrase = {"region_id": 71, "image_id": 7, "phrase": "a red car", "x": 1, "y": 2, "width": 10, "height": 5}
    put(tmp_path / "region_descriptions.json", [{"id": 7, "regions": [phrase]}])
    thing = {"object_id": 9, "names": ["car", "auto"], "x": 1, "y": 2, "w": 9, "h": 6, "synsets": []}
    put(tmp_path / "objects.json", [{"image_id": 7, "objects": [thing]}, {"image_id": 8, "objects": [{**thing, "x": "1"}]}])
    question = {"qa_id": 3, "image_id": 7, "question": "What is red?", "answer": "The car.", "a_objects": [], "q_objects": []}
    put(tmp_path / "question_answers.json", [{"id": 7, "qas": [question]}])
    problem, known, asked = VisualGenome().read(tmp_path)
    assert isinstance(known, Sample) and isinstance(asked, Sample) and isinstance(problem, Problem)
    thing_region = Region(label="car", attributes={"names": ["car", "auto"], "object": "9"}, shape=Box(x0=1, y0=2, x1=10, y1=8))
    assert known.annotations == (thing_region, Region(attributes={"text": "a red car", "region": "71"}, shape=Box(x0=1, y0=2, x1=11, y1=7)))
    assert known.turns == () and (known.id, asked.id, asked.text(0), asked.text(1)) == ("7", "qa/3", "What is red?", "The car.")
    assert problem.place.endswith("objects.json:row 1, objects 0") and "'1' as `x`" in problem.found
    assert len(VisualGenome().annotated(tmp_path)) == 3


def test_pixmo_points_from_parquet_become_px(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "ab.png", (200, 50))
    rows = [
        {"image_url": "http://x/y.jpg?z=1", "image_sha256": "ab", "label": "cat", "points": [{"x": 50.0, "y": 10.0}], "count": 1},
        {"image_url": "http://x/y.jpg?z=1", "image_sha256": "ab", "label": "dog", "points": [], "count": 0},
        {"image_url": "http://x/y.jpg?z=1", "image_sha256": "ab", "label": "cow", "points": [], "count": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    problem, sample = PixmoPoints().read(tmp_path)
    assert isinstance(problem, Problem) and "0 points and a count of 2" in problem.found
    assert isinstance(sample, Sample) and sample.annotations == (Region(label="cat", shape=Point(x=100.0, y=5.0)),)
    assert sample.attributes == {"absent": ["dog"]} and sample.turns == () and PixmoPoints().recognise(tmp_path)


@pytest.mark.parametrize(
    ("reader", "file", "value", "message"),
    [
        (Rsivqa(), "q.txt", "a.png:what?x\nno question here\n", r"q\.txt:2\n +found: +no question here\n +allowed: NAME:question\?answer"),
        (
            VqaRad(),
            "trainset.json",
            [{"qid": 1, "image_name": "../a.png", "image_organ": "ABD", "question": "q?", "answer": "a", "question_type": "X"}],
            "leads out of",
        ),
        (
            VqaRad(),
            "trainset.json",
            [{"qid": 1, "image_name": "a.png", "image_organ": "ABD", "question": "q?", "answer": [1], "question_type": "X"}],
            r"\[1\] as `answer`",
        ),
        (EasyVqa(), "questions.json", [["q?", "a", 0], ["q?", "a"]], r"row 1\n +found: +\['q\?', 'a'\]"),
        (MmeAnswers(), "OCR.txt", "1.jpg\tq?\tYes\tyes\n1.jpg\tq?\tMaybe\tyes\n", r"OCR\.txt:2\n.*\n +allowed: picture, question, Yes or No"),
        (VqaV2(), "vqa_val.json", [{"image": "a.png", "question": " ", "question_id": 1, "answer": ["a"]}], "' ' as `question`"),
        (Gqa(), "gqa_val.json", [{"image": "a.png", "question": "q?", "question_id": 1, "answer": "a"}, 3], "a JSON int"),
        (Textvqa(), "t.json", {"data": [{"question": "q?", "question_id": 1, "image_id": "a", "set_name": "val", "answers": "a"}]}, "'a' as `answers`"),
    ],
)
def test_every_bad_row_is_named(tmp_path: Path, reader: Reader, file: str, value: Any, message: str) -> None:
    for name in ("a.png", "a.jpg", "0.png"):
        put_picture(tmp_path / "images" / name)
    put(tmp_path / file, value)
    problems = [str(found) for found in reader.rows(tmp_path / file) if isinstance(found, Problem)]
    assert len(problems) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problems[0])


def test_nlvr_labels_are_text_and_orders_are_rows(tmp_path: Path) -> None:
    record = {"sentence": "A box.", "label": "false", "identifier": "1-2", "directory": "0", "evals": {"r0": "false"}, "structured_rep": [[], [], []]}
    for order in (0, 3):
        put_picture(tmp_path / "dev" / "images" / "0" / f"dev-1-2-{order}.png")
    put(tmp_path / "dev" / "dev.json", json.dumps(record) + "\n" + json.dumps({**record, "identifier": "2-2", "label": False}) + "\n")
    first, second, problem = Nlvr().read(tmp_path)
    assert isinstance(first, Sample) and isinstance(second, Sample) and isinstance(problem, Problem)
    assert [(sample.id, sample.text(1)) for sample in (first, second)] == [("1-2-0", "false"), ("1-2-3", "false")]
    assert "False as `label`" in problem.found


def test_an_id_that_comes_twice(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "a.jpg")
    row = {"image": "a.jpg", "question": "q?", "question_id": 1, "answer": "a"}
    put(tmp_path / "gqa_val.json", [row, row])
    _, problem = Gqa().rows(tmp_path)
    assert isinstance(problem, Problem) and problem.code == "data/repeated-id" and "first at" in problem.found


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        put_picture(tmp_path / folder / "a.png")
    put(tmp_path / "q.txt", "a: what is it?dog\nx/a.png: what is it?dog\n")
    problem, sample = Rsivqa().read(tmp_path)
    assert isinstance(problem, Problem) and "2 pictures 'a': x/a.png, y/a.png" in problem.found
    assert isinstance(sample, Sample) and sample.text(0) == "what is it?"


def test_a_receipt_without_its_key_fields(tmp_path: Path) -> None:
    put_picture(tmp_path / "img" / "1.jpg")
    put(tmp_path / "box" / "1.csv", "1,1,9,1,9,5,1,5,A, B\r\n")
    (tmp_path / "key").mkdir()
    (problem,) = Sroie().read(tmp_path)
    assert isinstance(problem, Problem) and problem.found == "nothing in key/"
    put(tmp_path / "key" / "1.json", {"company": "A", "date": 3})
    (problem,) = Sroie().read(tmp_path)
    assert isinstance(problem, Problem) and "3 as `date`" in problem.found
    put(tmp_path / "key" / "1.json", {"company": "A"})
    (sample,) = Sroie().read(tmp_path)
    assert isinstance(sample, Sample) and sample.annotations[0].attributes["text"] == "A, B" and sample.attributes == {"company": "A"}


PICTURES = []
for _seed in range(3):
    with tempfile.NamedTemporaryFile(suffix=".png") as _file:
        put_picture(Path(_file.name), seed=_seed)
        PICTURES.append(describe(Path(_file.name).read_bytes(), f"p{_seed}.png", "test"))
WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12).filter(lambda text: bool(text.strip()))
LINE_WORDS = st.text(st.sampled_from("ab\u6e2f Z9.,'\""), min_size=1, max_size=10).filter(lambda text: text.strip() == text)


def said(identity: str, picture: int | None, question: str, answers: list[str], attributes: dict[str, Any] | None = None) -> Sample:
    turns = (
        Turn(role="user", items=((Show(picture=0),) if picture is not None else ()) + (Text(text=question),)),
        Turn(role="assistant", items=(Text(text=answers[0]),), alternatives=tuple((Text(text=text),) for text in answers[1:])),
    )
    pictures = () if picture is None else (PICTURES[picture],)
    return Sample(id=identity, pictures=pictures, turns=turns, attributes=attributes or {}, origin=Origin(source="x"))


def rsivqa_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    return [said(f"questions:{k}", picture, f"{question}?", [answer]) for k, (picture, question, answer) in enumerate(asked, 1)]


def vqa_rad_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    known = {"split": "test", "kind": "ABN, POS", "answer_type": "OPEN", "image_organ": "ABD", "phrase_type": "para"}
    return [said(str(k), picture, question, [answer], known) for k, (picture, question, answer) in enumerate(asked)]


def easy_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    return [said(f"val/{k}", picture, question, [answer], {"split": "val", "kind": "shape"}) for k, (picture, question, answer) in enumerate(asked)]


def flat_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    return [
        said(str(k), picture, question, [answer], {"split": "test", "answers": [answer, answer, "?"]}) for k, (picture, question, answer) in enumerate(asked)
    ]


def gqa_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    return [said(f"q{k}", picture, question, [answer], {"split": "val"}) for k, (picture, question, answer) in enumerate(asked)]


def ocr_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    known = {"split": "val", "title": "T", "authorName": "A", "genre": "G"}
    counts: dict[int, int] = {}
    ordered = sorted(asked, key=lambda one: one[0])
    numbers = [counts.update({picture: counts.get(picture, -1) + 1}) or counts[picture] for picture, _, _ in ordered]
    return [said(f"p{picture}#{k}", picture, question, [answer], known) for k, (picture, question, answer) in zip(numbers, ordered, strict=True)]


def mme_samples(asked: list[tuple[int, str, str]]) -> list[Sample]:
    return [
        said(f"OCR/{k}", None, question, ["Yes"], {"kind": "OCR", "picture": f"{picture}.jpg", "response": answer})
        for k, (picture, question, answer) in enumerate(asked, 1)
    ]


@pytest.mark.parametrize(
    ("reader", "made"),
    [
        (Rsivqa(), rsivqa_samples),
        (VqaRad(), vqa_rad_samples),
        (EasyVqa(), easy_samples),
        (VqaV2(), flat_samples),
        (Gqa(), gqa_samples),
        (OcrVqa(), ocr_samples),
        (MmeAnswers(), mme_samples),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Reader) else "",
)
@given(asked=st.lists(st.tuples(st.integers(0, 2), LINE_WORDS, LINE_WORDS), min_size=1, max_size=4))
@settings(deadline=None, max_examples=15)
def test_what_is_written_is_read_again(reader: Reader, made: Callable[[list[tuple[int, str, str]]], list[Sample]], asked: list[tuple[int, str, str]]) -> None:
    samples = made(asked)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        assert [problem for problem in reader.write(samples, root) if problem.severity == "refuse"] == []
        again = samples_of(reader, root)
    assert [sample.turns for sample in again] == [sample.turns for sample in samples]
    assert [[picture.hash for picture in sample.pictures] for sample in again] == [[picture.hash for picture in sample.pictures] for sample in samples]
    assert [sample.id for sample in again] == [sample.id for sample in samples]
    if not isinstance(reader, Rsivqa | EasyVqa):
        assert [sample.attributes for sample in again] == [sample.attributes for sample in samples]


@given(question=WORDS, answer=WORDS)
@settings(deadline=None, max_examples=25)
def test_any_words_are_written_or_named(question: str, answer: str) -> None:
    sample = said("questions:1", 0, question, [answer])
    with tempfile.TemporaryDirectory() as folder:
        for reader in (Rsivqa(), Gqa()):
            root = Path(folder) / type(reader).__name__
            lost = [problem for problem in reader.write([sample], root) if problem.severity == "refuse"]
            again = [] if lost else list(reader.read(root))
            assert lost or [one.turns for one in again if isinstance(one, Sample)] == [sample.turns]


def test_textvqa_and_points_and_receipts_come_back(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.jpg")
    picture = describe((tmp_path / "a.jpg").read_bytes(), "a.jpg", "test")
    asked = replace(said("3", 0, "q?", ["x", "y"], {"split": "val", "answers": ten(x=4, y=3), "image_classes": ["A"]}), pictures=(picture,))
    assert Textvqa().write([asked], tmp_path / "t") == []
    (again,) = samples_of(Textvqa(), tmp_path / "t")
    assert (again.turns, again.attributes, again.id) == (asked.turns, asked.attributes, "3")

    pointed = (
        Region(label="cat", shape=Point(x=10.0, y=3.0)),
        Region(label="cat", shape=Point(x=30.0, y=6.0)),
        Region(label="cow", shape=Point(x=0.0, y=30.0)),
    )
    points = Sample(id="1", pictures=(picture,), annotations=pointed, attributes={"absent": ["dog"]}, origin=Origin(source="x"))
    assert PixmoPoints().write([points], tmp_path / "p") == []
    (back,) = samples_of(PixmoPoints(), tmp_path / "p")
    assert [region.label for region in back.annotations] == ["cat", "cat", "cow"] and back.attributes == {"absent": ["dog"]}
    for region, other in zip(back.annotations, pointed, strict=True):
        assert isinstance(region.shape, Point) and isinstance(other.shape, Point)
        assert (region.shape.x, region.shape.y) == pytest.approx((other.shape.x, other.shape.y), abs=1e-9)

    quad = [1.0, 1.0, 9.5, 1.0, 9.5, 5.0, 1.0, 5.0]
    line = Region(label="text", attributes={"quad": quad, "text": "A, B"}, shape=RotatedBox(cx=5.25, cy=3.0, w=8.5, h=4.0, theta=0.0))
    receipt = Sample(id="a", pictures=(picture,), annotations=(line,), attributes={"company": "A", "total": "3"}, origin=Origin(source="x"))
    assert Sroie().write([receipt], tmp_path / "s") == []
    (read,) = samples_of(Sroie(), tmp_path / "s")
    assert (read.id, read.annotations, read.attributes) == ("a", (line,), receipt.attributes)


def test_statements_with_their_shapes_come_back(tmp_path: Path) -> None:
    shapes = (
        Region(label="blue square", attributes={"box": 0}, shape=Box(x0=1, y0=2, x1=21, y1=22)),
        Region(label="black circle", attributes={"box": 2}, shape=Box(x0=310, y0=5, x1=320, y1=15)),
    )
    known = {"split": "dev", "kind": "statement", "options": ["true", "false"], "answers": ["true", "nonsense"]}
    sample = replace(said("7-1-0", 1, "One is blue.", ["true"], known), annotations=shapes)
    assert Nlvr().write([sample], tmp_path) == []
    (again,) = samples_of(Nlvr(), tmp_path)
    assert replace(again, origin=sample.origin, pictures=sample.pictures) == sample
    (lost,) = Nlvr().write([replace(sample, id="7-1-3")], tmp_path / "lost")
    assert lost.severity == "refuse" and "IDENTIFIER-0" in lost.found


def test_regions_objects_and_questions_come_back(tmp_path: Path) -> None:
    regions = (
        Region(label="car", attributes={"names": ["car", "auto"], "object": "9"}, shape=Box(x0=1, y0=2, x1=10, y1=8)),
        Region(attributes={"text": "a red car", "region": "71"}, shape=Box(x0=1, y0=2, x1=11, y1=7)),
    )
    known = Sample(id="p0", pictures=(PICTURES[0],), annotations=regions, origin=Origin(source="x"))
    asked = said("qa/3", 0, "What is red?", ["The car."])
    assert VisualGenome().write([known, asked], tmp_path) == []
    first, second = samples_of(VisualGenome(), tmp_path)
    assert (first.id, first.annotations, first.turns) == ("p0", regions, ()) and (second.id, second.turns) == ("qa/3", asked.turns)
    (lost,) = VisualGenome().write([replace(known, annotations=(Region(label="x", shape=Point(x=1, y=1)),))], tmp_path / "lost")
    assert lost.severity == "refuse" and lost.place == "sample p0"


def test_what_a_format_cannot_hold_is_named(tmp_path: Path) -> None:
    dialogue = said("1", 0, "q?", ["a"])
    longer = Sample(id="2", pictures=dialogue.pictures, turns=dialogue.turns * 2, origin=dialogue.origin)
    problems = Gqa().write([dialogue, longer, said("3", None, "q?", ["a"]), said("4", 0, "q?", ["a", "b"])], tmp_path)
    assert sorted((problem.severity, problem.found) for problem in problems) == [
        ("refuse", "0 pictures where the format has 1: 1 sample not written"),
        ("refuse", "turns other than a picture with a question and an answer in words: 1 sample not written"),
        ("warn", "alternatives: 1 sample written without"),
    ]
    (lost,) = Rsivqa().write([said("1", 0, "no question", ["a"])], tmp_path / "r")
    assert "does not end in a question mark" in lost.found
    for reader in (Gqa(), EasyVqa(), VqaRad(), VqaV2(), Nlvr()):
        sample = said("1-0", 0, "q?", ["true"], {"split": "../../out"})
        (escaped,) = reader.write([sample], tmp_path / "inner" / "folder")
        assert escaped.severity == "refuse" and not (tmp_path / "out").exists()
    with pytest.raises(Refused, match="data/read-only-format"):
        ScienceQa().write([dialogue], tmp_path)
