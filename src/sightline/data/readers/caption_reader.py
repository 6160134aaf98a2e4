"""What caption formats share: a picture and its captions become one sample, and the other way round.

The user turn shows the picture and says nothing; the assistant turn says the first caption, the other distinct ones are alternatives. Blanks at both ends of a caption are no part of what is
said. All captions as published, repeats and blanks included, stay in `references`: published scores count them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from sightline.data.readers.annotation_reader import AnnotationReader
from sightline.data.readers.files import picture_folder, refuse, within
from sightline.data.readers.reader import Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem
from sightline.lineage import write_text
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

USUAL = ("images", "imgs", "Images")
"""Folders beside a file in which its pictures usually lie."""
FOLDER = "images"
"""Where writers put pictures."""
_LOOKED_AT = 256
"""Rows by which the folder of the pictures is found."""
_CLASS = re.compile(r"([A-Za-z]+)_\d+\.\w+")


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A picture and its captions as a file lists them."""

    name: str
    """Path of the picture, from the folder of pictures; empty for text without a picture, which needs an id."""
    references: tuple[str, ...]
    place: str
    number: str
    """The row in its file."""
    id: str = ""
    """Id of the sample; the name of the picture when empty."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes; `split` among them where it is known."""
    losses: tuple[Problem, ...] = ()
    """What was lost or guessed, severity warn."""


class CaptionReader(AnnotationReader):
    """Base of caption readers. A subclass has `reason`, `listed`, and `file` and `texts` where it can be written."""

    split: list[str] | None = None
    """Splits to read, all when absent."""
    pictures: str | None = None
    """Folder of the pictures, relative to the file; found beside it when absent (images, imgs, Images, *_images)."""
    usual: ClassVar[tuple[str, ...]] = USUAL
    """Folders in which pictures are looked for."""
    file: ClassVar[str] = ""
    """Name of a written file."""
    folder: ClassVar[str] = FOLDER
    """Where written pictures go."""

    def listed(self, file: Path) -> Iterator[Captioned | Problem]:
        """The pictures of one file with their captions, in its order."""
        raise NotImplementedError

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture of the wanted splits, over all caption files at `path`."""
        for file in self.chosen(path):
            inner = file.parent.relative_to(path).as_posix() if path.is_dir() else "."
            listed = self.listed(file)
            first = list(islice(listed, _LOOKED_AT))
            names = (one.name for one in first if isinstance(one, Captioned) and one.name)
            # Nothing above the given folder is searched; where the file is one level down, its neighbours are.
            above = [posixpath.join("..", name) for name in (*self.usual, "")] if inner != "." else []
            root = picture_folder(file.parent, self.pictures, names, [*self.usual, *above])
            for one in chain(first, listed):
                if isinstance(one, Problem) or self.split is None or one.attributes.get("split") in self.split:
                    yield one if isinstance(one, Problem) else _row(one, inner, root)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and its captions, after what was lost of them."""
        attributes = dict(row.data["attributes"])
        sample = Sample(id=row.id, pictures=pictures, turns=caption_turns(attributes["references"]), attributes=attributes, origin=origin)
        return [*row.data["losses"], sample]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write the captions and the pictures below `path`; the problems name what the format cannot hold. Refused where the format is only read."""
        if not self.file:
            return super().write(samples, path)
        target = path if path.suffix == PurePosixPath(self.file).suffix else path / self.file
        losses, folder = Losses(str(type(self).model_fields["kind"].default)), PictureFolder(target.parent)
        written: list[Captioned] = []
        for sample in samples:
            references = captions_of(sample)
            if references is None:
                losses.refuse("more than captions of one picture", sample)
            elif what := self.unwritable(sample, references):
                losses.refuse(what, sample)
            else:
                written.append(self._captioned(sample, references, folder, losses, len(written)))
        for name, text in self.texts(written).items():
            write_text(target if name == self.file else target.parent / name, text)
        return losses.problems()

    def unwritable(self, sample: Sample, references: Sequence[str]) -> str:
        """What in a sample of captions this format has no place for; empty when it can be written."""
        return ""

    def placed(self, sample: Sample) -> str:
        """Where below `folder` the picture of a sample goes: the folder in its id when that is the path of its picture."""
        path = PurePosixPath(sample.id)
        usable = path.name == sample.pictures[0].name and isinstance(within(Path(), sample.id, ""), Path)
        return path.parent.as_posix() if usable else "."

    def texts(self, written: Sequence[Captioned]) -> dict[str, str]:
        """Text of each file to be written, by its name; the names of pictures start from `folder`."""
        raise NotImplementedError

    def _captioned(self, sample: Sample, references: list[str], folder: PictureFolder, losses: Losses, number: int) -> Captioned:
        losses.of(sample, "annotations", "weights", "origin")
        if sample.turns and any(isinstance(item, Text) for item in sample.turns[0].items):
            losses.warn("words of the user", sample)
        name = folder.add(sample.pictures[0], posixpath.normpath(f"{self.folder}/{self.placed(sample)}")).removeprefix(f"{self.folder}/")
        captioned = Captioned(name=name, references=tuple(references), place="", number=str(number), attributes=sample.attributes)
        if {**self.again(captioned), "references": references} != {"references": references, **sample.attributes}:
            losses.warn("attributes", sample)
        if sample.id != self.identity(captioned):
            losses.warn("ids", sample)
        return captioned

    def again(self, captioned: Captioned) -> dict[str, Any]:
        """The attributes that a written picture has when it is read again, without `references`."""
        return split_attribute(captioned)

    def identity(self, captioned: Captioned) -> str:
        """The id that a written picture has when it is read again."""
        return captioned.name


def _row(one: Captioned, inner: str, root: Path) -> Row | Problem:
    if any(not text.strip() for text in one.references):
        return refuse("empty-caption", one.place, "a caption without text", "captions with text", "remove the caption")
    picture = within(root, one.name, one.place) if one.name else None
    if isinstance(picture, Problem):
        return picture
    data = {"attributes": {**one.attributes, "references": list(one.references)}, "losses": one.losses}
    identity = posixpath.normpath(f"{inner}/{one.id or one.name}")
    return Row(id=identity, place=one.place, number=one.number, pictures=(str(picture),) if picture else (), data=data)


def split_attribute(captioned: Captioned) -> dict[str, Any]:
    """The `split` of a picture where it is a text, as attributes."""
    split = captioned.attributes.get("split")
    return {"split": split} if isinstance(split, str) and split else {}


def class_hint(name: str) -> dict[str, str]:
    """`class` from a file name such as airport_12.jpg; empty when the name has another form."""
    hint = _CLASS.fullmatch(PurePosixPath(name).name)
    return {"class": hint[1]} if hint else {}


def caption_turns(references: Sequence[str]) -> tuple[Turn, ...]:
    """A turn that shows picture 0 and one that says the first caption, with the other distinct ones as alternatives; no turns without captions."""
    distinct = list(dict.fromkeys(text.strip() for text in references))
    if not distinct:
        return ()
    answer = Turn(role="assistant", items=(Text(text=distinct[0]),), alternatives=tuple((Text(text=text),) for text in distinct[1:]))
    return (Turn(role="user", items=(Show(picture=0),)), answer)


def captions_of(sample: Sample) -> list[str] | None:
    """All captions of a sample: as published where they are still what it says, else as it says them; None when it is no set of captions of one picture."""
    if len(sample.pictures) != 1 or len(sample.turns) not in (0, 2):
        return None
    references = sample.attributes.get("references")
    if isinstance(references, list) and all(isinstance(text, str) for text in references) and caption_turns(references) == sample.turns:
        return references
    if not sample.turns:
        return []
    user, answer = sample.turns
    shown = [item for item in user.items if not isinstance(item, Text)]
    said = [answer.items, *answer.alternatives]
    texts = [item.text for items in said for item in items if isinstance(item, Text)]
    whole = all(len(items) == 1 for items in said) and len(texts) == len(said) and all(text.strip() for text in texts)
    return texts if (user.role, answer.role) == ("user", "assistant") and shown == [Show(picture=0)] and whole else None


def joined_by_picture(rows: Iterable[Captioned | Problem]) -> Iterator[Captioned | Problem]:
    """Rows of one picture as one, in the order of first appearance: their captions one after another. Rows that disagree in an attribute are a problem."""
    groups: dict[str, list[Captioned]] = {}
    for row in rows:
        if isinstance(row, Problem):
            yield row
        else:
            groups.setdefault(row.id or row.name, []).append(row)
    for same in groups.values():
        different = next((row for row in same if row.attributes != same[0].attributes), None)
        if different is not None:
            found = f"{dict(different.attributes)} for {different.name!r}, and {dict(same[0].attributes)} at {same[0].place}"
            yield refuse("split-conflict", different.place, found[:300], "equal values in all rows of a picture", "mend the rows")
            continue
        losses = tuple(loss for row in same for loss in row.losses)
        yield replace(same[0], references=tuple(text for row in same for text in row.references), losses=losses)
