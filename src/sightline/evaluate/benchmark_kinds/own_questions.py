"""A user's own questions as a benchmark, in JSON lines: question, answer, image, and where wanted options and kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.evaluate import choices, short_answers, yes_no
from sightline.evaluate.benchmarks import normalise
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.published import DIRECT, PublishedKind, PublishedRow, Verdict, by_group
from sightline.evaluate.question_files import own_rows, right_answers

_SIDES = {"yes": "yes", "no": "no", "是": "yes", "否": "no", "有": "yes", "没有": "no"}


class OwnQuestions(PublishedKind):
    """JSON lines of `question`, `answer` (a text or a list of right texts), `image` or `images`, and where wanted `options` (a list, or letters with texts), `kind` and `id`."""

    files: ClassVar[str] = "JSON lines with question, answer and image"
    kind: Literal["jsonl"] = "jsonl"
    rule: Literal["auto"] | short_answers.Rule = "auto"
    """How answers without options are compared. auto: as yes or no where the right answer is one of them, else equal but for case, width and a final period; or exact, loose, relaxed, anls, vqa, contains."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        return own_rows(Path(self.path), self.pictures, seen)

    def asked(self, row: PublishedRow) -> str:
        """Options are followed by the instruction to answer with a letter, unless `prompt` says another."""
        text = super().asked(row)
        return f"{text}\n{DIRECT}" if row.options and not self.prompt else text

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """With options the letter that is chosen; else by the rule."""
        right = right_answers(row)
        if row.options:
            chosen = choices.match(answer, row.options)
            return Verdict(score=float(chosen in right), read=chosen if chosen in row.options else None)
        if self.rule != "auto":
            return Verdict(score=short_answers.RULES[self.rule](answer, right), read=answer if answer.strip() else None)
        side = _SIDES.get(normalise(row.answer))
        if side is not None and len(right) == 1:
            said = yes_no.tolerant(answer)
            return Verdict(score=float(said == side), read=said)
        return Verdict(score=float(normalise(answer) in map(normalise, right)), read=answer if answer.strip() else None)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, then each `kind`."""
        scores = [verdict.score for verdict in verdicts]
        return {"all": share(sum(scores), len(scores))} | by_group([row.told("category") for row in rows], scores)
