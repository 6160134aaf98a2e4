"""Questions with short answers in the layouts of their makers, as rows. Where data sets are read in such a layout, their reader is used: rows are the same there and here.

ChartQA     test_human.json, test_augmented.json: [{imgname, query, label}]; png/IMGNAME
DocVQA      val_v1.0.json: {"data": [{questionId, question, image: "documents/NAME", answers, question_types}]}
InfoVQA     the same with image_local_name, and pictures in infographicsvqa_images/ or beside the file
our own     JSON lines of {question, answer: text or list, image or images, options, kind, id}; what is asked and compared as it stands
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sightline.data.readers.files import read_json, read_json_rows
from sightline.data.readers.question_sets import PictureQuestions
from sightline.errors import Problem, Refused
from sightline.evaluate.published import LETTERS, PublishedRow, Seen, pictures_in, refused
from sightline.evaluate.vlmevalkit_tsv import listed, read_tsv
from sightline.samples.pictures import read_picture
from sightline.samples.sample import Picture

_QUOTED_LIST = re.compile(r"\s*\[\s*['\"]")
ANSWERS = "answers"
"""Field of a row that holds all right answers, as a JSON list."""


def right_answers(row: PublishedRow) -> list[str]:
    """All right answers of a row."""
    told = row.told(ANSWERS)
    return [str(one) for one in json.loads(told)] if told else [row.answer]


def tsv_rows(path: Path, pictures: Path, seen: bool) -> Iterator[PublishedRow]:
    """Rows of a TSV file whose `answer` is a text, or a list literal of texts in quotes."""
    for row in read_tsv(path, pictures, seen):
        answers = listed(row.answer, row.place) if _QUOTED_LIST.match(row.answer) else [row.answer]
        yield replace(row, answer=answers[0] if answers else "", fields={**row.fields, ANSWERS: json.dumps(answers)})


def reader_rows(
    reader: PictureQuestions, path: Path, pictures: str | None, seen: bool, given: bool = False, wanted: Callable[[PublishedRow], bool] | None = None
) -> Iterator[PublishedRow]:
    """Rows as a reader of data sets lists them, those that are `wanted`; `given`: right answers are all that people gave (attribute `answers`), not those that are said.

    Pictures are looked for as the reader does, or from `pictures`; those of rows are opened only where they are `seen`. Refused with every row that the reader refuses.
    """
    folder = "." if not seen else None if pictures is None else str(Path(pictures).resolve())
    own = reader if folder is None else reader.model_copy(update={"pictures": folder})
    problems: list[Problem] = []
    known_pictures: dict[str, Picture] = {}
    for row in own.rows(path):
        if isinstance(row, Problem):
            problems += [row] if row.severity == "refuse" else []
            continue
        known: Mapping[str, Any] = row.data["attributes"]
        answers = [str(one) for one in known[ANSWERS]] if given and isinstance(known.get(ANSWERS), list) else list(row.data["answers"])
        fields = {name: str(value).strip() for name, value in known.items() if isinstance(value, str)}
        made = PublishedRow(
            index=row.id,
            place=row.place,
            question=row.data["question"],
            answer=row.data["answers"][0] if row.data["answers"] else "",
            fields={**fields, "category": fields.get("kind", ""), ANSWERS: json.dumps(answers)},
        )
        if wanted is None or wanted(made):
            yield replace(made, pictures=tuple(_read(name, row.place, known_pictures) for name in row.pictures if isinstance(name, str)) if seen else ())
    if problems:
        raise Refused(problems)


def _read(name: str, place: str, known: dict[str, Picture]) -> Picture:
    """The picture at a path, read once however many questions are about it."""
    if name not in known:
        known[name] = read_picture(Path(name), place)
    return known[name]


def chart_rows(path: Path, pictures: str | None, seen: bool) -> Iterator[PublishedRow]:
    """Rows of one file, or of the files of a folder; `category` is the last word of the file's name (human, augmented)."""
    files = [path] if path.is_file() else sorted(path.glob("*_human.json")) + sorted(path.glob("*_augmented.json"))
    for file in files:
        part, shown = file.stem.rpartition("_")[2], _opener(file, pictures, ("png",), seen)
        for number, (place, value) in enumerate(read_json_rows(file)):
            name, label = _text(value, place, "imgname"), value.get("label")
            answers = [str(one) for one in label] if isinstance(label, list) else [_text(value, place, "label")]
            yield _row(f"{part}/{number}", place, _text(value, place, "query"), answers, name, part, shown)


def document_rows(path: Path, pictures: str | None, seen: bool) -> Iterator[PublishedRow]:
    """Rows of a file of DocVQA or InfoVQA; `category` is the first published type of the question."""
    value = read_json(path)
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, list):
        raise refused("official-row", str(path), type(value).__name__, "an object with a list `data`", "name the published file")
    shown = _opener(path, pictures, ("", "infographicsvqa_images"), seen)
    for number, one in enumerate(data):
        place = f"{path}:row {number}"
        types = one.get("question_types") or one.get("answer_type") if isinstance(one, dict) else None
        kind = str(types[0]) if isinstance(types, list) and types else ""
        name = _text(one, place, "image_local_name", "image")
        yield _row(_text(one, place, "questionId"), place, _text(one, place, "question"), _texts(one, "answers", place), name, kind, shown)


def own_rows(path: Path, pictures: str | None, seen: bool) -> Iterator[PublishedRow]:
    """Rows of a user's own JSON lines (or a JSON array). Options become letters, and the answer the letter of its option."""
    shown = _opener(path, pictures, ("",), seen)
    for number, (place, value) in enumerate(read_json_rows(path), 1):
        question, answers = _text(value, place, "question"), _texts(value, "answer", place)
        options = _options(value.get("options"), place)
        names = value.get("images", value.get("image", []))
        several = [names] if isinstance(names, str) else names
        if not isinstance(several, list) or not all(isinstance(name, str) for name in several):
            raise refused("own-row", place, f"image {names!r:.60}", "a path from this file, or a list of paths", "mend the line")
        if options:
            letters = [one if one in options else next((key for key, text in options.items() if text == one), None) for one in answers]
            if None in letters:
                raise refused("own-row", place, f"answer {answers!r:.80}", f"a letter or a text of {', '.join(options.values())[:120]}", "mend the line")
            answers = [letter for letter in letters if letter]
        yield PublishedRow(
            index=_text(value, place, "id", "question_id", default=str(number)),
            place=place,
            question=question,
            answer=answers[0],
            options=options,
            pictures=tuple(shown(name, place) for name in several) if shown else (),
            fields={"category": _text(value, place, "kind", default=""), ANSWERS: json.dumps(answers)},
        )


def _options(given: Any, place: str) -> dict[str, str]:
    if given is None:
        return {}
    if isinstance(given, list) and 2 <= len(given) <= len(LETTERS) and all(isinstance(one, str | int | float) for one in given):
        return dict(zip(LETTERS, map(str, given), strict=False))
    if isinstance(given, dict) and len(given) >= 2 and all(key in LETTERS and len(key) == 1 for key in given):
        return {key: str(text) for key, text in given.items()}
    raise refused("own-row", place, f"options {given!r:.80}", "a list of texts, or an object A: text, B: text", "mend the line")


def _opener(file: Path, pictures: str | None, usual: Sequence[str], seen: bool) -> Seen:
    """How the pictures of a file are opened: from `pictures`, else from the first of the usual folders beside it that has the picture."""
    if not seen:
        return None
    folders = [Path(pictures)] if pictures is not None else [file.parent / name for name in usual]
    opened = [(folder, pictures_in(folder)) for folder in folders]
    return lambda name, place: next((read for folder, read in opened if (folder / name).is_file()), opened[0][1])(name, place)


def _row(index: str, place: str, question: str, answers: list[str], name: str, category: str, shown: Seen) -> PublishedRow:
    pictures = (shown(name, place),) if shown else ()
    fields = {"category": category, "image": name, ANSWERS: json.dumps(answers)}
    return PublishedRow(index=index, place=place, question=question, answer=answers[0], pictures=pictures, fields=fields)


def _text(value: Any, place: str, *names: str, default: str | None = None) -> str:
    found = next((value[name] for name in names if _is_text(value.get(name))), default) if isinstance(value, dict) else None
    if found is None:
        there = ", ".join(map(str, value))[:120] if isinstance(value, dict) else type(value).__name__
        raise refused("official-row", place, f"no text under {' or '.join(names)}; there is {there}", "such a field", "mend the row")
    return str(found)


def _texts(value: Mapping[str, Any], name: str, place: str) -> list[str]:
    found = value.get(name)
    several = found if isinstance(found, list) else [found]
    if not several or not all(map(_is_text, several)):
        raise refused("official-row", place, f"{name}: {found!r:.60}", "a text or a list of texts", "use a split that holds answers, or mend the row")
    return [str(one) for one in several]


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
