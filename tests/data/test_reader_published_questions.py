"""Question sets as published: the real sets, their counts, and the traps that their descriptions name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.data.readers.easy_vqa import EasyVqa
from sightline.data.readers.mme_answers import MmeAnswers
from sightline.data.readers.nlvr import Nlvr
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.rsivqa import Rsivqa
from sightline.data.readers.sroie import Sroie
from sightline.data.readers.vqa_rad import VqaRad
from sightline.errors import Problem
from sightline.samples.pictures import pixels
from sightline.samples.sample import Box, RotatedBox, Sample, Show, Text


@pytest.fixture(scope="module")
def counts(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))


def listed(reader: Reader, path: Path) -> list[Row]:
    found = list(reader.rows(path))
    assert not [row for row in found if isinstance(row, Problem)]
    return [row for row in found if isinstance(row, Row)]


def read(reader: Reader, path: Path) -> tuple[list[Sample], list[Problem]]:
    found = list(reader.read(path))
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Problem)]


def answers(rows: list[Row]) -> Counter[str]:
    return Counter(row.data["answers"][0] for row in rows)


@pytest.mark.parametrize(
    ("reader", "name", "files"),
    [
        (Rsivqa(), "rsicd", 1),
        (Rsivqa(), "dota", 1),
        (VqaRad(), "vqa_rad", 2),
        (Nlvr(), "nlvr", 1),
        (EasyVqa(), "easy_vqa", 1),
        (Sroie(), "sroie", 58),
        (MmeAnswers(), "mme_sample_answers", 14),
    ],
)
def test_top_folders_are_recognised_by_their_own_reader_alone(shared_data: Path, reader: Reader, name: str, files: int) -> None:
    known = reader.recognise(shared_data / name)
    assert known is not None and known[0] >= 0.9 and known[1]
    assert len(reader.annotated(shared_data / name)) == files
    others = [other for other in (Rsivqa(), VqaRad(), Nlvr(), EasyVqa(), Sroie(), MmeAnswers()) if type(other) is not type(reader)]
    assert [type(other).__name__ for other in others if other.recognise(shared_data / name)] == []


def test_rsicd_themes(shared_data: Path, counts: dict[str, Any]) -> None:
    facts, rows = counts["rsicd"], listed(Rsivqa(), shared_data / "rsicd")
    assert len(rows) == facts["theme_questions"] == len({row.id for row in rows})
    assert {row.data["question"] for row in rows} == {"what is the theme of this picture?"}
    assert len(answers(rows)) == facts["theme_answer_values"]
    wrong = {Path(str(row.pictures[0])).stem.rsplit("_", 1)[0] for row in rows if row.data["answers"][0] != Path(str(row.pictures[0])).stem.rsplit("_", 1)[0]}
    assert wrong == {"playground"} and answers(rows)["playfields"] == 70
    assert all(Path(str(row.pictures[0])).is_file() for row in rows[::100]) and rows[0].data["attributes"] == {"kind": "theme"}


def test_dota_questions(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["dota"]
    samples, problems = read(Rsivqa(), shared_data / "dota")
    assert len(samples) == facts["questions"] and not problems
    kinds = Counter(sample.attributes["kind"] for sample in samples)
    assert kinds == {"count": facts["questions_by_type"]["count"], "presence": facts["questions_by_type"]["presence_yes_no"]}
    assert Counter(Path(sample.pictures[0].name).stem for sample in samples) == facts["questions_per_image"]
    assert Counter(sample.text(1) for sample in samples if sample.attributes["kind"] == "presence") == facts["presence_answers"]
    # The conflict with the boxes stays as published.
    said = {(Path(sample.pictures[0].name).stem, sample.text(0)): sample.text(1) for sample in samples}
    assert said["P0706", "how many ships are there in this picture?"] == "548"
    assert said["P1888", "how many small vehicles are there in this picture?"] == "17"
    assert samples[0].turns[0].items == (Show(picture=0), Text(text="how many small vehicles are there in this picture?"))
    assert (samples[0].id, samples[0].origin.row) == ("dota_vqa2:1", "1")


def test_ucm_questions_without_pictures(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["text"]["rsivqa_ucm_res.txt"]
    rows = listed(Rsivqa(), shared_data / "text" / "rsivqa_ucm_res.txt")
    assert len(rows) == facts["lines"]
    assert len({row.pictures for row in rows}) == facts["unique_images"] and len({row.data["question"] for row in rows}) == facts["unique_questions"]
    kinds = Counter(row.data["attributes"]["kind"] for row in rows)
    assert kinds == {"presence": 1118, "theme": 559, "count": 559, "location": 559}
    assert (answers(rows)["yes"], answers(rows)["no"]) == (facts["yes"], facts["no"])
    lost = [row.data["losses"][0] for row in rows if row.data["losses"]]
    assert len(lost) == facts["location_or_count_questions_with_an_empty_object"]
    assert (lost[0].code, lost[0].severity, lost[0].found) == ("data/lost-object", "warn", "How many  in the picture?")
    first = next(iter(Rsivqa().read(shared_data / "text" / "rsivqa_ucm_res.txt")))
    assert isinstance(first, Problem) and first.code == "samples/missing-picture" and "1.tif is not there" in first.found


def test_vqa_rad(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["vqa_rad"]
    rows = listed(VqaRad(), shared_data / "vqa_rad")
    assert len(rows) == facts["questions"] == len({row.id for row in rows})
    for split in ("train", "test"):
        told = facts[f"{split}set.json"]
        part = [row for row in rows if row.data["attributes"]["split"] == split]
        assert len(part) == told["questions"] and len({row.pictures for row in part}) == told["images"]
        assert Counter(row.data["attributes"]["kind"] for row in part) == told["question_type_exact"]
        for key, name in (("answer_type", "answer_type_exact"), ("image_organ", "image_organ"), ("phrase_type", "phrase_type")):
            assert Counter(row.data["attributes"][key] for row in part) == told[name]
        closed = [row.data["answers"][0].lower() for row in part if row.data["attributes"]["answer_type"] == "CLOSED"]
        assert Counter(text if text in ("yes", "no") else "other" for text in closed) == told["closed_answers_stripped_lower"]
    numbers = [row for row in rows if "answers" in row.data["attributes"]]
    assert len(numbers) == facts["trainset.json"]["answers_not_string"]
    assert {(row.data["answers"][0], row.data["attributes"]["answers"][0]) for row in numbers} == {("4", 4), ("12", 12)}
    losses = [problem for row in rows for problem in row.data["losses"]]
    assert [problem.code for problem in losses] == ["data/stray-blank"] * facts["trainset.json"]["questions_with_surrounding_whitespace"]
    assert "'Are there two kidneys? '" in str(losses[0]) and losses[0].severity == "warn"
    asked = {split: {(row.pictures, row.data["question"]) for row in rows if row.data["attributes"]["split"] == split} for split in ("train", "test")}
    assert len(asked["train"] & asked["test"]) == facts["same_image_and_question_in_both_files"]


def test_nlvr(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["nlvr"]
    samples, problems = read(Nlvr(), shared_data / "nlvr")
    assert len(samples) == facts["statements"] and not problems
    assert Counter(sample.text(1) for sample in samples) == facts["labels"]
    assert len({sample.text(0) for sample in samples}) == facts["unique_sentences"]
    assert Counter(sample.attributes["split"] for sample in samples) == facts["splits"]
    assert Counter(vote for sample in samples for vote in sample.attributes["answers"]) == facts["eval_votes"]
    assert sum(set(sample.attributes["answers"]) != {sample.text(1)} for sample in samples) == facts["records_where_not_all_votes_equal_label"]
    labels = Counter(region.label for sample in samples for region in sample.annotations)
    assert sum(labels.values()) == facts["items"]
    colours = {"Black": "black", "Yellow": "yellow", "#0099ff": "blue"}
    for name, count in facts["items_by_color"].items():
        assert sum(times for label, times in labels.items() if label and label.split()[0] == colours[name]) == count
    for name, count in facts["items_by_type"].items():
        assert sum(times for label, times in labels.items() if label and label.split()[1] == name) == count
    assert samples[0].id == "4078-3-0" and samples[0].attributes["options"] == ["true", "false"]


def test_nlvr_shapes_lie_where_the_picture_shows_them(shared_data: Path) -> None:
    drawn = {"black": (0, 0, 0), "yellow": (255, 255, 0), "blue": (0, 153, 255)}
    for sample in read(Nlvr(), shared_data / "nlvr")[0][::10]:
        # Alpha is flattened: three bands come out.
        values = pixels(sample.pictures[0])
        assert values.shape == (100, 400, 3)
        for region in sample.annotations:
            shape = region.shape
            assert isinstance(shape, Box) and region.label
            y, x = int(shape.y0 + 0.7 * (shape.y1 - shape.y0)), int((shape.x0 + shape.x1) / 2)
            assert tuple(values[y, x].tolist()) == drawn[region.label.split()[0]]


def test_easy_vqa(shared_data: Path, counts: dict[str, Any]) -> None:
    facts, rows = counts["easy_vqa"], listed(EasyVqa(), shared_data / "easy_vqa")
    assert len(rows) == facts["questions"] and len({row.pictures for row in rows}) == facts["images"]
    kinds = Counter(row.data["attributes"]["kind"] for row in rows)
    told = facts["questions_by_answer_type"]
    assert kinds == {"presence": told["yes_no"], "color": told["color"], "shape": told["shape"]}
    assert answers(rows) == facts["answers"]
    assert len({row.data["question"] for row in rows}) == facts["distinct_questions"]
    assert sum(" not " in row.data["question"] for row in rows) == facts["questions_containing_not"]
    assert {row.data["attributes"]["split"] for row in rows} == {"train"} and rows[0].id == "train/0"


def test_sroie(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["sroie"]
    samples, problems = read(Sroie(), shared_data / "sroie")
    assert len(samples) == facts["images"] and not problems
    texts = [region.attributes["text"] for sample in samples for region in sample.annotations]
    assert len(texts) == facts["text_lines"] and sum("," in text for text in texts) == facts["text_lines_with_a_comma_in_the_transcript"]
    assert sum(map(len, texts)) == facts["transcript_characters"] and not any(text.endswith("\r") for text in texts)
    assert Counter(key for sample in samples for key in sample.attributes) == facts["key_fields"]
    whole = Counter(key for sample in samples for key, value in sample.attributes.items() if value in {r.attributes["text"] for r in sample.annotations})
    assert whole == facts["key_value_equals_one_whole_line"]
    shapes = [region.shape for sample in samples for region in sample.annotations]
    assert all(isinstance(shape, RotatedBox) and shape.theta in (0, -90) for shape in shapes)
    ratios = [sample.pictures[0].height / sample.pictures[0].width for sample in samples]
    assert np.round([min(ratios), max(ratios)], 4).tolist() == [facts["height_over_width_min"], facts["height_over_width_max"]]
    assert all(sample.turns == () for sample in samples)


def test_mme_answers(shared_data: Path, counts: dict[str, Any]) -> None:
    facts = counts["mme_sample_answers"]
    samples, problems = read(MmeAnswers(), shared_data / "mme_sample_answers")
    assert len(samples) == facts["questions"] and not problems
    assert Counter(sample.attributes["kind"] for sample in samples) == {name: told["questions"] for name, told in facts["subtasks"].items()}
    assert len({(sample.attributes["kind"], sample.attributes["picture"]) for sample in samples}) == facts["images"]
    assert {(len(sample.pictures), sample.text(1)) for sample in samples} == {(0, "Yes"), (0, "No")}
    assert [sample.text(1) for sample in samples] == ["Yes", "No"] * facts["images"]
    for name, told in facts["subtasks"].items():
        assert sum(_right(sample) for sample in samples if sample.attributes["kind"] == name) == told["correct"]


def _right(sample: Sample) -> bool:
    """The published rule: exactly yes or no, else what the first four characters hold."""
    response = sample.attributes["response"].lower()
    start = response if response in ("yes", "no") else response[:4]
    return ("yes" if "yes" in start else "no" if "no" in start else "other") == sample.text(1).lower()
