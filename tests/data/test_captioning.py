"""Operators that ask a model: what they ask, what stays, and that every row is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from sightline.data.captioning import Caption, Match, RankCaptions
from sightline.data.operators import OPERATOR, apply
from sightline.data.questions import captions_in
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

PICTURE = Picture(hash="p", width=8, height=8, data=b"")


def row(name: str, *captions: str, pictures: int = 1) -> Sample:
    """A picture and its captions."""
    said = [(Text(text=text),) for text in captions]
    turns = (
        (Turn(role="user", items=(Show(picture=0), Text(text="Say it."))), Turn(role="assistant", items=said[0], alternatives=tuple(said[1:]))) if said else ()
    )
    return Sample(id=name, pictures=(PICTURE,) * pictures, turns=turns, origin=Origin(source="web"))


class Judge:
    """Writes the number of its question, and likes texts by their length."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            told = request.sample.text(len(request.sample.turns) - 1)
            score = None if request.ask == "write" else len(told) / 10
            yield Answer(key=request.sample.id, sample=request.sample.id, weights="w", text=f" caption {request.decoding.seed % 2} ", score=score)

    def measure(self, sample: Sample) -> int:
        return 0


def through(operator: object, *rows: Sample) -> tuple[list[tuple[list[str], str, str | None]], Judge]:
    """(captions, verdict, rule) of every row that comes out."""
    judge = Judge()
    found = list(apply([operator], rows, seed=1, answerers=lambda asking: judge))  # type: ignore[list-item]
    return [(captions_in(sample), verdict, rule) for sample, verdict, rule in found], judge


def test_written_captions_join_the_own_ones() -> None:
    found, judge = through(Caption(**{"with": "stage", "count": 8, "prompt": "Now."}), row("a", "own", "other"), row("b", pictures=0))
    assert found[0] == (["own", "other", "caption 0", "caption 1"], "kept", None) or found[0] == (["own", "other", "caption 1", "caption 0"], "kept", None)
    assert found[1][1:] == ("quarantined", "caption/no-picture")
    assert len(judge.asked) == 8 and len({request.decoding.seed for request in judge.asked}) == 8
    assert all(request.sample.text(0) == "Now." and request.decoding.temperature == 1.0 for request in judge.asked)
    replaced, _ = through(Caption(**{"with": "stage", "keep": False}), row("a", "own"))
    assert replaced[0][0][0].startswith("caption ")


def test_only_captions_that_match_stay() -> None:
    found, judge = through(Match(**{"with": "filter", "at_least": 0.5}), row("a", "long enough", "no", "also long"), row("b", "no"), row("c", "long enough"))
    assert found == [(["long enough", "also long"], "kept", None), (["no"], "quarantined", "match/none"), (["long enough"], "kept", None)]
    assert {request.ask for request in judge.asked} == {"match"} and len(judge.asked) == 5


def test_scores_of_both_sides_are_columns_and_captions_say_where_they_are_from() -> None:
    operators = [Caption(**{"with": "s", "count": 8}), RankCaptions(**{"with": "d", "best": 3}), Match(**{"with": "f", "at_least": 0.85})]
    rows = [row("a", "far too long", "no"), row("b", "no"), row("c", pictures=0)]
    a, b, c = apply(operators, rows, seed=1, answerers=lambda asking: Judge()).judged()
    assert a.sample.attributes["captions_from"] == ["web", "synthetic", "synthetic"] and captions_in(a.sample)[0] == "far too long"
    assert b.sample.attributes["captions_from"] == ["synthetic", "synthetic"], "its own caption was dropped by the filter, the two written ones stay"
    assert dict(a.scores) == {"rank-captions-web": 1.2, "rank-captions-synthetic": 0.9, "match-web": 1.2, "match-synthetic": 0.9}
    assert (
        dict(b.scores) == {"rank-captions-web": 0.2, "rank-captions-synthetic": 0.9, "match-web": 0.2, "match-synthetic": 0.9}
        and c.rule == "caption/no-picture"
    )


def test_the_most_similar_captions_stay() -> None:
    found, judge = through(RankCaptions(**{"with": "dual", "best": 2}), row("a", "x", "xxx", "xx", "xxxx"))
    assert found == [(["xxxx", "xxx"], "kept", None)]
    assert {request.ask for request in judge.asked} == {"embed"}


def test_what_was_written_is_known_after_filtering() -> None:
    judge = Judge()
    operators = [Caption(**{"with": "s", "count": 8}), Match(**{"with": "f", "at_least": 0.85})]
    [(sample, _, _)] = apply(operators, [row("a", "far too long", "no")], seed=1, answerers=lambda asking: judge)
    assert captions_in(sample)[0] == "far too long" and set(captions_in(sample)[1:]) == {"caption 0", "caption 1"}
    assert sample.attributes["written"] == 2 and sample.origin.maker == "model:s" and sample.turns[0].items[1] == Text(text="Say it.")


def test_a_recipe_says_with_and_a_dump_says_it_again() -> None:
    said = {"kind": "match", "with": "filter", "precision": "float32", "at_least": 0.7}
    operator = OPERATOR.parse(said)
    assert operator.model_dump(mode="json") == {**said, "key_file": None}
    with pytest.raises(ValueError, match="with"):
        OPERATOR.parse({"kind": "match"})
