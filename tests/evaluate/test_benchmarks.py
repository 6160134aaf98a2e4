"""Benchmarks score what was answered, refuse what was not, and controls change pictures and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.evaluate.asking import scores_of, shuffled_pictures, stated, without_pictures
from sightline.evaluate.benchmarks import BENCHMARK, Captions, QuestionBenchmark, Questions, class_names, labels_of, normalise
from sightline.samples.exchange import Answer
from sightline.samples.sample import Box, Origin, Picture, Region, Regions, Sample, Show, Text, Turn

ORIGIN = Origin(source="test")


def picture_of(number: int) -> Picture:
    return Picture(hash=f"{number:064x}", width=8, height=8, data=b"")


def pairs_of(number: int, *rows: tuple[str, str, str]) -> Sample:
    """A sample of independent (kind, question, answer) rows about picture `number`."""
    turns = [
        turn
        for _, question, answer in rows
        for turn in (Turn(role="user", items=(Show(), Text(text=question))), Turn(role="assistant", items=(Text(text=answer),)))
    ]
    kinds = ",".join(kind for kind, _, _ in rows)
    region = Region(label="pond", shape=Box(x0=0, y0=0, x1=4, y1=4))
    return Sample(
        id=f"s{number}",
        pictures=(picture_of(number),),
        turns=tuple(turns),
        annotations=(region,),
        attributes={"turns": "independent", "kind": kinds},
        origin=ORIGIN,
    )


def caption_of(number: int, *captions: str, **attributes: object) -> Sample:
    turns = (
        Turn(role="user", items=(Show(),)),
        Turn(role="assistant", items=(Text(text=captions[0]),), alternatives=tuple((Text(text=c),) for c in captions[1:])),
    )
    return Sample(id=f"c{number}", pictures=(picture_of(number),), turns=turns, attributes=attributes, origin=ORIGIN)


SAMPLES = [
    pairs_of(0, ("presence", "is there a pond?", "yes"), ("labels", "which objects are there?", "pond, road"), ("count", "how many ponds are there?", "one")),
    pairs_of(1, ("presence", "is there a pond?", "no"), ("labels", "which objects are there?", "building"), ("count", "how many buildings are there?", "two")),
    pairs_of(2, ("count", "how many roads are there?", "one")),
]


def benchmark_of(samples: list[Sample]) -> QuestionBenchmark:
    return Questions(data="held-out").build(samples)


def answers_of(benchmark: QuestionBenchmark, *texts: str) -> list[Answer]:
    return [stated(question, text, "test") for question, text in zip(benchmark.questions, texts, strict=True)]


def test_a_question_is_asked_alone_and_shows_no_answer() -> None:
    requests = list(benchmark_of(SAMPLES).requests())
    assert [request.sample.id for request in requests] == ["s0#0", "s0#1", "s0#2", "s1#0", "s1#1", "s1#2", "s2#0"]
    for request in requests:
        assert [turn.role for turn in request.sample.turns] == ["user"] and not request.sample.annotations
        assert request.sample.problems("here") == [] and set(request.sample.attributes) == {"kind"}
        assert request.ask == "write" and request.decoding.max_tokens == 32


def test_a_system_turn_is_kept_and_a_limit_cuts_samples() -> None:
    system = Turn(role="system", items=(Text(text="be short"),))
    request, *others = Questions(data="x", limit=1).build([replace(SAMPLES[2], turns=(system, *SAMPLES[2].turns)), SAMPLES[0]]).requests()
    assert request.sample.turns[0] == system and len(request.sample.turns) == 2 and not others


def test_accuracy_by_kind() -> None:
    benchmark = benchmark_of(SAMPLES)
    scores = benchmark.score(answers_of(benchmark, "Yes.", "road, Pond, pond", "one", " NO ", "building, road", "one", "two"))
    assert {name: (round(value.value, 4), value.n) for name, value in scores.metrics.items()} == {
        "all": (0.5714, 7),
        "presence": (1.0, 2),
        "labels": (0.5, 2),
        "count": (0.3333, 3),
        "count-not-one": (0.0, 1),
    }
    low, high = scores.metrics["labels"].low, scores.metrics["labels"].high
    assert (low, high) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert scores.habits["same-answer count"].value == pytest.approx(2 / 3) and scores.habits["cut-off"].value == 0
    wrong = [row for row in scores.per_request if row.score == 0]
    assert [(row.request, row.expected, row.given) for row in wrong] == [
        ("s1#1", ("building",), "building, road"),
        ("s1#2", ("two",), "one"),
        ("s2#0", ("one",), "two"),
    ]
    assert scores_of(json.loads(json.dumps(scores.record()))) == scores


def test_majority_answers_each_kind_by_its_commonest_answer() -> None:
    metrics = benchmark_of(SAMPLES).majority().metrics
    assert metrics["count"].value == pytest.approx(2 / 3) and metrics["count-not-one"].value == 0
    assert metrics["presence"].value == 0.5


def test_alternatives_are_right_too_and_probability_is_of_the_whole_answer() -> None:
    sample = pairs_of(0, ("read", "what is written?", "A7"))
    reply = replace(sample.turns[1], alternatives=((Text(text="a 7"),),))
    benchmark = benchmark_of([replace(sample, turns=(sample.turns[0], reply))])
    answer = Answer(key="k", sample="s0#0", weights="w", text="A 7", logps=(-0.5, -0.25), finish="length")
    scores = benchmark.score([answer])
    assert scores.metrics["read"].value == 1 and scores.habits["cut-off"].value == 1
    assert scores.per_request[0].probability == pytest.approx(0.472367, abs=1e-6)
    assert benchmark.score([replace(answer, logps=())]).per_request[0].probability is None


def test_missing_strange_and_repeated_answers_are_refused_together() -> None:
    benchmark = benchmark_of(SAMPLES)
    right = [stated(question, question.right[0], "test") for question in benchmark.questions]
    with pytest.raises(Refused) as refused:
        benchmark.score([*right[:-2], right[0], replace(right[0], sample="s9#0")])
    assert [problem.code for problem in refused.value.problems] == ["evaluate/missing-answer", "evaluate/strange-answer", "evaluate/repeated-answer"]
    assert "s1#2" in str(refused.value) and "2 such answers to 7 requests" in str(refused.value) and "only what is missing is asked" in str(refused.value)


def test_samples_that_cannot_be_asked_are_all_named() -> None:
    two = SAMPLES[0]
    boxes = Turn(role="assistant", items=(Regions(regions=(Region(shape=Box(x0=0, y0=0, x1=1, y1=1)),)),))
    blind = Turn(role="user", items=(Text(text="is there a pond?"),))
    samples = [
        replace(two, id="a", turns=two.turns[:1]),
        replace(two, id="b", attributes={"kind": "presence"}),
        replace(two, id="c", attributes={**two.attributes, "kind": "presence,count"}),
        replace(SAMPLES[2], id="d", turns=(SAMPLES[2].turns[0], boxes)),
        replace(SAMPLES[2], id="e", turns=(blind, SAMPLES[2].turns[1])),
        SAMPLES[2],
        SAMPLES[2],
    ]
    with pytest.raises(Refused) as refused:
        benchmark_of(samples)
    found = {problem.place: problem.code.removeprefix("evaluate/") for problem in refused.value.problems}
    assert found == {"a": "no-questions", "b": "dependent-turns", "c": "kind-count", "d": "not-text", "e": "picture-not-shown", "s2#0": "repeated-id"}
    assert 'attributes.turns = "independent"' in str(refused.value) and "2 kinds for 3 pairs" in str(refused.value)
    with pytest.raises(Refused, match="no sample"):
        benchmark_of([])


def test_normalised_forms() -> None:
    assert normalise("  The\u3000Pond. ") == "the pond" and normalise("\u662f\u3002") == "\u662f" and normalise("\uff21\uff17") == "a7"
    assert labels_of("Pond, road\uff0croad.") == {"pond", "road"} == labels_of("road\u3001pond")
    assert labels_of("") == frozenset()


@given(st.lists(st.sampled_from(["pond", "Road", "storage tank"]), min_size=1), st.randoms())
def test_order_and_repeats_of_labels_mean_nothing(labels: list[str], random: object) -> None:
    shuffled = [*labels, *labels]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert labels_of(", ".join(labels)) == labels_of(" , ".join(shuffled) + ".")


CAPTIONS = [
    caption_of(0, "two planes are parked on the runway", "two white airplanes on the tarmac near a building", **{"class": "airport"}),
    caption_of(1, "a river runs through dense green forest", "a winding river with trees on both sides", **{"class": "river"}),
    caption_of(
        2,
        "unused",
        references=["many small houses next to a wide road", "a residential area with a road", "a residential area with a road"],
        **{"class": "dense residential"},
    ),
]
SAID = ("Two planes are parked near a building.", "a river with many green trees", "a road next to many houses")


def test_captions_are_scored_against_all_references(tmp_path: Path) -> None:
    table = tmp_path / "classes.yaml"
    table.write_text("airport: [plane, planes]\nriver: []\ndense residential: [residential area]\n")
    benchmark = Captions(data="x", classes=str(table)).build(CAPTIONS)
    scores = benchmark.score([stated(question, text, "test") for question, text in zip(benchmark.questions, SAID)])
    assert scores.metrics["bleu-4"].value == pytest.approx(0.315935, abs=1e-6) and scores.metrics["rouge-l"].value == pytest.approx(0.487280, abs=1e-6)
    assert scores.metrics["cider"].low <= scores.metrics["cider"].value <= scores.metrics["cider"].high and scores.metrics["cider"].n == 3
    assert scores.metrics["class"].value == pytest.approx(2 / 3)
    assert (
        scores.habits["same-answer"].value == pytest.approx(1 / 3)
        and scores.habits["rep-2"].value == 0
        and scores.habits["distinct-1"].value == pytest.approx(16 / 19)
    )
    assert [row.kind for row in scores.per_request] == ["caption"] * 3
    assert len(scores.per_request[2].expected) == 3 and scores.per_request[0].score == pytest.approx(0.571429, abs=1e-6)


def test_a_class_is_named_by_whole_words_only(tmp_path: Path) -> None:
    table = tmp_path / "classes.yaml"
    table.write_text("airport: [plane]\nriver: []\ndense residential: []\n")
    benchmark = Captions(data="x", classes=str(table)).build(CAPTIONS)
    assert not benchmark.names_class(benchmark.questions[0], "two planes") and benchmark.names_class(benchmark.questions[0], "One Plane!")
    assert not benchmark.names_class(benchmark.questions[2], "residential, dense") and benchmark.names_class(benchmark.questions[2], "a dense residential area")


def test_broken_class_tables_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "classes.yaml"
    table.write_text("airport: plane\nrivr: []\n")
    with pytest.raises(Refused, match=r"'airport': 'plane'"):
        class_names(table)
    with pytest.raises(Refused, match=r"missing\.yaml"):
        class_names(tmp_path / "missing.yaml")
    table.write_text("- airport\n")
    with pytest.raises(Refused, match=r"list\n.*mapping"):
        class_names(table)
    table.write_text("airport: []\nrivr: []\n")
    with pytest.raises(Refused) as refused:
        Captions(data="x", classes=str(table)).build([*CAPTIONS, caption_of(4, "a pond")])
    assert [problem.found for problem in refused.value.problems] == ["class 'river'", "class 'dense residential'", "no attribute `class`"]
    assert "did you mean 'rivr'?" in str(refused.value)


def test_without_pictures_keeps_names_and_text() -> None:
    benchmark = benchmark_of(SAMPLES)
    blind = without_pictures(benchmark.requests())
    assert [request.sample.id for request in blind] == [request.sample.id for request in benchmark.requests()]
    assert all(not request.sample.pictures and request.sample.problems("here") == [] for request in blind)
    assert blind[0].sample.turns[0].items == (Text(text="is there a pond?"),)


@given(pictures=st.lists(st.integers(0, 12), min_size=2, max_size=30).filter(lambda numbers: len(set(numbers)) > 1), seed=st.integers(0, 5))
def test_shuffling_is_a_derangement_of_pictures(pictures: list[int], seed: int) -> None:
    requests = [
        request
        for i, number in enumerate(pictures)
        for request in benchmark_of([replace(pairs_of(number, ("count", "how many?", "one")), id=str(i))]).requests()
    ]
    wrong = shuffled_pictures(requests, seed)
    moved = {(old.sample.pictures[0].hash, new.sample.pictures[0].hash) for old, new in zip(requests, wrong)}
    assert all(old != new for old, new in moved)
    assert len(moved) == len({old for old, _ in moved}) == len({new for _, new in moved}) == len(set(pictures))
    assert [replace(new.sample, pictures=old.sample.pictures) for old, new in zip(requests, wrong)] == [old.sample for old in requests]
    assert shuffled_pictures(requests[::-1], seed) == wrong[::-1]


def test_one_picture_cannot_be_shuffled() -> None:
    with pytest.raises(Refused, match="1 different pictures"):
        shuffled_pictures(list(benchmark_of(SAMPLES[:1]).requests()), 0)


def test_both_kinds_stand_in_the_table() -> None:
    assert set(BENCHMARK.table()) >= {"questions", "captions"}
    assert BENCHMARK.parse({"kind": "questions", "data": "held-out"}) == Questions(data="held-out")
