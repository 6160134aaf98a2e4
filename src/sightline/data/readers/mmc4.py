"""MMC4: web pages as JSON lines, each picture matched with one sentence.

    {"url", "text_list": [sentence], "image_info": [{"image_name", "raw_url", "matched_text_index", "matched_sim"}]}

A picture stands before its sentence (or after it), pictures of one sentence in their order. Sentences without a picture between them are joined by a space. Pictures whose similarity is too
low, and the least similar of too many, are left out with a warning. `urls` and `similarities` in the attributes are those of the pictures that are kept.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from sightline.data.readers.documents import FOLDER, document, items_of, local_picture, texts_joined
from sightline.data.readers.files import first_row, json_files, read_json_rows, refuse, within
from sightline.data.readers.reader import Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text

FILE = "mmc4.jsonl"
_SIDE = {"before": "behind", "after": "before"}
_SUFFIXES = (".jsonl", ".json")


class Mmc4(Reader):
    """MMC4, MMC4-core, fewer-faces, and other files of its lines."""

    kind: Literal["mmc4"] = "mmc4"
    pictures: str = FOLDER
    """Folder of the pictures, relative to each file: named by `image_name`, or by the sha256 of `raw_url`."""
    place: Literal["before", "after"] = "before"
    """Where a picture stands, seen from its sentence."""
    least_similarity: float = 0.24
    """Least `matched_sim` of a picture that is kept."""
    most_pictures: NonNegativeInt = 6
    """Most pictures of a document; the most similar ones are kept."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """JSON lines with `text_list` and `image_info`."""
        file = next(iter(self._files(path)), None)
        return (0.95, f"the first row of {file.name} has text_list and image_info") if file else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The files of lines."""
        return frozenset(self._files(path))

    def _files(self, path: Path) -> list[Path]:
        rows = ((file, first_row(file)) for file in json_files(path, _SUFFIXES))
        return [file for file, row in rows if row is not None and isinstance(row.get("text_list"), list) and isinstance(row.get("image_info"), list)]

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per document."""
        files = [path] if path.is_file() else self._files(path)
        if not files:
            raise Refused(refuse("no-documents", str(path), "no file of documents", "JSON lines with text_list and image_info", "correct the path"))
        for file in files:
            for number, (place, value) in enumerate(read_json_rows(file)):
                yield from self._row(value, f"{file.name}:{number}", place, file.parent / self.pictures)

    def _row(self, value: Any, number: str, place: str, root: Path) -> Iterator[Row | Problem]:
        problem = _checked(value, place)
        if problem is not None:
            yield problem
            return
        infos: list[dict[str, Any]] = value["image_info"]
        similar = [k for k, info in enumerate(infos) if info["matched_sim"] >= self.least_similarity]
        kept = sorted(sorted(similar, key=lambda k: -infos[k]["matched_sim"])[: self.most_pictures])
        found = [_file(root, infos[k], f"{place}, picture {k}") for k in kept]
        problems = [file for file in found if isinstance(file, Problem)]
        if problems:
            yield from problems
            return
        files = [str(file) for file in found]
        distinct = tuple(dict.fromkeys(files))
        at = [(infos[k]["matched_text_index"], distinct.index(file)) for k, file in zip(kept, files, strict=True)]
        attributes: dict[str, Any] = {"url": value["url"]} if isinstance(value.get("url"), str) else {}
        if kept:
            attributes["similarities"] = [infos[k]["matched_sim"] for k in kept]
            if any(urls := [url if isinstance(url := infos[k].get("raw_url"), str) else None for k in kept]):
                attributes["urls"] = urls
        identity = value["id"] if isinstance(value.get("id"), str) else number
        data = {"texts": value["text_list"], "pictures": at, "attributes": attributes, "left_out": len(infos) - len(kept)}
        yield Row(id=identity, place=place, number=number, pictures=distinct, data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The document, after what was left out."""
        made: list[Sample | Problem] = []
        if row.data["left_out"]:
            found = f"{row.data['left_out']} pictures less similar than {self.least_similarity}, or beyond {self.most_pictures}"
            allowed = "change `least_similarity` or `most_pictures` to keep them"
            made.append(Problem(code="data/pictures-left-out", place=row.place, found=found, allowed=allowed, fix="they were left out", severity="warn"))
        items = placed(row.data["texts"], row.data["pictures"], self.place)
        return [*made, Sample(id=row.id, pictures=pictures, turns=document(items), attributes=row.data["attributes"], origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/mmc4.jsonl with a further field `id`, and the pictures below images/. Only documents in which every picture has a sentence on the side of `place` can be held."""
        losses = Losses("mmc4")
        target = path if path.suffix in _SUFFIXES else path / FILE
        folder = PictureFolder(target.parent)
        lines: list[str] = []
        for sample in samples:
            items, what = items_of(sample)
            texts = [item.text for item in items if isinstance(item, Text)]
            matched = _matched(items, self.place)
            if what or not texts or tuple(placed(texts, [(k, picture) for picture, k in enumerate(matched)], self.place)) != items:
                losses.refuse(what or f"pictures without a sentence {_SIDE[self.place]} them, or in another order", sample)
                continue
            losses.of(sample, "annotations", "alternatives", "weights", "origin")
            if set(sample.attributes) - {"url", "urls", "similarities"}:
                losses.warn("attributes", sample)
            names = [posixpath.relpath(folder.add(picture, self.pictures), self.pictures) for picture in sample.pictures]
            lists = [_listed(sample, key, len(names), usual) for key, usual in (("urls", None), ("similarities", 1.0))]
            infos = [
                {"image_name": name, "matched_text_index": k, "matched_sim": similarity, **({"raw_url": url} if url else {})}
                for name, k, url, similarity in zip(names, matched, *lists, strict=True)
            ]
            page = {"url": sample.attributes["url"]} if isinstance(sample.attributes.get("url"), str) else {}
            lines.append(json.dumps({"id": sample.id, **page, "text_list": texts, "image_info": infos}, ensure_ascii=False) + "\n")
        write_text(target, "".join(lines))
        return losses.problems()


def placed(texts: Iterable[str], pictures: Iterable[tuple[int, int]], place: Literal["before", "after"]) -> list[Item]:
    """Sentences with pictures, given as (sentence, picture), before or after theirs; sentences between two pictures are one text."""
    by_sentence: dict[int, list[Item]] = {}
    for sentence, picture in pictures:
        by_sentence.setdefault(sentence, []).append(Show(picture=picture))
    items: list[Item] = []
    run: list[str] = []
    for number, text in enumerate(texts):
        shown = by_sentence.get(number, [])
        if shown and place == "before":
            items, run = [*items, *([texts_joined(run)] if run else []), *shown], []
        run.append(text)
        if shown and place == "after":
            items, run = [*items, texts_joined(run), *shown], []
    return [*items, texts_joined(run)] if run else items


def _checked(value: Any, place: str) -> Problem | None:
    """What is wrong with the shape of a row."""
    texts, infos = (value.get("text_list"), value.get("image_info")) if isinstance(value, dict) else (None, None)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts) or not isinstance(infos, list):
        return refuse("wrong-shape", place, "a row without lists `text_list` of text and `image_info`", "a row of MMC4", "mend the row")
    for number, info in enumerate(infos):
        index, similarity = (info.get("matched_text_index"), info.get("matched_sim")) if isinstance(info, dict) else (None, None)
        if type(index) is not int or not 0 <= index < len(texts) or type(similarity) not in (int, float):
            found = f"matched_text_index {index!r:.20} and matched_sim {similarity!r:.20} of picture {number}"
            return refuse("wrong-shape", place, found, f"a sentence 0..{len(texts) - 1} and a number", "mend the row")
    return None


def _file(root: Path, info: Mapping[str, Any], place: str) -> Path | Problem:
    """The picture's file under its own name or that of its URL."""
    name, url = info.get("image_name"), info.get("raw_url")
    known = within(root, name, place) if isinstance(name, str) else None
    if isinstance(known, Problem) or (isinstance(known, Path) and (known.is_file() or not isinstance(url, str))):
        return known
    return local_picture(root, url, place) if isinstance(url, str) else refuse("picture-name", place, "no name and no URL", "image_name", "name the file")


def _matched(items: Iterable[Item], place: Literal["before", "after"]) -> list[int]:
    """Of each picture by number, the number of the text behind it, or before it."""
    texts = 0
    matched: dict[int, int] = {}
    for item in items:
        texts += isinstance(item, Text)
        if isinstance(item, Show):
            matched[item.picture] = texts if place == "before" else texts - 1
    return [matched[picture] for picture in sorted(matched)]


def _listed(sample: Sample, key: str, count: int, usual: Any) -> list[Any]:
    """A list in the attributes with one entry per picture; `usual` for each where there is none."""
    value = sample.attributes.get(key)
    return value if isinstance(value, list) and len(value) == count else [usual] * count
