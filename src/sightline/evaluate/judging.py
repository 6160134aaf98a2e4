"""Asking a judge: one prompt for each answer, tried again a little warmer where its reply cannot be read. A reply that never can be is left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sightline.data.readers.files import read_text
from sightline.errors import Problem, Refused
from sightline.evaluate.published import refused
from sightline.samples.exchange import Answerer, Decoding, Request
from sightline.samples.sample import Origin, Sample, Text, Turn

Read = TypeVar("Read")
TRIES = 5
_WARMER = 0.5
_MAX_TOKENS = 1024


def unjudged(kind: str) -> Refused:
    """What is said where a benchmark needs a judge and has none."""
    fix = "evaluate.NAME.judge=http://HOST:PORT/v1#MODEL, or --judge"
    return Refused(Problem(code="evaluate/no-judge", place=kind, found="no judge", allowed="a model that judges answers: an endpoint, or a folder", fix=fix))


def template(file: str | None, own: str, names: Sequence[str]) -> str:
    """The text of a prompt file, or our own wording. Refused when it lacks one of `{name}`."""
    text = own if file is None else read_text(Path(file))
    missing = [name for name in names if f"{{{name}}}" not in text]
    if missing:
        allowed = ", ".join(f"{{{name}}}" for name in names)
        raise refused("judge-prompt", str(file), f"a prompt without {', '.join(missing)}", allowed, "put each where it belongs")
    return text


def filled(text: str, values: Mapping[str, str]) -> str:
    """The prompt with each `{name}` replaced, once: what an answer says is never read as a place."""
    pieces = [text]
    for name, value in values.items():
        mark = f"{{{name}}}"
        pieces = [part for piece in pieces for part in _around(piece, mark, value)]
    return "".join(str(piece) for piece in pieces)


class _Put(str):
    """Text that was put in, and is not looked through again."""


def _around(piece: str, mark: str, value: str) -> list[str]:
    if isinstance(piece, _Put) or mark not in piece:
        return [piece]
    parts = piece.split(mark)
    return [one for part in parts for one in (part, _Put(value))][:-1]


def judgements(names: Sequence[str], prompts: Sequence[str], read: Callable[[str], Read | None], judge: Answerer) -> list[Read | None]:
    """What the judge says to each prompt, as `read` reads it: greedy first, then at temperatures 0.5, 1, 1.5 and 2 for replies that could not be read. None: it never could."""
    found: dict[int, Read] = {}
    for attempt in range(TRIES):
        open_ones = [number for number in range(len(prompts)) if number not in found]
        asked = {f"{names[number]}?{attempt}": number for number in open_ones}
        decoding = Decoding(max_tokens=_MAX_TOKENS, temperature=attempt * _WARMER, seed=attempt)
        requests = [
            Request(
                sample=Sample(id=name, turns=(Turn(role="user", items=(Text(text=prompts[number]),)),), origin=Origin(source="judge")),
                decoding=decoding,
            )
            for name, number in asked.items()
        ]
        for answer in judge.answer(requests) if requests else ():
            said = read(answer.text) if answer.finish != "refused" else None
            if said is not None:
                found[asked[answer.sample]] = said
    return [found.get(number) for number in range(len(prompts))]
