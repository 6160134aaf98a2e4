"""Pairs of pictures of one place at two times, with a mask of what changed: LEVIR-CD, and whatever has its folders.

    A/<name>.png        before: picture 0
    B/<name>.png        after: picture 1
    label/<name>.png    0 unchanged, 1 or 255 changed
    changes.json        {name: {"changes": [`built`, `torn-down`], "things": [[label, x, y], ..] of each day}}; made pairs have it

A pair becomes one sample without turns. What changed is one mask on the later picture; a pair without change has no region. `changed` in the attributes says which it is.
LEVIR-CD's crops are named `<split>_<picture>_<down>_<right>`: the split is taken from there where no folder and no list says it, and `tile_of` keeps the picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, read_json, read_text, refuse
from sightline.data.readers.label_masks import label_ids, mask_values
from sightline.data.readers.palette_guess import LARGEST_UNKNOWN
from sightline.data.readers.palettes import Palette
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.data.readers.writing import Losses
from sightline.errors import Problem, Refused
from sightline.samples.geometry import decode_mask, encode_mask
from sightline.samples.sample import Mask, Origin, Picture, Region, Sample

_VALUES = Palette(names={0: "unchanged", 1: "changed", 255: "changed"}, rgb={(0, 0, 0): 0, (255, 255, 255): 255})
_CROP = re.compile(r"((train|val|test)_\d+)_\d+_\d+")
_LISTS, _CHANGES = "list", "changes.json"
_FACTS = ("changes", "things")
"""What the file of changes may say of a pair."""


class ChangePairs(Reader):
    """LEVIR-CD and other sets of folders A, B and label."""

    kind: Literal["change-pairs"] = "change-pairs"
    changed: str = "changed building"
    """Label of what changed; LEVIR-CD marks buildings only."""
    before: str = "A"
    """Folder of the earlier pictures."""
    after: str = "B"
    """Folder of the later pictures."""
    masks: str = "label"
    """Folder of the masks."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """The three folders, with a file name that stands in all of them."""
        for base in self._bases(path):
            common = self._named(base / self.before).keys() & self._named(base / self.after).keys() & self._named(base / self.masks).keys()
            if common:
                return 0.95, f"{self.before}/, {self.after}/ and {self.masks}/ hold {len(common)} files of the same names"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The masks."""
        return frozenset(base / self.masks / name for base in self._bases(path) for name in self._named(base / self.masks).values())

    def _bases(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return []
        return [folder for folder in folders(path) if all((folder / name).is_dir() for name in (self.before, self.after, self.masks))]

    def _named(self, folder: Path) -> dict[str, str]:
        """File names by stem."""
        return {PurePosixPath(name).stem: name for name in files_below(folder, PICTURE_SUFFIXES)}

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per pair; a file without its two others is a problem."""
        bases = self._bases(path)
        if not bases:
            allowed = f"{self.before}/, {self.after}/ and {self.masks}/ beside each other"
            raise Refused(refuse("no-pairs", str(path), "no such folders", allowed, "pass `before`, `after` and `masks`"))
        for base in bases:
            prefix, listed, happened = base.relative_to(path), _listed(base), _happened(base)
            said = next((SPLITS[part.lower()] for part in prefix.parts if part.lower() in SPLITS), None)
            names = [self._named(base / folder) for folder in (self.before, self.after, self.masks)]
            for stem in sorted(set().union(*names)):
                if missing := [folder for folder, known in zip((self.before, self.after, self.masks), names, strict=True) if stem not in known]:
                    found = f"not in {', '.join(f'{folder}/' for folder in missing)}"
                    yield refuse("incomplete-pair", str(base / stem), found, "two pictures and a mask of one name", "add the files, or remove the others")
                    continue
                earlier, later, mask = (str(base / folder / known[stem]) for folder, known in zip((self.before, self.after, self.masks), names, strict=True))
                identity = (prefix / names[0][stem]).as_posix()
                data: dict[str, Any] = {"mask": mask}
                crop = _CROP.fullmatch(stem)
                if split := said or listed.get(stem) or (crop[2] if crop else None):
                    data["split"] = split
                if crop:
                    data["tile_of"] = crop[1]
                if stem in happened:
                    data |= {key: happened[stem][key] for key in _FACTS if key in happened[stem]}
                yield Row(id=identity, place=mask, number=identity, pictures=(earlier, later), data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """Both pictures and what changed between them."""
        before, after = pictures
        if (before.width, before.height) != (after.width, after.height):
            sizes = f"{before.width}x{before.height} and {after.width}x{after.height} px"
            return [refuse("pair-size", row.place, sizes, "two pictures of one size", "bring both to one grid")]
        try:
            ids, unknown = label_ids(mask_values(row.data["mask"], after), _VALUES)
        except Refused as refused:
            return list(refused.problems)
        made: list[Sample | Problem] = []
        if unknown.any():
            severity = "refuse" if unknown.mean() > LARGEST_UNKNOWN else "warn"
            found = f"{unknown.mean():.2%} of {unknown.size} px are neither 0 nor 1 nor 255"
            fix = "threshold the mask first" if severity == "refuse" else "they count as unchanged"
            made.append(Problem(code="data/unknown-labels", place=row.place, found=found, allowed="0, 1 and 255", fix=fix, severity=severity))
            if severity == "refuse":
                return made
        changed = ids > 0
        regions = (Region(picture=1, label=self.changed, shape=encode_mask(changed)),) if changed.any() else ()
        attributes = {"changed": bool(changed.any()), **{key: row.data[key] for key in ("split", "tile_of", *_FACTS) if key in row.data}}
        return [*made, Sample(id=row.id, pictures=pictures, annotations=regions, attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/[SPLIT/]A, B and label, named by the samples' ids. Two pictures of one size and at most one mask on the later one can be held."""
        losses = Losses("change-pairs")
        taken: set[str] = set()
        for sample in samples:
            regions = [region for region in sample.annotations if region.picture == 1 and region.label == self.changed and isinstance(region.shape, Mask)]
            size = {(picture.width, picture.height) for picture in sample.pictures}
            if len(sample.pictures) != 2 or len(size) > 1 or len(regions) > 1:
                losses.refuse("a sample without two pictures of one size and at most one change", sample)
                continue
            split = sample.attributes.get("split")
            base = f"{split}/" if split in SPLITS.values() else ""
            stem = PurePosixPath(sample.id.replace("\\", "/")).stem
            if not stem or f"{base}{stem}".lower() in taken:
                losses.refuse("a name that another pair has", sample)
                continue
            taken.add(f"{base}{stem}".lower())
            losses.of(sample, "turns", "origin")
            if len(regions) < len(sample.annotations):
                losses.warn("regions", sample)
            if set(sample.attributes) - {"split", "changed", "tile_of"}:
                losses.warn("attributes", sample)
            pixels = decode_mask(regions[0].shape) if regions and isinstance(regions[0].shape, Mask) else np.zeros(tuple(reversed(size.pop())), bool)
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8) * 255).save(stream, "PNG")
            for folder, picture in zip((self.before, self.after), sample.pictures, strict=True):
                assert isinstance(picture.data, bytes), "a picture that is a path of a store"
                _put(path / base / folder / (stem + (PurePosixPath(picture.name).suffix or ".png")), picture.data)
            _put(path / base / self.masks / f"{stem}.png", stream.getvalue())
        return losses.problems()


def _put(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _listed(base: Path) -> dict[str, str]:
    """Split by stem, from the lists that bear the name of one."""
    files = [(base / _LISTS / f"{name}.txt", split) for name, split in SPLITS.items()]
    return {PurePosixPath(line.strip()).stem: split for file, split in files if file.is_file() for line in read_text(file).splitlines() if line.strip()}


def _happened(base: Path) -> dict[str, dict[str, list[Any]]]:
    """What happened and what stands where, by stem, where a file says it."""
    file = base / _CHANGES
    if not file.is_file():
        return {}
    told = read_json(file)
    named = told.items() if isinstance(told, dict) else [("", None)]
    strange = [name for name, facts in named if not isinstance(facts, dict) or not all(isinstance(facts.get(key, []), list) for key in _FACTS)]
    if strange:
        found = f"{type(told).__name__}, {strange[0]!r} is no mapping of lists"
        raise Refused(refuse("wrong-shape", str(file), found, '{name: {"changes": [..], "things": [..]}}', "mend the file, or remove it"))
    return told
