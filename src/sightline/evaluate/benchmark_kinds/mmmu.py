"""MMMU (Yue et al. 2024): college exams with several pictures in the words of a question or of its options; some answers are open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.evaluate import choices
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.published import DIRECT, PublishedKind, PublishedRow, Verdict, by_group, refused
from sightline.evaluate.vlmevalkit_tsv import listed, read_tsv
from sightline.lineage import sha256_bytes

OPEN = "Answer the question using a single word or phrase."


class Mmmu(PublishedKind):
    """MMMU from a TSV file: letters by MMMU's own rule, open answers by its comparison of numbers and texts."""

    kind: Literal["mmmu"] = "mmmu"
    rule: choices.Rule = "last"
    """How the option is found: last (official, without its guess), match or letter."""
    guess: bool = False
    """Choose at random, by a seed for each question, where no option is found: the official score does so. The share of such answers is reported either way."""
    prompt: str = DIRECT
    """What is said after the options, on a line of its own."""
    open_prompt: str = OPEN
    """What is said after a question without options."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        for row in read_tsv(Path(self.path), self.folder(), seen):
            if row.options and row.answer not in row.options:
                raise refused("no-such-option", row.place, f"answer {row.answer!r}", f"one of {', '.join(row.options)}", "use the split that holds answers")
            yield row

    def asked(self, row: PublishedRow) -> str:
        """The question with its own instruction."""
        return super().asked(row) if row.options else "\n".join(filter(None, (row.told("hint"), row.question, self.open_prompt)))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """The option, or an open answer that holds a right one."""
        if not row.options:
            return Verdict(score=float(choices.open_right(answer, listed(row.answer, row.place))), read=answer.strip() or None)
        chosen = choices.RULES[self.rule](answer, row.options)
        if chosen is None and self.guess:
            rng = np.random.default_rng(int(sha256_bytes(row.index.encode())[:16], 16))
            return Verdict(score=float(list(row.options)[rng.integers(len(row.options))] == row.answer), read=None)
        return Verdict(score=float(chosen == row.answer), read=chosen)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` over questions (micro-average over subjects), choice and open apart, then splits, disciplines and subjects."""
        scores = [verdict.score for verdict in verdicts]
        found = {"all": share(sum(scores), len(scores))} | by_group(["choice" if row.options else "open" for row in rows], scores)
        for column in ("split", "l2-category", "category"):
            found |= by_group([row.told(column) for row in rows], scores)
        return found
