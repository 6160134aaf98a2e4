"""OCRBench (Liu et al. 2024): 1,000 questions about text in pictures; an answer is right when it holds a right text. `all` times 1,000 is the published final score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.data.readers.files import parse_json
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.official_sets import ocrbench_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, by_group
from sightline.evaluate.vlmevalkit_tsv import listed, read_tsv

FORMULAS = "Handwritten Mathematical Expression Recognition"
GROUPS = {
    "Regular Text Recognition": "text recognition",
    "Irregular Text Recognition": "text recognition",
    "Artistic Text Recognition": "text recognition",
    "Handwriting Recognition": "text recognition",
    "Digit String Recognition": "text recognition",
    "Non-Semantic Text Recognition": "text recognition",
    "Scene Text-centric VQA": "scene text",
    "Doc-oriented VQA": "documents",
    "Key Information Extraction": "key information",
    FORMULAS: "formulas",
}
"""PublishedKind category -> the group in which it counts."""


class OcrBench(PublishedKind):
    """OCRBench: OCRBench.json with its pictures, or a TSV file."""

    files: ClassVar[str] = "OCRBench.json, or a TSV file"
    kind: Literal["ocrbench"] = "ocrbench"
    max_tokens: int = 128
    """Longest answer."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        yield from read_tsv(path, self.folder(), seen) if path.suffix == ".tsv" else ocrbench_rows(path, self.seen(seen))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Whether a right text stands in the answer: in lower case, trimmed, line breaks as blanks; formulas without any blank, in their own case."""
        told = row.told("answers")
        right = [str(one) for one in parse_json(told)] if told else listed(row.answer, row.place)
        form = _formula if row.told("category") == FORMULAS else _plain
        return Verdict(score=float(any(form(answer).find(form(one)) >= 0 for one in right)), read=answer)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, the five groups, then the ten categories."""
        scores = [verdict.score for verdict in verdicts]
        found = {"all": share(sum(scores), len(scores))} | by_group([GROUPS.get(row.told("category"), "") for row in rows], scores)
        return found | by_group([row.told("category") for row in rows], scores)


def _plain(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
