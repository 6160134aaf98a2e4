"""Benchmarks of multiple choice: MMBench with rotated options, MMStar, AI2D, RealWorldQA, ScienceQA, and any other TSV file with options."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.evaluate import choices
from sightline.evaluate.benchmarks import normalise
from sightline.evaluate.circular import STRIDE, circular
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.official_sets import science_rows
from sightline.evaluate.published import DIRECT, PublishedKind, PublishedRow, Verdict, by_group, refused
from sightline.evaluate.vlmevalkit_tsv import read_tsv


class ChoiceKind(PublishedKind):
    """Base of kinds of multiple choice: accuracy over questions, by `category` and by `l2-category`."""

    rule: choices.Rule = "match"
    """How the option is found: match (letter, then the only option whose text is there), letter (ScienceQA's three forms), last (MMMU's)."""
    prompt: str = DIRECT
    """What is said after the options, on a line of its own."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind. A row whose answer is none of its options is refused."""
        yield from self._checked(read_tsv(Path(self.path), self.folder(), seen))

    def _checked(self, rows: Iterator[PublishedRow]) -> Iterator[PublishedRow]:
        for row in rows:
            if row.answer not in row.options:
                allowed = f"one of {', '.join(row.options)}" if row.options else "options A, B .."
                raise refused("no-such-option", row.place, f"answer {row.answer!r}", allowed, "use the split that holds answers")
            yield row

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Right where the option found is the answer; an answer in which none is found is wrong, and counted as unparsed."""
        chosen = choices.RULES[self.rule](answer, row.options)
        return Verdict(score=float(chosen == row.answer), read=chosen)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, then every category and every l2-category."""
        scores = [verdict.score for verdict in verdicts]
        found = {"all": share(sum(scores), len(scores))}
        for column in ("category", "l2-category"):
            found |= by_group([row.told(column) for row in rows], scores)
        return found


class MultipleChoice(ChoiceKind):
    """Multiple choice from any TSV file with options."""

    kind: Literal["multiple-choice"] = "multiple-choice"


class MmBench(ChoiceKind):
    """MMBench: a TSV file with rotated copies of each question; a question is right when all its copies are."""

    kind: Literal["mmbench"] = "mmbench"

    def group(self, row: PublishedRow) -> Hashable:
        """Copies of a question belong together."""
        return _number(row) % STRIDE

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` over questions under every rotation, `vanilla` over first copies alone, then categories of whole questions."""
        indices = [_number(row) for row in rows]
        hits = circular(indices, [bool(verdict.score) for verdict in verdicts], [len(row.options) for row in rows])
        first = [(row, verdict) for row, verdict, index in zip(rows, verdicts, indices, strict=True) if index < STRIDE]
        scores = [float(hits[_number(row)]) for row, _ in first]
        found = {"all": share(sum(scores), len(scores)), "vanilla": share(sum(verdict.score for _, verdict in first), len(first))}
        for column in ("l2-category", "category"):
            found |= by_group([row.told(column) for row, _ in first], scores)
        return found


def _number(row: PublishedRow) -> int:
    if not row.index.isdecimal():
        raise refused("official-row", row.place, f"index {row.index!r}", "a whole number", "name the published file")
    return int(row.index)


class MmStar(ChoiceKind):
    """MMStar: 1,500 questions that need their picture; six categories of three."""

    kind: Literal["mmstar"] = "mmstar"

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` over questions, and `macro`, the mean over l2-categories, which another harness publishes under the same name."""
        found = super().metrics(rows, verdicts)
        groups = by_group([row.told("l2-category") for row in rows], [verdict.score for verdict in verdicts])
        if not groups:
            return found
        means = list(groups.values())
        low, high = (sum((getattr(value, end) - value.value) ** 2 for value in means) ** 0.5 / len(means) for end in ("low", "high"))
        mean = sum(value.value for value in means) / len(means)
        return {"all": found.pop("all"), "macro": Value(value=mean, low=max(0.0, mean - low), high=min(1.0, mean + high), n=len(rows)), **found}


class Ai2d(ChoiceKind):
    """AI2D: questions about diagrams of school books; files with masked and with plain labels differ, and so do their scores."""

    kind: Literal["ai2d"] = "ai2d"


class RealWorldQa(ChoiceKind):
    """RealWorldQA: letters, or a short answer where a row has no options."""

    kind: Literal["realworldqa"] = "realworldqa"

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        yield from read_tsv(Path(self.path), self.folder(), seen)

    def asked(self, row: PublishedRow) -> str:
        """The published prompts hold their own instruction where there are no options."""
        return super().asked(row) if row.options else row.question

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """The option, or the same short answer after normalisation."""
        return super().verdict(row, answer) if row.options else Verdict(score=float(normalise(answer) == normalise(row.answer)), read=normalise(answer))


class ScienceQaTest(ChoiceKind):
    """ScienceQA: problems.json with the pictures of a split, or a TSV file; questions with and without a picture are reported apart."""

    files: ClassVar[str] = "problems.json, or a TSV file"
    kind: Literal["scienceqa"] = "scienceqa"
    rule: choices.Rule = "letter"
    """How the option is found: letter (official), match or last."""
    split: str = "test"
    """Split of problems.json."""
    with_picture: bool = False
    """Ask only questions that have a picture."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        rows = self._checked(read_tsv(path, self.folder(), seen)) if path.suffix == ".tsv" else science_rows(path, self.seen(seen), self.split)
        yield from (row for row in rows if not self.with_picture or _pictured(row))

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, `picture` and `no picture`, then subjects."""
        found = super().metrics(rows, verdicts)
        apart = by_group(["picture" if _pictured(row) else "no picture" for row in rows], [verdict.score for verdict in verdicts])
        return {"all": found.pop("all"), **apart, **found}


def _pictured(row: PublishedRow) -> bool:
    """Whether a question shows a picture, also where none was opened."""
    return bool(row.pictures or row.told("image", "image_path"))
