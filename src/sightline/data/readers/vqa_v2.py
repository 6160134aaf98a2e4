"""VQA v2: ten people's answers to each question about COCO pictures; and the flat lists that training code makes of it.

    v2_OpenEnded_mscoco_train2014_questions.json: {"data_subtype", "questions": [{"image_id", "question", "question_id"}]}
    v2_mscoco_train2014_annotations.json: {"annotations": [{"question_id", "image_id", "question_type", "answer_type", "multiple_choice_answer", "answers": [{"answer"}]}]}
    COCO_train2014_000000000009.jpg in train2014/

    flat: [{"image": "val2014/COCO_val2014_000000000042.jpg", "question", "question_id", "answer": [".."]}]

Both files are joined by `question_id`. Questions without a file of annotations have no answer. The answer is `multiple_choice_answer` (in flat lists the most frequent one); others that get full
marks, from three people or more, are alternatives. `kind` is `answer_type`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import json_text, read_records
from sightline.data.readers.entries import LONGEST_SHOWN, Entry, each, file_object, listed, mentions
from sightline.data.readers.files import first_row, picture_folder, refuse
from sightline.data.readers.question_sets import PictureQuestions, agreed, asked, known_split, picture_within, published_id, question_row
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Sample


class VqaV2(PictureQuestions):
    """VQA v2 questions with their annotations, and flat lists."""

    kind: Literal["vqa-v2"] = "vqa-v2"
    wanted: ClassVar[str] = "questions with image_id and question_id, or rows of image, question, question_id and a list `answer`"
    usual: ClassVar[tuple[str, ...]] = ("train2014", "val2014", "test2015", "images")

    def fits(self, file: Path) -> bool:
        """The published head, or the fields of a flat row."""
        if mentions(file, "data_subtype", "questions", "question_id") and not mentions(file, "annotations"):
            return True
        row = first_row(file)
        return row is not None and isinstance(row.get("answer"), list) and {"image", "question", "question_id"} <= set(row)

    def partners(self, file: Path) -> list[Path]:
        """The annotations of a file of questions, by its name."""
        partner = file.with_name(file.name.replace("OpenEnded_", "").replace("questions", "annotations"))
        return [partner] if partner != file and partner.is_file() else []

    def questions(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        """One row per question."""
        flat = first_row(file)
        yield from self._published(file, usual) if flat is None or "questions" in flat else self._flat(file, usual)

    def _published(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        subtype = Entry(file_object(file), str(file)).text("data_subtype")
        # Questions of the test-dev split are about pictures of the test split.
        prefix = f"COCO_{subtype.replace('test-dev', 'test')}_"
        rows = listed(file, "questions")
        answers: dict[str, Entry] = {}
        for partner in self.partners(file):
            for found in each(listed(partner, "annotations"), lambda entry, _: [(entry.identity("question_id"), entry)]):
                if isinstance(found, Problem):
                    yield found
                else:
                    answers[found[0]] = found[1]
        names = (f"{prefix}{value['image_id']:012d}.jpg" for _, value in rows if isinstance(value, dict) and isinstance(value.get("image_id"), int))
        root = self.root(file, names, usual)

        def question(entry: Entry, number: int) -> list[Row]:
            identity = entry.identity("question_id")
            known = answers.get(identity)
            if known is None and answers:
                raise Refused(
                    refuse("missing-answer", entry.place, f"no annotation of question {identity[:LONGEST_SHOWN]}", "an annotation for every question", "add it")
                )
            said = [] if known is None else agreed(_answers(known), known.text("multiple_choice_answer"))
            attributes = known_split(subtype) if known is None else known_split(subtype) | _attributes(known)
            picture = picture_within(root, f"{prefix}{entry.whole('image_id'):012d}.jpg", entry.place)
            text = entry.text("question")
            return [question_row(id=identity, place=entry.place, number=number, picture=picture, question=text, answers=said, attributes=attributes)]

        yield from each(rows, question)

    def _flat(self, file: Path, usual: Sequence[str]) -> Iterator[Row | Problem]:
        rows = list(read_records(file))
        names = (value.get("image") for _, value in rows if isinstance(value, dict))
        root = picture_folder(file.parent, self.pictures, names, usual)
        split = known_split(file.stem)

        def question(entry: Entry, number: int) -> list[Row]:
            given = entry.texts("answer")
            return [
                question_row(
                    id=entry.identity("question_id"),
                    place=entry.place,
                    number=number,
                    picture=picture_within(root, entry.value.get("image"), entry.place),
                    question=entry.text("question"),
                    answers=agreed(given),
                    attributes={**split, "answers": given},
                )
            ]

        yield from each(rows, question)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write flat lists, PATH/vqa_SPLIT.json, and the pictures under images/."""
        losses, folder = Losses("vqa-v2"), PictureFolder(path)
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in asked(samples, losses):
            known = one.sample.attributes
            given = known.get("answers")
            given = given if isinstance(given, list) and all(isinstance(text, str) for text in given) else list(one.answers)
            if agreed(given) != list(one.answers):
                losses.refuse("answers that do not follow from their frequency", one.sample)
                continue
            if set(known) - {"answers", "split", "turns"}:
                losses.warn("attributes", one.sample)
            name = folder.add(one.sample.pictures[0], "images").removeprefix("images/")
            row = {"image": name, "question": one.question, "question_id": published_id(one.id), "answer": given}
            rows.setdefault(one.split, []).append(row)
        for split, found in rows.items():
            write_text(path / f"vqa_{split}.json", json_text(found))
        return losses.problems()


def _answers(known: Entry) -> list[str]:
    return [answer.text("answer") for answer in known.entries("answers")]


def _attributes(known: Entry) -> dict[str, Any]:
    return {"kind": known.text("answer_type"), "question_type": known.text("question_type"), "answers": _answers(known)}
