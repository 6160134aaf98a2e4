"""Answers in the files that the makers' own tools, or their servers, read.

    mme                     FOLDER/SUBTASK.txt          picture, question, truth, response between tabs
    pope                    FOLDER/answers_SPLIT.jsonl  a line per question, in their order: question_id, question, answer
    vqav2, textvqa          FILE.json                   [{question_id, answer}]
    docvqa, infovqa         FILE.json                   [{questionId, answer}]
    gqa                     FILE.json                   [{questionId, prediction}]
    ocrbench                FILE.json                   [{id, dataset_name, type, question, answers, predict}]
    mm-vet                  FILE.json                   {name of the question: answer}
    llava-bench             FILE.jsonl                  a line per question: question_id, prompt, text

All of them are read again by `answer_files.read_answers`. Names of questions are those of the published files, so a benchmark that was read from a TSV file has none of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.evaluate.asking import paired
from sightline.evaluate.benchmark_kinds.mme import write_mme_answers
from sightline.evaluate.published import PublishedBenchmark, PublishedRow
from sightline.lineage import write_text
from sightline.samples.exchange import Answer

Texts = Mapping[str, str]
"""Name of a question -> answer."""


def _mme(rows: Sequence[PublishedRow], texts: Texts, path: Path) -> None:
    write_mme_answers(rows, texts, path)


def _pope(rows: Sequence[PublishedRow], texts: Texts, path: Path) -> None:
    splits: dict[str, list[str]] = {}
    for row in rows:
        split, _, name = row.index.partition("/")
        splits.setdefault(split, []).append(_line({"question_id": _whole(name), "question": row.question, "answer": texts[row.index]}))
    for split, lines in splits.items():
        write_text(path / f"answers_{split}.jsonl", "".join(lines))


def _llava_bench(rows: Sequence[PublishedRow], texts: Texts, path: Path) -> None:
    write_text(path, "".join(_line({"question_id": _whole(row.index), "prompt": row.question, "text": texts[row.index]}) for row in rows))


def _mm_vet(rows: Sequence[PublishedRow], texts: Texts, path: Path) -> None:
    _write(path, {row.index: texts[row.index] for row in rows})


def _ocrbench(rows: Sequence[PublishedRow], texts: Texts, path: Path) -> None:
    told = [
        {
            "id": _whole(row.index),
            "dataset_name": row.told("dataset_name"),
            "type": row.told("category"),
            "question": row.question,
            "answers": json.loads(row.told("answers")),
            "predict": texts[row.index],
        }
        for row in rows
    ]
    _write(path, told)


def _listed(name: str, text: str, whole: bool = True) -> Callable[[Sequence[PublishedRow], Texts, Path], None]:
    """A list of objects with a name and a text."""
    return lambda rows, texts, path: _write(path, [{name: _whole(row.index) if whole else row.index, text: texts[row.index]} for row in rows])


OFFICIAL: Mapping[str, Callable[[Sequence[PublishedRow], Texts, Path], None]] = {
    "mme": _mme,
    "pope": _pope,
    "vqav2": _listed("question_id", "answer"),
    "textvqa": _listed("question_id", "answer"),
    "docvqa": _listed("questionId", "answer"),
    "infovqa": _listed("questionId", "answer"),
    "gqa": _listed("questionId", "prediction", whole=False),
    "ocrbench": _ocrbench,
    "mm-vet": _mm_vet,
    "llava-bench": _llava_bench,
}
"""Kinds whose makers' files are written, and how."""


def write_official(benchmark: PublishedBenchmark, answers: Iterable[Answer], path: Path) -> int:
    """Write answers as the makers' tool reads them, into a file or folder; how many there are.

    Raises Refused for a kind without such a file, a benchmark that was read from a TSV file (MME, whose names stand in its rows, apart), and answers that do not fit the questions.
    """
    kind = str(getattr(benchmark.config, "kind", ""))
    if kind not in OFFICIAL or (Path(benchmark.config.path).suffix == ".tsv" and kind != "mme"):
        found = f"{kind}, read from {Path(benchmark.config.path).name}"
        allowed = f"{', '.join(OFFICIAL)}, read from their makers' files"
        raise Refused(Problem(code="evaluate/no-official-form", place=str(path), found=found, allowed=allowed, fix="use --form vlmevalkit"))
    matched = paired(benchmark.questions, answers)
    OFFICIAL[kind](benchmark.rows, {question.request.sample.id: answer.text for question, answer in zip(benchmark.questions, matched, strict=True)}, path)
    return len(benchmark.rows)


def _whole(name: str) -> int | str:
    """A name that is a whole number as one, as published files have it."""
    return int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else name


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _write(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")
