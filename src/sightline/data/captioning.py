"""Operators that ask a model: write captions, keep those that match their picture, keep the best (CapFilt, Li et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from sightline.data.operators import OPERATOR, Outcome
from sightline.data.questions import captions_in
from sightline.data.writing_checks import Written, strangers, table_of, tidy, unfinished, unfit
from sightline.data.writing_prompts import prompt_of
from sightline.kinds import Config
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Sample, Show, Text, Turn

WEB, SYNTHETIC = "web", "synthetic"
"""Where a caption is from: read with the row, or written by a model."""
_FIRST = Show(picture=0)


def is_endpoint(answerer: str) -> bool:
    """Whether `with:` names an endpoint."""
    return answerer.startswith(("http://", "https://"))


def is_outside(answerer: str) -> bool:
    """Whether `with:` names a folder or an endpoint, and no stage of the recipe: names of stages have no `/`."""
    return "/" in answerer


class Asking(Config):
    """An operator whose questions a model answers. Where that is the model of a stage, the data are made after the stage."""

    model_config = ConfigDict(serialize_by_alias=True)

    answered_by: str = Field(alias="with", min_length=1)
    """Who answers: a stage of the recipe, by its name; the folder of a run, a model or a published checkpoint, as a path with a `/`; or an endpoint, http://HOST:PORT/v1#MODEL."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of answering. Log-probabilities are taken in float32 either way."""
    key_file: str | None = None
    """File with the key that an endpoint wants, on one line."""

    @property
    def maker(self) -> str:
        """What the origin of a text says that this model wrote: `model:` and its stage, the name of its folder, or the model's name at the endpoint."""
        if is_endpoint(self.answered_by):
            return f"model:{self.answered_by.partition('#')[2]}"
        return f"model:{PurePath(self.answered_by).name or self.answered_by}"


@OPERATOR.add
class Caption(Asking):
    """Captions that a model writes of the first picture join those that the row has."""

    kind: Literal["caption"] = "caption"
    count: int = Field(default=1, ge=1)
    """Captions written per row; equal ones count once."""
    prompt: str = ""
    """What the user says after showing the picture."""
    max_tokens: int = Field(default=30, ge=1)
    """Longest caption."""
    temperature: float = Field(default=1.0, ge=0)
    """0: the likeliest caption; above: drawn, so that captions differ."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Nucleus from which tokens are drawn."""
    keep: bool = True
    """Whether the row's own captions stay."""
    known_only: bool = False
    """Reject written captions that name a label which the picture's annotations do not have (CHAIR above 0), and broken ones. Of pictures without annotations nothing is known."""
    rejected: Literal["keep", "quarantine"] = "quarantine"
    """What becomes of a row that has no caption in the end: it stays as it came, or it is set aside."""
    table: str | None = None
    """CSV file of labels; the table that Sightline brings when absent."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption; nothing of a row without a picture. An endpoint is always asked in words."""
        prompt = self.prompt or (prompt_of("caption", "en").ask if is_endpoint(self.answered_by) else "")
        asked = (_FIRST, Text(text=prompt)) if prompt else (_FIRST,)
        prompt = replace(sample, turns=(Turn(role="user", items=asked),), annotations=(), attributes={}, pictures=sample.pictures[:1])
        return [
            Request(
                sample=replace(prompt, id=f"{sample.id}#caption-{number}"),
                decoding=Decoding(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=int(rng.integers(2**31))),
            )
            for number in range(self.count if sample.pictures else 0)
        ]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with its own captions, then the written ones; `attributes["written"]` says how many those are, `attributes["rewrite"]` why texts were rejected."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="caption/no-picture")
        own = _said(sample) if self.keep else {}
        judged = self.judged(sample, answers)
        written = [one.text for one in judged if one.reason is None and one.text not in own]
        reasons = [one.reason for one in judged if one.reason]
        if reasons:
            sample = replace(sample, attributes={**sample.attributes, "rewrite": ",".join(f"rejected: {reason}" for reason in reasons)})
        if not (own or written) and self.rejected == "keep":
            return Outcome(samples=(sample,))
        said = own | dict.fromkeys(written, SYNTHETIC)
        rule = f"caption/{reasons[0]}" if reasons else "caption/nothing-written"
        return _captioned(sample, said, rule, self.maker if SYNTHETIC in said.values() else sample.origin.maker)

    def judged(self, sample: Sample, answers: Sequence[Answer]) -> list[Written]:
        """Every text with the reason for which it is rejected: refused, and with `known_only` those of `unfit`, and labels."""
        known = [region for region in sample.annotations if region.label and region.picture == 0]
        found: list[Written] = []
        for answer in answers:
            text = tidy(answer.text)
            reason = "refused" if answer.finish == "refused" else None if text else "empty"
            if reason is None and self.known_only and (reason := unfinished(answer)) is None:
                reason = unfit(text) or ("labels" if known and strangers(text, known, table_of(self.table)) else None)
            found.append(Written(text=text, reason=reason, checked=bool(known)))
        return found


@OPERATOR.add
class Match(Asking):
    """Only captions that a model takes for those of the picture stay (the filter of CapFilt). The best score of each side is a column: match-web, match-synthetic."""

    kind: Literal["match"] = "match"
    at_least: float = Field(default=0.5, ge=0, le=1)
    """Probability of a match from which a caption stays."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption."""
        return shown_pairs(sample, "match")

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with the captions that match; quarantined where none does. `attributes["captions_from"]` says of each whether it is web or synthetic."""
        return _fewer(sample, answers, "match", lambda scored: [text for text, score in scored if score >= self.at_least])


@OPERATOR.add
class RankCaptions(Asking):
    """Only the captions most similar to the picture stay: the best two of ten by a dual tower, as BLIP-2 kept them (Li et al. 2023, section 3.4). The best similarity of each side
    is a column: rank-captions-web, rank-captions-synthetic.
    """

    kind: Literal["rank-captions"] = "rank-captions"
    best: int = Field(default=2, ge=1)
    """Captions that stay."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption."""
        return shown_pairs(sample, "embed")

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with its best captions, the most similar first."""
        return _fewer(sample, answers, "rank-captions", lambda scored: [text for text, _ in sorted(scored, key=lambda pair: -pair[1])[: self.best]])


def _said(sample: Sample) -> dict[str, str]:
    """The captions of a row, each with where it is from: web as read, or synthetic."""
    texts = captions_in(sample)
    known: Any = sample.attributes.get("captions_from", ())
    return dict(zip(texts, known if len(known) == len(texts) else [WEB] * len(texts)))


def _captioned(sample: Sample, said: Mapping[str, str], rule: str, maker: str) -> Outcome:
    """The row as one caption turn: the first text is the answer, the others are alternatives; quarantined under `rule` where there is none."""
    if not said:
        return Outcome(verdict="quarantined", rule=rule)
    first, *others = [(Text(text=text),) for text in said]
    question = next((turn for turn in sample.turns if turn.role == "user"), Turn(role="user", items=(_FIRST,)))
    turns = (question, Turn(role="assistant", items=first, alternatives=tuple(others)))
    written = list(said.values()).count(SYNTHETIC)
    origin = replace(sample.origin, parents=(sample.id,), maker=maker)
    attributes = {**sample.attributes, "kind": "caption", "written": written, "captions_from": list(said.values())}
    return Outcome(samples=(replace(sample, turns=turns, attributes=attributes, origin=origin),))


def _fewer(sample: Sample, answers: Sequence[Answer], kind: str, chosen: Callable[[list[tuple[str, float]]], list[str]]) -> Outcome:
    """The row with the captions that are chosen by their scores, and the best score of each side as a column."""
    said = _said(sample)
    scored = list(zip(said, map(_score, answers), strict=True)) if sample.pictures else []
    kept = chosen(scored)
    columns = {f"{kind}-{side}": max(score for text, score in scored if said[text] == side) for side in dict.fromkeys(said[text] for text, _ in scored)}
    outcome = Outcome(samples=(sample,)) if kept == list(said) else _captioned(sample, {text: said[text] for text in kept}, f"{kind}/none", sample.origin.maker)
    return replace(outcome, columns=columns)


def shown_pairs(sample: Sample, ask: Literal["match", "embed"]) -> list[Request]:
    """A request for each caption of a row with a picture: is it that of the picture?"""
    shown = replace(sample, pictures=sample.pictures[:1], annotations=(), attributes={})
    return [
        Request(
            sample=replace(
                shown, id=f"{sample.id}#{ask}-{number}", turns=(Turn(role="user", items=(_FIRST,)), Turn(role="assistant", items=(Text(text=text),)))
            ),
            ask=ask,
        )
        for number, text in enumerate(captions_in(sample) if sample.pictures else ())
    ]


def _score(answer: Answer) -> float:
    assert answer.score is not None, f"the answer to {answer.sample} has no score"
    return answer.score
