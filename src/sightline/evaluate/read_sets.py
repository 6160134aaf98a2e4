"""Samples of a store, or of a data set in any layout that is read, for benchmarks that need regions, captions or classes rather than questions."""

from __future__ import annotations

from pathlib import Path

from sightline.data.readers.files import read_json_rows
from sightline.data.reading import choose, grouped, read_group
from sightline.errors import Problem, Refused
from sightline.evaluate.answers import answer_of
from sightline.samples.exchange import Answer
from sightline.samples.sample import Picture, Sample
from sightline.samples.store import Store

STORE = "index.parquet"


def samples_at(path: Path, split: str | None = None, layout: str = "auto") -> list[Sample]:
    """The kept samples of a store, or all samples of a set (`layout`: its format, by name), in order; of one `split` where it is given.

    Raises Refused with every row that cannot be read, where the layout is not known, and where no sample is of the split.
    """
    if (path / STORE).is_file():
        store = Store.open(path)
        found = [store[int(row)] for row in store.kept]
    else:
        found = _read(path, layout)
    kept = [sample for sample in found if split is None or sample.attributes.get("split") == split]
    if not kept:
        splits = ", ".join(sorted({str(sample.attributes.get("split")) for sample in found})) or "no sample"
        raise Refused(Problem(code="evaluate/nothing-to-ask", place=str(path), found=f"split {split}", allowed=splits, fix="name one of these splits"))
    return kept


def _read(path: Path, layout: str) -> list[Sample]:
    found: list[Sample] = []
    problems: list[Problem] = []
    for sources in choose(path, layout).sources:
        memo: dict[str, Picture] = {}
        for unit in grouped(sources, 0):
            if isinstance(unit, Problem):
                problems.append(unit)
                continue
            for entry in read_group(sources, unit, memo):
                problems += [problem for problem in entry.problems if problem.severity == "refuse"]
                if entry.row is not None:
                    found.append(entry.row.sample)
    if refusals := [problem for problem in problems if problem.severity == "refuse"]:
        raise Refused(refusals)
    return found


def kept_answers(path: Path) -> list[Answer]:
    """The answers of an `answers.jsonl`, with vectors and regions, under the names of the questions that were asked first. Refused where a line is none."""
    found: list[Answer] = []
    for place, record in read_json_rows(path):
        try:
            found.append(answer_of(record))
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            said = f"{type(error).__name__}: {error}"
            raise Refused(Problem(code="evaluate/broken-answer", place=place, found=said, allowed="one answer as JSON", fix="name an answers.jsonl")) from None
    return found
