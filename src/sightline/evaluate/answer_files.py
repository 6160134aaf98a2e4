"""Ready answers in the forms in which they are exchanged, paired with the questions of a benchmark.

    our own         answers.jsonl of an evaluation: lines with `key`, `sample`, `text`
    JSON lines      a line per answer: question_id | questionId | index | id | pid, and text | answer | prediction | predict | response | output; a JSON array or an object ID -> answer too
    tables          TSV, CSV or XLSX with `index` and `prediction`, as VLMEvalKit writes them; XLSX wants openpyxl
    lmms-eval       its samples, JSON lines with `doc_id`, `input` and `filtered_resps`: the row of that number, whose question the input must hold
    MME             a folder of SUBTASK.txt (see benchmark_kinds/mme.py)

Answers are found by name. A file without names is paired line by line, and only where every line has the question's own words.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from sightline.data.readers.files import plain, read_json, read_json_rows, read_text
from sightline.errors import Refused
from sightline.evaluate.benchmark_kinds.mme import picture_of, read_mme_answers
from sightline.evaluate.published import PublishedBenchmark, PublishedRow, refused
from sightline.samples.exchange import Answer

NAMES = ("sample", "question_id", "questionId", "index", "id", "pid")
TEXTS = ("prediction", "predict", "response", "text", "output", "answer")
"""Fields that hold the answer, the surest first: files with predictions repeat the right answer under `answer`."""
_MARK = re.compile(r"<image(?: [1-9])?>")
_TABLES = {".tsv": "\t", ".csv": ","}


def read_answers(path: Path, benchmark: PublishedBenchmark) -> list[Answer]:
    """The answers of a file or folder to a benchmark's questions; what is missing, strange or repeated is told when they are scored.

    Raises Refused where the file has none of the known forms.
    """
    if path.is_dir():
        return _stated(_mme(path, benchmark.rows), path)
    records = _book(path) if path.suffix == ".xlsx" else _table(path) if path.suffix in _TABLES else _json(path)
    if records and all("filtered_resps" in one and "sample" not in one for one in records):
        return _stated(_logged(path, records, benchmark.rows), path)
    named = [next((str(one[name]) for name in NAMES if one.get(name) is not None), None) for one in records]
    known = {row.index for row in benchmark.rows}
    if not records or None in named or not known.intersection(filter(None, named)):
        return _stated(_in_order(path, records, benchmark.rows), path)
    splits = {row.index.partition("/")[2]: row.index for row in benchmark.rows if path.stem.rpartition("_")[2] == row.index.partition("/")[0]}
    pairs = [(splits.get(name or "", name or ""), _text(one, path)) for name, one in zip(named, records, strict=True)]
    return _stated(pairs, path)


def _stated(pairs: Iterable[tuple[str, str]], path: Path) -> list[Answer]:
    return [Answer(key=f"{path.name}:{name}", sample=name, weights=path.name, text=text) for name, text in pairs]


def _json(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json" and read_text(path).lstrip().startswith("{"):
        try:
            value = read_json(path)
        except Refused:  # JSON lines
            value = None
        if isinstance(value, dict) and not set(NAMES) & set(value) and all(isinstance(one, str | dict) for one in value.values()):
            return [{"index": name, **(one if isinstance(one, dict) else {"prediction": one})} for name, one in value.items()]
    rows = read_json_rows(path)
    broken = next(((place, value) for place, value in rows if not isinstance(value, dict)), None)
    if broken is not None:
        raise refused("answer-file", broken[0], type(broken[1]).__name__, "one JSON object for each answer", "mend the line")
    return [value for _, value in rows]


def _table(path: Path) -> list[dict[str, Any]]:
    plain(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # line ends inside of fields stay as they are
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_TABLES[path.suffix], strict=True))
    except (csv.Error, OSError, UnicodeDecodeError) as error:
        raise refused("answer-file", str(path), error, "fields in closed quotes", "write the file again") from None
    return rows


def _book(path: Path) -> list[dict[str, Any]]:
    """The first sheet of a workbook; cells without a text are left out, but for an empty prediction."""
    plain(path)
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise refused("answer-file", str(path), error, "openpyxl, to read XLSX", "pip install openpyxl, or write TSV (PRED_FORMAT=tsv there)") from None
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        header, *lines = book.worksheets[0].iter_rows(values_only=True)
    except (OSError, ValueError, KeyError, IndexError, BadZipFile) as error:
        raise refused("answer-file", str(path), error, "a workbook with a header", "write the file again") from None
    told = lambda line: zip(map(str, header), line, strict=False)  # noqa: E731
    return [{name: "" if cell is None else str(cell) for name, cell in told(line) if cell is not None or name == "prediction"} for line in lines]


def _logged(path: Path, records: Sequence[Mapping[str, Any]], rows: Sequence[PublishedRow]) -> list[tuple[str, str]]:
    """Answers of lmms-eval by the number of their row; those to further rows keep a name that no question has. The order of its data must be that of the benchmark."""
    found = []
    for place, record in enumerate(records, 1):
        number, told = record.get("doc_id"), " ".join(str(record.get("input")).split())
        row = rows[number] if isinstance(number, int) and 0 <= number < len(rows) else None
        if row is not None and " ".join(_MARK.sub(" ", row.question).split()) not in " ".join(_MARK.sub(" ", told).split()):
            what = f"doc_id {number} is asked {told[:60]!r}"
            raise refused("answer-file", f"{path}:{place}", what, f"the question {row.question[:60]!r}", "score with the file that lmms-eval was given")
        found.append((row.index if row is not None else f"doc_id {number}", _text(record, path)))
    return found


def _text(record: Mapping[str, Any], path: Path) -> str:
    logged = record.get("filtered_resps")
    while isinstance(logged, list) and len(logged) == 1:
        logged = logged[0]
    found = logged if isinstance(logged, str) else next((record[name] for name in TEXTS if isinstance(record.get(name), str)), None)
    if found is None:
        raise refused("answer-file", str(path), f"fields {', '.join(map(str, record))[:200]}", f"an answer under one of {', '.join(TEXTS)}", "rename the field")
    return found


def _in_order(path: Path, records: Sequence[Mapping[str, Any]], rows: Sequence[PublishedRow]) -> list[tuple[str, str]]:
    """Answers without names, such as POPE's `question` and `answer`: the n-th to the n-th question, whose words it must repeat."""
    split = path.stem.rpartition("_")[2]
    asked = [row for row in rows if row.told("category") == split] or list(rows)
    if len(records) != len(asked):
        raise refused(
            "answer-file", str(path), f"{len(records)} answers without names to {len(asked)} questions", "names, or as many in their order", "add question_id"
        )
    for number, (record, row) in enumerate(zip(records, asked, strict=True), 1):
        if str(record.get("question", "")).strip() != row.question.strip():
            found = f"answer {number} is to {str(record.get('question'))[:60]!r}"
            raise refused("answer-file", f"{path}:{number}", found, f"names, or the question {row.question[:60]!r}", "add question_id")
    return [(row.index, _text(record, path)) for record, row in zip(records, asked, strict=True)]


def _mme(folder: Path, rows: Sequence[PublishedRow]) -> list[tuple[str, str]]:
    """Responses by subtask, picture and question; those to other questions keep their own names, so that they are told as strange."""
    names = {(subtask, Path(picture).name, row.question.strip()): row.index for row in rows for subtask, picture in [picture_of(row)]}
    return [(names.get((row.told("category"), row.told("image"), row.question.strip()), row.index), response) for row, response in read_mme_answers(folder)]
