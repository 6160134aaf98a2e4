"""What the engine is asked, what it tells while it works, and how it says no."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from sightline.errors import Problem
from sightline.model.packing import Encoded
from sightline.model.token_grammar import TokenGrammar
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Item, Sample

Finish = Literal["stop", "length"]


class Declined(Exception):
    """A request that is not taken, or not finished. `status` is that of HTTP; `retry_after`, s, where another try may help."""

    def __init__(self, status: int, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(f"{problem.found}; {problem.fix}")
        self.status, self.problem, self.retry_after = status, problem, retry_after


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token of a choice, and the text that may be shown now."""

    choice: int
    text: str
    token: int
    logp: float
    likeliest: tuple[tuple[int, float], ...] = ()
    """(token, log-probability) of the likeliest tokens there, where they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A choice is whole."""

    choice: int
    finish: Finish
    text: str
    tokens: tuple[int, ...]
    logps: tuple[float, ...]
    items: tuple[Item, ...] = ()
    """What the text says, regions in px of the picture shown last, where the job said what is asked."""
    problems: tuple[Problem, ...] = ()
    """What of it is not well formed."""


@dataclass(frozen=True, kw_only=True)
class Began:
    """The prompt is read."""

    cached: int
    """Tokens of it that were known."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job is over without all of its choices."""

    declined: Declined


Event = Began | Added | Ended | Failed


@dataclass(kw_only=True, eq=False)
class Job:
    """One prompt, one Decoding for each answer to it, and who listens. The listener is called in the engine's thread and must not wait."""

    encoded: Encoded
    decodings: tuple[Decoding, ...]
    listen: Callable[[Event], None]
    sample: Sample | None = None
    """What is asked, where somebody wants to know the regions of its answers."""
    client: str = ""
    """Whose request it is: clients take turns."""
    likeliest: int = 0
    """Likeliest tokens that are told beside each token."""
    grammar: TokenGrammar | None = None
    """What its answers are held to, besides that of a decoding."""
    deadline: float = float("inf")
    """time.monotonic() at which it is given up."""
    made: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    """Set by anybody; the engine drops the job before its next step."""

    @property
    def most(self) -> int:
        """Tokens of the prompt and of its longest answer."""
        return self.encoded.length + max(one.max_tokens for one in self.decodings)
