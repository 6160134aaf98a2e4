"""Made pairs: one place on two days. The label is what was built or torn down and nothing else, the bytes are those of (seed, number), and the ordinary reader reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.change_scenes import BUILT, TORN_DOWN, Pair, ScenePairs, compose_pair, make_pairs
from sightline.data.components import components_of
from sightline.data.operators import apply
from sightline.data.readers.change_pairs import ChangePairs
from sightline.data.reading import read_into
from sightline.data.synthesis.change_kinds import EVENT_WORDS
from sightline.data.synthesis.synthesize import Synthesize
from sightline.errors import Refused
from sightline.samples.geometry import decode_mask
from sightline.samples.pictures import pixels
from sightline.samples.sample import Mask, Sample
from sightline.samples.store import Store

CONFIG = ScenePairs(count=40, seed=5)
CHANGED = CONFIG.model_copy(update={"same_share": 0.0, "jitter": 0})


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [compose_pair(CONFIG, index) for index in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "pairs"
    make_pairs(CONFIG, out, workers=1)
    return out


def read(folder: Path, tmp_path: Path) -> Store:
    return read_into(folder, [ChangePairs()], tmp_path / "store")


def test_half_have_changed_and_every_event_happens(pairs: list[Pair]) -> None:
    assert 12 <= sum(bool(pair.events) for pair in pairs) <= 28
    assert {pair.events for pair in pairs} >= {(), (BUILT,), (TORN_DOWN,)}
    for pair in pairs:
        assert pair.changed.any() == bool(pair.events)
        assert pair.before.shape == pair.after.shape == (96, 96, 3) and pair.before.dtype == np.uint8


def test_no_change_is_no_equality(pairs: list[Pair]) -> None:
    difference = {bool(pair.events): [] for pair in pairs}
    for pair in pairs:
        difference[bool(pair.events)].append(np.abs(pair.before.astype(int) - pair.after).mean())
    assert min(difference[False]) > 2  # light, sensor, a shift: no pair is the same twice
    assert max(difference[False]) > np.median(difference[True])  # a threshold on pixels does not tell them apart


def test_the_label_is_where_buildings_changed() -> None:
    for index in range(12):
        pair = compose_pair(CHANGED, index)
        apart = np.abs(pair.before.astype(float) - pair.after).mean(2)
        level = np.median(apart)  # what the light alone does
        assert apart[pair.changed].mean() > level + 4
        found = components_of(pair.changed)
        assert 1 <= len(found.found) <= CHANGED.most_changed and found.dropped == 0
        assert all(max(one.box.w, one.box.h) <= 45 and min(one.box.w, one.box.h) >= 6 for one in found.found)


def test_built_is_on_the_later_picture_and_torn_down_on_the_earlier(pairs: list[Pair]) -> None:
    for pair in pairs:
        before, after = ("building" in told[0] for told in pair.captions)
        if pair.events == (BUILT,):
            assert after
        if pair.events == (TORN_DOWN,):
            assert before
        if not pair.events:
            assert before == after


def test_a_pair_is_named_by_seed_and_number() -> None:
    one, other = compose_pair(CONFIG, 3), compose_pair(CONFIG.model_copy(update={"count": 4, "first": 3}), 3)
    assert (one.before == other.before).all() and (one.after == other.after).all() and one.captions == other.captions
    assert (compose_pair(CONFIG.model_copy(update={"seed": 6}), 3).after != one.after).any()


def test_jitter_moves_the_earlier_picture_alone() -> None:
    still, moved = (compose_pair(CONFIG.model_copy(update={"jitter": jitter}), 7) for jitter in (0, 4))
    assert (still.after == moved.after).all() and (still.changed == moved.changed).all() and (still.before != moved.before).any()


def test_turns_stay_within_their_bound() -> None:
    for index in range(10):
        for one in components_of(compose_pair(CHANGED.model_copy(update={"turn": 0.0}), index).changed).found:
            assert one.area > 0.85 * one.box.w * one.box.h and min(abs(one.box.theta), abs(abs(one.box.theta) - 90)) < 4


def test_the_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    make_pairs(CONFIG.model_copy(update={"first": 10, "count": 5}), tmp_path / "some", workers=2)
    for file in (tmp_path / "some").glob("*/*.png"):
        assert file.read_bytes() == (folder / file.parent.name / file.name).read_bytes()
    assert len(list((tmp_path / "some").glob("*/*.png"))) == 15


def test_the_reader_of_published_pairs_reads_them(folder: Path, tmp_path: Path, pairs: list[Pair]) -> None:
    store = read(folder, tmp_path)
    assert len(store) == 40 and ChangePairs().recognise(folder)
    events = json.loads((folder / "changes.json").read_text())
    for number, pair in enumerate(pairs):
        sample = store[number]
        assert sample.attributes["changes"] == list(pair.events) == events[f"{number:05d}"]["changes"]
        assert [[tuple(thing) for thing in day] for day in sample.attributes["things"]] == [list(day) for day in pair.things]
        assert sample.attributes["split"] == pair.split and sample.attributes["changed"] == bool(pair.events)
        assert (pixels(sample.pictures[0], store.path) == pair.before).all() and (pixels(sample.pictures[1], store.path) == pair.after).all()
        if pair.events:
            [region] = sample.annotations
            assert isinstance(region.shape, Mask) and (decode_mask(region.shape) == pair.changed).all()
    captions = json.loads((folder / "dataset_scenes.json").read_text())["images"]
    assert [one["filename"] for one in captions[:2]] == ["A/00000.png", "B/00000.png"] and len(captions) == 80


def test_a_file_of_changes_in_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("A", "B", "label"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "set" / name / "a.png")
    (tmp_path / "set" / "changes.json").write_text('{"a": {"changes": "built"}}')
    with pytest.raises(Refused, match=r"changes\.json"):
        read_into(tmp_path / "set", [ChangePairs()], tmp_path / "store")


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(Refused, match="data/out-taken"):
        make_pairs(CONFIG, tmp_path / "mine")


def test_what_happened_is_asked_in_both_languages(folder: Path, tmp_path: Path) -> None:
    store = read(folder, tmp_path)
    samples = [store[number] for number in range(len(store))]
    for language, words in EVENT_WORDS.items():
        config = Synthesize.model_validate({"kinds": {"change-kind": 1}, "languages": [language], "terse": 1.0})
        made = [row for row, verdict, _ in apply([config], samples, 0) if verdict == "kept"]
        assert len(made) == 40
        for row in made:
            assert [event for event, word in words.items() if word in row.text(1)] == row.attributes["changes"]
            assert row.attributes["answers"] == [row.text(1)] and len(row.pictures) == 2
            assert row.attributes["changes"] or row.text(1) in ("nothing", "没有变化")


def test_pairs_without_a_word_on_what_happened_are_not_asked_and_strange_ones_refused(folder: Path, tmp_path: Path) -> None:
    store = read(folder, tmp_path)

    def asked(**attributes: object) -> list[tuple[Sample, str, str | None]]:
        from dataclasses import replace

        return list(apply([Synthesize.model_validate({"kinds": {"change-kind": 1}})], [replace(store[0], attributes=attributes)], 0))

    assert [rule for _, _, rule in asked()] == ["synthesize/nothing-to-ask"]
    with pytest.raises(Refused, match="data/unknown-change"):
        asked(changes=["flooded"])
