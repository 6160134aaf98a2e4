"""Class folders: names to words, splits, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.readers.class_folders import ClassFolders, words
from sightline.data.readers.reader import Row
from sightline.errors import Refused
from sightline.samples.sample import Box, Origin, Region, Sample, Text, Turn


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (number, 0, 0)).save(root / name)


def read(root: Path, reader: ClassFolders | None = None) -> list[Sample]:
    return [sample for sample in (reader or ClassFolders()).read(root) if isinstance(sample, Sample)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BareLand", "bare land"),
        ("storage_tanks", "storage tanks"),
        ("SeaLake", "sea lake"),
        ("airport", "airport"),
        ("HVLine", "hv line"),
        ("tennis-court", "tennis court"),
    ],
)
def test_names_become_words(name: str, text: str) -> None:
    assert words(name) == text


def test_a_picture_has_its_class_as_a_region_of_the_whole(tmp_path: Path) -> None:
    put(tmp_path, "2750/BareLand/a.png", "2750/Forest/b.png")
    first, second = read(tmp_path)
    assert (first.id, first.turns) == ("2750/BareLand/a.png", ())
    assert first.annotations == (Region(label="bare land", attributes={"class": "BareLand"}, shape=None),)
    assert second.annotations[0].label == "forest"


def test_folders_of_splits(tmp_path: Path) -> None:
    put(tmp_path, "train/Pond/a.png", "train/Road/b.png", "valid/Pond/c.png")
    assert [sample.attributes["split"] for sample in read(tmp_path)] == ["train", "train", "val"]
    assert [sample.id for sample in read(tmp_path, ClassFolders(split=["val"]))] == ["valid/Pond/c.png"]


def test_no_folder_with_pictures(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"data/no-class-folders .*\n +found: +no folder with pictures in it"):
        read(tmp_path)


def test_the_way_back(tmp_path: Path) -> None:
    put(tmp_path / "a", "train/BareLand/1.png", "val/storage_tanks/1.png")
    samples = read(tmp_path / "a")
    assert ClassFolders().write(samples, tmp_path / "b") == []
    assert [replace(sample, origin=Origin(source="a", row=sample.origin.row)) for sample in read(tmp_path / "b")] == samples


def test_what_folders_cannot_hold_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a", "Pond/1.png")
    (plain,) = read(tmp_path / "a")
    said = replace(
        plain, turns=(Turn(role="user", items=(Text(text="?"),)),), annotations=(*plain.annotations, Region(label="x", shape=Box(x0=0, y0=0, x1=1, y1=1)))
    )
    odd = replace(plain, annotations=(Region(label="a/b"),))
    none = replace(plain, annotations=())
    found = {problem.found for problem in ClassFolders().write([said, odd, none], tmp_path / "b")}
    assert found == {
        "turns: 1 sample written without",
        "regions: 1 sample written without",
        "the label 'a/b', which no folder name gives back: 1 sample not written",
        "a sample with no or several pictures or classes: 1 sample not written",
    }


@pytest.mark.parametrize(
    ("names", "confidence"),
    [
        (("2750/SeaLake/SeaLake_1.png", "2750/Forest/Forest_1.png"), 0.8),
        (("UCMerced_LandUse/Images/airplane/airplane00.png", "UCMerced_LandUse/Images/river/river00.png"), 0.8),
        (("NWPU-RESISC45/dense_residential/dense_residential_001.png", "NWPU-RESISC45/lake/lake_001.png"), 0.8),
        (("A/1.png", "B/1.png", "C/1.png"), 0.5),
        (("A/1.png", "B/1.png", "label/1.png"), None),
        (("image-chips/1.png", "label-chips/1.png"), None),
        (("train2017/1.png", "val2017/1.png"), None),
        (("images/0/1.png", "images/1/1.png"), None),
        (("Pond/1.png",), None),
    ],
)
def test_published_layouts_are_told_from_others(tmp_path: Path, names: tuple[str, ...], confidence: float | None) -> None:
    put(tmp_path, *names)
    known = ClassFolders().recognise(tmp_path)
    assert (known and known[0]) == confidence and ClassFolders().annotated(tmp_path) == frozenset()


def test_aid_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["aid"]
    known = ClassFolders().recognise(shared_data / "aid")
    assert known is not None and known[1].startswith("30 folders of pictures beside each other, such as Airport/, and the names of the pictures begin with")
    rows = [row for row in ClassFolders().rows(shared_data / "aid") if isinstance(row, Row)]
    assert len(rows) == facts["images"]
    classes = [row.data["class"] for row in rows]
    assert {name: classes.count(name) for name in set(classes)} == facts["images_per_class"]
    assert facts["file_name_prefix_equals_lowercase_folder"] and facts["classes"] == len(set(classes))
    assert {words(name) for name in classes} >= {"bare land", "dense residential", "storage tanks"}
    first = next(iter(ClassFolders().read(shared_data / "aid")))
    assert isinstance(first, Sample) and first.annotations[0].label == "airport" and first.pictures[0].width == 150
