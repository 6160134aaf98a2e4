"""LLaVA-Bench (Liu et al. 2023), in the wild: open questions; a judge compares an answer with a reference that was written from the picture's description.

The score is the mean grade of the answers by the mean grade of the references. Our wording of the question to the judge keeps the published contract (two numbers from 1 to 10 on the first line) and is
not the published text: give that as `judge_prompt` to compare with published scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from sightline.evaluate.judging import filled, judgements, template, unjudged
from sightline.evaluate.metrics import Value
from sightline.evaluate.official_sets import wild_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, resampled
from sightline.evaluate.vlmevalkit_tsv import read_tsv
from sightline.samples.exchange import Answerer

PROMPT = """[Description of the picture]
{caption}

[Question]
{question}

[Assistant 1]
{reference}

[Assistant 2]
{prediction}

[Task]
The description says what the picture shows. Grade both answers to the question for being helpful, relevant, right and detailed, each from 1 to 10, higher is better.
Write the grade of Assistant 1 and that of Assistant 2 on the first line, two numbers with a blank between them and nothing else. Give your reasons from the second line on. The order of the answers must not matter."""
_PLACES = ("caption", "question", "reference", "prediction")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MOST = 10.0


class LlavaBench(PublishedKind):
    """LLaVA-Bench: the folder with questions.jsonl, context.jsonl, answers_gpt4.jsonl and images, or a TSV file with `caption` and `gpt4_ans`. It needs a judge."""

    files: ClassVar[str] = "a folder with questions.jsonl, context.jsonl, answers_gpt4.jsonl and images, or a TSV file"
    judged: ClassVar[bool] = True
    kind: Literal["llava-bench"] = "llava-bench"
    max_tokens: int = 1024
    """Longest answer."""
    judge_prompt: str | None = None
    """File with the question to the judge, which holds {caption}, {question}, {reference} and {prediction}; default is our own wording."""
    swap: bool = False
    """Ask the judge a second time with the answers in the other order, and take the means: judges prefer a place."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        if path.suffix == ".tsv":
            for row in read_tsv(path, self.folder(), seen):
                yield PublishedRow(**{**vars(row), "answer": row.told("gpt4_ans") or row.answer})
        else:
            yield from wild_rows(path, self.seen(seen))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Never: only a judge can say."""
        raise unjudged(self.kind)

    def verdicts(self, rows: Sequence[PublishedRow], answers: Sequence[str], judge: Answerer | None) -> list[Verdict | None]:
        """The judge's two grades, the answer's as a score of ten and both as `read`; a reply without two numbers on its first line is left out."""
        if judge is None:
            raise unjudged(self.kind)
        text = template(self.judge_prompt, PROMPT, _PLACES)
        orders = (False, True) if self.swap else (False,)
        names = [f"{row.index}{'~' if turned else ''}" for turned in orders for row in rows]
        prompts = [self._prompt(text, row, said, turned) for turned in orders for row, said in zip(rows, answers, strict=True)]
        given = judgements(names, prompts, grades, judge)
        first, second = given[: len(rows)], given[len(rows) :]
        found: list[Verdict | None] = []
        for number, one in enumerate(first):
            other = second[number] if self.swap else one[::-1] if one else None
            if one is None or other is None:
                found.append(None)
                continue
            theirs, ours = (one[0] + other[1]) / 2, (one[1] + other[0]) / 2
            found.append(Verdict(score=ours / _MOST, read=f"{theirs:g} {ours:g}"))
        return found

    def _prompt(self, text: str, row: PublishedRow, said: str, turned: bool) -> str:
        reference, prediction = (said, row.answer) if turned else (row.answer, said)
        return filled(text, {"caption": row.told("caption"), "question": row.question, "reference": reference, "prediction": prediction})

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`: mean grade of the answers by that of the references, and `grade`, the answers' mean of ten; then the ratio for each category."""
        theirs = np.array([float((verdict.read or "0").split(" ")[0]) for verdict in verdicts])
        ours = np.array([verdict.score * _MOST for verdict in verdicts])
        found = {"all": _ratio(ours, theirs), "grade": resampled(range(len(ours)), lambda times: times @ ours / (_MOST * times.sum(axis=1)))}
        for category in dict.fromkeys(row.told("category") for row in rows):
            inside = np.array([row.told("category") == category for row in rows])
            found[category] = _ratio(ours[inside], theirs[inside])
        return found


def _ratio(ours: np.ndarray, theirs: np.ndarray) -> Value:
    return resampled(range(len(ours)), lambda times: times @ ours / np.maximum(times @ theirs, 1e-9))


def grades(reply: str) -> tuple[float, float] | None:
    """The two numbers of the first line, each from 1 to 10; None when there are not exactly two."""
    first = next((line for line in reply.splitlines() if line.strip()), "")
    numbers = [float(text) for text in _NUMBER.findall(first.replace(",", " "))]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and all(1 <= number <= _MOST for number in numbers) else None
