"""Spoilt pictures: the same by the same seed, each fault does what it says, nothing happens at strength 0, and questions say what was done."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage

from sightline.data.engine import Local
from sightline.data.operators import apply
from sightline.data.passes import apply_into
from sightline.data.quality import Corrupt, spoilt_sample
from sightline.data.quality_faults import FAULTS, Fault, fractal, moved, spoilt
from sightline.data.synthesis.quality_kinds import FAULT_WORDS
from sightline.data.synthesis.synthesize import Synthesize
from sightline.errors import Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Origin, Region, Sample
from sightline.samples.store import Store

SPOILING = [fault for fault in FAULTS if fault != "clean"]
Pixels = NDArray[np.uint8]


def scene(height: int = 96, width: int = 120, seed: int = 0) -> Pixels:
    """Blocks of colours with a little grain: edges, surfaces and a texture."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 200, (height // 12 + 1, width // 12 + 1, 3)).repeat(12, 0).repeat(12, 1)[:height, :width]
    return np.clip(blocks + rng.normal(0, 4, blocks.shape), 0, 255).astype(np.uint8)


def sample(name: str = "a", array: Pixels | None = None, format: str = "PNG", **attributes: object) -> Sample:
    out = io.BytesIO()
    Image.fromarray(scene() if array is None else array).save(out, format)
    box = Region(label="ship", shape=Box(x0=1, y0=2, x1=5, y1=4))
    return Sample(id=name, pictures=(describe(out.getvalue(), "p.jpg", "here"),), annotations=(box,), attributes=attributes, origin=Origin(source="set"))


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def change(before: Pixels, after: Pixels) -> float:
    return float(np.abs(after.astype(int) - before).mean())


@given(
    fault=st.sampled_from(FAULTS),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_size_and_type_stay_and_the_seed_says_all(fault: Fault, strength: float, seed: int, height: int, width: int) -> None:
    before = scene(height, width, seed % 7)
    kept = before.copy()
    after = spoilt(before, fault, strength, rng(seed))
    assert after.shape == before.shape and after.dtype == np.uint8
    assert (after == spoilt(before, fault, strength, rng(seed))).all()
    assert (before == kept).all()
    assert (spoilt(before, fault, 0.0, rng(seed)) == before).all()


@pytest.mark.parametrize("fault", SPOILING)
def test_a_fault_grows_with_its_strength_from_nothing(fault: Fault) -> None:
    steps = [np.mean([change(scene(), spoilt(scene(), fault, strength, rng(seed))) for seed in range(6)]) for strength in (1e-6, 0.35, 0.7, 1.0)]
    assert steps[0] < 0.6 < steps[1] < steps[2] < steps[3], steps


def test_blur_takes_edges_away_and_keeps_the_mean() -> None:
    before = scene()
    edges = [
        ndimage.laplace(array.astype(float).mean(2)).var()
        for array in (before, *(spoilt(before, "blur", s, rng(seed)) for s in (0.35, 1.0) for seed in range(4)))
    ]
    assert max(edges[1:5]) < 0.6 * edges[0] and np.mean(edges[5:]) < 0.5 * np.mean(edges[1:5])
    assert all(abs(spoilt(before, "blur", 1.0, rng(seed)).mean() - before.mean()) < 5 for seed in range(4))


def test_clouds_are_bright_patches_with_shadows_beside_them() -> None:
    dark = np.full((96, 120, 3), 60, np.uint8)
    for seed in range(6):
        after = spoilt(dark, "cloud", 1.0, rng(seed)).mean(2)
        covered = (after > 200).mean()
        assert 0.25 < covered < 0.6, covered
        assert (after < 50).mean() > 0.01  # shadow
        assert (np.abs(after - 60) < 2).mean() > 0.1  # open ground


def test_stripes_are_alike_along_lines_and_unlike_across() -> None:
    flat = np.full((90, 90, 3), 120, np.uint8)
    seen = Counter[str]()
    for seed in range(12):
        after = spoilt(flat, "stripes", 0.5, rng(seed)).astype(float)[..., 0]
        along, across = sorted((after.std(axis=1).max(), after.std(axis=0).max()))
        assert along == 0 and across > 5
        seen["rows" if after.std(axis=1).max() == 0 else "columns"] += 1
    assert set(seen) == {"rows", "columns"}


def test_bands_lie_apart_by_what_the_strength_says_and_green_stays() -> None:
    grey = np.repeat(scene().mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    for seed in range(6):
        after = spoilt(grey, "misregistration", 1.0, rng(seed))
        assert (after[..., 1] == grey[..., 1]).all()
        places = [(right, down) for right in range(-6, 7) for down in range(-6, 7)]
        red = min(places, key=lambda place: change(after[..., :1], moved(grey[..., :1].astype(np.float32), *place).astype(np.uint8)))
        blue = min(places, key=lambda place: change(after[..., 2:], moved(grey[..., 2:].astype(np.float32), *place).astype(np.uint8)))
        assert 3.5 <= np.hypot(*red) <= 5.6 and 1.5 <= np.hypot(*blue) <= 5.6  # 5 % of 96 px, and half to all of it
        assert np.dot(red, blue) < 0  # apart, not together


def test_haze_lifts_and_flattens_and_noise_is_everywhere() -> None:
    before = scene()
    hazy, noisy = spoilt(before, "haze", 0.6, rng()).astype(float), spoilt(before, "noise", 0.6, rng()).astype(float)
    assert hazy.std() == pytest.approx(0.55 * before.std(), rel=0.05) and hazy.mean() > before.mean()
    assert (noisy - before).std() == pytest.approx(30, rel=0.1) and abs(noisy.mean() - before.mean()) < 2


def test_fractal_noise_fills_its_range() -> None:
    found = fractal(50, 70, rng())
    assert found.shape == (50, 70) and found.min() == 0 and found.max() == pytest.approx(1)
    assert (np.abs(np.diff(found, axis=1)).mean()) < 0.1  # neighbours are alike


def spoil(samples: Sequence[Sample], seed: int = 0, **fields: object) -> list[Sample]:
    return [made for made, verdict, _ in apply([Corrupt.model_validate(fields)], samples, seed) if verdict == "kept"]


def test_a_row_says_what_was_done_to_it_and_where_it_comes_from() -> None:
    made = spoil([sample(f"{n:02d}", scene(seed=n), place="north") for n in range(40)])
    found = Counter(row.attributes["quality"] for row in made)
    assert set(found) == set(FAULTS) and sum(found.values()) == 40
    for n, row in enumerate(made):
        before = sample(f"{n:02d}", scene(seed=n))
        assert row.annotations == before.annotations and row.id == before.id and row.attributes["place"] == "north" and row.problems("here") == []
        if row.attributes["quality"] == "clean":
            assert row.pictures == before.pictures and row.attributes["quality_strength"] == 0 and row.origin.parents == ()
            continue
        [shown] = row.pictures
        assert isinstance(shown.data, bytes) and shown == describe(shown.data, "p.png", "here")
        assert 0.35 <= row.attributes["quality_strength"] <= 1 and row.origin.parents == (before.id,)


def test_rows_depend_on_their_id_and_the_seed_alone() -> None:
    samples = [sample(f"{n:02d}") for n in range(12)]
    whole = {row.id: row.pictures[0].hash for row in spoil(samples)}
    assert {row.id: row.pictures[0].hash for row in spoil(samples[::-1][:7])}.items() <= whole.items()
    assert len(set(whole.values())) > 9
    assert whole != {row.id: row.pictures[0].hash for row in spoil(samples, seed=1)}


def test_every_makes_each_fault_and_a_further_one_changes_none() -> None:
    three = {row.id: row for row in spoil([sample()], every=True, faults={"clean": 1, "blur": 1, "noise": 0.1, "haze": 0})}
    assert list(three) == ["a@clean", "a@blur", "a@noise"]
    more = {row.id: row for row in spoil([sample()], every=True, faults={"cloud": 1, "blur": 1, "noise": 2, "clean": 1})}
    assert more["a@blur"] == three["a@blur"] and more["a@noise"] == three["a@noise"]


def test_what_cannot_be_seen_is_counted_and_never_called_a_fault() -> None:
    flat = sample(array=np.full((60, 60, 3), 90, np.uint8))
    [(row, verdict, rule)] = list(apply([Corrupt(faults={"blur": 1})], [flat], 0))
    assert (row, verdict, rule) == (flat, "quarantined", "corrupt/invisible")
    outcome = Corrupt(every=True, faults={"clean": 1, "blur": 1, "noise": 1}).each(flat, rng(), ())
    assert [one.id for one in outcome.samples] == ["a@clean", "a@noise"] and outcome.columns == {"corrupt_invisible": 1}
    assert spoilt_sample(flat, "blur", 1.0, 0) is not None  # unless one asks for it
    bare = Sample(id="b", origin=Origin(source="set"))
    assert [rule for _, _, rule in apply([Corrupt()], [bare], 0)] == ["corrupt/no-picture"]


@pytest.mark.parametrize(
    ("fields", "said"), [({"faults": {"clean": 0}}, "at least one"), ({"strength": [0.9, 0.1]}, "lower and an upper"), ({"faults": {"fog": 1}}, "fog")]
)
def test_what_cannot_be_drawn_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Corrupt.model_validate(fields)


def test_a_pass_over_a_store_makes_the_same_rows_also_after_a_copy_to_another_process(tmp_path: Path) -> None:
    samples = [sample(f"{n:02d}", scene(seed=n)) for n in range(6)]
    with Store.writer(tmp_path / "source") as writer:
        for one in samples:
            writer.add(one)
    apply_into(Store.open(tmp_path / "source"), [pickle.loads(pickle.dumps(Corrupt()))], tmp_path / "out", engine=Local(workers=1), seed=4)
    made = Store.open(tmp_path / "out")
    assert [made[n].pictures[0].hash for n in range(len(made))] == [row.pictures[0].hash for row in spoil(samples, seed=4)]


def asked(fault: str, kind: str, **fields: object) -> list[Sample]:
    config = Synthesize.model_validate({"kinds": {kind: 1}, **fields})
    samples = [sample(f"{n:03d}", quality=fault) for n in range(20)]
    return [made for made, verdict, _ in apply([config], samples, 0) if verdict == "kept"]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("fault", FAULTS)
def test_questions_say_whether_and_what(fault: Fault, language: str) -> None:
    word = FAULT_WORDS["zh" if language == "zh" else "en"][fault]
    for row in asked(fault, "quality", languages=[language], terse=0.0):
        assert row.attributes["answers"] == ["no" if fault == "clean" else "yes"]
        assert row.text(1).startswith({"enno": "No", "enyes": "Yes", "zhno": "否", "zhyes": "是"}[language + row.attributes["answers"][0]])
        assert fault == "clean" or word in row.text(1)
    bare = asked(fault, "quality-kind", languages=[language], terse=1.0)
    assert {row.text(1) for row in bare} == {word} and all(row.attributes["answers"] == [word] for row in bare)
    assert all(word in row.text(1) for row in asked(fault, "quality-kind", languages=[language], terse=0.0))


@pytest.mark.parametrize("fault", FAULTS)
def test_one_of_four_options_is_right(fault: Fault) -> None:
    made = asked(fault, "quality-choice", terse=1.0)
    for row in made:
        options, [letter] = row.attributes["options"], row.attributes["answers"]
        words = FAULT_WORDS["zh" if row.attributes["language"] == "zh" else "en"]
        assert len(set(options)) == 4 and options["ABCD".index(letter)] == words[fault] and row.text(1) == letter
        assert all(f"{mark}." in row.text(0) and option in row.text(0) for mark, option in zip("ABCD", options, strict=True))
    assert len({row.attributes["answers"][0] for row in made}) > 1


def test_unknown_quality_is_not_asked_about_and_a_strange_one_refused() -> None:
    kinds = {"quality": 1, "quality-kind": 1, "quality-choice": 1}
    assert [rule for _, _, rule in apply([Synthesize.model_validate({"kinds": kinds})], [sample()], 0)] == ["synthesize/nothing-to-ask"]
    with pytest.raises(Refused, match="data/unknown-quality"):
        list(apply([Synthesize.model_validate({"kinds": kinds})], [sample(quality="foggy")], 0))


def test_words_are_whole_and_distinct() -> None:
    for words in FAULT_WORDS.values():
        assert tuple(words) == FAULTS and len(set(words.values())) == len(FAULTS)
