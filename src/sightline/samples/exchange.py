"""Requests and answers: how any room asks a model, and how it is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sightline.errors import Problem
from sightline.lineage import sha256_json
from sightline.samples.grammar import GrammarName
from sightline.samples.sample import Item, Sample


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How text is drawn. temperature 0 is greedy.

    `grammar`: the answer is regions and nothing else, in the codec of the model that answers (`codecs.Codec.grammar`).
    """

    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    grammar: GrammarName | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A question to a model. Last turn user: answer it. Last turn assistant: its text is given (score)."""

    sample: Sample
    ask: Literal["write", "score", "choose", "match", "embed"] = "write"
    decoding: Decoding = Decoding()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. `tokens` include the end token when one was drawn; `logps` are natural logarithms, one per token."""

    key: str
    sample: str
    weights: str
    text: str
    items: tuple[Item, ...] = ()
    tokens: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    choice: int | None = None
    score: float | None = None
    vector: tuple[float, ...] | None = None
    finish: Literal["stop", "length", "refused"] = "stop"
    problems: tuple[Problem, ...] = field(default_factory=tuple)
    seconds: float = 0.0


class Answerer(Protocol):
    """Local, remote, judging and refined answerers are interchangeable."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once, in any order."""
        ...

    def measure(self, sample: Sample) -> int:
        """Tokens that the prompt takes."""
        ...


def answer_key(weights: str, prompt: str, pictures: tuple[str, ...], decoding: Mapping[str, object], ask: str = "write") -> str:
    """sha256 over weights id, rendered prompt, picture hashes and decoding: the name under which an answer is found again."""
    return sha256_json({"weights": weights, "prompt": prompt, "pictures": list(pictures), "decoding": dict(decoding), "ask": ask})
