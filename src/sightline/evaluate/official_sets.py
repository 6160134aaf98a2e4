"""Layouts in which the makers of benchmarks publish their questions, other than tables: JSON files and folders, each as rows.

POPE            coco_pope_SPLIT.json: a JSON object a line: question_id, image, text, label
HallusionBench  HallusionBench.json: category, subcategory, set_id, figure_id, question_id, question, gt_answer "0" or "1", filename or null
OCRBench        OCRBench.json: dataset_name, question, answers, type, image_path
MathVista       testmini.json: {pid: question, choices, unit, precision, answer, question_type, answer_type, image, query, metadata}
MM-Vet          mm-vet.json: {id: imagename, question, answer, capability [..]}
ScienceQA       problems.json: {id: question, choices, answer (number), hint, image, split, subject}
MME             SUBTASK/PICTURE and PICTURE.txt beside it, or SUBTASK/images and SUBTASK/questions_answers_YN; two lines of question, tab, Yes or No

Pictures are opened only where they are seen, by names that are checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.data.readers.files import PICTURE_SUFFIXES, read_json, read_json_rows, read_text
from sightline.evaluate.published import LETTERS, PublishedRow, Seen, refused

_BINARY = {"0": "No", "1": "Yes", 0: "No", 1: "Yes"}


class _Fields:
    """The fields of one JSON object; what is missing or of another type is refused with its place."""

    def __init__(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise refused("official-row", place, f"{type(value).__name__}", "a JSON object", "fetch the file again")
        self.value: dict[str, Any] = value
        self.place = place

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of these fields that is there, as text; a number is written out, null is the default."""
        for name in names:
            found = self.value.get(name)
            if isinstance(found, str | int | float) and not isinstance(found, bool):
                return str(found)
        if default is None:
            raise refused(
                "official-row",
                self.place,
                f"no text under {' or '.join(names)}; there is {', '.join(self.value)[:200]}",
                "such a field",
                "fetch the file again",
            )
        return default

    def texts(self, name: str) -> list[str]:
        """A list of texts, or one text."""
        found = self.value.get(name)
        several = found if isinstance(found, list) else [found]
        if not several or not all(isinstance(one, str | int | float) for one in several):
            raise refused("official-row", self.place, f"{name}: {found!r:.60}", "a text or a list of texts", "fetch the file again")
        return [str(one) for one in several]


def _keyed(path: Path) -> Iterator[tuple[str, _Fields]]:
    """(key, fields) of a JSON object of objects."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise refused("official-row", str(path), type(value).__name__, "objects by id", "name the published file")
    for key, one in value.items():
        yield key, _Fields(one, f"{path}:{key[:60]}")


def _listed(path: Path) -> Iterator[tuple[int, _Fields]]:
    for number, (place, value) in enumerate(read_json_rows(path)):
        yield number, _Fields(value, place)


def pope_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Rows of one split's file, or of all splits in a folder; `category` is the last word of the file's name (random, popular, adversarial)."""
    files = [path] if path.is_file() else sorted([*path.glob("*pope*.json"), *path.glob("*pope*.jsonl")])
    for file in files:
        split = file.stem.rpartition("_")[2]
        for _, one in _listed(file):
            image = one.text("image")
            yield PublishedRow(
                index=f"{split}/{one.text('question_id')}",
                place=one.place,
                question=one.text("text", "question"),
                answer=one.text("label", "answer").capitalize(),
                pictures=(seen(image, one.place),) if seen else (),
                fields={"category": split, "image": image},
            )


def hallusion_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Rows whose index is CATEGORY_SUBCATEGORY_VISUAL_SET_FIGURE_QUESTION; those without a file have no picture."""
    for _, one in _listed(path):
        category, sub = one.text("category"), one.text("subcategory")
        numbers = [one.text(name) for name in ("visual_input", "set_id", "figure_id", "question_id")]
        name = one.value.get("filename")
        truth = _BINARY.get(one.text("gt_answer"))
        if truth is None:
            raise refused("official-row", one.place, f"gt_answer {one.value.get('gt_answer')!r}", "0 or 1", "fetch the file again")
        yield PublishedRow(
            index="_".join([category, sub, *numbers]),
            place=one.place,
            question=one.text("question"),
            answer=truth,
            pictures=(seen(name.removeprefix("./"), one.place),) if seen and isinstance(name, str) and name else (),
            fields={"category": category, "l2-category": sub, "set": numbers[1], "figure": numbers[2], "question-id": numbers[3]},
        )


def ocrbench_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Rows with `category` = type and all right answers as a JSON list in `answers`."""
    for number, one in _listed(path):
        name, answers = one.text("image_path"), one.texts("answers")
        yield PublishedRow(
            index=one.text("id", default=str(number)),
            place=one.place,
            question=one.text("question"),
            answer=answers[0],
            pictures=(seen(name, one.place),) if seen else (),
            fields={"category": one.text("type"), "dataset_name": one.text("dataset_name", default=""), "answers": json.dumps(answers)},
        )


def mathvista_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Rows with the published `query` as question where it is there; choices become options, and their answer a letter."""
    for pid, one in _keyed(path):
        choices = one.texts("choices") if one.value.get("choices") else []
        meta = one.value.get("metadata")
        known: Mapping[str, Any] = meta if isinstance(meta, dict) else {}
        answer = one.text("answer")
        if choices and answer not in choices:
            raise refused("official-row", one.place, f"answer {answer!r}", "one of the choices", "fetch the file again")
        name = one.text("image")
        fields = {name: one.text(name, default="") for name in ("question_type", "answer_type", "precision", "query", "unit")}
        skills = known.get("skills")
        yield PublishedRow(
            index=pid,
            place=one.place,
            question=one.text("question"),
            answer=LETTERS[choices.index(answer)] if choices else answer,
            options=dict(zip(LETTERS, choices, strict=False)),
            pictures=(seen(name, one.place),) if seen else (),
            fields={**fields, "task": str(known.get("task", "")), "skills": json.dumps(skills if isinstance(skills, list) else [])},
        )


def mm_vet_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Rows whose `category` is the capabilities, joined by commas."""
    for key, one in _keyed(path):
        name = one.text("imagename")
        yield PublishedRow(
            index=key,
            place=one.place,
            question=one.text("question"),
            answer=one.text("answer"),
            pictures=(seen(name, one.place),) if seen else (),
            fields={"category": ",".join(one.texts("capability"))},
        )


def science_rows(path: Path, seen: Seen, split: str) -> Iterator[PublishedRow]:
    """Problems of one split; `image` says whether there is a picture (SPLIT/ID/NAME)."""
    for pid, one in _keyed(path):
        if one.text("split") != split:
            continue
        choices, right, image = one.texts("choices"), one.value.get("answer"), one.text("image", default="")
        if not isinstance(right, int) or not 0 <= right < len(choices) <= len(LETTERS):
            raise refused("official-row", one.place, f"answer {right!r} of {len(choices)} choices", "the number of a choice", "fetch the file again")
        yield PublishedRow(
            index=pid,
            place=one.place,
            question=one.text("question"),
            answer=LETTERS[right],
            options=dict(zip(LETTERS, choices, strict=False)),
            pictures=(seen(f"{split}/{pid}/{image}", one.place),) if seen and image else (),
            fields={"hint": one.text("hint", default=""), "category": one.text("subject", default=""), "image": image},
        )


def mme_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """Two rows for each picture of each subtask's folder, `SUBTASK/PICTURE/1` and `/2`. `seen` opens names that start from `path`."""
    for folder in sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        images, questions = folder / "images", folder / "questions_answers_YN"
        apart = questions.is_dir()
        stems = {file.stem: file for file in sorted((images if apart else folder).iterdir()) if file.suffix.lower() in PICTURE_SUFFIXES}
        for file in sorted((questions if apart else folder).glob("*.txt")):
            picture = stems.get(file.stem)
            if picture is None:
                raise refused("official-row", str(file), f"no picture {file.stem}", "a picture of the same name", "fetch the folder again")
            lines = [line for line in read_text(file).splitlines() if line.strip()]
            pairs = [line.split("\t") for line in lines]
            if len(pairs) != 2 or any(len(pair) != 2 or pair[1].strip() not in ("Yes", "No") for pair in pairs):
                raise refused("official-row", str(file), f"{len(lines)} lines", "two lines: question, tab, Yes or No", "fetch the file again")
            shown = (seen(picture.relative_to(path).as_posix(), str(file)),) if seen else ()
            for number, (question, truth) in enumerate(pairs, 1):
                fields = {"category": folder.name, "image": picture.name}
                name = f"{folder.name}/{picture.name}/{number}"
                yield PublishedRow(index=name, place=f"{file}:{number}", question=question, answer=truth.strip(), pictures=shown, fields=fields)


def wild_rows(path: Path, seen: Seen) -> Iterator[PublishedRow]:
    """questions.jsonl (question_id, image, text, category) with context.jsonl (image, caption) and answers_gpt4.jsonl (question_id, text) beside it; pictures in `images/`."""
    folder = path if path.is_dir() else path.parent
    questions = folder / "questions.jsonl" if path.is_dir() else path
    captions = {one.text("image"): one.text("caption") for _, one in _listed(folder / "context.jsonl")}
    references = {one.text("question_id"): one.text("text") for _, one in _listed(folder / "answers_gpt4.jsonl")}
    for _, one in _listed(questions):
        name, key = one.text("image"), one.text("question_id")
        if name not in captions or key not in references:
            raise refused("official-row", one.place, f"question {key} about {name}", "a caption and a reference answer for it", "fetch the folder again")
        yield PublishedRow(
            index=key,
            place=one.place,
            question=one.text("text"),
            answer=references[key],
            pictures=(seen(f"images/{name}", one.place),) if seen else (),
            fields={"category": one.text("category"), "caption": captions[name]},
        )
