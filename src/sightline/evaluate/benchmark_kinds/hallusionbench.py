"""HallusionBench (Guan et al. 2024): yes/no questions in pairs, about a figure and about an edited or missing one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.evaluate import yes_no
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.official_sets import hallusion_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, refused
from sightline.evaluate.vlmevalkit_tsv import read_tsv

_PARTS = 6
_SET, _FIGURE, _QUESTION = -3, -2, -1


class HallusionBench(PublishedKind):
    """HallusionBench: HallusionBench.json with its folder of figures, or a TSV file. No judge is asked: answers are read by rule."""

    files: ClassVar[str] = "HallusionBench.json, or a TSV file"
    kind: Literal["hallusionbench"] = "hallusionbench"
    rule: yes_no.Rule = "tolerant"
    """How answers are read: tolerant, word, mme or pope."""
    prompt: str = "Please answer yes or no."
    """What is said after the question, on a line of its own."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        yield from read_tsv(path, self.folder(), seen) if path.suffix == ".tsv" else hallusion_rows(path, self.seen(seen))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Right where the label is the truth's; an answer that cannot be read is wrong."""
        said = yes_no.RULES[self.rule](answer)
        return Verdict(score=float(said == row.answer.lower()), read=said)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` = aAcc over questions, `figures` = fAcc (all questions about a figure right), `questions` = qAcc (a question right about all its figures); then each for each category."""
        found = _figures(rows, verdicts)
        for name in ("category", "l2-category"):
            for value in dict.fromkeys(row.told(name) for row in rows if row.told(name)):
                inside = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if row.told(name) == value]
                figures = _figures([row for row, _ in inside], [verdict for _, verdict in inside])
                found |= {f"{value} {metric}": figure for metric, figure in figures.items()}
        return found


def _figures(rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
    figures: dict[Hashable, list[bool]] = {}
    questions: dict[Hashable, list[bool]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        parts = row.index.split("_")
        if len(parts) < _PARTS:
            found = f"index {row.index!r}"
            raise refused("official-row", row.place, found, "CATEGORY_SUBCATEGORY_VISUAL_SET_FIGURE_QUESTION", "name the published file")
        sub = row.told("l2-category", "category")
        figures.setdefault((sub, parts[_SET], parts[_FIGURE]), []).append(bool(verdict.score))
        questions.setdefault((sub, parts[_SET], parts[_QUESTION]), []).append(bool(verdict.score))
    every = {"figures": figures, "questions": questions}
    return {"all": share(sum(verdict.score for verdict in verdicts), len(verdicts))} | {
        name: share(sum(all(several) for several in groups.values()), len(groups)) for name, groups in every.items()
    }
