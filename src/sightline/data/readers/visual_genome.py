"""Visual Genome: phrases about regions, objects, and questions.

    region_descriptions.json: [{"id", "regions": [{"region_id", "image_id", "phrase", "x", "y", "width", "height"}]}]
    objects.json: [{"image_id", "objects": [{"object_id", "names": [..], "x", "y", "w", "h"}]}]
    question_answers.json: [{"id", "qas": [{"qa_id", "image_id", "question", "answer"}]}]
    VG_100K/ID.jpg, VG_100K_2/ID.jpg

A picture with its phrases and objects is one sample without turns, whose id is the picture's: a phrase is a region with the attribute `text` and no label, an object has its first name as label
and all of them in `names`. Every question is a row of its own. Relationships, attributes of objects and synsets are not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from sightline.data.readers.annotation_reader import AnnotationReader, json_text, read_records
from sightline.data.readers.entries import Entry, each, mentions
from sightline.data.readers.files import refuse
from sightline.data.readers.question_sets import PicturesBelow, asked, published_id, question_row, question_sample
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Box, Origin, Picture, Region, Sample

_FIELDS = {"phrases": ("regions", "region_id", "phrase"), "objects": ("objects", "object_id", "names"), "questions": ("qas", "qa_id", "question")}
"""What a file holds, told by the fields of its head."""
_FILES = {"phrases": ("region_descriptions.json", "regions"), "objects": ("objects.json", "objects"), "questions": ("question_answers.json", "qas")}
"""Published names of the files, and of the list of a picture in them."""
_FOLDER = "VG_100K"


class VisualGenome(AnnotationReader):
    """Visual Genome region descriptions, objects and questions."""

    kind: Literal["visual-genome"] = "visual-genome"
    wanted: ClassVar[str] = "region_descriptions.json, objects.json or question_answers.json"

    def reason(self, file: Path) -> str | None:
        """See AnnotationReader."""
        held = _held(file)
        return f"has {held} by picture" if held else None

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture with phrases or objects, then one per question."""
        files = self.chosen(path)
        pictures = PicturesBelow(path if path.is_dir() else path.parent)
        regions: dict[str, tuple[str, list[Region]]] = {}
        asked: list[Row] = []
        for file in files:
            held = _held(file)
            if held is None:
                raise Refused(refuse("wrong-shape", str(file), "none of its files", self.wanted, "name the file itself"))
            for found in each(read_records(file), lambda entry, _, held=held: _pictured(entry, held, pictures)):
                if isinstance(found, tuple):
                    identity, place, made = found
                    regions.setdefault(identity, (place, []))[1].extend(made)
                elif isinstance(found, Row):
                    asked.append(found)
                else:
                    yield found
        for number, (identity, (place, made)) in enumerate(regions.items()):
            try:
                picture = pictures.find(identity, place)
            except Refused as refused:
                yield from refused.problems
            else:
                yield Row(id=identity, place=place, number=str(number), pictures=(str(picture),), data={"regions": tuple(made)})
        yield from asked

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """A picture with its regions, or a question about it."""
        if "question" in row.data:
            return [question_sample(row, pictures, origin)]
        return [Sample(id=row.id, pictures=pictures, annotations=row.data["regions"], origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/region_descriptions.json, objects.json and question_answers.json, and the pictures under VG_100K/."""
        losses, folder = Losses("visual-genome"), PictureFolder(path)
        found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in _FILES}
        for sample in samples:
            told = [_told(region) for region in sample.annotations]
            one = next(asked([replace(sample, annotations=())], Losses("")), None) if sample.turns else None
            if len(sample.pictures) != 1 or None in told or (sample.turns and (one is None or not one.answers)):
                losses.refuse("more than boxes with names or phrases, or one question with its answer, about one picture", sample)
                continue
            losses.of(sample, "alternatives", "weights", "attributes", "origin")
            picture = PurePosixPath(folder.add(sample.pictures[0], _FOLDER)).stem
            if sample.id != picture and one is None:
                losses.warn("ids", sample)
            for held, item in filter(None, told):
                found[held].setdefault(picture, []).append(item)
            if one is not None:
                qa = {"qa_id": published_id(one.id.removeprefix("qa/")), "question": one.question, "answer": one.answers[0]}
                found["questions"].setdefault(picture, []).append(qa)
        for held, (name, key) in _FILES.items():
            if found[held]:
                write_text(path / name, json_text([{"id": published_id(picture), key: items} for picture, items in found[held].items()]))
        return losses.problems()


def _told(region: Region) -> tuple[str, dict[str, Any]] | None:
    """What a region is in the published form; None where it is neither an object nor a phrase."""
    shape, known = region.shape, region.attributes
    if not isinstance(shape, Box):
        return None
    x, y, width, height = shape.x0, shape.y0, shape.x1 - shape.x0, shape.y1 - shape.y0
    if region.label:
        names = known.get("names", [region.label])
        return "objects", {"object_id": published_id(str(known.get("object", "0"))), "names": names, "x": x, "y": y, "w": width, "h": height}
    if known.get("text"):
        phrase = {"region_id": published_id(str(known.get("region", "0"))), "phrase": known["text"]}
        return "phrases", phrase | {"x": x, "y": y, "width": width, "height": height}
    return None


_Found = tuple[str, str, list[Region]] | Row


def _held(file: Path) -> str | None:
    return next((held for held, fields in _FIELDS.items() if mentions(file, *fields)), None)


def _pictured(entry: Entry, held: str, pictures: PicturesBelow) -> list[_Found]:
    """The regions of one picture, with its id and place; or its questions."""
    identity = entry.identity("id" if "id" in entry.value else "image_id")
    if held == "phrases":
        return [(identity, entry.place, [_phrase(region) for region in entry.entries("regions")])]
    if held == "objects":
        return [(identity, entry.place, [_object(item) for item in entry.entries("objects")])]
    picture = pictures.find(identity, entry.place)
    return [
        question_row(
            id=f"qa/{question.identity('qa_id')}",
            place=question.place,
            number=question.identity("qa_id"),
            picture=picture,
            question=question.text("question"),
            answers=[question.text("answer")],
            attributes={},
        )
        for question in entry.entries("qas")
    ]


def _phrase(region: Entry) -> Region:
    return Region(attributes={"text": region.text("phrase"), "region": region.identity("region_id")}, shape=_box(region, "width", "height"))


def _object(item: Entry) -> Region:
    names = item.texts("names")
    if not names or not names[0].strip():
        raise item.wrong("names", "a list that begins with a name")
    return Region(label=names[0], attributes={"names": names, "object": item.identity("object_id")}, shape=_box(item, "w", "h"))


def _box(entry: Entry, width: str, height: str) -> Box:
    x, y = entry.number("x"), entry.number("y")
    return Box(x0=x, y0=y, x1=x + entry.number(width), y1=y + entry.number(height))
