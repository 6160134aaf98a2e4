"""Scores by models: the published numbers, what is asked, who is kept, and thresholds that change without asking anybody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sightline.data.operators import apply
from sightline.data.scoring import PROMPT, ByScore, ClipScore, MatchScore, Perplexity, decided, perplexity, score_store
from sightline.errors import Problem, Refused
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn
from sightline.samples.store import Store

PUBLISHED = [12.0, 3.0, 45.0, 3.0, 8.0, 90.0, 5.0, 7.0, 1000.0, 20.0]
PICTURE = Picture(hash="p", width=8, height=8, data=b"data")


def row(name: str, *captions: str, pictures: int = 1, **attributes: Any) -> Sample:
    """Pictures and captions; the first caption is the answer."""
    said = [(Text(text=text),) for text in captions]
    turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=said[0], alternatives=tuple(said[1:]))) if said else ()
    return Sample(id=name, pictures=(PICTURE,) * pictures, turns=turns, attributes=attributes, origin=Origin(source="web"))


class Judge:
    """Finds a text as unlikely as the number in it says: every token has probability 1/number. It cannot score `dark`."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            text = request.sample.text(len(request.sample.turns) - 1)
            said = {"key": request.sample.id, "sample": request.sample.id, "weights": "w", "text": text}
            if "dark" in text:
                problem = Problem(code="model/too-long", place=request.sample.id, found="5000 tokens", allowed="4096")
                yield Answer(**said, finish="refused", problems=(problem,))  # pyright: ignore[reportArgumentType]
                continue
            number = float(text.split()[-1])
            yield Answer(**said, logps=(-math.log(number),) * 3, tokens=(1, 2, 3), score=1 / number)  # pyright: ignore[reportArgumentType]

    def measure(self, sample: Sample) -> int:
        return 0


def rows() -> list[Sample]:
    return [row(f"s{number}", f"a ship {value:g}") for number, value in enumerate(PUBLISHED)]


def through(operator: Any, samples: Sequence[Sample]) -> tuple[dict[str, tuple[str, str | None, dict[str, float]]], Judge]:
    """(verdict, rule, scores) by id."""
    judge = Judge()
    found = apply([operator], samples, seed=0, answerers=lambda asking: judge).judged()
    return {one.sample.id: (one.verdict, one.rule, dict(one.scores)) for one in found}, judge


def kept(found: dict[str, tuple[str, str | None, dict[str, float]]]) -> list[str]:
    return [name for name, (verdict, _, _) in found.items() if verdict == "kept"]


def test_perplexity_is_that_of_points() -> None:
    assert perplexity([math.log(p) for p in (0.5, 0.25, 0.125, 0.5)]) == pytest.approx(3.363586, abs=1e-6)
    assert perplexity([-math.inf, -1.0]) == perplexity([-1e4]) == math.inf


def test_the_lowest_share_is_kept_and_ties_go_by_id() -> None:
    found, judge = through(Perplexity(**{"with": "m", "keep": 0.2}), rows())
    assert kept(found) == ["s1", "s3"]
    assert [scores["perplexity"] for _, _, scores in found.values()] == pytest.approx(PUBLISHED)
    assert {rule for verdict, rule, _ in found.values() if verdict != "kept"} == {"perplexity/share"}
    assert {(request.ask, request.sample.text(0)) for request in judge.asked} == {("score", PROMPT)}
    tied, _ = through(Perplexity(**{"with": "m", "keep": 0.5}), [row(name, "x 3") for name in ("b", "d", "a", "c")])
    assert kept(tied) == ["b", "a"]


def test_without_a_share_only_the_column_is_made() -> None:
    found, _ = through(Perplexity(**{"with": "m"}), [*rows(), row("x", "dark")])
    assert len(kept(found)) == 11 and found["x"][2] == {} and found["s8"][2]["perplexity"] == pytest.approx(1000)


def test_rows_that_could_not_be_scored_are_listed_and_counted() -> None:
    found, _ = through(Perplexity(**{"with": "m", "keep": 0.2}), [row("x", "dark"), *rows(), *(row(f"y{n}", "dark") for n in range(4))])
    assert kept(found) == ["s1", "s3", "s6"], "a share of all 15 rows, not of the 10 that were scored"
    assert [name for name, (_, rule, _) in found.items() if rule == "perplexity/missing"] == ["x", "y0", "y1", "y2", "y3"]


def test_texts_of_a_row_are_scored_together() -> None:
    found, judge = through(Perplexity(**{"with": "m"}), [row("a", "one 2", "two 8"), row("b", "one 2", "dark"), row("c")])
    assert found["a"][2]["perplexity"] == pytest.approx(4) and found["b"][2] == found["c"][2] == {}
    assert [request.sample.id for request in judge.asked] == ["a#perplexity-0", "a#perplexity-1", "b#perplexity-0", "b#perplexity-1"]


def test_own_questions_are_asked_where_there_is_no_prompt() -> None:
    pairs = tuple(turn for n in (2, 4) for turn in (Turn(role="user", items=(Text(text=f"q{n}"),)), Turn(role="assistant", items=(Text(text=f"a {n}"),))))
    talk = Sample(id="t", turns=(Turn(role="system", items=(Text(text="s"),)), *pairs), origin=Origin(source="web"))
    apart = Sample(id="i", turns=talk.turns, attributes={"turns": "independent"}, origin=talk.origin)
    found, judge = through(Perplexity(**{"with": "m", "prompt": None}), [talk, apart])
    assert [len(request.sample.turns) for request in judge.asked] == [3, 5, 3, 3]
    assert judge.asked[3].sample.text(1) == "q4" and found["t"][2]["perplexity"] == pytest.approx(math.sqrt(8))


@pytest.mark.parametrize(("operator", "ask"), [(ClipScore, "embed"), (MatchScore, "match")])
def test_pairs_keep_the_highest(operator: Any, ask: str) -> None:
    found, judge = through(operator(**{"with": "m", "keep": 0.3}), rows())
    assert kept(found) == ["s1", "s3", "s6"] and {request.ask for request in judge.asked} == {ask}
    bound, _ = through(operator(**{"with": "m", "at_least": 0.13}), [*rows(), row("n", "x 2", pictures=0)])
    assert kept(bound) == ["s1", "s3", "s6", "s7"]
    assert bound["n"][1] == f"{operator.column}/missing" and bound["s8"][1] == f"{operator.column}/below"


def stored(folder: Path, samples: Sequence[Sample]) -> Store:
    with Store.writer(folder) as writer:
        for sample in samples:
            writer.add(sample)
    return Store.open(folder)


def verdicts(store: Store) -> dict[str, str | None]:
    return dict(zip(store.index["id"].to_pylist(), store.index["rule"].to_pylist()))


def test_a_store_is_scored_beside_its_shards(tmp_path: Path) -> None:
    store = stored(tmp_path / "a", [*rows(), row("x", "dark")])
    judge = Judge()
    result = score_store(store, Perplexity(**{"with": "m", "keep": 0.2}), tmp_path / "b", judge)
    assert result.judged == 11 and result.missing == (("x", "model/too-long: 5000 tokens"),)
    assert [name for name, rule in verdicts(result.store).items() if rule is None] == ["s1", "s3"]
    assert (tmp_path / "a" / "shard-00000.parquet").samefile(tmp_path / "b" / "shard-00000.parquet")
    assert dict(result.store.index["scores"][8].as_py())["perplexity"] == pytest.approx(1000)
    assert store.counts()["kept"] == 11


def test_thresholds_change_without_a_model_in_both_directions(tmp_path: Path) -> None:
    first = score_store(stored(tmp_path / "a", rows()), Perplexity(**{"with": "m", "keep": 0.2}), tmp_path / "b", Judge()).store
    loose = score_store(first, ByScore(score="perplexity", at_most=12), tmp_path / "c").store
    assert [name for name, rule in verdicts(loose).items() if rule is None] == ["s0", "s1", "s3", "s4", "s6", "s7"]
    high = score_store(loose, ByScore(score="perplexity", highest=0.1), tmp_path / "d").store
    assert [name for name, rule in verdicts(high).items() if rule is None] == ["s8"]
    assert set(verdicts(high).values()) == {None, "by-score/share"}


def test_other_quarantined_rows_stay_where_they_are(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "a") as writer:
        writer.add(row("bad", "x 1"), verdict="quarantined", rule="check/broken")
        writer.add(row("good", "x 2"))
    judge = Judge()
    result = score_store(Store.open(tmp_path / "a"), Perplexity(**{"with": "m"}), tmp_path / "b", judge)
    assert verdicts(result.store) == {"bad": "check/broken", "good": None} and len(judge.asked) == 1


def test_a_score_that_no_row_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    scored = score_store(stored(tmp_path / "a", rows()), Perplexity(**{"with": "m"}), tmp_path / "b", Judge()).store
    with pytest.raises(Refused, match=r"data/no-score[^$]*no row has a score 'perplexty'\n  allowed: perplexity\n  fix:     .*perplexity"):
        score_store(scored, ByScore(score="perplexty", lowest=0.5), tmp_path / "c")
    with pytest.raises(Refused, match="sightline data score"):
        score_store(Store.open(tmp_path / "a"), ByScore(score="perplexity", lowest=0.5), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_choice_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"data/nothing-kept[^$]*found:   10 perplexity/share\n  allowed: at least one row"):
        score_store(stored(tmp_path / "a", rows()), Perplexity(**{"with": "m", "keep": 0.05}), tmp_path / "b", Judge())
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"score": "x"}, "nothing is chosen"),
        ({"score": "x", "lowest": 0.1, "highest": 0.1}, "not both"),
        ({"score": "x", "lowest": 1.5}, "less than or equal to 1"),
        ({"score": "x", "highest": 0.0}, "greater than 0"),
    ],
)
def test_thresholds_that_choose_nothing_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ByScore(**said)


VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1e6), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=30)


@given(VALUES, st.floats(0.01, 1), st.booleans())
def test_a_share_is_the_extreme_rows_whatever_their_order(values: list[float | None], share: float, lowest: bool) -> None:
    def chosen(order: Sequence[int]) -> set[int]:
        index = pa.table({"id": [f"{n:03}" for n in order], "s": pa.array([values[n] for n in order], pa.float64())})
        found = decided(index, "s", "k", **{"lowest" if lowest else "highest": share})
        return {n for n, decision in zip(order, found, strict=True) if decision.verdict == "kept"}

    numbers = list(range(len(values)))
    ours = chosen(numbers)
    assert ours == chosen(list(np.random.default_rng(0).permutation(numbers)))
    scored = [n for n in numbers if values[n] is not None and not math.isnan(values[n] or 0.0)]
    assert len(ours) == min(int(len(values) * share), len(scored))
    others = [values[n] for n in scored if n not in ours]
    assert all(a <= b if lowest else a >= b for a in (values[n] for n in ours) for b in others)  # pyright: ignore[reportOperatorIssue]
