"""Pictures in one folder per class: AID, UC Merced, NWPU-RESISC45, EuroSAT.

Each picture becomes a sample without turns and with one region for the whole picture, whose label is the folder's name in words and whose `class` is that name as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, has_pictures, refuse
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.data.readers.writing import Losses, PictureFolder
from sightline.errors import Problem, Refused
from sightline.samples.sample import Origin, Picture, Region, Sample

LAYOUT = re.compile(
    r"(\d+|images?|imgs?|pictures?|masks?|labels?|annotations?|gt|groundtruth|jpegimages.*|img_dir|ann_dir|\w+_(png|images|masks)|\w+-chips|instances"
    r"|(train|val|valid|validation|test|dev|trainval)[-_]?\d*)",
    re.IGNORECASE,
)
"""Names of folders that say what files are, of which split or which shard: they are of other formats."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(name: str) -> str:
    """`BareLand` -> `bare land`, `storage_tanks` -> `storage tanks`."""
    return " ".join(_HUMP.sub(" ", name).replace("_", " ").replace("-", " ").split()).lower()


class ClassFolders(Reader):
    """One folder of pictures per class, below folders that name a split or not."""

    kind: Literal["class-folders"] = "class-folders"
    split: list[str] | None = None
    """Splits to read, where folders train, val and test stand above the classes; all when absent."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """Two or more folders that hold pictures directly, beside each other, and whose names are no part of another layout; surer where file names begin with the class."""
        classes = self._classes(path)
        if len({folder.name for folder, _ in classes}) < 2 or any(LAYOUT.fullmatch(folder.name) for folder, _ in classes):
            return None
        named = all(_folded(next(iter(_pictures(folder)), "")).startswith(_folded(folder.name)) for folder, _ in classes)
        found = f"{len(classes)} folders of pictures beside each other, such as {classes[0][0].name}/"
        return (0.8, f"{found}, and the names of the pictures begin with those of their folders") if named else (0.5, found)

    def _classes(self, path: Path) -> list[tuple[Path, str | None]]:
        if not path.is_dir():
            return []
        found = [folder for folder in folders(path) if folder != path and has_pictures(folder)]
        return [(folder, next((SPLITS[p.lower()] for p in folder.relative_to(path).parts[:-1] if p.lower() in SPLITS), None)) for folder in found]

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture, class by class."""
        classes = self._classes(path)
        if not classes:
            raise Refused(refuse("no-class-folders", str(path), "no folder with pictures in it", "PATH/CLASS/picture files", "correct the path"))
        for folder, split in classes:
            if self.split is not None and split not in self.split:
                continue
            prefix = folder.relative_to(path)
            for name in _pictures(folder):
                identity = (prefix / name).as_posix()
                data = {"class": folder.name, "split": split}
                yield Row(id=identity, place=str(folder / name), number=identity, pictures=(str(folder / name),), data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and its class."""
        region = Region(label=words(row.data["class"]), attributes={"class": row.data["class"]})
        attributes = {"split": row.data["split"]} if row.data["split"] else {}
        return [Sample(id=row.id, pictures=pictures, annotations=(region,), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/[SPLIT/]CLASS/picture. Only one picture with one label for the whole of it can be held; what else a sample has is named."""
        losses = Losses("class-folders")
        written = PictureFolder(path)
        for sample in samples:
            whole = [region for region in sample.annotations if region.shape is None and region.label is not None]
            if len(sample.pictures) != 1 or len(whole) != 1:
                losses.refuse("a sample with no or several pictures or classes", sample)
                continue
            label = whole[0].label or ""
            folder = str(whole[0].attributes.get("class", label.replace(" ", "_")))
            if words(folder) != label or Path(folder).name != folder or folder.lower() in SPLITS:
                losses.refuse(f"the label {label!r}, which no folder name gives back", sample)
                continue
            losses.of(sample, "turns", "regions", "attributes", "origin")
            split = sample.attributes.get("split")
            written.add(sample.pictures[0], f"{split}/{folder}" if split in SPLITS.values() else folder)
        return losses.problems()


def _pictures(folder: Path) -> list[str]:
    """Names of the pictures directly in a folder."""
    return [name for name in files_below(folder, PICTURE_SUFFIXES) if "/" not in name]


def _folded(name: str) -> str:
    """Letters and digits alone: `BareLand`, `bare_land` and `bareland_1.jpg` begin alike."""
    return "".join(filter(str.isalnum, name)).lower()
