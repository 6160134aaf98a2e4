"""Which models go into a soup: orders and ties, what stays and why, intervals of paired gains, and rows and pictures that must not be shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from sightline.evaluate.metrics import Value
from sightline.evaluate.run_facts import SoupGain
from sightline.soup_search import (
    AskedRows,
    Blend,
    Bowl,
    Measured,
    SoupTable,
    average,
    facts_of,
    gains_of,
    greedy,
    interval_of,
    maximum,
    measured_of,
    paired_gain,
    score_of,
    shared,
    table_lines,
)

SCORES = {"a": 60, "b": 60, "c": 59, "d": 55, "ab": 60, "ac": 61.5, "acd": 61.5, "abc": 61, "abcd": 61, "abd": 60.2}


class Told:
    """Scores from a table; counts what is asked."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.asked = scores, []

    def __call__(self, blend: Blend) -> Sequence[Measured]:
        key = "+".join("".join(sorted(names)) for names in blend.values())
        self.asked.append(key)
        return [Measured(value=Value(self.scores[key] / 100, 0.0, 1.0, 100))]


@pytest.mark.parametrize(("accept", "chosen", "best"), [("better", ("a", "c"), 0.615), ("no-worse", ("a", "b", "c", "d"), 0.61)])
def test_strict_improvement_and_its_loose_form_differ(accept: str, chosen: tuple[str, ...], best: float) -> None:
    told = Told(SCORES)
    found = greedy(["d", "c", "b", "a"], Bowl(), told, accept)  # pyright: ignore[reportArgumentType]
    assert (found.chosen, found.score, found.order) == (chosen, best, ("a", "b", "c", "d"))
    assert [step.ingredient for step in found.steps] == ["b", "c", "d"]
    assert len(set(told.asked)) <= 2 * 4 - 1
    if accept == "better":
        assert [step.why for step in found.steps] == ["0.6000 is no more than 0.6000", "0.6150 is above 0.6000", "0.6150 is no more than 0.6150"]


def test_the_best_single_and_all() -> None:
    found = maximum(["d", "b", "a"], Bowl(), Told(SCORES))
    assert (found.chosen, found.blend, found.score) == (("a",), {"": {"a": 1.0}}, 0.6)
    assert average(["b", "a"], Bowl(parts=("x", "y"), base="z"), {"a": 2.0}).blend == {"": {"z": 1.0}, "x": {"b": 1.0, "a": 2.0}, "y": {"b": 1.0, "a": 2.0}}


def test_each_part_is_chosen_apart() -> None:
    told = Told({"z+a+a": 50, "z+b+b": 40, "z+ab+a": 45, "z+a+ab": 55})
    bowl = Bowl(parts=("x", "y"), base="z")
    found = greedy(["a", "b"], bowl, told, by_part=True)
    assert found.blend == {"": {"z": 1.0}, "x": {"a": 1.0}, "y": {"a": 1.0, "b": 1.0}} and found.chosen == ("a", "b")
    assert [(step.path, step.accepted) for step in found.steps] == [("x", False), ("y", True)]
    together = greedy(["a", "b"], bowl, Told({"z+a+a": 50, "z+b+b": 40, "z+ab+ab": 51}))
    assert together.blend["x"] == together.blend["y"] == {"a": 1.0, "b": 1.0}


def rows(values: np.ndarray, pictures: int) -> Measured:
    groups = tuple(str(number % pictures) for number in range(len(values)))
    return Measured(value=Value(float(values.mean()), 0.0, 1.0, len(values)), rows=tuple(values.tolist()), groups=groups)


def test_a_gain_within_noise_is_not_taken_and_a_sure_one_is() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(400) < 0.5).astype(float)
    little, much = before.copy(), before.copy()
    little[rng.permutation(400)[:40]] = rng.random(40) < 0.55
    much[np.flatnonzero(before == 0)[:60]] = 1.0
    base = rows(before, 200)
    low, high = paired_gain([base], [rows(much, 200)])
    assert 0.1 < low < 0.15 < high < 0.2
    assert paired_gain([base], [base]) == (0.0, 0.0)
    scores = {"a": before, "b": before - 0.001, "ab": little}

    def told(blend: Blend) -> Sequence[Measured]:
        return [rows(scores["".join(sorted(blend[""]))], 200)]

    scores["ab"] = np.where(np.arange(400) == int(np.flatnonzero(before == 0)[0]), 1.0, before)  # one answer more
    assert greedy(["a", "b"], Bowl(), told).chosen == ("a", "b")
    [step] = (found := greedy(["a", "b"], Bowl(), told, "surely-better")).steps
    assert found.chosen == ("a",) and step.gain is not None and step.gain[0] <= 0 < step.gain[1] and "does not lie above 0" in step.why
    scores["ab"] = much
    assert greedy(["a", "b"], Bowl(), told, "surely-better").chosen == ("a", "b")


def test_requests_of_one_picture_are_drawn_together() -> None:
    before, after = np.zeros(40), np.repeat([1.0, -1.0], 20)
    alone = Measured(value=Value(0, 0, 0, 40), rows=tuple(before), groups=tuple(map(str, range(40))))
    pair = Measured(value=Value(0, 0, 0, 40), rows=tuple(before), groups=tuple("x" * 20 + "y" * 20))
    wide, narrow = (paired_gain([one], [Measured(value=one.value, rows=tuple(after), groups=one.groups)]) for one in (pair, alone))
    assert wide == (-1.0, 1.0) and narrow[1] < 0.5


def test_several_evaluations_weigh_alike() -> None:
    values = [Value(0.5, 0.4, 0.6, 10), Value(0.7, 0.67, 0.73, 100)]
    assert score_of([Measured(value=value) for value in values]) == pytest.approx(0.6)
    assert interval_of(values) == pytest.approx((0.6, 0.6 - 0.0522015, 0.6 + 0.0522015, 110))
    assert interval_of(values[:1]) == pytest.approx(values[0])
    one = rows(np.array([0.5, 1.0]), 2)
    assert measured_of(one.record()) == one


def test_points_do_not_drown_percents() -> None:
    points, share = Measured(value=Value(1500.0, 1400.0, 1600.0, 10), scale=2000.0), Measured(value=Value(0.25, 0.2, 0.3, 10))
    assert score_of([points, share]) == pytest.approx(0.5)
    assert points.share == Value(0.75, 0.7, 0.8, 10) and measured_of(points.record()) == points


def test_gains_are_those_over_earlier_lines_with_paired_intervals() -> None:
    best, mean = rows(np.zeros(100), 50), rows(np.repeat([0.0, 1.0], 50), 50)
    better = rows(np.concatenate([np.zeros(50), np.ones(25), np.zeros(25)]), 50)
    gains = gains_of({"maximum": {"test": best}, "average": {"test": mean}, "greedy": {"test": best}})
    assert [(one.name, one.over, one.gain) for one in gains] == [("average", "maximum", 0.5), ("greedy", "average", -0.5)]  # greedy is the maximum here
    assert (gains[0].low, gains[0].high) == (0.5, 0.5)  # each picture was asked twice: one right, one wrong
    [one] = gains_of(
        {
            "maximum": {"test": best, "points": Measured(value=Value(1.0, 0.0, 2.0, 3))},
            "average": {"test": better, "points": Measured(value=Value(2.0, 0.0, 2.0, 3))},
        }
    )
    assert one.low < 0.25 < one.high


def test_a_table_reads_back_as_the_report_shows_it() -> None:
    singles = {"a": {"dev": Value(0.5, 0.4, 0.6, 10)}, "b": {"dev": Value(0.7, 0.6, 0.8, 10)}}
    gain = SoupGain(name="greedy", over="maximum", evaluation="dev", gain=0.01, low=-0.02, high=0.04)
    found = greedy(["a", "b"], Bowl(), Told({"a": 50, "b": 70, "ab": 60}))
    table = SoupTable(name="x", selected_on=("dev",), reported_on=(), lines=table_lines(singles, {}), gains=(gain,), found=found)
    facts = facts_of(json.loads(json.dumps(table.record())))
    assert facts.lines == list(table.lines) and facts.gains == [gain] and facts.tried == [("a", "60.00", "no", "0.6000 is below 0.7000")]
    assert facts.table()[0] == ["", "models", "dev (selected on)"] and facts.table()[1][0] == ["single", "a", "50.0 (40.0..60.0)"]
    assert "| greedy over maximum | dev | +1.0 (-2.0..+4.0) |" in table.markdown()


def test_rows_and_pictures_that_are_shared_are_counted_and_named() -> None:
    dev = AskedRows(name="dev", rows={"s:1": "1", "hash1": "1", "s:2": "2"}, pictures={"p1": "1"})
    test = AskedRows(name="test", rows={"s:1": "9", "hash1": "9", "s:3": "3"}, pictures={"p1": "9", "p2": "3"})
    [problem] = shared([dev], [test, AskedRows(name="far", rows={"t:1": "1"}, pictures={"p9": "1"})], "soups.x")
    assert problem.code == "soup/test-selection" and problem.found == "dev and test share 1 pictures and 1 rows: 1"
    assert shared([dev], [], "x") == []


def test_the_table_reads_in_percent_and_carries_its_stamp() -> None:
    value = Value(0.5, 0.4, 0.6, 10)
    singles = {"a": {"dev": value}, "b": {"dev": Value(0.7, 0.6, 0.8, 10)}}
    found = greedy(["a", "b"], Bowl(), Told({"a": 50, "b": 70, "ab": 60}))
    lines = table_lines(singles, {"greedy": (("b",), {"dev": value, "mme": Value(1800.0, 1700.0, 1900.0, 10)})})
    table = SoupTable(name="x", selected_on=("dev",), reported_on=("mme",), lines=lines, stamp="careful", found=found)
    page = table.markdown()
    assert "| greedy | b | 50.0 (40.0..60.0) | 180000.0" in page  # a share, as far as the table knows
    page = replace(table, scales={"mme": 2000.0}).markdown()
    assert "**careful**" in page and "| single, mean of 2 |  | 60.0 (50.0..70.0) | - |" in page and "| single, best in each column |  | 70.0" in page
    assert "| greedy | b | 50.0 (40.0..60.0) | 1800.0 (1700.0..1900.0) |" in page and "| a | 60.00 | no | 0.6000 is below 0.7000 |" in page
    assert table.record()["stamp"] == "careful" and table.record()["search"]["order"] == ("b", "a")
    assert table_lines({}, {}) == ()
