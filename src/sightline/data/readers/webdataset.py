"""WebDataset shards: tar files in which neighbouring members of one key are one sample. img2dataset (LAION, CC), RS5M, BLIP's captioned LAION.

    000000000.jpg  000000000.txt  000000000.json      a picture, its caption, {"caption", "url", "similarity", ..} or a list of {"caption"}
    <key>.img_content  <key>.img_name  <key>.caption  RS5M

The key ends at the first dot of the file name; suffixes count in lower case. A new sample begins where the key changes or a suffix comes a second time. Shards are never joined, nothing is
unpacked to disk, pickles are never opened. Of a .json, captions and the fields in META are read. `sizes.json` beside the shards says how many samples each has.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import PositiveInt

from sightline.data.readers.caption_reader import caption_turns, captions_of
from sightline.data.readers.files import PICTURE_SUFFIXES, parse_json, read_json, refuse
from sightline.data.readers.reader import SPLITS, Reader, Row, shaped
from sightline.data.readers.tar_members import Member, content, members
from sightline.data.readers.writing import Losses
from sightline.errors import Problem, Refused
from sightline.lineage import write_text
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample

META = ("url", "similarity", "language", "punsafe", "pwatermark", "aesthetic")
"""Fields of a .json that become attributes."""
SIZES = "sizes.json"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Ends of names of shards that would have to be unpacked whole to find a sample."""
LARGEST_TEXT = 16 << 20
"""Bytes of a text or JSON member."""
_PICTURES = (*(suffix[1:] for suffix in PICTURE_SUFFIXES), "img_content")
_TEXTS = ("txt", "text", "caption")
_PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "npy", "npz", "joblib")
_KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_SAFE = re.compile(r"[^./\\\s]+")
_SPLIT = re.compile(r"(?:^|[-_])(" + "|".join(SPLITS) + r")(?=[-_.])", re.IGNORECASE)

Group = tuple[str, dict[str, Member]]
"""Key, and members by suffix."""


def grouped(found: Iterable[Member | Problem], place: str) -> Iterator[Group | Problem]:
    """Members of one key as one sample, in order; problems as they come."""
    key, sample = "", dict[str, Member]()
    for member in found:
        known = _KEY.fullmatch(member.name) if isinstance(member, Member) else None
        if isinstance(member, Problem):
            yield member
        elif known is None:
            yield refuse("tar-member", place, f"{member.name[:80]!r}", "KEY.SUFFIX", "rename the member, or take it out")
        else:
            suffix = known[2].lower()
            if sample and (known[1] != key or suffix in sample):
                yield key, sample
                sample = {}
            key, sample = known[1], {**sample, suffix: member}
    if sample:
        yield key, sample


class Webdataset(Reader):
    """WebDataset shards of pictures with captions."""

    kind: Literal["webdataset"] = "webdataset"
    shard_rows: PositiveInt = 10_000
    """Samples of a shard that is written."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """Tar files whose first member is named KEY.SUFFIX."""
        for file in sorted(self.annotated(path)):
            first = next(members(file), None)
            if isinstance(first, Member) and (known := _KEY.fullmatch(first.name)):
                return 0.9, f"{file.name} is a tar file whose first member has the key {known[1][:40]!r} and the suffix {known[2][:20]!r}"
        return None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The shards."""
        files = [path] if path.is_file() else path.rglob("*.tar") if path.is_dir() else []
        return frozenset(file for file in files if file.suffix.lower() == ".tar")

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per sample, from the headers alone; a key that comes again is numbered."""
        shards = sorted(self.annotated(path))
        if not shards:
            raise Refused(refuse("no-shards", str(path), "no .tar file", "one tar file, or a folder of them, not compressed", "correct the path"))
        times: Counter[str] = Counter()
        for shard in shards:
            count = 0
            said = _SPLIT.search(shard.name)
            for found in grouped(members(shard), str(shard)):
                if isinstance(found, Problem):
                    yield found
                    continue
                key, sample = found
                identity = f"{key}#{times[key]}" if times[key] else key
                times[key] += 1
                data = {"shard": str(shard), "members": sample, "split": SPLITS[said[1].lower()] if said else None}
                yield Row(id=identity, place=f"{shard}:{key}", number=f"{shard.name}:{count}", data=data)
                count += 1
            yield from _counted(shard, count)
        for file in sorted(path.rglob("*")) if path.is_dir() else ():
            if file.name.lower().endswith(COMPRESSED):
                yield refuse("compressed-shard", str(file), "a compressed tar file", "tar files that are not compressed", "unpack it to a .tar file")

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The picture and its captions, after what was not read."""
        found: Mapping[str, Member] = row.data["members"]
        kinds = {suffix: suffix.rpartition(".")[2] for suffix in found}
        shard = Path(row.data["shard"])
        shown = [suffix for suffix, kind in kinds.items() if kind in _PICTURES]
        problems: list[Problem] = []
        if pickled := [suffix for suffix, kind in kinds.items() if kind in _PICKLES]:
            problems.append(refuse("pickle-member", row.place, ", ".join(pickled), "pictures, text and JSON", "opening it would run its code: take it out"))
        if len(shown) != 1:
            problems.append(refuse("picture-count", row.place, f"{len(shown)} pictures among {', '.join(found)}", "one picture", "mend the shard"))
        texts = _texts(shard, {suffix: member for suffix, member in found.items() if kinds[suffix] in (*_TEXTS, "json", "img_name")}, row.place)
        problems += [text for text in texts.values() if isinstance(text, Problem)]
        said = {suffix: text for suffix, text in texts.items() if isinstance(text, str)}
        try:
            references, attributes = _said({kinds[suffix]: text for suffix, text in said.items()}, row.place)
            name = said.get("img_name", "").strip() or (PurePosixPath(found[shown[0]].name).name if shown else "")
            picture = shaped(describe(content(shard, found[shown[0]]), name, row.place), row.place) if shown else None
        except Refused as refused:
            return [*problems, *refused.problems]
        if problems or picture is None:
            return list(problems)
        if row.data["split"]:
            attributes["split"] = row.data["split"]
        made: list[Sample | Problem] = []
        if unread := sorted({kind for kind in kinds.values() if kind not in (*_PICTURES, *_TEXTS, "json", "img_name")}):
            fix = "they were left out"
            made.append(
                Problem(code="data/unread-member", place=row.place, found=", ".join(unread), allowed="pictures, text and JSON", fix=fix, severity="warn")
            )
        attributes["references"] = references
        return [*made, Sample(id=row.id, pictures=(picture,), turns=caption_turns(references), attributes=attributes, origin=origin)]

    def write(self, samples: Iterable[Sample], path: Path) -> list[Problem]:
        """Write PATH/[SPLIT-]00000.tar, .. and sizes.json: per sample a picture, .txt, .json, and .img_name where the picture has another name than its key."""
        losses, used = Losses("webdataset"), set[str]()
        path.mkdir(parents=True, exist_ok=True)
        with _Shards(path, self.shard_rows) as shards:
            for sample in samples:
                if not captions_of(sample):
                    losses.refuse("more, or less, than captions of one picture", sample)
                    continue
                split = sample.attributes.get("split")
                number = f"{sum(shards.sizes.values()):09d}"
                _put(shards.next(split if isinstance(split, str) and split in SPLITS.values() else "shard"), sample, number, used, losses)
        return losses.problems()


class _Shards:
    """Tar files that are written one sample after another, `rows` to a file, one series per split; their sizes are listed at the end."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        self._open: dict[str, tuple[str, tarfile.TarFile]] = {}
        self.sizes: dict[str, int] = {}
        """Samples by name of the file."""

    def next(self, split: str) -> tarfile.TarFile:
        """The file into which the next sample of a split goes."""
        name, shard = self._open.get(split, ("", None))
        if shard is None or self.sizes[name] == self._rows:
            if shard is not None:
                shard.close()
            name = f"{split}-{sum(known.startswith(f'{split}-') for known in self.sizes):05d}.tar"
            shard = tarfile.open(self._path / name, "w")  # noqa: SIM115 - closed on exit, or when it is full
            self._open[split], self.sizes[name] = (name, shard), 0
        self.sizes[name] += 1
        return shard

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        for _name, shard in self._open.values():
            shard.close()
        write_text(self._path / SIZES, json.dumps(self.sizes, indent=1) + "\n")


def _counted(shard: Path, count: int) -> Iterator[Problem]:
    """The problem of a shard that has not the number of samples that sizes.json states."""
    file = shard.parent / SIZES
    try:
        stated = read_json(file) if file.is_file() else {}
    except Refused as refused:
        yield from refused.problems
        return
    expected = stated.get(shard.name, count) if isinstance(stated, dict) else count
    if expected != count:
        yield refuse("shard-size", str(shard), f"{count} samples", f"{str(expected)[:20]}, as {SIZES} says", "fetch the shard again, or correct the list")


def _texts(shard: Path, found: Mapping[str, Member], place: str) -> dict[str, str | Problem]:
    texts: dict[str, str | Problem] = {}
    for suffix, member in found.items():
        if member.size > LARGEST_TEXT:
            texts[suffix] = refuse("file-too-large", place, f".{suffix} of {member.size} bytes", f"at most {LARGEST_TEXT} bytes of text", "mend the shard")
            continue
        try:
            texts[suffix] = content(shard, member).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            texts[suffix] = refuse("not-utf-8", place, f"byte {error.start} of .{suffix} is {error.object[error.start]:#04x}", "UTF-8", "mend the shard")
    return texts


def _said(texts: Mapping[str, str], place: str) -> tuple[list[str], dict[str, Any]]:
    """Captions and attributes that the text and JSON members of a sample state. Refused where they state no caption, or are no JSON."""
    captions = [texts[kind] for kind in _TEXTS if kind in texts]
    attributes: dict[str, Any] = {}
    if "json" in texts:
        try:
            value = parse_json(texts["json"])
        except ValueError as error:
            raise Refused(refuse("not-json", place, str(error)[:120], "JSON", "mend the member .json")) from None
        if isinstance(value, dict):
            attributes = {key: value[key] for key in META if isinstance(value.get(key), str | int | float)}
        several = value if isinstance(value, list) else value.get("captions", [value.get("caption")]) if isinstance(value, dict) else [value]
        listed = [entry.get("caption") if isinstance(entry, dict) else entry for entry in several] if isinstance(several, list) else [several]
        if wrong := [entry for entry in listed if not isinstance(entry, str | None)]:
            raise Refused(refuse("wrong-shape", place, f"{wrong[0]!r:.60} as a caption", "text", "mend the member .json"))
        whole = [entry for entry in listed if entry is not None]
        captions = whole if set(captions) <= set(whole) else captions + whole
    if not captions or any(not caption.strip() for caption in captions):
        raise Refused(refuse("empty-caption", place, "no caption, or one without text", "captions with text", "remove the sample"))
    return captions, attributes


def _put(shard: tarfile.TarFile, sample: Sample, number: str, used: set[str], losses: Losses) -> None:
    picture, references = sample.pictures[0], captions_of(sample) or []
    assert isinstance(picture.data, bytes), "a picture that is a path of a store"
    losses.of(sample, "annotations", "weights", "origin")
    key = sample.id if _SAFE.fullmatch(sample.id) and sample.id not in used else number
    used.add(key)
    if key != sample.id:
        losses.warn("ids", sample)
    held = {name: sample.attributes[name] for name in META if isinstance(sample.attributes.get(name), str | int | float)}
    if set(sample.attributes) - {*held, "split", "references"}:
        losses.warn("attributes", sample)
    suffix = PurePosixPath(picture.name).suffix.lower()
    suffix = suffix if suffix in PICTURE_SUFFIXES else ".jpg"
    data = {suffix: picture.data, ".txt": references[0].encode(), ".json": json.dumps({**held, "captions": references}, ensure_ascii=False).encode()}
    if picture.name != key + suffix:
        data[".img_name"] = picture.name.encode()
    for end, value in data.items():
        info = tarfile.TarInfo(key + end)
        info.size = len(value)
        shard.addfile(info, io.BytesIO(value))
