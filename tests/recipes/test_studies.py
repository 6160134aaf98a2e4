"""Every study as its twin: it runs, and its table holds every row, every column with intervals, differences to the base, and what each row took."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from sightline import recipe_source
from sightline.expansion import expand
from sightline.plan_time import hardware
from sightline.plan_variants import plan_study
from sightline.recipe import Recipe, load
from sightline.run import run
from sightline.run_variants import StudyResult
from sightline.twin import STEPS, study_twin, write_twin
from sightline.variant_table import MEAN

STUDIES = sorted(name for name, path in recipe_source.shipped().items() if path.parent.name == "studies")
COLUMNS: dict[str, tuple[str, ...]] = {"generic-and-templates": ("told", "told.chair-i", "told.recall", "probes", "told.rep-4", "describe.same-answer")}
"""Columns that a study is about, besides the headline of every evaluation."""
OTHERS: dict[str, tuple[str, ...]] = {
    "strong-baseline": ("capfusion", "tiles", "catty", "two-encoders", "selected"),
    "perplexity-fifth": ("least-surprising", "first-fifth", "most-surprising", "all-few-steps", "four-times-all"),
    "text-encoder": ("general-twice", "general-alone", "text-alone"),
    "soups-of-data-or-rates": ("data-average", "data-maximum", "data-greedy", "rates-average", "rates-maximum", "rates-greedy"),
    "select-or-soup": ("all-sets", "selected", "surely-selected", "soup"),
    "generic-and-templates": ("tenth", "third", "as-it-comes", "three-quarters", "half", "no-template"),
    "text-only-tenth": ("tenth", "third"),
}
"""Rows besides the base: what is asked about, and its controls."""


def toys(name: str) -> dict[str, Recipe]:
    """Row -> what its twin runs, without running it."""
    small = study_twin(name)
    told = small.model_dump(mode="json", exclude={"vary"})
    rows = {row: changes for table in small.vary.values() for row, changes in table.rows.items()}
    return {"": small, **{row: Recipe.model_validate_json(json.dumps({**told, **changes})) for row, changes in rows.items()}}


def check_table(table: Any, name: str) -> list[str]:
    """What is wrong with the table of a study."""
    faults = [f"no column {column}" for column in COLUMNS.get(name, ()) if column not in table["columns"]]
    for number, row in enumerate(table["rows"]):
        faults += [f"{row['name']}: no {column}" for column in table["columns"] if column not in row["cells"]]
        for column, cell in row["cells"].items():
            if not cell["low"] <= cell["value"] <= cell["high"] or (cell["n"] == 0 and column != MEAN):
                faults.append(f"{row['name']}: {column} is {cell['value']} in {cell['low']}..{cell['high']} of {cell['n']}")
            other = cell["to_base"]
            if (other is None) != (number == 0) or (other is not None and not other["low"] <= other["value"] <= other["high"]):
                faults.append(f"{row['name']}: {column} is no difference to the base")
            if table["cumulative"] and (cell["to_before"] is None) != (number == 0):
                faults.append(f"{row['name']}: {column} is not compared with the row above")
        if min(row["spent"][key] for key in ("hours", "steps", "tokens", "all_hours")) <= 0:
            faults.append(f"{row['name']}: it took nothing")
        if number and not row["changes"]:
            faults.append(f"{row['name']}: it changes nothing")
    return faults


def test_every_study_is_looked_at() -> None:
    assert set(STUDIES) == set(OTHERS)


def test_a_table_with_holes_is_found_out() -> None:
    cell = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2, "to_base": None, "to_before": None}
    spent = {"hours": 1.0, "steps": 3, "tokens": 9.0, "all_hours": 1.0}
    row = {"name": "base", "cells": {"textvqa": cell}, "spent": spent, "changes": {}}
    other = {**row, "name": "other", "cells": {"textvqa": {**cell, "to_base": {"value": 0.0, "low": -0.1, "high": 0.1}}}, "changes": {"seed": 1}}
    table = {"columns": ["textvqa"], "cumulative": False, "rows": [row, other]}
    assert check_table(table, "text-encoder") == []
    for broken, told in (
        ({**other, "cells": {}}, "no textvqa"),
        ({**other, "cells": {"textvqa": cell}}, "no difference"),
        ({**other, "cells": {"textvqa": {**other["cells"]["textvqa"], "low": 0.55}}}, "0.55..0.6"),
        ({**other, "spent": {**spent, "tokens": 0}}, "took nothing"),
        ({**other, "changes": {}}, "changes nothing"),
    ):
        [fault] = check_table({**table, "rows": [row, broken]}, "text-encoder")
        assert told in fault
    assert "no column told" in check_table(table, "generic-and-templates")


@pytest.mark.parametrize("name", STUDIES)
def test_rows_and_their_twins(name: str) -> None:
    groups = expand(name)
    assert [row.name for rows in groups.values() for row in rows[1:]] == list(OTHERS[name])
    for row in (row for rows in groups.values() for row in rows):
        once = [stage for stage in row.loaded.recipe.stages if stage.cache_features and (stage.epochs or 1) < 2]
        assert all(any(path.startswith("encoders") for path in stage.train) for stage in once), f"{row.name}: a cache of pictures that are looked at once"
    small = study_twin(name)
    assert [row for table in small.vary.values() for row in table.rows] == list(OTHERS[name])
    assert not any(step.path for one in small.data.values() for step in one.read), "made on the spot"
    assert not [key for key, one in small.evaluate.items() if getattr(one.benchmark, "path", None)], "no published file is asked"


def test_what_the_twin_of_a_study_keeps() -> None:
    made = toys("perplexity-fifth")
    steps = {row: next(stage.steps for stage in one.stages if stage.name == "align") for row, one in made.items()}
    fifth = max(1, round(STEPS / 5))
    few = ("least-surprising", "first-fifth", "most-surprising", "all-few-steps")
    assert steps == {"": STEPS, **dict.fromkeys(few, fifth), "four-times-all": 4 * STEPS}, "fewer and more steps are controls"
    least, first = (operators(made["least-surprising"], data) for data in ("least-surprising", "first-fifth"))
    assert [one["lowest"] for one in least if one["kind"] == "by-score"] == [0.2]
    assert [one["first"] for one in first if one["kind"] == "take"] == [2], "a fifth of 8"
    alone = toys("text-only-tenth")["tenth"]
    assert [operators(alone, data)[0]["kind"] for data in ("text", "text-test", "rsvqa")] == ["notes", "notes", "questions"], "text alone shows no picture"


def operators(recipe: Recipe, data: str) -> list[dict[str, Any]]:
    """What is done to a data set, as JSON."""
    return [one.model_dump(mode="json") for one in recipe.data[data].then]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_ends_in_its_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the twin of a study asks nobody")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.chdir(tmp_path)
    result = run(write_twin(name, (), tmp_path), tmp_path / "out")
    assert isinstance(result, StudyResult)
    rows: list[str] = []
    for table in result.tables:
        told = json.loads((tmp_path / "out" / "tables" / f"{table.name}.json").read_text(encoding="utf-8"))
        assert check_table(told, name) == []
        rows += [row["name"] for row in told["rows"]][1:]
        shown = (tmp_path / "out" / "tables" / f"{table.name}.md").read_text(encoding="utf-8")
        assert all(f"| {row['name']} | " in shown for row in told["rows"])
        assert (tmp_path / "out" / "tables" / f"{table.name}.tex").read_text(encoding="utf-8").count(r"\\") == len(told["rows"]) + 1
        for row in told["rows"]:
            assert any((tmp_path / "out" / row["folder"] / "stages").iterdir())
    assert rows == list(OTHERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_planned_at_full_size(name: str) -> None:
    found = plan_study(name, (), "8xH100", None, None)
    assert {row.name for row in found.rows} >= set(OTHERS[name])
    assert all(row.hours > 0 for row in found.rows)
    assert 0 < found.hours < sum(row.hours for row in found.rows)
    assert not [finding for finding in found.findings if finding.code in ("plan/cache-cannot-pay", "plan/memory-unknown")]
    assert hardware("8xH100") == found.machine
    assert load(name).recipe.name == name
