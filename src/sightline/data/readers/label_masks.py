"""Label masks: a folder of pictures and a folder of masks with the same file names, in any of the usual pairs of folder names.

A mask becomes one region per class that occurs in it. Where a folder of instance numbers stands beside the masks, each instance becomes a region too, with `instance` in its attributes
and the class that most of its pixels have. Regions are in the upright picture; a mask must have its size. What the numbers or colours mean is said by `labels`, by classes.json, or
is recognised (palette_guess.py); where it is not clear the data set is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below, folders, read_json, refuse
from sightline.data.readers.mask_writing import write_masks
from sightline.data.readers.palette_guess import LARGEST_UNKNOWN, guess
from sightline.data.readers.palettes import PALETTES, Palette
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.errors import Problem, Refused, nearest
from sightline.samples.geometry import encode_labels
from sightline.samples.pictures import decode_labels, picture_bytes
from sightline.samples.sample import Origin, Picture, Region, Sample

PAIRS = (
    ("images", "masks"),
    ("img_dir", "ann_dir"),
    ("images_png", "masks_png"),
    ("images", "labels"),
    ("images", "groundtruth"),
    ("images", "gt"),
    ("image-chips", "label-chips"),
    ("images", "Semantic_masks/images"),
    ("2_Ortho_RGB", "5_Labels_all"),
    ("2_Ortho_RGB", "5_Labels_all_noBoundary"),
)
"""Usual names of the two folders."""
SUFFIXES = (("", ""), ("", "_instance_color_RGB"), ("_RGB", "_label"), ("_RGB", "_label_noBoundary"), ("", "_label"), ("", "_mask"))
"""Usual ends of the names of a picture and of its mask, before the dot."""
INSTANCES = "Instance_masks/images"
INSTANCE_SUFFIX = "_instance_id_RGB"
"""Where iSAID keeps instance numbers, and the end of their names."""
CLASSES = "classes.json"
"""A list of {"id", "name", "rgb"?} beside the folders; the name `ignore` marks a number that is no label."""
_LARGEST_NUMBER = 2**31 - 1
_MASKS = (".png", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True)
class _Pair:
    base: Path
    pictures: Path
    masks: Path
    by_mask: dict[str, str]
    """Mask name by picture name, both relative to their folders, for the pictures that have one."""
    bare: tuple[str, ...]
    """Masks without a picture."""


class LabelMasks(Reader):
    """Pictures with a mask of class numbers or class colours each: LoveDA, iSAID, Potsdam, OpenEarthMap and others."""

    kind: Literal["label-masks"] = "label-masks"
    labels: str | dict[int, str] | None = None
    """What the numbers mean: a palette by name, or a table number: name. When absent, `classes.json` beside the folders says it, or it is recognised."""
    ignore: list[int] = []
    """Further numbers that are no label."""
    pictures: str | None = None
    """Folder of the pictures, relative to the data set; the usual pairs of names are searched when absent."""
    masks: str | None = None
    """Folder of the masks."""
    instances: str = "instances"
    """Folder of instance numbers, beside that of the masks; not needed."""
    picture_suffix: str | None = None
    """End of a picture's name, before the dot, that its mask does not have (`_RGB`); the usual ones are tried when absent."""
    mask_suffix: str | None = None
    """End of a mask's name, before the dot, that its picture does not have (`_label`); the usual ones are tried when absent."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """A pair of folders with the usual names and files that belong together; the reason names the palette, or those that may be meant."""
        for pair in self._pairs(path):
            if not pair.by_mask:
                continue
            reason = f"{pair.pictures.relative_to(pair.base).as_posix()}/ and {pair.masks.relative_to(pair.base).as_posix()}/ hold files of the same names"
            if self.labels is not None or (pair.base / CLASSES).is_file():
                return 0.9, reason
            try:
                return 0.9, f"{reason}; {guess(path, _names(path, pair)).reason}"
            except Refused as refused:
                return 0.5, f"{reason}; {refused.problems[0].found}"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The masks, instance numbers and class lists."""
        found: set[Path] = set()
        for pair in self._pairs(path):
            instances, names = self._instances(pair)
            found |= {pair.masks / name for name in (*pair.by_mask.values(), *pair.bare)} | {instances / name for name in names.values()}
            found |= {pair.base / CLASSES} if (pair.base / CLASSES).is_file() else set()
        return frozenset(found)

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per picture; a picture without a mask, or a mask without a picture, is a problem."""
        pairs = self._pairs(path)
        if not pairs:
            usual = ", ".join(f"{left}/ and {right}/" for left, right in PAIRS)
            raise Refused(
                refuse("no-mask-folders", str(path), "no pair of folders of pictures and masks", usual, "pass `pictures: FOLDER` and `masks: FOLDER`")
            )
        for pair in pairs:
            # Without a pair of files there is nothing to tell a palette from: every file of the pair is a problem.
            yield from self._rows(path, pair, self._palette(path, pair) if pair.by_mask else Palette(names={}))

    def _pairs(self, path: Path) -> list[_Pair]:
        if not path.is_dir():
            return []
        if self.pictures is not None and self.masks is not None:
            pictures, masks = path / self.pictures, path / self.masks
            return [self._pair(path, pictures, masks)] if pictures.is_dir() and masks.is_dir() else []
        found: list[_Pair] = []
        for folder in folders(path):
            if any(folder.is_relative_to(side) for pair in found for side in (pair.pictures, pair.masks)):
                continue
            name = next(((left, right) for left, right in PAIRS if (folder / left).is_dir() and (folder / right).is_dir()), None)
            if name is not None:
                found.append(self._pair(folder, folder / name[0], folder / name[1]))
        return found

    def _pair(self, base: Path, pictures: Path, masks: Path) -> _Pair:
        """The two folders, joined by the ends of names that join most files."""
        left, right = files_below(pictures, PICTURE_SUFFIXES), files_below(masks, _MASKS)
        usual = self.picture_suffix is None and self.mask_suffix is None
        ends = SUFFIXES if usual else ((self.picture_suffix or "", self.mask_suffix or ""),)
        tried = []
        for picture_end, mask_end in ends:
            keys = {_key(name, mask_end): name for name in right if PurePosixPath(name).stem.endswith(mask_end)}
            tried.append({name: keys[key] for name in left if (key := _key(name, picture_end)) in keys})
        by_mask = max(tried, key=len)
        used = set(by_mask.values())
        # iSAID's instance numbers may lie in the folder of the masks: they are no masks of their own.
        bare = tuple(name for name in right if name not in used and not PurePosixPath(name).stem.endswith(INSTANCE_SUFFIX))
        return _Pair(base, pictures, masks, by_mask, bare)

    def _instances(self, pair: _Pair) -> tuple[Path, dict[str, str]]:
        """The folder of instance numbers, and the names in it by key."""
        for folder, end in ((pair.masks.parent / self.instances, ""), (pair.base / INSTANCES, INSTANCE_SUFFIX), (pair.masks, INSTANCE_SUFFIX)):
            if folder.is_dir():
                names = {_key(name, end): name for name in files_below(folder, _MASKS) if PurePosixPath(name).stem.endswith(end)}
                if names:
                    return folder, names
        return pair.masks, {}

    def _palette(self, path: Path, pair: _Pair) -> Palette:
        if isinstance(self.labels, dict):
            if strange := [number for number in (*self.labels, *self.ignore) if not _is_number(number)]:
                raise Refused(refuse("class-number", "labels", str(strange[0])[:60], f"0 to {_LARGEST_NUMBER}", "correct the number"))
            return Palette(names={**self.labels}, ignore=frozenset(self.ignore))
        if self.labels is None:
            file = pair.base / CLASSES
            return _declared(file) if file.is_file() else guess(path, _names(path, pair)).palette(str(pair.base))
        if self.labels not in PALETTES:
            fix = nearest(self.labels, list(PALETTES)) or "use one of these, or a table number: name"
            raise Refused(refuse("unknown-palette", "labels", repr(self.labels), ", ".join(PALETTES), fix))
        return PALETTES[self.labels]

    def _rows(self, root: Path, pair: _Pair, palette: Palette) -> Iterator[Row | Problem]:
        instances, numbers = self._instances(pair)
        prefix = pair.base.relative_to(root)
        for name in files_below(pair.pictures, PICTURE_SUFFIXES):
            picture, mask = pair.pictures / name, pair.by_mask.get(name)
            if mask is None:
                found = f"no mask {PurePosixPath(name).stem} in {pair.masks}"
                yield refuse("missing-mask", str(picture), found, "a mask for every picture", "add the mask, or remove the picture")
                continue
            identity = (prefix / name).as_posix()
            data: dict[str, Any] = {"mask": str(pair.masks / mask), "palette": palette, "ignore": self.ignore}
            if (key := _key(name, self.picture_suffix or "")) in numbers:
                data["instances"] = str(instances / numbers[key])
            if split := next((SPLITS[part.lower()] for part in (*prefix.parts, *PurePosixPath(name).parts[:-1]) if part.lower() in SPLITS), None):
                data["split"] = split
            yield Row(id=identity, place=str(picture), number=identity, pictures=(str(picture),), data=data)
        for name in pair.bare:
            yield refuse(
                "missing-picture",
                str(pair.masks / name),
                f"no picture of this name in {pair.pictures}",
                "a picture for every mask",
                "add the picture, or remove the mask",
            )

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and a region per class and per instance."""
        palette: Palette = row.data["palette"]
        try:
            ids, unknown = label_ids(mask_values(row.data["mask"], pictures[0]), palette, frozenset(row.data["ignore"]))
            share = unknown.sum() / unknown.size
            if share > LARGEST_UNKNOWN:
                return [_unknown(row, ids, unknown, share)]
            regions = [
                Region(label=palette.names[value], attributes={"class_id": value}, shape=mask) for value, mask in encode_labels(ids).items() if value != IGNORED
            ]
            made: list[Sample | Problem] = []
            if "instances" in row.data:
                instances, bare = _instances(mask_values(row.data["instances"], pictures[0]), ids, palette)
                regions += instances
                if bare:
                    found = f"instances {bare} lie on pixels without a label"
                    made.append(_warn("unlabelled-instance", row.data["instances"], found, "instances on labelled pixels", "they were left out; mend the mask"))
        except Refused as refused:
            return list(refused.problems)
        if unknown.any():
            made.append(
                _warn("unknown-labels", row.data["mask"], f"{int(unknown.sum())} px outside the palette", "the palette's values", "they count as ignored")
            )
        attributes = {"split": row.data["split"]} if "split" in row.data else {}
        return [*made, Sample(id=row.id, pictures=pictures, annotations=tuple(regions), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write masks as numbers, with classes.json; see mask_writing.py."""
        return write_masks(samples, path)


IGNORED = -1
"""Number of a pixel without a label in the result of `label_ids`."""


def label_ids(values: np.ndarray, palette: Palette, ignore: frozenset[int] = frozenset()) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers (height, width) int32, IGNORED where a pixel has no label, and which pixels hold a value that the palette does not know (bool).

    `values` are numbers (height, width), or colours (height, width, 3) that are matched exactly.
    """
    if palette.threshold is not None:
        grey = values if values.ndim == 2 else values[..., 0]
        return (grey > palette.threshold).astype(np.int32), np.zeros(grey.shape, bool)
    ignored = palette.ignore | ignore
    if values.ndim == 2:
        table = {number: IGNORED if number in ignored else number for number in {*palette.names, *ignored}}
        codes = values.astype(np.int64)
    else:
        table = {(r << 16 | g << 8 | b): IGNORED if number in ignored else number for (r, g, b), number in palette.rgb.items()}
        codes = values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    known = np.array(sorted(table), np.int64)
    if not len(known):
        return np.full(codes.shape, IGNORED, np.int32), np.ones(codes.shape, bool)
    numbers = np.array([table[code] for code in known.tolist()], np.int32)
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    unknown = known[places] != codes
    return np.where(unknown, IGNORED, numbers[places]).astype(np.int32), unknown


def _declared(file: Path) -> Palette:
    listed = read_json(file)
    if not isinstance(listed, list) or not all(map(_is_class, listed)):
        wrong = next((repr(entry)[:60] for entry in listed if not _is_class(entry)), "") if isinstance(listed, list) else ""
        allowed = f'[{{"id": 1, "name": "road", "rgb": [255, 0, 0]}}, ..], ids of 0 to {_LARGEST_NUMBER}'
        raise Refused(refuse("wrong-shape", str(file), wrong or "no list of classes", allowed, "mend the file, or pass `labels`"))
    names = {entry["id"]: entry["name"] for entry in listed if entry["name"] != "ignore"}
    rgb = {tuple(entry["rgb"]): entry["id"] for entry in listed if "rgb" in entry}
    return Palette(names=names, rgb=rgb, ignore=frozenset(entry["id"] for entry in listed if entry["name"] == "ignore"))


def _is_class(entry: Any) -> bool:
    if not isinstance(entry, dict) or not _is_number(entry.get("id")) or not isinstance(entry.get("name"), str):
        return False
    rgb = entry.get("rgb", [0, 0, 0])
    return isinstance(rgb, list) and len(rgb) == 3 and all(_is_number(value) and value < 256 for value in rgb)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_NUMBER


def _names(root: Path, pair: _Pair) -> list[str]:
    """Names of the masks that have a picture, relative to `root`."""
    return [(pair.masks / name).relative_to(root).as_posix() for name in sorted(set(pair.by_mask.values()))]


def _key(name: str, suffix: str) -> str:
    path = PurePosixPath(name)
    return (path.parent / path.stem.removesuffix(suffix)).as_posix()


def mask_values(path: str, picture: Picture) -> np.ndarray:
    """Numbers or colours of a mask file. Refused when its size is not that of the upright picture."""
    values = decode_labels(picture_bytes(Path(path), path), path)
    height, width = values.shape[:2]
    if (width, height) != (picture.width, picture.height):
        allowed = f"{picture.width}x{picture.height} px, the size of the upright picture"
        raise Refused(refuse("mask-size", path, f"{width}x{height} px", allowed, "turn or export the mask again; masks are not resized"))
    return values


def _instances(values: np.ndarray, ids: np.ndarray, palette: Palette) -> tuple[list[Region], list[int]]:
    """A region per instance, and the numbers of those without a label."""
    numbers = values.astype(np.int64) if values.ndim == 2 else values.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    regions: list[Region] = []
    bare: list[int] = []
    for number, mask in encode_labels(numbers).items():
        if number == 0:
            continue
        votes = np.bincount(ids[numbers == number] - IGNORED)
        value = int(votes.argmax()) + IGNORED
        if value == IGNORED:
            bare.append(number)
        else:
            regions.append(Region(label=palette.names[value], attributes={"class_id": value, "instance": number}, shape=mask))
    return regions, bare


def _unknown(row: Row, ids: np.ndarray, unknown: np.ndarray, share: float) -> Problem:
    palette: Palette = row.data["palette"]
    allowed = f"{len(palette.names)} known values ({', '.join(palette.names.values())}); at most {LARGEST_UNKNOWN:.0%} unknown"
    fix = "choose the palette of this data set; a swap of red and blue or a lossy copy of the mask looks like this"
    return refuse("unknown-labels", row.data["mask"], f"{share:.1%} of {ids.size} px hold a value outside the palette", allowed, fix)


def _warn(code: str, place: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code=f"data/{code}", place=place, found=found, allowed=allowed, fix=fix, severity="warn")
