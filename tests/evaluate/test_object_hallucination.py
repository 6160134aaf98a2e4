"""CHAIR and yes/no probes of a data set's own labels: golden figures, what counts as there, what is left out, and that a recipe can name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from sightline.data.labels import LabelTable
from sightline.errors import Refused
from sightline.evaluate.benchmark_kinds.object_hallucination import Chair, ChairBenchmark, LabelProbes, annotated
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.evaluate.chair import chair, told
from sightline.evaluate.failures.mentions import Mentions
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Picture, Region, Sample


def sample(name: str, *labels: str, **attributes: Any) -> Sample:
    picture = Picture(hash=(name[0] * 64), width=8, height=8, bands=("red", "green", "blue"), data=b"")
    regions = tuple(Region(label=label) for label in labels)
    return Sample(id=name, pictures=(picture,), turns=(), annotations=regions, attributes=attributes, origin=Origin(source="t"))


def answered(requests: Sequence[Request], texts: Sequence[str]) -> list[Answer]:
    return [Answer(key=text, sample=one.sample.id, weights="w", text=text) for one, text in zip(requests, texts, strict=True)]


def described(samples: Sequence[Sample], *texts: str, **options: Any) -> dict[str, float]:
    benchmark = Chair(data="d", **options).build(samples)
    scores = benchmark.score(answered(list(benchmark.requests()), texts))
    return {name: value.value for name, value in (*scores.metrics.items(), *scores.habits.items())}


SET = [sample("a", "ship", "harbor"), sample("b", "plane"), sample("c", "road", "building", "car")]


def test_chair_by_hand() -> None:
    there = [{"ship", "harbor"}, {"plane"}, {"road", "building", "car"}]
    named = [["ship", "bridge", "ship", "harbor"], ["plane", "plane"], ["road", "tree", "car"]]
    holds = lambda present, label: label in present  # noqa: E731
    figures = chair([told(str(k), said, own, own, holds) for k, (said, own) in enumerate(zip(named, there, strict=True))])
    assert {name: round(value.value, 4) for name, value in figures.items()} == {"chair-i": 0.2222, "chair-s": 0.6667, "recall": 0.8333}
    assert all(value.low <= value.value <= value.high for value in figures.values())


def test_chair_of_descriptions() -> None:
    texts = ("A ship by a bridge, and another ship in the harbor.", "A plane beside a plane.", "A road, a tree and a car.")
    found = described(SET, *texts, also=("bridge", "tree"))
    assert [round(found[name], 4) for name in ("faithful", "chair-i", "chair-s", "recall")] == [0.3333, 0.2222, 0.6667, 0.8333]
    assert (found["nothing-named"], found["left-out"], found["same-answer"]) == (0, 0, pytest.approx(1 / 3))
    assert found["rep-2"] == pytest.approx(0.25 / 3), "a plane beside a plane: one of four pairs of words again"
    alone = described(SET, *texts)
    assert (alone["faithful"], alone["chair-i"]) == (1, 0), "what is annotated nowhere in the set is not looked for"
    silent = described(SET, "nothing", "a picture", "something")
    assert (silent["faithful"], silent["recall"], silent["nothing-named"]) == (1, 0, 1), "silence invents nothing, and recall tells it"


def test_what_counts_as_there() -> None:
    found = described(
        [sample("a", "car"), sample("b", "ship", references=["a bridge over the sea"])],
        "a vehicle",
        "A ship under a bridge, no car.",
        also=("bridge", "vehicle"),
    )
    assert found["chair-i"] == 0, "a wider label, a label of a reference, and one that is denied"
    one, left = annotated([sample("a", "car"), sample("a2", "ship"), sample("b"), sample("c", "background")])
    assert ([region.label for region in one[0].annotations], len(one), left) == (["car", "ship"], 1, 2), "samples of one picture are one"
    with pytest.raises(Refused, match="nothing-to-ask"):
        Chair(data="d").build([sample("b")])
    assert len(Chair(data="d", limit=2).build(SET).rows) == 2
    assert isinstance(Chair(data="d", limit=1).build(SET), ChairBenchmark)


def test_probes_ask_as_much_about_what_is_there_as_about_what_is_not() -> None:
    samples = [sample("a", "ship", "harbor", "car"), sample("b", "plane", "road", "building"), sample("c", "road", "building", "car")]
    benchmark = LabelProbes(data="d").build(samples)
    requests = list(benchmark.requests())
    right = [question.right[0] for question in benchmark.questions]
    assert (right.count("yes"), right.count("no")) == (9, 9)
    assert requests[0].sample.annotations == () and requests[0].sample.text(0).startswith("Is there a")
    always = benchmark.score(answered(requests, ["Yes."] * 18)).metrics
    assert (always["all"].value, always["recall"].value, always["yes-share"].value) == (0.5, 1, 1)
    assert [always[f"yes to {kind}"].value for kind in ("random", "popular", "adversarial")] == [1, 1, 1]
    known = benchmark.score(answered(requests, right))
    assert (known.metrics["all"].value, known.metrics["f1"].value, known.metrics["yes to random"].value) == (1, 1, 0)
    assert benchmark.score(answered(requests, ["perhaps"] * 18)).habits["unparsed"].value == 1
    assert [row.index for row in LabelProbes(data="d").build(samples).rows] == [row.index for row in benchmark.rows]


def test_a_recipe_names_data_or_a_path() -> None:
    assert {"chair", "label-probes"} <= set(BENCHMARK.table())
    assert LabelProbes(path="p").asked_of == "p"
    with pytest.raises(ValidationError, match="one of the two"):
        Chair()
    with pytest.raises(ValidationError, match="one of the two"):
        Chair(data="d", path="p")


def test_names_of_a_table(tmp_path: Any) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,en,zh,aliases,countable,stuff,parent\nquay,quay,\u7801\u5934,pier|jetty,yes,,\n", encoding="utf-8")
    found = described([sample("a", "quay"), sample("b", "ship")], "a jetty", "a pier and a ship", labels=str(table))
    assert (found["chair-i"], found["recall"]) == (pytest.approx(1 / 3), 1)
    assert Mentions(LabelTable.load(table), ("quay",)).of("two jetties") == ["quay"]
