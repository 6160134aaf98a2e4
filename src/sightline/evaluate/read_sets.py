"""Samples of a store, or of a data set in any layout that is read, for benchmarks that need regions, captions or classes rather than questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from sightline.data.readers.files import read_json_rows
from sightline.data.reading import choose, grouped, read_group
from sightline.errors import Problem, Refused
from sightline.evaluate.answers import answer_of
from sightline.evaluate.published import PublishedBenchmark, PublishedKind, PublishedRow
from sightline.samples.exchange import Answer
from sightline.samples.sample import Picture, Sample
from sightline.samples.store import Store

STORE = "index.parquet"


class SetKind(PublishedKind):
    """Base of kinds that ask about samples, where they need regions, captions or classes rather than questions: `data` of the recipe, or a set of its own at `path`."""

    files: ClassVar[str] = "a store, or a set in a layout that is read"
    path: str | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """A store, or a set in a layout that is read; or say `data`."""
    data: str | None = None
    """Data set of the recipe, all of which is asked; or say `path`."""
    split: str | None = None
    """Split of `path` that is asked; all when null."""
    layout: str = "auto"
    """Format of the set at `path`, by the name of its reader; auto recognises it."""

    @model_validator(mode="after")
    def _one_of_both(self) -> SetKind:
        if (self.path is None) == (self.data is None):
            raise ValueError("say `data`, a data set of the recipe, or `path`: one of the two")
        return self

    @property
    def asked_of(self) -> str:
        """The set at `path`, or the name of the data."""
        return self.path or self.data or ""

    def asked_samples(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples that are asked about: those given, of `data`, or those at `path`. See `samples_at`."""
        return list(samples) if self.path is None else samples_at(Path(self.path), self.split, self.layout)

    @abstractmethod
    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """The questions about samples, in order."""
        raise NotImplementedError

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind: those of the set at `path`."""
        return self.rows_of(self.asked_samples(()))

    def build(self, samples: Iterable[Sample] = (), seen: bool = True) -> PublishedBenchmark:
        """See PublishedKind; `samples` are those of `data`."""
        return PublishedBenchmark(self, self._limited(self.rows_of(self.asked_samples(samples))), seen)


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
