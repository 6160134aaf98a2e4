"""The table of a study: scores of every row with intervals, differences to the base by the same requests, and what a row took. Markdown, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sightline.data_selection import Selection
from sightline.evaluate.metrics import Value
from sightline.shared_artifacts import Cost
from sightline.soup_search import Measured, interval_of, paired_gain
from sightline.vary_recipe import Changes

MEAN = "mean"
"""The column with the unweighted mean of the others, where each is the headline of an evaluation and lies between 0 and 1."""
_SAME = 1e-6


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """What a row came to."""

    name: str
    folder: str
    scores: Mapping[str, Mapping[str, Value]]
    """Evaluation -> metric -> value."""
    headlines: Mapping[str, str]
    """Evaluation -> its first headline metric."""
    measured: Mapping[str, Measured]
    """Evaluation -> its headline with the scores of the requests."""
    nodes: tuple[tuple[str, str], ...]
    """(name, fingerprint) of everything that the row is made from."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """Fingerprint -> what it took."""
    changes: Changes = field(default_factory=dict)
    selection: Selection | None = None
    selected_on: tuple[str, ...] = ()
    """Evaluations that its data was chosen by."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's score less another row's."""

    value: float
    low: float
    high: float
    paired: bool
    """Whether the same requests are compared one by one; else the intervals of both are added in squares, which is wider than it need be."""
    by_answer: bool = False
    """Whether it is the difference of scores per answer, since the metric of the column is not their mean."""

    @property
    def clear(self) -> bool:
        """Whether the 95 % interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row's score in one column."""

    value: Value
    to_base: Difference | None = None
    to_before: Difference | None = None
    """To the row above, in a table whose rows add one thing after another."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a row took. Own: what no other row of the table uses."""

    hours: float
    """In training loops."""
    own_hours: float
    shared_hours: float
    steps: int
    tokens: float
    all_hours: float
    """Data, tokenizers, training, soups and evaluation together."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row."""

    name: str
    cells: Mapping[str, Cell]
    spent: Spent
    changes: Changes
    folder: str
    selection: Selection | None = None


@dataclass(frozen=True, kw_only=True)
class VariantTable:
    """Rows of a study side by side; the first one is the base."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    cumulative: bool
    hours: float
    """In training loops, everything once."""
    selected_on: tuple[str, ...] = ()
    """Evaluations that some row's data was chosen by: scores of that row there are too high for new pictures."""
    shown: Mapping[str, str] = field(default_factory=dict)
    """Column -> the metric that stands in it, where the column names an evaluation alone."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"rows": [_row_record(row) for row in self.rows]}

    def markdown(self) -> str:
        """For people: percent with 95 % intervals."""
        heads = [*(head for column in self.columns for head in (self._head(column), *self._kinds())), "hours", "of them shared", "steps", "M tokens"]
        text = [f"## {self.name}", "", "| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        text += [f"| {row.name} | " + " | ".join(self._cells(row, _bold_markdown)) + " |" for row in self.rows]
        text += ["", self._legend()]
        for row in self.rows:
            text += ["", row.selection.markdown(row.name).rstrip()] if row.selection else []
        return "\n".join(text) + "\n"

    def latex(self) -> str:
        """A booktabs table that a paper can include; `\\usepackage{booktabs}`."""
        kinds = {"to base": r"$\Delta$ base", "to row above": r"$\Delta$ above"}
        heads = [
            *(head for column in self.columns for head in (_tex(self._head(column)), *(kinds[kind] for kind in self._kinds()))),
            "hours",
            "shared",
            "steps",
            "M tokens",
        ]
        lines = [r"\begin{tabular}{l" + "r" * len(heads) + "}", r"\toprule", " & " + " & ".join(heads) + r" \\", r"\midrule"]
        lines += [f"{_tex(row.name)} & " + " & ".join(_tex(cell) for cell in self._cells(row, _bold_latex)) + r" \\" for row in self.rows]
        lines += [r"\bottomrule", r"\end{tabular}", *(f"% {line}" for line in self._legend().splitlines())]
        stamps = dict.fromkeys(row.selection.stamp for row in self.rows if row.selection and row.selection.stamp)
        return "\n".join([*lines, *(f"% {stamp}" for stamp in stamps)]) + "\n"

    def _head(self, column: str) -> str:
        metric = self.shown.get(column, "all")
        named = column if metric == "all" else f"{column}: {metric}"
        return f"{named} (selected on)" if column.partition(".")[0] in self.selected_on else named

    def _kinds(self) -> tuple[str, ...]:
        return ("to base", "to row above") if self.cumulative else ("to base",)

    def _cells(self, row: TableRow, bold: Callable[[str], str]) -> list[str]:
        texts = []
        for column in self.columns:
            cell = row.cells.get(column)
            unit = 100 if cell is None or abs(cell.value.value) <= 1 else 1  # points of a benchmark that counts them are told as they are
            texts.append("-" if cell is None else f"{unit * cell.value.value:.1f} ({unit * cell.value.low:.1f}..{unit * cell.value.high:.1f})")
            told = () if cell is None else (cell.to_base, cell.to_before) if self.cumulative else (cell.to_base,)
            texts += [_difference(one, unit, bold) for one in told] or ["-"] * len(self._kinds())
        spent = row.spent
        return [*texts, f"{spent.hours:.3g}", f"{spent.shared_hours:.3g}", f"{spent.steps:,}", f"{spent.tokens / 1e6:.3g}"]

    def _legend(self) -> str:
        told = [one for row in self.rows for cell in row.cells.values() for one in (cell.to_base, cell.to_before) if one is not None]
        said = ["Percent with 95 % intervals; differences by the same requests (paired bootstrap over pictures), bold where the interval excludes 0."]
        said += ["~ not paired: intervals of both rows added in squares."] if any(not one.paired for one in told) else []
        said += ["* difference of scores per answer, 0..100, since the metric is not their mean."] if any(one.by_answer for one in told) else []
        one_by_one = sum(row.spent.hours for row in self.rows)
        said.append(f"Hours are those of training loops; shared: also used by another row. In all {self.hours:.3g} h; without sharing {one_by_one:.3g} h.")
        return "\n".join(said)


def made_table(name: str, rows: Sequence[RowFacts], columns: Sequence[str] = (), cumulative: bool = False) -> VariantTable:
    """The table of some rows, of which the first is the base. `columns`: EVALUATION or EVALUATION.METRIC; default: the headline of every evaluation that nothing was chosen by, and their mean."""
    selected_on = tuple(dict.fromkeys(one for row in rows for one in row.selected_on))
    every = list(dict.fromkeys(one for row in rows for one in row.headlines))
    chosen = list(columns) or [one for one in every if one not in selected_on] or every
    averaged = not columns and len(chosen) > 1 and all(_unit(row, one) for row in rows for one in chosen)
    uses = Counter(fingerprint for row in rows for fingerprint in {own for _, own in row.nodes})
    made = []
    for number, row in enumerate(rows):
        before = rows[number - 1] if cumulative and number else None
        cells = {one: cell for one in chosen if (cell := _cell(row, rows[0] if number else None, before, [one])) is not None}
        if averaged and (mean := _cell(row, rows[0] if number else None, before, chosen)) is not None:
            cells[MEAN] = mean
        made.append(TableRow(name=row.name, cells=cells, spent=_spent(row, uses), changes=row.changes, folder=row.folder, selection=row.selection))
    taken = {fingerprint: cost for row in rows for fingerprint, cost in row.costs.items()}
    spent = sum(cost.seconds for cost in taken.values() if _trained(cost)) / 3600
    shown = {column: row.headlines[column] for row in rows for column in chosen if column in row.headlines}
    columns = (*chosen, *([MEAN] if averaged else []))
    return VariantTable(name=name, columns=columns, rows=tuple(made), cumulative=cumulative, hours=spent, selected_on=selected_on, shown=shown)


def _unit(row: RowFacts, evaluation: str) -> bool:
    value = _value(row, evaluation)
    return value is not None and 0 <= value.value <= 1


def _value(row: RowFacts, column: str) -> Value | None:
    evaluation, _, metric = column.partition(".")
    return row.scores.get(evaluation, {}).get(metric or row.headlines.get(evaluation, ""))


def _cell(row: RowFacts, base: RowFacts | None, before: RowFacts | None, columns: Sequence[str]) -> Cell | None:
    """A row's score: of one column, or the mean of several."""
    values = [_value(row, one) for one in columns]
    if any(value is None for value in values):
        return None
    value = interval_of([one for one in values if one is not None]) if len(values) > 1 else values[0]
    assert value is not None, "looked at above"
    return Cell(value=value, to_base=_compared(row, base, columns), to_before=_compared(row, before, columns))


def _compared(row: RowFacts, other: RowFacts | None, columns: Sequence[str]) -> Difference | None:
    if other is None:
        return None
    values = [(_value(other, one), _value(row, one)) for one in columns]
    pairs = [(old, new) for old, new in values if old is not None and new is not None]
    if len(pairs) < len(columns):
        return None
    measured = [(_headline(other, one), _headline(row, one)) for one in columns]
    told = [(old, new) for old, new in measured if old is not None and new is not None and old.rows and old.groups == new.groups]
    if len(told) == len(columns):
        low, high = paired_gain([old for old, _ in told], [new for _, new in told])
        value = math.fsum(float(np.mean(new.rows)) - float(np.mean(old.rows)) for old, new in told) / len(told)
        apart = any(abs(float(np.mean(one.rows)) - one.value.value) > _SAME for pair in told for one in pair)
        return Difference(value=value, low=low, high=high, paired=True, by_answer=apart)
    old, new = (interval_of(side) for side in zip(*pairs))
    value = new.value - old.value
    down = math.hypot(new.value - new.low, old.high - old.value)
    up = math.hypot(new.high - new.value, old.value - old.low)
    return Difference(value=value, low=value - down, high=value + up, paired=False)


def _headline(row: RowFacts, column: str) -> Measured | None:
    """Scores by request of a column that is the headline of its evaluation."""
    evaluation, _, metric = column.partition(".")
    return row.measured.get(evaluation) if metric in ("", row.headlines.get(evaluation)) else None


def _trained(cost: Cost) -> bool:
    return cost.node.startswith("stages/")


def _spent(row: RowFacts, uses: Mapping[str, int]) -> Spent:
    trained = {fingerprint: cost for fingerprint, cost in row.costs.items() if _trained(cost)}
    own = sum(cost.seconds for fingerprint, cost in trained.items() if uses[fingerprint] == 1) / 3600
    hours = sum(cost.seconds for cost in trained.values()) / 3600
    return Spent(
        hours=hours,
        own_hours=own,
        shared_hours=hours - own,
        steps=sum(cost.steps for cost in trained.values()),
        tokens=sum(cost.tokens for cost in trained.values()),
        all_hours=sum(cost.seconds for cost in row.costs.values()) / 3600,
    )


def _row_record(row: TableRow) -> dict[str, Any]:
    told = asdict(row)
    cells = {
        column: {
            **cell.value._asdict(),
            **{key: None if one is None else {**asdict(one), "clear": one.clear} for key, one in (("to_base", cell.to_base), ("to_before", cell.to_before))},
        }
        for column, cell in row.cells.items()
    }
    return {**told, "cells": cells, "selection": None if row.selection is None else row.selection.record()}


def _difference(one: Difference | None, unit: float, bold: Callable[[str], str]) -> str:
    if one is None:
        return "-"
    unit = 100 if one.by_answer else unit
    text = f"{unit * one.value:+.1f} ({unit * one.low:+.1f}..{unit * one.high:+.1f})"
    return (bold(text) if one.clear else text) + ("" if one.paired else "~") + ("*" if one.by_answer else "")


def _bold_markdown(text: str) -> str:
    return f"**{text}**"


def _bold_latex(text: str) -> str:
    return rf"\textbf{{{text}}}"


_TEX = str.maketrans({"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "~": r"$^\sim$", "*": r"$^\ast$"})


def _tex(text: str) -> str:
    """Text as LaTeX: what is special there is escaped, ranges have an en dash, and numbers a true minus."""
    return text.translate(_TEX).replace("..", "--")
