"""Questions from annotations: each kind says what the annotations say, boxes survive the codec, nobody is asked about what is hidden, and rows do not depend on each other."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.operators import apply
from sightline.data.synthesis.corpus_statistics import Statistics
from sightline.data.synthesis.picture_facts import known_of
from sightline.data.synthesis.reach import coverage
from sightline.data.synthesis.synthesize import MAKERS, Synthesize
from sightline.errors import Refused
from sightline.samples.codecs import round_trip_iou
from sightline.samples.frames import frame_of
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.pictures import describe
from sightline.samples.sample import Box, Mask, Origin, Picture, Region, Regions, RotatedBox, Sample, Show, Text, Turn

LABELS = ("car", "bus", "ship", "plane", "bridge", "harbor", "person", "bicycle")


@cache
def picture(width: int = 400, height: int = 400) -> Picture:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(stream, "PNG")
    return describe(stream.getvalue(), "p.png", "here")


def boxed(name: str, *labels: str, **attributes: object) -> Sample:
    """A picture with a box of 60 x 24 px for each label, on a grid."""
    regions = tuple(
        Region(label=label, attributes=attributes, shape=RotatedBox(cx=40 + 75 * (place % 5), cy=30 + 60 * (place // 5), w=60, h=24, theta=10.0))
        for place, label in enumerate(labels)
    )
    return Sample(id=name, pictures=(picture(),), annotations=regions, origin=Origin(source="boxes"))


def painted(**areas: tuple[int, int, int, int]) -> Sample:
    """A picture whose class masks are rectangles (x0, y0, x1, y1)."""
    regions = []
    for label, (x0, y0, x1, y1) in areas.items():
        pixels = np.zeros((400, 400), bool)
        pixels[y0:y1, x0:x1] = True
        regions.append(Region(label=label, attributes={"class_id": 1}, shape=encode_mask(pixels)))
    return Sample(id="painted", pictures=(picture(),), annotations=tuple(regions), origin=Origin(source="masks"))


def crowd_of_sets(count: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [boxed(f"{place:04d}", *rng.choice(LABELS, rng.integers(1, 9))) for place in range(count)]


def rows(samples: Sequence[Sample], seed: int = 0, **fields: object) -> list[Sample]:
    return [made for made, verdict, _ in apply([Synthesize.model_validate(fields)], samples, seed) if verdict == "kept"]


def only(kind: str, samples: Sequence[Sample], count: int = 8, **fields: object) -> list[Sample]:
    return rows(samples, kinds={kind: count}, **fields)


def regions_in(sample: Sample) -> list[Region]:
    return [region for turn in sample.turns for item in turn.items if isinstance(item, Regions) for region in item.regions]


def test_yes_and_no_are_even_and_true() -> None:
    samples = crowd_of_sets(300)
    there = {sample.id: {region.label for region in sample.annotations} for sample in samples}
    made = only("yes-no", samples, 2, languages=["en"], terse=0.0)
    sides = Counter(sample.attributes["answers"][0] for sample in made)
    total = sum(sides.values())
    assert total > 500
    assert abs(sides["yes"] - total / 2) < 4 * np.sqrt(total / 4)  # a fair coin, four standard deviations
    for sample in made:
        asked = next(label for label in LABELS if {"person": "people"}.get(label, label) in sample.text(0))
        if sample.attributes["answers"] == ["yes"]:
            assert asked in there[sample.origin.parents[0]]
        else:
            assert asked not in there[sample.origin.parents[0]]
        assert sample.text(1).startswith({"yes": "Yes", "no": "No"}[sample.attributes["answers"][0]])


def test_negatives_are_random_frequent_and_co_occurring() -> None:
    samples = [boxed(f"c{n}", "car", "bus") for n in range(6)] + [boxed(f"s{n}", "ship") for n in range(10)] + [boxed(f"x{n}", "plane") for n in range(2)]
    asked = [boxed(f"q{n}", "car") for n in range(150)]
    made = [
        row for row in only("yes-no", [*samples, *asked], 1, languages=["en"]) if row.origin.parents[0].startswith("q") and row.attributes["answers"] == ["no"]
    ]
    found = Counter(next(label for label in ("bus", "ship", "plane") if label in row.text(0)) for row in made)
    assert found["bus"] > found["plane"] and found["ship"] > found["plane"] > 0  # together with car; the most frequent absent; at random only


def test_a_wider_or_doubtful_label_is_no_negative() -> None:
    samples = [boxed("a", "car"), boxed("b", "vehicle"), boxed("c", "ship"), boxed("d", "boat"), boxed("e", "ship", difficult=1)]
    made = only("yes-no", samples, 8, languages=["en"], terse=0.0)
    of_a = [sample.text(0) for sample in made if sample.origin.parents == ("a",)]
    assert of_a and not any("vehicle" in text for text in of_a)
    assert not any(sample.origin.parents == ("e",) for sample in made)


def test_areas_below_half_a_percent_are_asked_about_neither_way() -> None:
    water, road = (0, 0, 400, 300), (0, 300, 20, 330)  # 600 of 160,000 px = 0.375 %
    samples = [painted(water=water, road=road), replace(painted(road=(0, 0, 400, 400)), id="other"), replace(painted(forest=(0, 0, 400, 400)), id="third")]
    made = rows(samples, languages=["en"])
    mine = [sample for sample in made if sample.origin.parents == ("painted",)]
    assert {sample.attributes["kind"] for sample in mine} >= {"list", "yes-no", "caption"}
    assert not any("road" in sample.text(turn) for sample in mine for turn in range(len(sample.turns)))
    assert any("forest" in sample.text(0) for sample in mine)


def test_choices_have_one_right_option_or_say_how_many() -> None:
    samples = crowd_of_sets(200)
    there = {sample.id: {region.label for region in sample.annotations} for sample in samples}
    places: Counter[str] = Counter()
    for sample in only("choice", samples, 2, languages=["en"]):
        options, letters = sample.attributes["options"], sample.attributes["answers"]
        right = [letter for letter, option in zip("ABCD", options) if option in there[sample.origin.parents[0]]]
        assert right == letters and 2 <= len(options) <= 4 and len(set(options)) == len(options)
        assert not {"ship", "boat"} <= set(options)
        assert all(f"{letter}. {option}" in sample.text(0) for letter, option in zip("ABCD", options))
        if len(options) == 4 and len(right) == 1:
            places[right[0]] += 1
    total = sum(places.values())
    assert total > 100 and all(abs(places[letter] - total / 4) < 4 * np.sqrt(total * 3 / 16) for letter in "ABCD")


def test_boxes_come_in_reading_order_and_the_remainder_is_said_and_asked_for() -> None:
    (row,) = only("grounding", [boxed("a", *["car"] * 25)], languages=["en"])
    assert [turn.role for turn in row.turns] == ["user", "assistant"] * 3
    answers = [[region for item in turn.items if isinstance(item, Regions) for region in item.regions] for turn in row.turns[1::2]]
    assert [len(answer) for answer in answers] == [10, 10, 5]
    assert "15" in row.text(1) and "5" in row.text(3)
    places = [(region.shape.cy, region.shape.cx) for answer in answers for region in answer if isinstance(region.shape, RotatedBox)]
    assert places == sorted(places)
    assert row.attributes["reached"] == list(range(25))
    (short,) = only("grounding", [boxed("a", *["car"] * 25)], languages=["en"], follow_ups=0)
    assert len(short.turns) == 2 and len(short.attributes["reached"]) == 10


def test_boxes_that_the_codec_does_not_keep_are_left_out_and_counted() -> None:
    tiny = Region(label="car", shape=RotatedBox(cx=200.3, cy=300.2, w=0.7, h=0.5, theta=33.0))
    sample = boxed("a", "car", "car")
    sample = replace(sample, annotations=(*sample.annotations, tiny))
    applied = list(apply([Synthesize(kinds={"grounding": 1, "naming": 9, "counting": 1}, languages=("en",))], [sample], 0))
    made = [row for row, _, _ in applied]
    grounding = next(row for row in made if row.attributes["kind"] == "grounding")
    assert len(regions_in(grounding)) == 2 and "1" in grounding.text(1)
    assert sum(row.attributes["kind"] == "naming" for row in made) == 2
    assert next(row for row in made if row.attributes["kind"] == "counting").attributes["answers"] == ["3"]


def test_a_region_is_named_only_where_its_label_owns_it() -> None:
    mostly = painted(water=(0, 0, 400, 400), building=(100, 100, 180, 180))
    ring = np.zeros((400, 400), bool)
    ring[50:350, 50:350] = True
    ring[70:330, 70:330] = False
    water = ~ring
    held = Sample(
        id="ring",
        pictures=(picture(),),
        annotations=(Region(label="road", shape=encode_mask(ring)), Region(label="water", shape=encode_mask(water))),
        origin=Origin(source="masks"),
    )
    known = known_of(held, Synthesize().rules)
    owned = {thing.label: known.owned(thing) for thing in known.things if thing.area > 50_000 or thing.label == "road"}
    assert owned["road"] == pytest.approx(ring.sum() / 300**2)
    named = only("naming", [mostly, held], languages=["en"], terse=1.0)
    assert {(row.origin.parents[0], row.text(1)) for row in named} == {("painted", "building"), ("painted", "water"), ("ring", "water")}


def test_counts_are_sure_or_not_asked() -> None:
    asked = {row.origin.parents[0]: row for row in only("counting", [
        boxed("three", "car", "car", "car"), boxed("eleven", *["car"] * 11), boxed("hard", "ship", difficult=1),
        replace(painted(building=(100, 100, 140, 140)), id="inside"), replace(painted(building=(0, 100, 140, 140)), id="cut"),
        replace(painted(water=(100, 100, 200, 200)), id="stuff"),
    ], languages=["en"], zeros=0.0)}  # fmt: skip
    assert {name: row.attributes["answers"] for name, row in asked.items()} == {"three": ["3"], "inside": ["1"]}


def test_one_count_in_ten_is_zero() -> None:
    made = only("counting", crowd_of_sets(400), 2)
    zeros = sum(row.attributes["answers"] == ["0"] for row in made)
    assert abs(zeros - 0.1 * len(made)) < 4 * np.sqrt(0.09 * len(made))


@pytest.mark.parametrize(
    "hidden",
    [
        Region(attributes={"ignore": True, "class": "DontCare"}, shape=Box(x0=0, y0=0, x1=50, y1=50)),
        Region(label="DontCare", shape=Box(x0=0, y0=0, x1=50, y1=50)),
    ],
)
def test_a_hiding_region_is_never_an_answer_and_stops_counts_and_negatives(hidden: Region) -> None:
    sample = boxed("a", "car", "car")
    made = rows([replace(sample, annotations=(*sample.annotations, hidden)), boxed("b", "ship")], languages=["en"])
    mine = [row for row in made if row.origin.parents == ("a",)]
    assert {row.attributes["kind"] for row in mine} == {"grounding", "naming", "caption"}
    assert not any("two cars" in row.text(1) for row in mine)
    assert all(len(row.attributes["reached"]) <= 2 for row in mine)
    assert coverage(made, Synthesize()).left_out == {"ignored": 1}


def test_crowds_are_left_out_of_boxes_and_counts() -> None:
    sample = boxed("a", "person", "person")
    crowd = Region(label="person", attributes={"crowd": True}, shape=Box(x0=200, y0=200, x1=390, y1=390))
    made = rows([replace(sample, annotations=(*sample.annotations, crowd))], languages=["en"], kinds={"grounding": 1, "counting": 1})
    assert [row.attributes["kind"] for row in made] == ["grounding"]
    assert len(regions_in(made[0])) == 2


def test_background_and_clutter_are_never_said() -> None:
    made = rows([painted(background=(0, 0, 400, 200), clutter=(0, 200, 400, 300), water=(0, 300, 400, 400))], languages=["en"])
    said = " ".join(row.text(turn) for row in made for turn in range(len(row.turns)))
    assert made and "background" not in said and "clutter" not in said


def test_components_become_mask_targets_beside_their_boxes() -> None:
    (row,) = only("grounding", [painted(building=(100, 100, 140, 130))], languages=["en"])
    target = row.annotations[-1]
    assert target.attributes == {"target": 1} and target.label == "building"
    assert isinstance(target.shape, Mask) and decode_mask(target.shape).sum() == 40 * 30
    assert regions_in(row)[0].shape == RotatedBox(cx=120, cy=115, w=40, h=30, theta=0)


def test_terse_questions_ask_for_it_and_get_it() -> None:
    for row in rows(crowd_of_sets(20), terse=1.0, languages=["zh"]):
        if row.attributes["kind"] == "yes-no":
            assert row.text(1) in ("是", "否")
        elif row.attributes["kind"] == "counting":
            assert row.text(1) == row.attributes["answers"][0] and "数字" in row.text(0)


def test_text_boxes_make_reading_spotting_and_transcription() -> None:
    def line(text: str, x: float, y: float) -> Region:
        return Region(label="text", attributes={"text": text}, shape=Box(x0=x, y0=y, x1=x + 90, y1=y + 20))

    receipt = Sample(
        id="r",
        pictures=(picture(),),
        annotations=(line("9.00", 200, 52), line("TOTAL", 20, 50), line("SHOP {x}", 20, 10), line("9.00", 200, 90)),
        origin=Origin(source="receipts"),
    )
    made = rows([receipt], languages=["en"])
    by_kind = {kind: [row for row in made if row.attributes["kind"] == kind] for kind in ("reading", "spotting", "transcription")}
    assert sorted(row.text(1) for row in by_kind["reading"]) == ["9.00", "9.00", "SHOP {x}", "TOTAL"]
    assert sorted(row.attributes["answers"][0] for row in by_kind["spotting"]) == ["SHOP {x}", "TOTAL"]
    assert by_kind["transcription"][0].text(1) == "SHOP {x}\nTOTAL 9.00\n9.00"
    assert len(made) == 7


def test_pairs_ask_whether_and_where_something_changed() -> None:
    pixels = np.zeros((400, 400), bool)
    pixels[100:140, 200:260] = True
    changed = Region(picture=1, label="changed building", shape=encode_mask(pixels))
    both = (picture(), picture())
    pair = Sample(id="p", pictures=both, annotations=(changed,), origin=Origin(source="pairs"))
    same = Sample(id="s", pictures=both, origin=Origin(source="pairs"))
    made = rows([pair, same], languages=["en"])
    assert {(row.origin.parents[0], row.attributes["kind"]) for row in made} == {("p", "change"), ("p", "change-where"), ("s", "change")}
    assert {row.origin.parents[0]: row.attributes["answers"] for row in made if row.attributes["kind"] == "change"} == {"p": ["yes"], "s": ["no"]}
    (where,) = [row for row in made if row.attributes["kind"] == "change-where"]
    assert regions_in(where)[0].picture == 1
    assert (coverage(made, Synthesize()).objects, coverage(made, Synthesize()).missed) == (1, 0.0)
    assert [item.picture for item in where.turns[0].items if isinstance(item, Show)] == [0, 1]


def test_own_questions_and_captions_get_other_prompts() -> None:
    turns = (Turn(role="user", items=(Show(), Text(text="What colour is it?"))), Turn(role="assistant", items=(Text(text="red"),)))
    asked = Sample(id="q", pictures=(picture(),), turns=turns, origin=Origin(source="vqa"))
    made = rows([asked], kinds={"vqa": 1, "question": 1}, languages=["en"])
    assert [(row.attributes["kind"], row.text(1)) for row in made] == [("vqa", "red"), ("question", "What colour is it?")]
    assert "What colour is it?" in made[0].text(0) and "red" in made[1].text(0)
    captions = (Turn(role="user", items=(Show(),)), Turn(role="assistant", items=(Text(text="a red car"),), alternatives=((Text(text="one car"),),)))
    (caption,) = rows([replace(asked, turns=captions)], kinds={"caption": 1, "vqa": 1}, languages=["en"])
    assert caption.text(1) == "a red car" and caption.turns[1].alternatives == ((Text(text="one car"),),)


def test_rows_do_not_change_when_pictures_are_added(tmp_path: Path) -> None:
    samples = crowd_of_sets(30)
    file = tmp_path / "statistics.json"
    Synthesize().learn(samples).statistics.write(file)
    before = rows(samples, statistics=str(file))
    after = {row.id: row for row in rows([*crowd_of_sets(10, seed=9), *samples][::-1], statistics=str(file)) if row.id in {one.id for one in before}}
    assert len(before) > 200
    mine = {row.id: row for row in before}
    added = {f"{n:04d}" for n in range(10)}  # ids that both sets use
    assert all(after[name] == row for name, row in mine.items() if row.origin.parents[0] not in added)


def test_another_kind_or_seed_changes_only_what_it_should() -> None:
    samples = crowd_of_sets(10)
    both = {row.id: row for row in rows(samples, kinds={"naming": 2, "yes-no": 2})}
    alone = {row.id: row for row in only("naming", samples, 2)}
    assert alone == {name: row for name, row in both.items() if "#naming" in name}
    assert {row.id: row for row in rows(samples, seed=1, kinds={"naming": 2})} != alone


def test_together_puts_the_same_questions_into_one_row() -> None:
    samples = crowd_of_sets(5)
    single, joined = rows(samples), rows(samples, together=True)
    assert [row.id for row in joined] == [sample.id for sample in samples]
    assert [turn for row in single for turn in row.turns] == [turn for row in joined for turn in row.turns]
    assert all(row.attributes["turns"] == "independent" and len(row.attributes["kind"].split(",")) == len(row.turns) // 2 for row in joined)


def test_a_learnt_operator_goes_to_other_processes_and_does_the_same_there() -> None:
    samples = crowd_of_sets(3)
    here = Synthesize().learn(samples)
    there = pickle.loads(pickle.dumps(here))
    assert [there.each(sample, np.random.default_rng(4), ()).samples for sample in samples] == [
        here.each(sample, np.random.default_rng(4), ()).samples for sample in samples
    ]


def test_labels_without_a_chinese_name_are_all_refused() -> None:
    samples = [boxed("a", "flurb", "car"), boxed("b", "plunk")]
    with pytest.raises(Refused) as refused:
        rows(samples)
    assert [problem.found for problem in refused.value.problems] == ["label 'flurb', which has no Chinese name", "label 'plunk', which has no Chinese name"]
    assert any("flurbs" in row.text(0) or "flurb" in row.text(1) for row in rows(samples, languages=["en"]))


def test_rows_without_pictures_or_annotations_are_set_aside() -> None:
    bare = Sample(id="n", pictures=(picture(),), origin=Origin(source="s"))
    applied = apply([Synthesize()], [Sample(id="t", origin=Origin(source="s")), bare], 0)
    assert [(verdict, rule) for _, verdict, rule in applied] == [("quarantined", "synthesize/no-picture"), ("quarantined", "synthesize/nothing-to-ask")]
    count = applied.report[0]
    assert (count.rows_in, count.quarantined, count.rows_out) == (2, 2, 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"s": 3}', '{"s": {"pictures": 1, "labels": {"a": "x"}, "together": {}}}'])
def test_a_broken_statistics_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Refused, match="data/statistics"):
        Statistics.load(file)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_boxes_answers_hold_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    regions = tuple(
        Region(
            label=str(rng.choice(LABELS)), attributes={"difficult": int(rng.random() < 0.1)}, shape=RotatedBox(cx=x, cy=y, w=max(w, h), h=min(w, h), theta=t)
        )
        for x, y, w, h, t in zip(rng.random(12) * 400, rng.random(12) * 400, rng.random(12) * 90 + 0.1, rng.random(12) * 40 + 0.1, rng.random(12) * 180 - 90)
    )
    sample = Sample(id=str(seed), pictures=(picture(),), annotations=regions, origin=Origin(source="x"))
    config = Synthesize()
    made = rows([sample], seed=seed % 7)
    assert json.dumps([dict(row.attributes) for row in made])
    known = config.known(sample)
    for row in made:
        assert row.problems("here") == []
        kind = row.attributes["kind"].split(",")[0]
        assert kind in MAKERS and row.attributes["template"].startswith(kind) and row.origin.maker == f"template:{row.attributes['template']}"
        frame = frame_of("square", 400, 400)
        for region in regions_in(row):
            assert round_trip_iou(config.rules.codec, Regions(regions=(region,)), frame)[0] >= 0.8
            source = next(thing for thing in known.things if thing.box == region.shape)
            assert not source.region.attributes["difficult"]
    total = coverage(made, config)
    assert total.objects + total.left_out.get("difficult", 0) == (12 if made else 0)
