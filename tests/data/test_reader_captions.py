"""Karpathy captions: published traps, and messages for files that cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.files import within
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.reading import recognise_all
from sightline.errors import Problem, Refused
from sightline.samples.sample import Sample, Show, Text


def put_picture(path: Path, size: tuple[int, int] = (12, 10), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(values).save(path)


def sentences(*texts: str) -> list[dict[str, Any]]:
    return [{"raw": text, "tokens": text.split(), "imgid": 0, "sentid": number} for number, text in enumerate(texts)]


def put_captions(folder: Path, *images: dict[str, Any]) -> None:
    (folder / "dataset.json").write_text(json.dumps({"images": list(images), "dataset": "toy"}), encoding="utf-8")


def read(folder: Path, **options: Any) -> list[Sample | Problem]:
    return list(KarpathyCaptions(**options).read(folder))


def test_repeated_captions_are_learnt_once_and_kept_for_scores(tmp_path: Path) -> None:
    put_picture(tmp_path / "imgs" / "airport_1.png")
    put_captions(tmp_path, {"filename": "airport_1.png", "imgid": 0, "split": "restval", "sentids": [0, 1], "sentences": sentences("a .", "a .")})
    (sample,) = read(tmp_path)
    assert isinstance(sample, Sample)
    assert sample.attributes == {"split": "train", "references": ["a .", "a ."], "class": "airport"}
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]
    assert sample.turns[0].items == (Show(picture=0),)
    assert sample.turns[1].items == (Text(text="a ."),) and sample.turns[1].alternatives == ()
    assert (sample.origin.source, sample.origin.row, sample.pictures[0].name) == (tmp_path.name, "0", "airport_1.png")


def test_other_captions_are_other_right_answers(tmp_path: Path) -> None:
    put_picture(tmp_path / "toy_images" / "1.png")
    put_captions(tmp_path, {"filename": "1.png", "imgid": 7, "split": "val", "sentences": sentences("a\n", "b", "a", "c")})
    (sample,) = read(tmp_path)
    assert isinstance(sample, Sample)
    assert sample.text(1) == "a" and sample.turns[1].alternatives == ((Text(text="b"),), (Text(text="c"),))
    assert sample.attributes["references"] == ["a\n", "b", "a", "c"] and "class" not in sample.attributes


def test_splits_are_chosen_after_restval_became_train(tmp_path: Path) -> None:
    rows = [{"filename": f"{split}.png", "split": split, "sentences": sentences("a")} for split in ("train", "restval", "val", "test")]
    for row in rows:
        put_picture(tmp_path / "images" / row["filename"])
    put_captions(tmp_path, *rows)
    assert [sample.id for sample in read(tmp_path, split=["train"]) if isinstance(sample, Sample)] == ["train.png", "restval.png"]


def test_coco_names_the_folder_of_each_picture(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "val2014" / "1.png")
    put_captions(tmp_path, {"filepath": "val2014", "filename": "1.png", "cocoid": 1, "split": "test", "sentences": []})
    (sample,) = read(tmp_path)
    assert isinstance(sample, Sample) and sample.id == "val2014/1.png" and sample.turns == ()


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "1.png")
    good = {"filename": "1.png", "split": "train", "sentences": sentences("a")}
    put_captions(
        tmp_path, good, {**good, "filename": "2.png"}, {**good, "filename": "../../etc/passwd"}, {"filename": "1.png"}, {**good, "sentences": sentences(" ")}
    )
    found = read(tmp_path)
    assert isinstance(found[0], Sample)
    texts = [str(problem) for problem in found[1:]]
    assert [text.splitlines()[0].split(" at ")[0] for text in texts] == [
        "samples/missing-picture",
        "data/path-escape",
        "data/wrong-shape",
        "data/empty-caption",
    ]
    assert texts[0].splitlines()[0].endswith("dataset.json:row 1") and "images/2.png is not there" in texts[0]
    assert "'../../etc/passwd' leads out of" in texts[1]


def test_broken_pictures_are_named_with_their_row(tmp_path: Path) -> None:
    put_picture(tmp_path / "images" / "cut.jpg", (64, 64))
    whole = (tmp_path / "images" / "cut.jpg").read_bytes()
    (tmp_path / "images" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    put_picture(tmp_path / "images" / "thin.png", (9, 40))
    (tmp_path / "images" / "text.png").write_text("no picture")
    put_captions(tmp_path, *({"filename": name, "split": "train", "sentences": sentences("a")} for name in ("cut.jpg", "thin.png", "text.png")))
    found = read(tmp_path)
    assert [problem.code for problem in found if isinstance(problem, Problem)] == ["samples/broken-picture", "data/picture-shape", "samples/not-a-picture"]
    assert "decoding stopped" in str(found[0]) and "dataset.json:row 0" in str(found[0])
    assert "found:   9x40 px" in str(found[1]) and "a shortest side of 10 px" in str(found[1])


def test_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "1.jpg", exif=exif)
    put_captions(tmp_path, {"filename": "1.jpg", "split": "train", "sentences": sentences("a")})
    (sample,) = read(tmp_path)
    assert isinstance(sample, Sample) and (sample.pictures[0].width, sample.pictures[0].height) == (20, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', r"data/not-json at .*dataset\.json:1\n +found: +Expecting value at column 13"),
        ('{"pictures": []}', r"data/wrong-shape .*\n +found: +a JSON dict without a list `images`"),
        ('{"images": [{"filename": "9.png", "sentences": []}]}', r"data/no-picture-folder .*\n +found: +'9.png' is in none of .*images"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(Refused, match=message):
        list(KarpathyCaptions().read(tmp_path / "dataset.json"))


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(Refused, match=r"data/not-utf-8 .*\n +found: +byte 12 is 0xff"):
        list(KarpathyCaptions().read(tmp_path / "dataset.json"))


@given(st.text(st.sampled_from("ab./\\\\"), max_size=12))
@settings(deadline=None)
def test_no_name_leads_out_of_its_folder(name: str) -> None:
    root = Path("data") / "set"
    found = within(root, name, "here")
    if isinstance(found, Path):
        assert Path(os.path.normpath(found)).is_relative_to(root)
    else:
        assert found.code in ("data/path-escape", "data/picture-name")


def test_rsicd_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["rsicd"]
    reader = KarpathyCaptions()
    rows = [row for row in reader.rows(shared_data / "rsicd") if not isinstance(row, Problem)]
    assert len(rows) == facts["images"]
    splits = [row.data["attributes"]["split"] for row in rows]
    assert {split: splits.count(split) for split in set(splits)} == facts["splits"]
    captions = [text for row in rows for text in row.data["attributes"]["references"]]
    assert (len(captions), len(set(captions))) == (facts["captions"], facts["unique_captions_overall"])
    distinct = [len(set(row.data["attributes"]["references"])) for row in rows]
    assert {str(count): distinct.count(count) for count in set(distinct)} == facts["unique_captions_per_image"]
    sample = next(iter(reader.read(shared_data / "rsicd")))
    assert isinstance(sample, Sample) and (sample.pictures[0].width, sample.pictures[0].height) == (150, 150)


def test_ucm_and_sydney_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["ucm_captions"]["parts"]
    for name in ("UCM_captions", "Sydney_captions"):
        path = shared_data / "ucm_captions" / name
        assert [candidate.kind for candidate in recognise_all(path)] == ["karpathy-captions"]
        found = [sample for sample in KarpathyCaptions().read(path) if isinstance(sample, Sample)]
        assert [sample.id for sample in found] == facts[name]["file_names"]
        assert [int(sample.origin.row) for sample in found] == facts[name]["imgids"]
        captions = [text for sample in found for text in sample.attributes["references"]]
        assert (len(captions), len(set(captions))) == (facts[name]["captions"], facts[name]["unique_captions_overall"])
        assert {sample.pictures[0].width for sample in found} <= {256, 500}
