"""Questions and answers of ours as files of other harnesses.

    questions    NAME.tsv                          VLMEvalKit's table: index, image, question, A .., answer, category ..
    answers      MODEL_NAME.tsv, .json or .xlsx    VLMEvalKit's predictions: the same columns without pictures, and `prediction`
                 .._samples_TASK.jsonl             lmms-eval's samples: doc_id, input, target, filtered_resps ..

VLMEvalKit wants whole numbers as `index`. Questions with other names are numbered, and `sample` holds their names, by which `evaluate/answer_files.py` finds the answers again.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.errors import Problem, Refused
from sightline.evaluate.asking import Question, paired
from sightline.evaluate.published import PublishedBenchmark
from sightline.lineage import sha256_json
from sightline.samples.bands import colours_alone
from sightline.samples.exchange import Answer
from sightline.samples.pictures import open_picture, rgb_pixels
from sightline.samples.sample import Picture, Show, Text

_ORIENTATION = 0x0112
"""The tag of EXIF by which a picture is turned; other harnesses take no notice of it."""
_LONGEST_CELL = 32767
"""Characters of a cell of a workbook."""
PREDICTIONS = (".tsv", ".json", ".xlsx")


def write_questions(benchmark: Any, path: Path) -> int:
    """A benchmark as a TSV file of VLMEvalKit; how many rows it has. `benchmark.questions` are asked, built with their pictures.

    Pictures keep their bytes, so that masks and text lose nothing; those that EXIF turns are turned and written as PNG. The rows of a published benchmark keep their columns; what other questions show is marked
    `<image K>` where it does not stand before the words. Raises Refused for questions with regions or films.
    """
    rows = _rows(benchmark)
    first: dict[tuple[str, ...], str] = {}
    for row, question in zip(rows, benchmark.questions, strict=True):
        shown = question.request.sample.pictures
        names = tuple(picture.hash for picture in shown)
        coded = [base64.b64encode(_bytes(picture)).decode() for picture in shown] if names not in first else []
        row["image"] = first.get(names, coded[0] if len(coded) == 1 else str(coded) if coded else "")
        if names:
            first.setdefault(names, row["index"])
    _write_table(rows, path)
    return len(rows)


def write_predictions(benchmark: Any, answers: Iterable[Answer], path: Path) -> int:
    """Answers as VLMEvalKit's predictions, in the form that the suffix names; how many there are. Raises Refused for another suffix, answers that do not fit the questions, and .xlsx without openpyxl."""
    if path.suffix not in PREDICTIONS:
        raise Refused(Problem(code="bridges/suffix", place=str(path), found=path.suffix or "none", allowed=", ".join(PREDICTIONS), fix="name such a file"))
    rows = _rows(benchmark)
    for row, answer in zip(rows, paired(benchmark.questions, answers), strict=True):
        row["prediction"] = answer.text
    if path.suffix == ".tsv":
        _write_table(rows, path)
    elif path.suffix == ".json":
        records = [{**row, "index": int(row["index"])} for row in rows]
        path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    else:
        _write_book(rows, path)
    return len(rows)


def write_samples(benchmark: Any, answers: Iterable[Answer], path: Path) -> int:
    """Answers as lmms-eval logs them, a JSON object a line: `doc_id` is the number of the row from 0, `sample` its name here. How many there are."""
    rows, matched = _rows(benchmark), paired(benchmark.questions, answers)
    with path.open("w", encoding="utf-8") as stream:
        for number, (row, question, answer) in enumerate(zip(rows, benchmark.questions, matched, strict=True)):
            record = {
                "doc_id": number,
                "sample": question.request.sample.id,
                "target": question.right[0],
                "input": _words(question),
                "filtered_resps": answer.text,
                "token_counts": [{"output_tokens": len(answer.tokens)} if answer.tokens else None],
                "doc_hash": sha256_json(row),
            }
            stream.write(json.dumps(record) + "\n")
    return len(rows)


def _rows(benchmark: Any) -> list[dict[str, str]]:
    """The columns of each question but its picture and its answer by a model, the same for all."""
    if isinstance(benchmark, PublishedBenchmark):
        rows = [{"index": row.index, "question": row.question, **row.options, "answer": row.answer, **_others(row.fields)} for row in benchmark.rows]
    else:
        rows = [_made(question) for question in benchmark.questions]
    names = [row["index"] for row in rows]
    if not all(name.isascii() and name.isdecimal() and name == str(int(name)) for name in names):
        rows = [{**row, "index": str(number), "sample": name} for number, (row, name) in enumerate(zip(rows, names, strict=True))]
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=_place)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def _place(column: str) -> tuple[int, str]:
    """Where a column stands: index and question first, then options, the answer, and others in their order."""
    first = ["index", "question"]
    return (first.index(column), "") if column in first else (2, column) if len(column) == 1 else (3, "")


def _others(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in fields.items() if name not in ("index", "question", "answer", "image", "image_path", "prediction", "sample")}


def _made(question: Question) -> dict[str, str]:
    """The columns of a question made from a sample."""
    right, *others = question.right
    several = {"answers": json.dumps([right, *others], ensure_ascii=False)} if others else {}
    return {"index": question.request.sample.id, "question": _words(question), "answer": right, "category": question.kind, **several}


def _words(question: Question) -> str:
    """The words of the question, a system turn's first, with the marks of pictures that do not stand before them."""
    turns = question.request.sample.turns
    parts: list[str] = []
    for item in (item for turn in turns for item in turn.items):
        if isinstance(item, Text):
            parts.append(item.text)
        elif isinstance(item, Show):
            parts += [f"<image {item.picture + 1}>"] if any(parts) else []
        else:
            found, place = f"{type(item).__name__.lower()} in a question", question.request.sample.id
            raise Refused(Problem(code="bridges/unsayable", place=place, found=found, allowed="text and pictures", fix="leave the sample out"))
    return "".join(parts)


def _bytes(picture: Picture) -> bytes:
    """The file of a picture as others show it."""
    assert isinstance(picture.data, bytes), f"{picture.name} is read through its store"
    if colours_alone(picture):
        with open_picture(picture.data, picture.name) as opened:
            if opened.format in ("PNG", "JPEG") and opened.getexif().get(_ORIENTATION, 1) == 1:
                return picture.data
    stream = io.BytesIO()
    Image.fromarray(rgb_pixels(picture)).save(stream, "PNG")
    return stream.getvalue()


def _write_table(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """All fields in quotes, as VLMEvalKit writes them. Half of a surrogate pair, cut off by the end of an answer, is written as its escape: UTF-8 has none."""
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def _write_book(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """A workbook of texts: what begins with `=` is no formula."""
    try:
        from openpyxl import Workbook
        from openpyxl.utils.exceptions import IllegalCharacterError
    except ImportError as error:
        fix = "pip install openpyxl, or write .tsv (PRED_FORMAT=tsv there)"
        raise Refused(Problem(code="bridges/no-openpyxl", place=str(path), found=str(error), allowed="openpyxl", fix=fix)) from None
    book = Workbook()
    sheet: Any = book.active
    for number, row in enumerate([{name: name for name in rows[0]}, *rows], 1):
        for place, (name, text) in enumerate(row.items(), 1):
            if len(text) > _LONGEST_CELL:
                raise _no_cell(f"{path}:{number}", f"{len(text)} characters of {name}", f"at most {_LONGEST_CELL}")
            try:
                cell = sheet.cell(number, place, int(text) if name == "index" and number > 1 else text)
            except IllegalCharacterError:
                raise _no_cell(f"{path}:{number}", f"a control character in {name}", "printable text") from None
            if cell.data_type == "f":
                cell.data_type = "s"
    book.save(path)


def _no_cell(place: str, found: str, allowed: str) -> Refused:
    return Refused(Problem(code="bridges/cell", place=place, found=found, allowed=allowed, fix="write .tsv"))
