"""Operators that ask a model of the run: write captions, keep those that match their picture, keep the best (CapFilt, Li et al. 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field

from sightline.data.operators import Outcome
from sightline.data.questions import captions_in
from sightline.kinds import Config
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Sample, Show, Text, Turn

_FIRST = Show(picture=0)


class Asking(Config):
    """An operator whose questions a stage of the recipe answers: the data are made after that stage."""

    model_config = ConfigDict(serialize_by_alias=True)

    answered_by: str = Field(alias="with")
    """Name of the stage whose model answers."""


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

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption; nothing of a row without a picture."""
        asked = (_FIRST, Text(text=self.prompt)) if self.prompt else (_FIRST,)
        prompt = replace(sample, turns=(Turn(role="user", items=asked),), annotations=(), attributes={}, pictures=sample.pictures[:1])
        return [
            Request(
                sample=replace(prompt, id=f"{sample.id}#caption-{number}"),
                decoding=Decoding(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=int(rng.integers(2**31))),
            )
            for number in range(self.count if sample.pictures else 0)
        ]

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with its own captions, then the written ones; `attributes["written"]` says how many those are."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="caption/no-picture")
        own = captions_in(sample) if self.keep else []
        written = [text for text in dict.fromkeys(answer.text.strip() for answer in answers) if text and text not in own]
        return captioned(sample, [*own, *written], "caption/nothing-written", len(written))


class Match(Asking):
    """Only captions that a model takes for those of the picture stay (the filter of CapFilt)."""

    kind: Literal["match"] = "match"
    at_least: float = Field(default=0.5, ge=0, le=1)
    """Probability of a match from which a caption stays."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption."""
        return _pairs(sample, "match")

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with the captions that match; quarantined where none does."""
        texts = captions_in(sample)
        kept = [text for text, answer in zip(texts, answers, strict=bool(sample.pictures)) if _score(answer) >= self.at_least]
        return _fewer(sample, texts, kept, "match/none")


class RankCaptions(Asking):
    """Only the captions most similar to the picture stay: the best two of ten by a dual tower, as BLIP-2 kept them (Li et al. 2023, section 3.4)."""

    kind: Literal["rank-captions"] = "rank-captions"
    best: int = Field(default=2, ge=1)
    """Captions that stay."""

    def ask(self, sample: Sample, rng: np.random.Generator) -> list[Request]:
        """One request per caption."""
        return _pairs(sample, "embed")

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The row with its best captions, the most similar first."""
        texts = captions_in(sample)
        ranked = sorted(zip(texts, answers, strict=bool(sample.pictures)), key=lambda pair: -_score(pair[1]))
        return _fewer(sample, texts, [text for text, _ in ranked[: self.best]], "rank-captions/none")


def captioned(sample: Sample, texts: Sequence[str], rule: str, written: int) -> Outcome:
    """The row as one caption turn: the first text is the answer, the others are alternatives; quarantined under `rule` where there is none."""
    if not texts:
        return Outcome(verdict="quarantined", rule=rule)
    said = [(Text(text=text),) for text in texts]
    question = next((turn for turn in sample.turns if turn.role == "user"), Turn(role="user", items=(_FIRST,)))
    turns = (question, Turn(role="assistant", items=said[0], alternatives=tuple(said[1:])))
    origin = replace(sample.origin, parents=(sample.id,), maker="model:caption" if written else sample.origin.maker)
    return Outcome(samples=(replace(sample, turns=turns, attributes={**sample.attributes, "kind": "caption", "written": written}, origin=origin),))


def _fewer(sample: Sample, texts: Sequence[str], kept: Sequence[str], rule: str) -> Outcome:
    if kept == texts:
        return Outcome(samples=(sample,))
    first_written = len(texts) - int(str(sample.attributes.get("written", 0)))
    return captioned(sample, kept, rule, sum(texts.index(text) >= first_written for text in kept))


def _pairs(sample: Sample, ask: Literal["match", "embed"]) -> list[Request]:
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
