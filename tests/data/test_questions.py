"""Questions from annotations: every answer is derived a second time, from the label masks and instance numbers of made scenes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.data.operators import OPERATOR, apply
from sightline.data.questions import Captions, Notes, Questions, notes_of, questions_of, survey_of
from sightline.data.scenes import CLASSES, GROUNDS, OBJECTS, Scene, Scenes, compose
from sightline.data.wording import NUMBERS, plural
from sightline.errors import Refused
from sightline.samples.sample import Mask, Origin, Picture, Point, Region, RotatedBox, Sample, Show, Text, Turn

NAMES = list(CLASSES)
SINGULAR = {plural(label): label for label in OBJECTS}


def sample_of(scene: Scene) -> Sample:
    """A scene as readers give it: one mask per class, one rotated box per object."""
    regions = []
    for number in np.unique(scene.mask):
        flat = np.concatenate([[0], (scene.mask == number).T.ravel(), [0]])
        edges = np.flatnonzero(np.diff(flat))
        runs = np.diff(np.concatenate([[0], edges, [scene.mask.size]]))
        regions.append(Region(label=NAMES[number], shape=Mask(width=96, height=96, runs=tuple(runs.tolist()))))
    for placed in scene.objects:
        (cx, cy), (w, h) = placed.corners.mean(0).tolist(), np.hypot(*(placed.corners[[1, 3]] - placed.corners[0]).T).tolist()
        regions.append(Region(label=placed.label, shape=RotatedBox(cx=cx, cy=cy, w=w, h=h, theta=0), attributes={"text": placed.text} if placed.text else {}))
    picture = Picture(hash=f"h{scene.index}", width=96, height=96, data=b"")
    return Sample(id=f"scene-{scene.index}", pictures=(picture,), annotations=tuple(regions), attributes={"split": scene.split}, origin=Origin(source="scenes"))


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    return {f"scene-{index}": compose(Scenes(count=600, seed=11), index) for index in range(600)}


@pytest.fixture(scope="module")
def samples(scenes: dict[str, Scene]) -> list[Sample]:
    return [sample_of(scene) for scene in scenes.values()]


@pytest.fixture(scope="module")
def asked(samples: list[Sample]) -> list[Sample]:
    return [sample for sample, _, _ in apply([Questions()], samples, seed=0)]


def pairs(sample: Sample) -> list[tuple[str, str, str]]:
    kinds = sample.attributes["kind"].split(",")
    return [(kind, sample.text(2 * number), sample.text(2 * number + 1)) for number, kind in enumerate(kinds)]


def objects_in(scene: Scene) -> list[tuple[str, str]]:
    """Label and quadrant of each object, from its pixels alone."""
    found = []
    for number in range(1, int(scene.instances.max()) + 1):
        rows, columns = np.nonzero(scene.instances == number)
        x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
        found.append((NAMES[scene.mask[rows[0], columns[0]]], ("north" if y < 48 else "south") + ("west" if x < 48 else "east")))
    return found


def expected(scene: Scene, kind: str, question: str) -> str:
    """The answer, read off the scene's pixels (and its painted text)."""
    objects = objects_in(scene)
    if kind == "presence":
        match = re.fullmatch(r"is there an? (\w+)\?", question)
        assert match
        return "yes" if match[1] in {label for label, _ in objects} else "no"
    if kind == "labels":
        return ", ".join(sorted({label for label, _ in objects}))
    if kind == "count":
        match = re.fullmatch(r"how many (\w+) are there\?", question)
        assert match
        return NUMBERS[[label for label, _ in objects].count(SINGULAR[match[1]])]
    if kind == "where":
        match = re.fullmatch(r"where is the (\w+)\?", question)
        assert match
        (place,) = [place for label, place in objects if label == match[1]]
        return place
    if kind == "at":
        match = re.fullmatch(r"what is in the (\w+)\?", question)
        assert match
        return ", ".join(sorted({label for label, place in objects if place == match[1]})) or "nothing"
    if kind == "ground":
        counts = np.bincount(scene.mask.ravel(), minlength=len(NAMES))
        return max(GROUNDS, key=lambda ground: counts[NAMES.index(ground)])
    assert kind == "read"
    (text,) = [placed.text for placed in scene.objects if placed.text]
    return text


def test_answers_agree_with_the_pixels(scenes: dict[str, Scene], asked: list[Sample]) -> None:
    seen: Counter[str] = Counter()
    for sample in asked:
        for kind, question, answer in pairs(sample):
            assert answer == expected(scenes[sample.id], kind, question), f"{sample.id}: {question}"
            seen[kind] += 1
    assert set(seen) == {"presence", "labels", "count", "where", "at", "ground", "read"} and min(seen.values()) > 50


def test_turns_are_independent_questions_about_the_picture(samples: list[Sample], asked: list[Sample]) -> None:
    for source, sample in zip(samples, asked):
        assert sample.problems("here") == []
        assert len(pairs(sample)) * 2 == len(sample.turns) <= 16
        assert sample.attributes["turns"] == "independent" and sample.attributes["split"] == source.attributes["split"]
        assert all(turn.items[0] == Show(picture=0) for turn in sample.turns[::2])
        assert len({sample.text(number) for number in range(0, len(sample.turns), 2)}) == len(sample.turns) // 2, "a question was asked twice"
        assert sample.pictures == source.pictures and sample.annotations == source.annotations
        assert sample.origin.maker == "template:questions" and sample.origin.parents == (source.id,)


def test_yes_and_no_are_equally_frequent_for_every_label(asked: list[Sample]) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in asked:
        for kind, question, answer in pairs(sample):
            if kind == "presence":
                answers[question][answer] += 1
    assert len(answers) == len(OBJECTS)
    total = sum(answers.values(), Counter())
    assert abs(total["yes"] / total.total() - 0.5) < 0.03
    for question, counted in answers.items():
        assert 0.3 < counted["yes"] / counted.total() < 0.7, (question, counted)


def shares(samples: Sequence[Sample], config: Questions) -> dict[str, Counter[str]]:
    survey = survey_of(samples, config)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for number, sample in enumerate(samples):
        for kind, _, answer in questions_of(sample, np.random.default_rng(number), config, survey):
            found[kind][answer] += 1
    return found


def test_balance_makes_rare_answers_more_frequent(samples: list[Sample]) -> None:
    flat, raw = (shares(samples, Questions(per_picture=1, kinds={"count": 1.0, "at": 1.0}, balance=balance)) for balance in (True, False))
    assert flat["count"]["one"] / flat["count"].total() < raw["count"]["one"] / raw["count"].total() - 0.04
    assert max(flat["at"].values()) / flat["at"].total() < 0.5


def test_the_core_is_seeded_and_obeys_kinds_and_numbers(samples: list[Sample]) -> None:
    config = Questions(kinds={"where": 1.0, "read": 5.0}, per_picture=3)
    for sample in samples[:50]:
        made = questions_of(sample, np.random.default_rng(5), config)
        assert made == questions_of(sample, np.random.default_rng(5), config)
        assert {kind for kind, _, _ in made} <= {"where", "read"} and len(made) <= 3
    assert all(kind != "presence" for sample in samples[:20] for kind, _, _ in questions_of(sample, np.random.default_rng(0), Questions()))
    labelled = Questions(labels=("pond", "airport"), kinds={"presence": 1.0})
    texts = {question for sample in samples[:100] for _, question, _ in questions_of(sample, np.random.default_rng(0), labelled)}
    assert texts == {"is there a pond?", "is there an airport?"}


def test_order_of_rows_does_not_matter(samples: list[Sample], asked: list[Sample]) -> None:
    again = {sample.id: sample for sample, _, _ in apply([Questions()], samples[::-1], seed=0)}
    assert all(again[sample.id] == sample for sample in asked)
    assert any(again[sample.id].turns != sample.turns for sample, _, _ in apply([Questions()], samples[:20], seed=1))


def test_notes_say_what_is_asked(scenes: dict[str, Scene], samples: list[Sample]) -> None:
    noted = [sample for sample, _, _ in apply([Notes()], samples, seed=0)]
    orders = set()
    for sample in noted:
        scene = scenes[sample.id]
        assert not sample.pictures and not sample.annotations and sample.problems("here") == []
        assert sample.origin.maker == "template:notes" and sample.attributes["turns"] == "independent"
        texts = [placed.text for placed in scene.objects if placed.text]
        items = [f"{place} {label}" + (f" {texts[0]}" if label == "marking" else "") for label, place in objects_in(scene)] + [scene.ground]
        for kind, text, answer in pairs(sample):
            *notes, question = text.split(" . ")
            assert sorted(notes) == sorted(items)
            assert answer == expected(scene, kind, question)
        orders.add(tuple(pairs(sample)[0][1].split(" . ").index(item) for item in [scene.ground]))
    assert len(orders) > 3, "the ground stands always at the same place"


def points(*labels: str, **attributes: object) -> tuple[Region, ...]:
    places = ((20, 20), (80, 20), (20, 80), (80, 80))
    return tuple(Region(label=label, shape=Point(x=x, y=y), attributes=attributes) for label, (x, y) in zip(labels, places))


def sample_with(*regions: Region) -> Sample:
    return Sample(id="s", pictures=(Picture(hash="h", width=100, height=100, data=b""),), annotations=regions, origin=Origin(source="test"))


def all_of(config: Questions, *regions: Region) -> set[tuple[str, str, str]]:
    return set(questions_of(sample_with(*regions), np.random.default_rng(0), config))


def test_labels_of_other_sets_are_written_as_words() -> None:
    config = Questions(labels=("storage-tank", "airport"), per_picture=50)
    assert all_of(config, *points("storage-tank", "storage-tank", "airport")) == {
        ("labels", "which objects are there?", "airport, storage tank"),
        ("count", "how many storage tanks are there?", "two"),
        ("count", "how many airports are there?", "one"),
        ("where", "where is the airport?", "southwest"),
        ("at", "what is in the northwest?", "storage tank"),
        ("at", "what is in the northeast?", "storage tank"),
        ("at", "what is in the southwest?", "airport"),
        ("at", "what is in the southeast?", "nothing"),
    }


def test_what_is_uncertain_is_not_asked() -> None:
    config = Questions(labels=("ship", "lake"), per_picture=50)
    difficult = all_of(config, *points("ship", difficult=True))
    assert {(kind, answer) for kind, _, answer in difficult} == {("presence", "yes"), ("presence", "no"), ("labels", "ship")}
    central = all_of(config, Region(label="ship", shape=Point(x=52, y=20)))
    assert {kind for kind, _, _ in central} == {"presence", "labels", "count"}
    speck = Region(label="lake", shape=Mask(width=100, height=100, runs=(0, 10, 9990)))
    assert {kind for kind, _, _ in all_of(config, *points("ship"), speck)} == {"count", "where"}
    assert {kind for kind, _, _ in all_of(Questions(per_picture=50, most=1), *points("ship", "ship"))} == {"labels", "at"}


def test_areas_alone_give_presence_labels_and_ground() -> None:
    lake = Region(label="lake", shape=Mask(width=100, height=100, runs=(0, 3000, 7000)))
    grass = Region(label="grass", shape=Mask(width=100, height=100, runs=(3000, 7000)))
    made = all_of(Questions(labels=("lake", "road"), per_picture=50), lake, grass)
    assert made == {
        ("presence", "is there a lake?", "yes"),
        ("presence", "is there a road?", "no"),
        ("labels", "which objects are there?", "lake"),
        ("ground", "what is the ground?", "grass"),
    }
    facts = Notes().facts(sample_with(lake, grass))
    assert sorted(notes_of(facts, np.random.default_rng(0)).split(" . ")) in (["grass", "lake ."], ["grass .", "lake"])


def test_phrasings_are_drawn_and_checked() -> None:
    config = Questions(kinds={"count": 1.0}, phrasings={"count": ["number of {labels}:", "how many {labels}?"]})
    texts = {question for seed in range(20) for _, question, _ in questions_of(sample_with(*points("pond")), np.random.default_rng(seed), config)}
    assert texts == {"number of ponds:", "how many ponds?"}
    for phrasings, says in [
        ({"count": ["how many {pond}?"]}, r"allowed are \{label\}, \{labels\}"),
        ({"at": ["what is there?"]}, r"use one of \{place\}"),
        ({"read": []}, "leave the kind out"),
    ]:
        with pytest.raises(ValidationError, match=says):
            Questions.model_validate({"phrasings": phrasings})
    with pytest.raises(ValidationError, match="'presence', 'labels', 'count'"):
        Questions.model_validate({"kinds": {"colour": 1.0}})


def test_a_picture_about_which_nothing_is_known_is_quarantined() -> None:
    rows = list(apply([Questions()], [replace(sample_with(), id="empty"), sample_with(*points("pond"))], seed=0))
    assert [(sample.id, verdict, rule) for sample, verdict, rule in rows] == [("empty", "quarantined", "questions/nothing-to-ask"), ("s", "kept", None)]
    text_only = replace(sample_with(*points("pond")), pictures=(), annotations=())
    assert [rule for _, _, rule in apply([Notes()], [sample_with(*points("pond")), text_only], seed=0)] == [None, "notes/no-picture"]


def test_a_set_without_labels_is_refused() -> None:
    with pytest.raises(Refused, match=r"no object label(.|\n)*`presence` to 0"):
        list(apply([Questions()], [sample_with(Region(label="grass"))], seed=0))
    (row,) = apply([Questions(kinds={"ground": 1.0})], [sample_with(Region(label="grass"))], seed=0)
    assert row[0].text(1) == "grass"


def captioned(*texts: str) -> Sample:
    first, *others = [(Text(text=text),) for text in texts]
    turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=first, alternatives=tuple(others)))
    return replace(sample_with(*points("pond", "pond", "road"), Region(label="grass")), turns=turns)


def test_captions_are_kept_or_written() -> None:
    three = captioned("one", "two", "three", "two")
    (kept, _, _) = next(iter(apply([Captions(per_picture=2, prompt="describe")], [three], seed=0)))
    said = [kept.text(1), *("".join(item.text for item in items if isinstance(item, Text)) for items in kept.turns[1].alternatives)]
    assert len(set(said)) == 2 and set(said) <= {"one", "two", "three"} and kept.text(0) == "describe"
    assert kept.origin.maker == "human" and kept.attributes["kind"] == "caption" and kept.problems("here") == []
    first = {next(iter(apply([Captions()], [three], seed=seed)))[0].text(1) for seed in range(20)}
    assert first == {"one", "two", "three"}
    (written, _, _) = next(iter(apply([Captions(write="always")], [three], seed=0)))
    assert sorted(re.split(", | and ", written.text(1))) == ["a road", "grass", "two ponds"]
    assert written.origin.maker == "template:captions" and written.turns[1].alternatives == ()
    (alone, _, _) = next(iter(apply([Captions()], [sample_with(*points("pond"))], seed=0)))
    assert alone.text(1) == "a pond"
    rules = [rule for _, _, rule in apply([Captions(write="never")], [sample_with(*points("pond")), captioned("one")], seed=0)]
    assert rules == ["captions/no-caption", None]


def test_the_three_are_kinds_of_operator() -> None:
    assert OPERATOR.parse({"kind": "questions", "labels": ["pond"], "per_picture": 4}) == Questions(labels=("pond",), per_picture=4)
    assert OPERATOR.parse({"kind": "notes"}) == Notes() and OPERATOR.parse({"kind": "captions"}) == Captions()
