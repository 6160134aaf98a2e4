"""Answers on disk: append-only lines found again by key, so that nothing is asked twice and a killed evaluation goes on where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import Problem, Refused
from sightline.progress import Progress
from sightline.samples.exchange import Answer, Answerer, Request
from sightline.samples.records import item_of, item_record
from sightline.samples.sample import Sample


def _number(value: float) -> float | str:
    """JSON has no infinity: a log-probability of -inf is written as the string that `float` reads back."""
    return value if math.isfinite(value) else str(value)


def _optional(value: float | None) -> float | str | None:
    return None if value is None else _number(value)


def answer_record(answer: Answer) -> dict[str, Any]:
    """An answer as strict JSON; `answer_of` gives back an equal one."""
    return {
        "key": answer.key,
        "sample": answer.sample,
        "weights": answer.weights,
        "text": answer.text,
        "items": [item_record(item) for item in answer.items],
        "tokens": list(answer.tokens),
        "logps": [_number(value) for value in answer.logps],
        "choice": answer.choice,
        "score": _optional(answer.score),
        "vector": None if answer.vector is None else [_number(value) for value in answer.vector],
        "finish": answer.finish,
        "problems": [problem.record() for problem in answer.problems],
        "seconds": _number(answer.seconds),
    }


def answer_of(record: dict[str, Any]) -> Answer:
    """The answer of a record; ValueError, KeyError or TypeError when it is none."""
    fields = dict(record)
    fields["items"] = tuple(item_of(item) for item in record["items"])
    fields["tokens"] = tuple(record["tokens"])
    fields["logps"] = tuple(float(value) for value in record["logps"])
    fields["score"] = None if record["score"] is None else float(record["score"])
    fields["vector"] = None if record["vector"] is None else tuple(float(value) for value in record["vector"])
    fields["problems"] = tuple(Problem(**problem) for problem in record["problems"])
    fields["seconds"] = float(record["seconds"])
    return Answer(**fields)


def _line(answer: Answer) -> bytes:
    record = answer_record(answer)
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, cut off by the end of the answer: only an escape can hold it
        return json.dumps(record, allow_nan=False).encode() + b"\n"


class AnswerFile:
    """`answers.jsonl`: one answer a line, never rewritten.

    A last line torn by a kill is cut off and counted in `dropped`. A broken line before it is no accident of ours and is refused, with all others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        """Torn lines cut off while opening: 0 or 1."""
        self._by_key: dict[str, Answer] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        unfinished = lines.pop()
        if unfinished:
            lines.append(unfinished)
        problems: list[Problem] = []
        for number, line in enumerate(lines, 1):
            try:
                answer = answer_of(json.loads(line))
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                if number == len(lines):
                    self._cut(len(line) + (0 if unfinished else 1))
                    continue
                found = f"{line[:60].decode(errors='replace')!r} ({type(error).__name__}: {error})"
                problems.append(
                    Problem(
                        code="evaluate/broken-answer",
                        place=f"{self.path}:{number}",
                        found=found,
                        allowed="one answer as JSON",
                        fix=f"delete line {number}: it is asked again",
                    )
                )
            else:
                self._by_key.setdefault(answer.key, answer)
        if problems:
            raise Refused(problems)
        if unfinished and not self.dropped:
            self._write(b"\n")

    def _cut(self, length: int) -> None:
        self.dropped = 1
        with self.path.open("r+b") as stream:
            stream.truncate(self.path.stat().st_size - length)

    def _write(self, data: bytes) -> None:
        with self.path.open("ab", buffering=0) as stream:
            stream.write(data)

    def __len__(self) -> int:
        return len(self._by_key)

    def found(self, key: str) -> Answer | None:
        """The answer of this key, or None when it was never given."""
        return self._by_key.get(key)

    def append(self, answer: Answer) -> None:
        """Add an answer whose key is new; the line is handed to the system whole before this returns."""
        assert answer.key not in self._by_key, f"answer {answer.key} is there already"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(_line(answer))
        self._by_key[answer.key] = answer


class Keyed(Answerer, Protocol):
    """An answerer that names an answer before it is given."""

    def key(self, request: Request) -> str:
        """The name under which the answer to this request is found again."""
        ...


def answer_all(requests: Sequence[Request], answerer: Answerer, keys: Sequence[str], file: AnswerFile, progress: Progress | None = None) -> list[Answer]:
    """The answer to every request, in their order; only keys that the file lacks are asked, each once.

    Requests of equal key share one answer, which is returned under each request's own name. `progress` counts answers given now.
    Raises Refused when the answerer leaves a request out.
    """
    wanted = {key: request for key, request in zip(keys, requests, strict=True) if file.found(key) is None}
    if wanted:
        for answer in answerer.answer(list(wanted.values())):
            assert answer.key in wanted, f"answer to {answer.sample} came under key {answer.key}, which was not asked"
            file.append(answer)
            if progress is not None:
                progress.advance()
    silent = [request.sample.id for key, request in wanted.items() if file.found(key) is None]
    if silent:
        found = f"{len(silent)} of {len(wanted)} requests came back without an answer"
        raise Refused(
            Problem(code="evaluate/unanswered", place=silent[0], found=found, allowed="one answer to each request", fix="run again: only these are asked")
        )
    answers = (file.found(key) for key in keys)
    return [replace(answer, sample=request.sample.id) for request, answer in zip(requests, answers) if answer is not None]


class Remembering:
    """An answerer whose answers are kept in a file and never asked twice."""

    def __init__(self, answerer: Keyed, file: AnswerFile) -> None:
        self.answerer, self.file = answerer, file

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """In the order of the requests."""
        asked = list(requests)
        yield from answer_all(asked, self.answerer, [self.answerer.key(request) for request in asked], self.file)

    def measure(self, sample: Sample) -> int:
        """Tokens that the prompt takes."""
        return self.answerer.measure(sample)
