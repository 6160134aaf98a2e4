"""The table of a study: paired differences, what is bold, what a row took, and its three forms."""

from __future__ import annotations

import json

from sightline.evaluate.metrics import Value, share
from sightline.shared_artifacts import Cost, cost_of
from sightline.soup_search import Measured
from sightline.variant_table import RowFacts, made_table


def facts(name: str, right: set[int], own: float = 1.0, habit: float = 0.5, selected_on: tuple[str, ...] = ()) -> RowFacts:
    """40 questions about 40 pictures; a stage that all rows share and one of its own."""
    rows = tuple(float(number in right) for number in range(40))
    value = share(sum(rows), 40)
    measured = Measured(value=value, rows=rows, groups=tuple(map(str, range(40))))
    costs = {
        "common": Cost(node="stages/align", by="first", seconds=7200, steps=10, rows=40, tokens=1e6),
        name: Cost(node="stages/instruct", by=name, seconds=3600 * own, steps=5, rows=20, tokens=5e5),
        "data": Cost(node="data/a", by="first", seconds=1800),
    }
    told = {"all": value, "cut-off": Value(habit, habit - 0.1, habit + 0.1, 40)}
    nodes = (("stages/align", "common"), ("stages/instruct", name), ("data/a", "data"))
    return RowFacts(
        name=name,
        folder=f"variants/t/{name}",
        scores={"test": told, "dev": told},
        headlines={"test": "all", "dev": "all"},
        measured={"test": measured, "dev": measured},
        nodes=nodes,
        costs=costs,
        selected_on=selected_on,
    )


def test_a_difference_is_that_of_the_same_requests() -> None:
    base, more, other = facts("base", set(range(10))), facts("more", set(range(20))), facts("other", set(range(28, 40)))
    table = made_table("t", [base, more, other], cumulative=True)
    sure, unsure = table.rows[1].cells["test"].to_base, table.rows[2].cells["test"].to_base
    assert sure is not None and unsure is not None
    assert sure.value == 0.25 and sure.paired and sure.low > 0
    assert sure.clear
    assert round(unsure.value, 6) == 0.05 and not unsure.clear, "two more of 40, but other ones"
    above = table.rows[2].cells["test"].to_before
    assert above is not None and round(above.value, 6) == -0.2
    assert table.rows[0].cells["test"].to_base is None
    assert table.columns == ("test", "dev", "mean")


def test_only_what_beats_chance_is_bold() -> None:
    table = made_table("t", [facts("base", set(range(10))), facts("more", set(range(20))), facts("a_b", set(range(28, 40)))], ["test"])
    base, more, other = table.markdown().splitlines()[4:7]
    assert "**+25.0 (" in more
    assert "**" not in other and "**" not in base
    tex = table.latex()
    assert r"\textbf{+25.0 (" in tex and r"a\_b & 30.0 (" in tex and r"\toprule" in tex and tex.count(r"\textbf") == 1
    assert json.loads(json.dumps(table.record()))["rows"][1]["cells"]["test"]["to_base"]["clear"] is True


def test_what_has_no_score_by_request_is_marked() -> None:
    table = made_table("t", [facts("base", set()), facts("more", set(), habit=0.9)], ["test.cut-off"])
    apart = table.rows[1].cells["test.cut-off"].to_base
    assert apart is not None and not apart.paired
    assert (round(apart.value, 6), round(apart.low, 4), round(apart.high, 4)) == (0.4, 0.2586, 0.5414), "half widths added in squares"
    assert "**+40.0 (+25.9..+54.1)**~" in table.markdown()


def test_what_was_selected_on_is_no_column_unless_asked_for() -> None:
    rows = [facts("base", set()), facts("chosen", set(range(3)), selected_on=("dev",))]
    assert made_table("t", rows).columns == ("test",)
    assert "| dev (selected on) |" in made_table("t", rows, ["test", "dev"]).markdown()


def test_shared_work_is_counted_once() -> None:
    table = made_table("t", [facts("base", set()), facts("more", set(), own=3.0)])
    spent = table.rows[1].spent
    assert (spent.hours, spent.own_hours, spent.shared_hours, spent.steps, spent.tokens, spent.all_hours) == (5.0, 3.0, 2.0, 15, 1.5e6, 5.5)
    assert table.hours == 6.0
    assert "In all 6 h; without sharing 8 h." in table.markdown()


def test_the_cost_of_a_stage_is_that_of_all_attempts() -> None:
    step = {"event": "step", "stage": "align", "samples_per_second": 2.0}
    events = [
        {"event": "table", "stage": "align"},
        {**step, "step": 0, "tokens_per_second": 20.0},
        {**step, "step": 4, "tokens_per_second": 40.0},
        {"event": "table", "stage": "align"},
        {"event": "resumed", "stage": "align", "step": 1},
        {**step, "step": 4, "tokens_per_second": 60.0},
        {"event": "trained", "stage": "align", "steps": 5, "rows": 20, "seconds": 9.5, "unread": []},
        {"event": "done", "node": "stages/align", "seconds": 4.0},
    ]
    cost = cost_of(events, "stages/align", "row")
    assert (cost.seconds, cost.steps, cost.rows) == (9.5, 5, 20)
    assert cost.tokens == 4 * 10 * 1 + 4 * 30 * 4, "tokens of a row, times the rows of the steps since the last record"
    assert cost_of([{"event": "done", "node": "data/a", "seconds": 3.0}], "data/a", "row").seconds == 3.0
