"""The Cauldron and FineVision: Parquet rows of pictures and question-answer texts about them.

    images  null | {bytes, path} | list of them
    texts   list of {user, assistant, source?}
    source?, relevance_ratings?, image_correspondence_ratings?, visual_dependency_ratings?, formatting_ratings?     FineVision; ratings one per text

All pictures are shown before the first question. Markers of pictures that other systems left in the texts are removed, with a warning. A text with a rating below `least_rating` is
left out, with a warning; the ratings of the others are attributes under their own names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from sightline.data.readers.files import refuse, within
from sightline.data.readers.parquet_rows import Rows, parquet_files, record, rows_of, schema
from sightline.data.readers.reader import Reader, Row, shaped
from sightline.data.readers.writing import Losses, shown, unsayable
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe, read_picture
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text, Turn

RATINGS = ("relevance_ratings", "image_correspondence_ratings", "visual_dependency_ratings", "formatting_ratings")
FILE = "cauldron.parquet"
_MARKERS = re.compile(r"<image>|<\|image(?:_pad|_\d+)?\|>|<image_soft_token>|<\|vision_(?:start|end)\|>|<fake_token_around_image>|<end_of_utterance>")
_COLUMNS = ("id", "images", "texts", "source", *RATINGS)
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXT = pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("texts", pa.list_(_TEXT)),
        ("source", pa.string()),
        *((name, pa.list_(pa.int64())) for name in RATINGS),
    ]
)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """Questions and answers of a row that are kept, what else is known of them, and what was left out."""

    pairs: list[tuple[str, str]]
    attributes: dict[str, Any]
    losses: list[Problem]


class Cauldron(Reader):
    """The Cauldron, FineVision, and other sets of their columns."""

    kind: Literal["cauldron"] = "cauldron"
    least_rating: int = 1
    """Least of FineVision's ratings, 1 to 5; a text with a lower one is left out."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """Parquet files with `images` and with `texts` of `user` and `assistant`."""
        file = next(iter(_files(path)), None)
        return (0.95, f"{file.name} has columns images, and texts of user and assistant") if file else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The Parquet files."""
        return frozenset(_files(path))

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per row; nothing but footers is read."""
        files = [path] if path.is_file() else list(_files(path))
        if not files:
            raise Refused(refuse("no-tables", str(path), "no Parquet file with images and texts", "columns images and texts", "correct the path"))
        yield from rows_of(path, files)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The pictures and the texts about them, after what was left out."""
        try:
            value = record(row, _COLUMNS)
        except Refused as refused:
            return list(refused.problems)
        held, problems = _pictures(value.get("images"), Path(row.data["file"]).parent, row.place)
        try:
            texts = self._texts(value, row.place)
        except Refused as refused:
            return [*problems, *refused.problems]
        if problems:
            return list(problems)
        turns: list[Turn] = []
        for question, answer in texts.pairs:
            items: list[Item] = [Show(picture=number) for number in range(len(held))] if not turns else []
            turns += [Turn(role="user", items=(*items, *_text(question))), Turn(role="assistant", items=_text(answer))]
        identity = value["id"] if isinstance(value.get("id"), str) else row.id
        return [*texts.losses, Sample(id=identity, pictures=tuple(held), turns=tuple(turns), attributes=texts.attributes, origin=origin)]

    def _texts(self, value: dict[str, Any], place: str) -> _Texts:
        """Refused with what is wrong with the texts or their ratings."""
        texts = value.get("texts")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, dict) and _pair(text) for text in texts):
            raise Refused(refuse("wrong-shape", place, f"{str(texts)[:80]} as `texts`", "a list of {user, assistant}", "mend the row"))
        ratings = {name: value[name] for name in RATINGS if isinstance(value.get(name), list)}
        if uneven := [name for name, listed in ratings.items() if len(listed) != len(texts) or not all(isinstance(one, int | None) for one in listed)]:
            found = f"{str(ratings[uneven[0]])[:60]} as {uneven[0]}"
            raise Refused(refuse("wrong-shape", place, found, f"{len(texts)} whole numbers, one per text", "mend the row"))
        kept = [k for k in range(len(texts)) if all(listed[k] is None or listed[k] >= self.least_rating for listed in ratings.values())]
        if not kept:
            allowed = f"a text whose ratings are {self.least_rating} or more"
            raise Refused(refuse("low-rating", place, f"{len(texts)} texts, all of lower ratings", allowed, "lower `least_rating`"))
        losses: list[Problem] = []
        if len(kept) < len(texts):
            losses.append(_warn("low-rating", place, f"{len(texts) - len(kept)} of {len(texts)} texts rated below {self.least_rating}", "they were left out"))
        pairs = [(str(texts[k]["user"]), str(texts[k]["assistant"])) for k in kept]
        if marks := sum(len(_MARKERS.findall(text)) for pair in pairs for text in pair):
            losses.append(_warn("stray-marker", place, f"{marks} markers of pictures inside texts", "they were removed"))
        attributes: dict[str, Any] = {name: [listed[k] for k in kept] for name, listed in ratings.items()}
        sources = [text for k in kept if isinstance(text := texts[k].get("source") or value.get("source"), str)]
        if sources:
            attributes["source"] = sources[0] if len(set(sources)) == 1 else sources
        return _Texts(pairs=[(_MARKERS.sub("", user), _MARKERS.sub("", assistant)) for user, assistant in pairs], attributes=attributes, losses=losses)

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/cauldron.parquet, or PATH itself when it ends in .parquet, with a further column `id`. Only pictures before the first question can be held."""
        losses = Losses("cauldron")
        with Rows(path if path.suffix == ".parquet" else path / FILE, _SCHEMA) as rows:
            for sample in samples:
                if what := _unwritable(sample):
                    losses.refuse(what, sample)
                    continue
                losses.of(sample, "annotations", "alternatives", "weights", "origin")
                rows.add(_row(sample, losses))
        return losses.problems()


def _files(path: Path) -> Iterator[Path]:
    for file in parquet_files(path):
        columns = schema(file)
        if columns is None or not {"images", "texts"} <= set(columns.names):
            continue
        texts = columns.field("texts").type
        if pa.types.is_list(texts) and pa.types.is_struct(texts.value_type) and {"user", "assistant"} <= {field.name for field in texts.value_type}:
            yield file


def _pair(text: dict[str, Any]) -> bool:
    return isinstance(text.get("user"), str) and isinstance(text.get("assistant"), str)


def _text(text: str) -> tuple[Item, ...]:
    return (Text(text=text),) if text else ()


def _pictures(value: Any, root: Path, place: str) -> tuple[list[Picture], list[Problem]]:
    """Pictures of a cell that is null, one, or a list; a path without bytes is a file below `root`."""
    found: list[Picture] = []
    problems: list[Problem] = []
    for number, entry in enumerate(value if isinstance(value, list) else [] if value is None else [value]):
        where = f"{place}, picture {number}"
        try:
            found.append(shaped(_picture(entry, root, where), where))
        except Refused as refused:
            problems += refused.problems
    return found, problems


def _picture(entry: Any, root: Path, place: str) -> Picture:
    data, name = (entry.get("bytes"), entry.get("path")) if isinstance(entry, dict) else (entry, None)
    if isinstance(data, bytes):
        return describe(data, name if isinstance(name, str) else "", place)
    file = within(root, name, place)
    if isinstance(file, Problem):
        raise Refused(file)
    return read_picture(file, place)


def _warn(code: str, place: str, found: str, fix: str) -> Problem:
    return Problem(code=f"data/{code}", place=place, found=found, allowed="", fix=fix, severity="warn")


def _unwritable(sample: Sample) -> str:
    turns = sample.turns
    if not turns or turns[0].role != "user" or turns[-1].role != "assistant":
        return "no dialogue of user and assistant"
    if what := unsayable(turns, None):
        return what
    lead = turns[0].items[: len(sample.pictures)]
    if shown(turns) != list(range(len(sample.pictures))) or not all(isinstance(item, Show) for item in lead):
        return "pictures elsewhere than before the first question"
    return "text that contains a marker of pictures" if any(_MARKERS.search(sample.text(k)) for k in range(len(turns))) else ""


def _row(sample: Sample, losses: Losses) -> dict[str, Any]:
    pairs = len(sample.turns) // 2
    source = sample.attributes.get("source")
    sources: Sequence[Any] = source if isinstance(source, list) and len(source) == pairs else [source if isinstance(source, str) else None] * pairs
    ratings = {name: listed for name in RATINGS if isinstance(listed := sample.attributes.get(name), list) and len(listed) == pairs}
    if set(sample.attributes) - {*ratings, *(("source",) if sources[0] is not None else ())}:
        losses.warn("attributes", sample)
    texts = [{"user": sample.text(2 * k), "assistant": sample.text(2 * k + 1), "source": sources[k]} for k in range(pairs)]
    images = [{"bytes": picture.data, "path": picture.name} for picture in sample.pictures]
    return {"id": sample.id, "images": images, "texts": texts, **ratings}
