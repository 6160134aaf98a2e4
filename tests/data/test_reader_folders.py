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


def test_aid_as_published(shared_data: Path) -> None:
    facts = json.loads((shared_data / "counts.json").read_text(encoding="utf-8"))["aid"]
    rows = [row for row in ClassFolders().rows(shared_data / "aid") if isinstance(row, Row)]
    assert len(rows) == facts["images"]
    classes = [row.data["class"] for row in rows]
    assert {name: classes.count(name) for name in set(classes)} == facts["images_per_class"]
    first = next(iter(ClassFolders().read(shared_data / "aid")))
    assert isinstance(first, Sample) and first.annotations[0].label == "airport" and first.pictures[0].width == 150
