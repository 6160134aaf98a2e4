"""MM-Vet (Yu et al. 2024): open questions that join six capabilities; a judge says how right an answer is, 0 to 1.

Our wording of the question to the judge keeps the published contract (`<AND>`, `<OR>`, one number) and is not the published text: give that as `judge_prompt` to compare with published scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from sightline.evaluate.judging import filled, judgements, template, unjudged
from sightline.evaluate.metrics import Value
from sightline.evaluate.official_sets import mm_vet_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, resampled
from sightline.evaluate.vlmevalkit_tsv import read_tsv
from sightline.samples.exchange import Answerer

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
PROMPT = """You grade the answer of a model against the right answer. Reply with one number from 0.0 (wrong) to 1.0 (right) in steps of 0.1, and nothing else.
Where the right answer joins parts by <AND>, each part that is there earns its share, and all are needed for 1.0. Where it joins parts by <OR>, one of them is enough for 1.0.

Question | Right answer | Answer | Grade
How many legs has the table, and what stands on it? | 4 <AND> a lamp | four legs, and a vase stands on it | 0.5
How many legs has the table, and what stands on it? | 4 <AND> a lamp | It has 4 legs with a lamp on top. | 1.0
What is the man riding? | bike <OR> bicycle | a bicycle | 1.0
What is the man riding? | bike <OR> bicycle | a horse | 0.0

{question} | {answer} | {prediction} |"""
_NUMBER = re.compile(r"\s*([01](?:\.\d+)?|\.\d+)\s*\.?\s*")
_PLACES = ("question", "answer", "prediction")


class MmVet(PublishedKind):
    """MM-Vet: mm-vet.json with its pictures, or a TSV file. It needs a judge."""

    files: ClassVar[str] = "mm-vet.json, or a TSV file"
    judged: ClassVar[bool] = True
    kind: Literal["mm-vet"] = "mm-vet"
    max_tokens: int = 512
    """Longest answer."""
    judge_prompt: str | None = None
    """File with the question to the judge, which holds {question}, {answer} and {prediction}; default is our own wording."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        yield from read_tsv(path, self.folder(), seen) if path.suffix == ".tsv" else mm_vet_rows(path, self.seen(seen))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Never: only a judge can say."""
        raise unjudged(self.kind)

    def verdicts(self, rows: Sequence[PublishedRow], answers: Sequence[str], judge: Answerer | None) -> list[Verdict | None]:
        """The judge's grades; a reply that never was a number from 0 to 1 is left out."""
        if judge is None:
            raise unjudged(self.kind)
        text = template(self.judge_prompt, PROMPT, _PLACES)
        prompts = [filled(text, {"question": row.question, "answer": _spaced(row.answer), "prediction": said}) for row, said in zip(rows, answers, strict=True)]
        grades = judgements([row.index for row in rows], prompts, grade, judge)
        return [None if one is None else Verdict(score=one, read=str(one)) for one in grades]

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, the six capabilities (a question counts in each that it needs), then each combination of them."""
        found = {"all": _mean([verdict.score for verdict in verdicts])}
        needed = [tuple(part.strip() for part in re.split(r"[,_]", row.told("category", "capability")) if part.strip()) for row in rows]
        for name, chosen in [
            *((name, [name in each for each in needed]) for name in CAPABILITIES),
            *(("+".join(each), [other == each for other in needed]) for each in dict.fromkeys(needed) if len(each) > 1),
        ]:
            scores = [verdict.score for verdict, inside in zip(verdicts, chosen, strict=True) if inside]
            if scores:
                found[name] = _mean(scores)
        return found


def grade(reply: str) -> float | None:
    """The reply as a number from 0 to 1, or None when it is anything else."""
    found = _NUMBER.fullmatch(reply)
    value = float(found[1]) if found else None
    return value if value is not None and value <= 1 else None


def _spaced(answer: str) -> str:
    return answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")


def _mean(scores: Sequence[float]) -> Value:
    each = np.array(scores)
    return resampled(range(len(scores)), lambda times: times @ each / times.sum(axis=1))
