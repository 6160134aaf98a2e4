"""Made scenes: the same for ever, and mask, instances, boxes, texts and captions that agree with one another."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage

from sightline.data.scene_drawing import GLYPHS, glyph_bits
from sightline.data.scenes import CLASSES, GROUNDS, IDS, MIDLINE_GAP, OBJECTS, Scene, Scenes, compose, make
from sightline.data.wording import NUMBERS, plural
from sightline.errors import Refused
from sightline.lineage import sha256_tree

NAMES = list(CLASSES)
GOLDEN = "bd1ca23cb0e21b3bb65bf5bd58fe9f45b7d5abd6dd650a603298db893cabf5f5"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [compose(Scenes(count=400, seed=3), index) for index in range(400)]


def digest(scene: Scene) -> str:
    pieces = [scene.picture.tobytes(), scene.mask.tobytes(), scene.instances.tobytes(), "|".join(scene.captions).encode(), scene.split.encode()]
    pieces += [f"{placed.label} {placed.text} {np.round(placed.corners, 2).tolist()}".encode() for placed in scene.objects]
    return hashlib.sha256(b"\0".join(pieces)).hexdigest()


def own_frame(corners: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points along both sides of a box, from its first corner, and the lengths of the sides."""
    sides = np.array([corners[1] - corners[0], corners[3] - corners[0]])
    lengths = np.hypot(*sides.T)
    return (points - corners[0]) @ (sides / lengths[:, None]).T, lengths


def test_golden_scenes_never_change() -> None:
    config = Scenes(count=8, seed=7, text_share=0.5)
    assert hashlib.sha256("".join(digest(compose(config, index)) for index in range(8)).encode()).hexdigest() == GOLDEN


def test_a_scene_depends_on_seed_and_number_only() -> None:
    scene = digest(compose(Scenes(count=1, first=41, seed=2), 41))
    assert scene == digest(compose(Scenes(count=900, seed=2), 41))
    assert scene != digest(compose(Scenes(count=900, seed=3), 41))
    assert scene != digest(compose(Scenes(count=900, seed=2), 42))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50), st.sampled_from([64, 96, 128]))
def test_mask_instances_and_boxes_agree(index: int, seed: int, size: int) -> None:
    scene = compose(Scenes(count=1, seed=seed, size=size, text_share=0.3), index)
    assert scene.picture.shape == (size, size, 3) and scene.mask.shape == scene.instances.shape == (size, size)
    assert 1 <= len(scene.objects) <= 5
    assert set(np.unique(scene.instances)) == set(range(len(scene.objects) + 1))
    assert set(np.unique(scene.mask[scene.instances == 0])) == {IDS[scene.ground]}
    assert not (scene.ground == "forest" and any(placed.label == "grove" for placed in scene.objects))
    for number, placed in enumerate(scene.objects, start=1):
        inside = scene.instances == number
        assert set(np.unique(scene.mask[inside])) == {IDS[placed.label]}
        assert ndimage.label(inside, np.ones((3, 3)))[1] == 1
        rows, columns = np.nonzero(inside)
        along, lengths = own_frame(placed.corners, np.stack([columns, rows], 1) + 0.5)
        assert (along > -0.75).all() and (along < lengths + 0.75).all(), "a pixel lies outside its box"
        assert (along.min(0) < 1.5).all() and (along.max(0) > lengths - 1.5).all(), "the box is larger than its object"
        assert (np.abs(placed.corners.mean(0) - size / 2) >= MIDLINE_GAP).all()


def test_objects_do_not_touch(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        grown = sum(
            (ndimage.binary_dilation(scene.instances == number, np.ones((3, 3))).astype(int) for number in range(1, len(scene.objects) + 1)),
            np.zeros_like(scene.mask, int),
        )
        assert grown.max() == 1


def test_captions_say_what_the_instances_show(scenes: list[Scene]) -> None:
    words = "|".join([plural(label) for label in OBJECTS] + list(OBJECTS))
    starts = Counter()
    for scene in scenes:
        truth = Counter(placed.label for placed in scene.objects)
        assert len(set(scene.captions)) == len(scene.captions) in (2, 3)
        for caption in scene.captions:
            told = {
                label.removesuffix("s"): 1 if number in ("a", "an") else NUMBERS.index(number) for number, label in re.findall(rf"\b(\w+) ({words})\b", caption)
            }
            assert told == truth, caption
            assert [ground for ground in GROUNDS if re.search(rf"\b{ground}\b", caption)] == [scene.ground]
            first = re.search(rf"\b({words})\b", caption)
            assert first and ("there are" in caption) == ("there" in caption and first[1].endswith("s")), caption
            starts[caption.split()[0]] += 1
        texts = {placed.text for placed in scene.objects if placed.text}
        assert all(re.findall(r"that reads (\w+)", caption) in ([], list(texts)) for caption in scene.captions)
    assert len(starts) > 8


def test_counting_is_not_won_by_answering_one(scenes: list[Scene]) -> None:
    counts = Counter(number for scene in scenes for number in Counter(placed.label for placed in scene.objects if placed.label != "marking").values())
    share = {number: count / counts.total() for number, count in counts.items()}
    assert 0.40 < share[1] < 0.55 and 0.20 < share[2] < 0.35 and share[3] > 0.08 and share[4] > 0.07
    grounds = Counter(scene.ground for scene in scenes)
    assert min(grounds.values()) > 0.18 * len(scenes)
    labels = Counter(label for scene in scenes for label in {placed.label for placed in scene.objects})
    assert min(labels[label] for label in OBJECTS if label != "marking") > 0.12 * len(scenes)
    assert 0.10 < labels["marking"] / len(scenes) < 0.20
    assert 0.84 < sum(scene.split == "train" for scene in scenes) / len(scenes) < 0.96


def read_marking(picture: np.ndarray, corners: np.ndarray, text: str) -> str:
    """The text that the pixels show: each letter's cells are compared with all glyphs."""
    columns = 6 * len(text) - 1
    place = (np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(7) + 0.5), -1) - np.array([columns / 2, 3.5])) / np.array([6 * len(text) + 2.5, 10.5])
    sides = np.array([corners[1] - corners[0], corners[3] - corners[0]])
    x, y = np.moveaxis(corners.mean(0) + place @ sides - 0.5, -1, 0)
    light = ndimage.map_coordinates(picture.mean(2), [y, x], order=1, mode="nearest")
    letters = [light[:, 6 * number : 6 * number + 5] for number in range(len(text))]
    return "".join(max(GLYPHS, key=lambda glyph: -np.corrcoef(letter.ravel(), glyph_bits(glyph).ravel())[0, 1]) for letter in letters)


def test_markings_can_be_read_at_full_size_and_not_as_thumbnails() -> None:
    full, small, letters = 0, 0, 0
    for index in range(60):
        scene = compose(Scenes(count=60, seed=5, text_share=1.0), index)
        (marking,) = [placed for placed in scene.objects if placed.label == "marking"]
        thumbnail = np.asarray(Image.fromarray(scene.picture).resize((32, 32), Image.Resampling.BOX).resize((96, 96), Image.Resampling.BICUBIC))
        letters += len(marking.text)
        full += sum(a == b for a, b in zip(marking.text, read_marking(scene.picture, marking.corners, marking.text)))
        small += sum(a == b for a, b in zip(marking.text, read_marking(thumbnail, marking.corners, marking.text)))
    assert full > 0.95 * letters
    assert small < 0.6 * letters


def test_glyphs_differ() -> None:
    bits = {glyph: glyph_bits(glyph) for glyph in GLYPHS}
    assert all(value.shape == (7, 5) and value.any() for value in bits.values())
    assert min((bits[a] != bits[b]).sum() for a in bits for b in bits if a < b) >= 3
    assert glyph_bits("1A").shape == (7, 11) and not glyph_bits("1A")[:, 5].any()


def test_files_hold_the_scenes_whatever_the_workers(tmp_path: Path) -> None:
    config = Scenes(count=7, first=30, seed=1, text_share=0.6)
    make(config, tmp_path / "one", workers=1)
    make(config, tmp_path / "two", workers=2)
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")
    out = tmp_path / "one"
    captions = {image["filename"]: image for image in json.loads((out / "dataset_scenes.json").read_text())["images"]}
    classes = json.loads((out / "classes.json").read_text())
    assert [row["name"] for row in classes] == NAMES and {row["name"] for row in classes if row["countable"]} == set(OBJECTS)
    for index in range(30, 37):
        scene, stem = compose(config, index), f"{index:05d}"
        assert np.array_equal(np.asarray(Image.open(out / "images" / f"{stem}.png")), scene.picture)
        with Image.open(out / "masks" / f"{stem}.png") as mask:
            assert mask.mode == "P" and np.array_equal(np.asarray(mask), scene.mask)
            assert mask.convert("RGB").getpixel((0, 0)) == CLASSES[NAMES[scene.mask[0, 0]]]
        assert np.array_equal(np.asarray(Image.open(out / "instances" / f"{stem}.png")), scene.instances)
        header, gsd, *lines = (out / "labelTxt" / f"{stem}.txt").read_text().splitlines()
        assert header.startswith("imagesource:") and gsd.startswith("gsd:") and len(lines) == len(scene.objects)
        for line, placed in zip(lines, scene.objects):
            *numbers, label, difficult = line.split()
            assert (label, difficult) == (placed.label, "0") and np.allclose(np.array(numbers, float).reshape(4, 2), placed.corners, atol=0.0051)
        texts = [placed.text for placed in scene.objects if placed.text]
        file = out / "texts" / f"{stem}.txt"
        assert ([line.split(",")[8] for line in file.read_text().splitlines()] if file.exists() else []) == texts
        image = captions[f"{stem}.png"]
        assert image["split"] == scene.split and tuple(sentence["raw"] for sentence in image["sentences"]) == scene.captions
        assert image["sentids"] == [sentence["sentid"] for sentence in image["sentences"]]
        assert all(sentence["tokens"] == re.findall(r"\w+", sentence["raw"].lower()) for sentence in image["sentences"])


def test_earlier_scenes_are_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    make(Scenes(count=3), tmp_path / "set", workers=1)
    make(Scenes(count=1), tmp_path / "set", workers=1)
    assert len(list((tmp_path / "set" / "images").iterdir())) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(Refused, match="a folder that holds no scenes") as refused:
        make(Scenes(count=1), tmp_path / "mine", workers=1)
    assert refused.value.problems[0].code == "data/out-taken"
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("size", 95, "multiple of 2"), ("size", 32, "greater than or equal to 64"), ("count", 0, "greater than or equal to 1"), ("colour", "red", "Extra inputs")],
)
def test_impossible_scenes_are_refused(field: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Scenes.model_validate({"count": 1, field: value})
