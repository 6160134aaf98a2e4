"""Operators that score rows by a model and keep some by their score: perplexity (POINTS, Liu et al. 2024), similarity (CLIPScore, Hessel et al. 2021), matching (BLIP, Li et al. 2022).

A score is a column that stays with the row, so that `by-score` chooses again, by other thresholds, without asking any model. A row that could not be scored is set aside
under KIND/missing where something is chosen, and it counts in the number of which a share is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from sightline.data.captioning import Asking, shown_pairs
from sightline.data.operators import OPERATOR, Decision, Outcome
from sightline.data.questions import captions_in
from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config
from sightline.lineage import sha256_json
from sightline.progress import Progress
from sightline.samples.exchange import Answer, Answerer, Request
from sightline.samples.sample import Sample, Show, Text, Turn
from sightline.samples.store import Store

PROMPT = "please generate a caption for this image."
"""What POINTS asked before a caption."""
_BLOCK = 512


def perplexity(logps: Sequence[float]) -> float:
    """exp of the mean negative log-probability of tokens (natural logarithms, the end token among them); infinite where one is impossible."""
    with np.errstate(over="ignore"):
        return float(np.exp(-np.mean(np.asarray(logps, np.float64))))


def decided(
    index: pa.Table,
    score: str,
    kind: str,
    *,
    lowest: float | None = None,
    highest: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> list[Decision]:
    """A decision per row of `index` from its column `score`.

    Bounds come first (rules KIND/below, KIND/above), then of the rows within them the lowest or highest int(share * rows), rows being all of `index` (rule KIND/share); equal
    scores go by id. Without any of these every row is kept; with one, rows without a score are set aside under KIND/missing.
    """
    names = index.column_names
    values: list[float | None] = index.column(score).to_pylist() if score in names else [None] * index.num_rows
    if lowest is None and highest is None and at_least is None and at_most is None:
        return [Decision(verdict="kept") for _ in values]
    rules: list[str | None] = [None] * len(values)
    for row, value in enumerate(values):
        if value is None or math.isnan(value):
            rules[row] = f"{kind}/missing"
        elif at_least is not None and value < at_least:
            rules[row] = f"{kind}/below"
        elif at_most is not None and value > at_most:
            rules[row] = f"{kind}/above"
    share = lowest if lowest is not None else highest
    if share is not None:
        sign, ids = (1.0 if lowest is not None else -1.0), index.column("id").to_pylist()
        order = sorted((sign * value, ids[row], row) for row, value in enumerate(values) if rules[row] is None and value is not None)
        for _, _, row in order[int(len(values) * share) :]:
            rules[row] = f"{kind}/share"
    return [Decision(verdict="quarantined" if rule else "kept", rule=rule) for rule in rules]


@OPERATOR.add
class Perplexity(Asking):
    """How surprised a model is by what a row teaches: exp of the mean negative log-probability of its tokens, the end of each turn included."""

    kind: Literal["perplexity"] = "perplexity"
    prompt: str | None = PROMPT
    """What is asked before each text of the row; null: the row's own turns, each answer after all that was said before it."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that stays, the lowest first; null: all, and the score is a column."""
    column: ClassVar[str] = "perplexity"

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per text: every caption after the prompt, or every answer after its own question."""
        if self.prompt is None:
            told = list(_answers(sample))
        else:
            shown = tuple(Show(picture=number) for number in range(len(sample.pictures)))
            question = Turn(role="user", items=(*shown, Text(text=self.prompt)))
            told = [(question, Turn(role="assistant", items=(Text(text=text),))) for text in captions_in(sample)]
        plain = replace(sample, annotations=(), attributes={})
        return [Request(sample=replace(plain, id=f"{sample.id}#perplexity-{number}", turns=turns), ask="score") for number, turns in enumerate(told)]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with the perplexity of all its tokens together; none where a text of it could not be scored."""
        whole = bool(answers) and all(answer.logps for answer in answers)
        return _column(sample, self.column, perplexity([logp for answer in answers for logp in answer.logps]) if whole else None)

    def decide(self, index: pa.Table) -> list[Decision]:
        """Keeps the lowest share (rule perplexity/share)."""
        return decided(index, self.column, self.kind, lowest=self.keep)


class _PairScore(Asking):
    """What scores a picture and the texts of its row one by one; the row's score is their mean."""

    keep: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that stays, the highest first; null: all, and the score is a column."""
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    """Score from which a row stays."""
    column: ClassVar[str]
    asks: ClassVar[Literal["match", "embed"]]

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption of a row with a picture."""
        return shown_pairs(sample, self.asks)

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample with the mean score of its texts; none where one could not be scored."""
        scores = [answer.score for answer in answers if answer.score is not None]
        return _column(sample, self.column, float(np.mean(scores)) if scores and len(scores) == len(answers) else None)

    def decide(self, index: pa.Table) -> list[Decision]:
        """Keeps the highest share of the rows at or above the bound."""
        return decided(index, self.column, self.column, highest=self.keep, at_least=self.at_least)


@OPERATOR.add
class ClipScore(_PairScore):
    """Cosine of picture and text by a dual tower. Bounds hold for one tower and one language (LAION: 0.30 with ViT-B/32, 0.28 for 5B in English); shares travel better."""

    kind: Literal["clip-score"] = "clip-score"
    column: ClassVar[str] = "clip-score"
    asks: ClassVar[Literal["match", "embed"]] = "embed"


@OPERATOR.add
class MatchScore(_PairScore):
    """Probability that a text is that of its picture (image-text matching)."""

    kind: Literal["match-score"] = "match-score"
    column: ClassVar[str] = "match-score"
    asks: ClassVar[Literal["match", "embed"]] = "match"


@OPERATOR.add
class ByScore(Config):
    """Chooses rows by a score that they carry; no model is asked."""

    kind: Literal["by-score"] = "by-score"
    score: str
    """Name of the score, such as perplexity."""
    at_least: float | None = Field(default=None, allow_inf_nan=False)
    """Score from which a row stays."""
    at_most: float | None = Field(default=None, allow_inf_nan=False)
    """Score up to which a row stays."""
    lowest: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that stays, the lowest first."""
    highest: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows that stays, the highest first."""

    @model_validator(mode="after")
    def _chooses(self) -> ByScore:
        if self.lowest is not None and self.highest is not None:
            raise ValueError("give `lowest` or `highest`, not both")
        if self.lowest is None and self.highest is None and self.at_least is None and self.at_most is None:
            raise ValueError("nothing is chosen: give `at_least`, `at_most`, `lowest` or `highest`")
        return self

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The sample as it is: `decide` judges."""
        return Outcome(samples=(sample,))

    def decide(self, index: pa.Table) -> list[Decision]:
        """Keeps what the thresholds choose. Raises Refused where no row carries the score."""
        known = [field.name for field in index.schema if pa.types.is_floating(field.type)]
        if self.score not in known:
            raise Refused(
                Problem(
                    code="data/no-score",
                    place="by-score.score",
                    found=f"no row has a score {self.score!r}",
                    allowed=", ".join(known) or "a score of the rows, which carry none",
                    fix=nearest(self.score, known) or "score the rows first: sightline data score STORE OUT --score perplexity --with MODEL",
                )
            )
        return decided(index, self.score, self.kind, lowest=self.lowest, highest=self.highest, at_least=self.at_least, at_most=self.at_most)


SCORING: dict[str, type[Perplexity] | type[ClipScore] | type[MatchScore] | type[ByScore]] = {
    "perplexity": Perplexity,
    "clip-score": ClipScore,
    "match-score": MatchScore,
    "by-score": ByScore,
}
"""Operators that score and choose, by kind."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a pass over a store gave."""

    store: Store
    judged: int
    """Rows that were judged: those that stood, and those that an earlier pass of this sort had set aside."""
    missing: tuple[tuple[str, str], ...]
    """Id of each row without a score, and why."""


def score_store(store: Store, operator: Perplexity | ClipScore | MatchScore | ByScore, out: Path, answerer: Answerer | None = None) -> Scored:
    """A store with the same rows at `out`, its scores and verdicts beside hard-linked shards.

    Judged are the kept rows and those that a score had set aside before, so that thresholds can be loosened as well. Raises Refused for `by-score` on rows without the score, and
    when no row is kept.
    """
    known = store.index
    scores = [dict(row or ()) for row in known["scores"].to_pylist()]
    verdicts, rules = known["verdict"].to_pylist(), known["rule"].to_pylist()
    rows = [row for row, verdict in enumerate(verdicts) if verdict == "kept" or str(rules[row]).partition("/")[0] in SCORING]
    missing: list[tuple[str, str]] = []
    if not isinstance(operator, ByScore):
        assert answerer is not None, f"{operator.kind} asks a model"
        progress = Progress(f"score {operator.kind}", len(rows), "rows")
        for row, value, why in _asked(store, rows, operator, answerer):
            scores[row].pop(operator.column, None)
            if value is None:
                missing.append((known["id"][row].as_py(), why))
            else:
                scores[row][operator.column] = value
            progress.advance()
        progress.close()
    judged = known.select(["row", "id", "source", "licence"]).take(rows)
    for name in dict.fromkeys(name for row in rows for name in scores[row]):
        judged = judged.append_column(name, pa.array([scores[row].get(name) for row in rows], pa.float64()))
    for row, decision in zip(rows, operator.decide(judged), strict=True):
        verdicts[row], rules[row] = decision.verdict, decision.rule
    if "kept" not in verdicts:
        found = ", ".join(f"{count} {rule}" for rule, count in Counter(rules).items()) or "no rows"
        raise Refused(
            Problem(code="data/nothing-kept", place=str(out), found=found, allowed="at least one row", fix="loosen the thresholds: no model is asked again")
        )
    table = pa.table({"row": known["row"], "verdict": pa.array(verdicts, pa.string()), "rule": pa.array(rules, pa.string()), "scores": _maps(scores)})
    said = sha256_json(operator.model_dump(mode="json"))
    return Scored(store=store.with_verdicts(table, out, config=said, maker={"step": "score"}), judged=len(rows), missing=tuple(missing))


def _asked(store: Store, rows: Sequence[int], operator: Perplexity | ClipScore | MatchScore, answerer: Answerer) -> Iterator[tuple[int, float | None, str]]:
    """(row, score, why there is none) of each row. Requests are named by row: sources may share ids."""
    rng = np.random.default_rng(0)  # these operators draw nothing
    for start in range(0, len(rows), _BLOCK):
        samples = {row: replace(store[row], id=str(row)) for row in rows[start : start + _BLOCK]}
        requests = {row: operator.ask(sample, rng) for row, sample in samples.items()}
        answers = {answer.sample: answer for answer in answerer.answer([request for asked in requests.values() for request in asked])}
        for row, asked in requests.items():
            said = [answers[request.sample.id] for request in asked]
            value: Any = operator.each(samples[row], rng, said).columns[operator.column]
            problems = [problem for answer in said for problem in answer.problems]
            yield row, value, "; ".join(f"{problem.code}: {problem.found}" for problem in problems) or ("no score in the answer" if said else "no text")


def _maps(scores: Sequence[dict[str, float]]) -> pa.Array:
    return pa.array([list(row.items()) for row in scores], pa.map_(pa.string(), pa.float64()))


def _column(sample: Sample, name: str, value: float | None) -> Outcome:
    return Outcome(samples=(sample,), columns={name: value})


def _answers(sample: Sample) -> Iterator[tuple[Turn, ...]]:
    """The turns up to each answer that is learnt; independent pairs stand for themselves."""
    head = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    apart = sample.attributes.get("turns") == "independent"
    for number, turn in enumerate(sample.turns):
        if turn.role == "assistant" and turn.weight > 0:
            yield (*head, *sample.turns[number - 1 : number + 1]) if apart else sample.turns[: number + 1]
