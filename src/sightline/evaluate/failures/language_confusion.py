"""Answers in another language than their questions, told by script and by words that only English uses."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import Failure, Shown, shares, worst
from sightline.kinds import Config

Language = Literal["en", "zh"]

_HAN = re.compile("[\u4e00-\u9fff]")
_WORD = re.compile(r"[A-Za-z]{2,}")
_STOP = frozenset((
    "the", "a", "an", "is", "are", "was", "were", "there", "of", "in", "on", "at", "and", "or", "not", "no", "yes", "to", "this", "that", "it",
    "with", "what", "which", "how", "many", "where", "does", "do", "can", "you", "picture", "image",
))  # fmt: skip
"""Words of nearly every English sentence."""


def language_of(text: str) -> Language | None:
    """`zh` or `en`, or None where the text does not say: numbers, boxes, single letters, and Latin words that may be names.

    A Chinese character weighs as much as a Latin word. Latin words alone are English from three on, or where one of them is a word that every English text has.
    """
    han, words = len(_HAN.findall(text)), _WORD.findall(text)
    if han:
        return "zh" if han >= len(words) else "en"
    return "en" if len(words) >= 3 or any(word.lower() in _STOP for word in words) else None


class LanguageConfusion(Config):
    """Answers in a language that nobody asked in."""

    kind: Literal["language-confusion"] = "language-confusion"
    most: float = Field(default=0.02, ge=0, le=1)
    """Share of answers that may be in another language."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. What is wanted is the language of the right answer where it says, else that of the question."""
        told = [(case, wanted, said) for case in evidence.written if (wanted := _wanted(case)) and (said := language_of(case.said))]
        bad = [(case, wanted != said) for case, wanted, said in told]
        figures = {}
        for language in ("en", "zh"):
            if own := [(case, wanted != said) for case, wanted, said in told if wanted == language]:
                figures[f"asked in {language}"] = shares(own)
        return [
            Failure(
                code="failure/language",
                title="Answers change the language",
                meaning="Share of answers whose language is known and is not that of the right answer, or of the question.",
                fix="look for rows whose question and answer differ in language, and balance the two languages",
                count=sum(flag for _, flag in bad),
                rate=shares(bad) if bad else Failure.rate,
                limit=self.most,
                figures=figures,
                worst=worst(
                    Shown(case=case, badness=float(len(case.said)), note=f"{wanted} was asked, {said} was answered")
                    for case, wanted, said in told
                    if wanted != said
                ),
                note="" if told else "no question and answer of which both languages are known",
            )
        ]


def _wanted(case: Case) -> Language | None:
    return next((found for text in case.right if (found := language_of(text))), None) or language_of(case.question)
