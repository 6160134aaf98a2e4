"""From stores and published formats to the facts of every row: each row and each picture once, in parallel, in a fixed order, resumable after a kill.

Rows are cut into chunks. The facts of a chunk are a JSON file in a work folder, named after everything that decides its content; a check that goes on after a kill reads the files that are there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.looking import Glance, banded_glance, glance, seen
from sightline.data.check.outlines import EACH, MOST_PIXELS, looked
from sightline.data.check.row_facts import PictureFacts, RowFacts, facts_of, regions_of
from sightline.data.check.rules import RowRule, row_rules, severity
from sightline.data.engine import Engine
from sightline.data.parts import digest, state
from sightline.data.readers.reader import LARGEST_ASPECT, SHORTEST_SIDE, Row, memo_key
from sightline.data.reading import Source, Unit, choose, files_of, grouped, read_group
from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes, write_text
from sightline.progress import Progress
from sightline.samples.bands import colours_alone
from sightline.samples.pictures import decode, picture_bytes
from sightline.samples.sample import Picture, Sample
from sightline.samples.store import Store

Role = Literal["own", "generic", "against"]
CHUNK = 64
_REMEMBERED = 50_000
"""Pictures whose facts one process keeps: rows of question sets name the same picture again and again."""
_HASH = 64


class Measure(Protocol):
    """Tokens of a sample. Picklable, because workers call it."""

    @property
    def key(self) -> str:
        """Names what decides the numbers."""
        ...

    def __call__(self, sample: Sample) -> int:
        """Tokens that a model gets for the sample. Refused when it would not take it."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One SRC, listed but not yet looked at: a store, or files in published formats."""

    path: Path
    role: Role
    name: str
    format: str = "store"
    sources: tuple[Source, ...] = ()
    """Readers and their paths; none for a store."""
    units: tuple[Unit, ...] = ()
    """What readers list."""
    stored: tuple[int, ...] = ()
    """Kept rows of a store."""
    store: str = ""
    """Id of the store."""
    quarantined: int = 0
    """Rows of a store that were set aside before; they are not checked."""
    refused: tuple[tuple[Problem, ...], ...] = ()
    """What stood in the way of each row that has no sample."""

    def sample(self, facts: RowFacts) -> Sample:
        """The sample of a row that was read, read again with its pictures."""
        if self.store:
            return Store.open(self.path)[self.stored[facts.unit]]
        sample = read_unit(self.sources, self.units[facts.unit], {})[facts.part][0]
        assert sample is not None, f"{facts.place} could be read before"
        return sample


def opened(path: Path, role: Role, format: str = "auto") -> list[DataSet]:
    """List the rows of a store, or of the data sets at a path in published formats. Refused when it is neither."""
    if (path / "index.parquet").is_file():
        store = Store.open(path)
        kept = tuple(store.kept.tolist())
        refused = tuple(map(tuple, store.refusals()))
        return [DataSet(path=path, role=role, name=_name(path), stored=kept, store=store.id, quarantined=len(store) - len(kept), refused=refused)]
    found: list[DataSet] = []
    for choices in choose(path, format).sets:
        sources = tuple((choice.reader, choice.path) for choice in choices)
        rows = list(grouped(sources, 0))
        units = tuple(row for row in rows if not isinstance(row, Problem))
        refused = tuple((row,) for row in rows if isinstance(row, Problem))
        kinds = " + ".join(choice.candidate.kind for choice in choices)
        found.append(DataSet(path=path, role=role, name=_name(choices[0].path), format=kinds, sources=sources, units=units, refused=refused))
    return found


def _name(path: Path) -> str:
    return path.stem if path.is_file() else path.name or path.resolve().name


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """What one call of a worker looks at: units of readers, or rows of a store."""

    data_set: int
    first: int
    """Number of the first unit."""
    judged: bool
    sources: tuple[Source, ...]
    units: tuple[Unit, ...]
    store: Path | None
    stored: tuple[int, ...]
    part: Path | None
    """File that holds the facts."""

    def __len__(self) -> int:
        return len(self.units) + len(self.stored)


def gather(sets: Sequence[DataSet], config: CheckConfig, measure: Measure | None, engine: Engine, work: Path | None) -> list[RowFacts]:
    """Facts of all rows of all sets, in order: of each set first the rows that were refused, then the others. The result does not depend on the engine.

    `work`: a folder that outlives a kill; None keeps nothing.
    """
    chunks = list(_chunks(sets, work, digest(config, measure and measure.key)))
    progress = Progress(f"check {' + '.join(one.name for one in sets)}", sum(map(len, chunks)), "rows")
    rows = [RowFacts(place=problems[0].place, data_set=number, refused=problems) for number, one in enumerate(sets) for problems in one.refused]
    pictures: dict[tuple[str, str], PictureFacts] = {}
    attributes: dict[tuple[object, ...], Mapping[str, Any]] = {}
    for chunk, found in zip(chunks, engine.map(_Observe(config, measure), chunks), strict=True):
        # What many rows have in common is held once.
        for row in found:
            row.pictures = tuple(pictures.setdefault((picture.hash, picture.name), picture) for picture in row.pictures)
            row.attributes = attributes.setdefault(_content(row.attributes), row.attributes) if len(attributes) < _REMEMBERED else row.attributes
        rows += found
        progress.advance(len(chunk))
    progress.close()
    rows.sort(key=lambda row: (row.data_set, row.unit))
    for number, row in enumerate(rows):
        row.number = number
        for finding in row.findings:
            finding.row = number
    return rows


def _content(attributes: Mapping[str, Any]) -> tuple[object, ...]:
    """Equal for the same texts, and for the very same values of another type: 1 equals True, and is not the same. A value that is remembered stays, and so does its id."""
    return tuple((key, value if isinstance(value, str) else id(value)) for key, value in attributes.items())


@cache
def _form() -> TypeAdapter[list[RowFacts]]:
    return TypeAdapter(list[RowFacts])


def _chunks(sets: Sequence[DataSet], work: Path | None, options: str) -> Iterator[_Chunk]:
    for number, one in enumerate(sets):
        for start in range(0, len(one.units) + len(one.stored), CHUNK):
            units, stored = one.units[start : start + CHUNK], one.stored[start : start + CHUNK]
            part = None
            if work is not None:
                files = dict.fromkeys(name for unit in units for _, row in unit for name in files_of(row))
                sources = [(reader, str(path)) for reader, path in one.sources]
                part = work / f"{number:03d}-{start:09d}-{digest(options, one.role, sources, units, state(files), one.store, stored)[:32]}.json"
            store = one.path if one.store else None
            yield _Chunk(data_set=number, first=start, judged=one.role != "against", sources=one.sources, units=units, store=store, stored=stored, part=part)


_seen: dict[str, PictureFacts] = {}
"""Of this process: facts of pictures by path, or by hash where a row carries its pictures."""


@dataclass(frozen=True)
class _Observe:
    """Looks at the rows of a chunk, in any process."""

    config: CheckConfig
    measure: Measure | None

    def __call__(self, chunk: _Chunk) -> list[RowFacts]:
        if chunk.part is not None and chunk.part.is_file():
            return _form().validate_json(chunk.part.read_bytes())
        found = list(self._rows(chunk))
        if chunk.part is not None:
            write_text(chunk.part, _form().dump_json(found).decode())
        return found

    def _rows(self, chunk: _Chunk) -> Iterator[RowFacts]:
        rules = row_rules(self.config) if chunk.judged else ()
        if chunk.store is not None:
            store = Store.open(chunk.store)
            samples = [store[row] for row in chunk.stored]
            _look({_named(picture): picture.data for sample in samples for picture in sample.pictures})
            for unit, (row, sample) in enumerate(zip(chunk.stored, samples, strict=True), chunk.first):
                yield self._facts(chunk, rules, unit, 0, f"{chunk.store}:{row}", sample, (), {})
            return
        given = {_key(one): one for unit in chunk.units for _, row in unit for one in row.pictures}
        _look(given)
        for number, unit in enumerate(chunk.units, chunk.first):
            places = {row.number: row.place for _, row in unit}
            for part, (sample, problems) in enumerate(read_unit(chunk.sources, unit, _seen)):
                place = unit[0][1].place if sample is None else places.get(sample.origin.row, unit[0][1].place)
                if sample is None:
                    yield RowFacts(place=place, data_set=chunk.data_set, unit=number, part=part, refused=problems)
                else:
                    yield self._facts(chunk, rules, number, part, place, sample, problems, given)

    def _facts(
        self,
        chunk: _Chunk,
        rules: Sequence[RowRule],
        unit: int,
        part: int,
        place: str,
        sample: Sample,
        lost: tuple[Problem, ...],
        given: Mapping[str, str | bytes],
    ) -> RowFacts:
        names = [_named(picture) if chunk.store else picture.name for picture in sample.pictures]
        pictures = tuple(_seen.get(name) or _looked_at(name, picture) for name, picture in zip(names, sample.pictures, strict=True))
        tokens, unfit = self._tokens(sample) if chunk.judged and sample.turns else (None, ())
        at: dict[str, Any] = {"place": place, "data_set": chunk.data_set, "unit": unit, "part": part}
        facts = facts_of(sample, pictures, self.config, lost=lost, tokens=tokens, unfit=unfit, **at)
        if chunk.judged and unit % EACH == 0 and facts.labels and severity("wrong-convention", self.config) != "off":
            facts.upright, facts.turned = looked([_pixels(picture, given) for picture in sample.pictures], regions_of(sample))
        facts.findings = tuple(finding for rule in rules for finding in rule(sample, facts, self.config))
        return facts

    def _tokens(self, sample: Sample) -> tuple[int | None, tuple[Problem, ...]]:
        """Tokens of a sample, and why a model would not take it at all."""
        try:
            return None if self.measure is None else self.measure(sample), ()
        except Refused as refused:
            return None, tuple(refused.problems)


def _looked_at(name: str, picture: Picture) -> PictureFacts:
    """Of a picture that its reader could decode and the look could not, or of which the reader names more bands than the look found: the size, and what its bands say."""
    if picture.data and not colours_alone(picture):
        key = f"{picture.hash}{','.join(picture.bands)}{name}"
        if key not in _seen:
            _seen[key] = seen([banded_glance(picture)])[0]
        return _seen[key]
    return PictureFacts(hash=picture.hash, name=picture.name, width=picture.width, height=picture.height)


def _pixels(picture: Picture, given: Mapping[str, str | bytes]) -> NDArray[np.uint8] | None:
    """The whole picture; None for a large one, for one of other bands than colours, and for one that cannot be decoded, of which its reader tells."""
    if picture.width * picture.height > MOST_PIXELS or not colours_alone(picture):
        return None
    source = picture.data or given[picture.name]
    try:
        return decode(source if isinstance(source, bytes) else picture_bytes(Path(source), source), picture.name)
    except Refused:
        return None


def _key(given: str | bytes) -> str:
    return given if isinstance(given, str) else sha256_bytes(given)


def _named(picture: Picture) -> str:
    """One file under two names is two pictures to a check: that is what a duplicate is."""
    return f"{picture.hash}{picture.name}"


def _look(given: Mapping[str, str | bytes]) -> None:
    """Remember the facts of pictures; those that cannot be decoded stay unknown, and their reader says why."""
    if len(_seen) > _REMEMBERED:
        _seen.clear()
    keys: list[str] = []
    glances: list[Glance] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for key in sorted(given.keys() - _seen.keys()):
            data = given[key]
            if (encoded := _bytes(data)) is not None and (one := glance(encoded, key if isinstance(data, str) else key[_HASH:])) is not None:
                keys.append(key)
                glances.append(one)
    _seen.update(zip(keys, seen(glances), strict=True))


def _bytes(given: str | bytes) -> bytes | None:
    if isinstance(given, bytes):
        return given
    try:
        return picture_bytes(Path(given), given)
    except Refused:
        return None


def read_unit(sources: Sequence[Source], unit: Unit, seen: Mapping[str, PictureFacts]) -> list[tuple[Sample | None, tuple[Problem, ...]]]:
    """The samples of rows on the same pictures, each with what was lost of it, or None with what stood in its way.

    Pictures that were seen, and have a shape that readers take, are not read again: they have no bytes, and their path as name.
    """
    memo: dict[str, Picture] = {}
    bare: list[tuple[int, Row]] = []
    for number, row in unit:
        bands = sources[number][0].bands
        known = {given: key for given in row.pictures if _usable(seen.get(key := _key(given))) and len(bands) in (0, len(seen[key].bands))}
        memo |= {name: _bare(key, seen[key], bands) for key in known.values() if (name := memo_key(key, bands)) not in memo}
        carried = any(isinstance(given, bytes) for given in known)
        bare.append((number, replace(row, pictures=tuple(known.get(given, given) for given in row.pictures)) if carried else row))
    return [(None if entry.row is None else entry.row.sample, entry.problems) for entry in read_group(sources, tuple(bare), memo)]


def _bare(key: str, facts: PictureFacts, bands: tuple[str, ...]) -> Picture:
    return Picture(hash=facts.hash, width=facts.width, height=facts.height, bands=bands or facts.bands, depth=facts.depth, data=b"", name=key)


def _usable(facts: PictureFacts | None) -> bool:
    """Whether readers take a picture of this shape."""
    if facts is None:
        return False
    short, long = sorted((facts.width, facts.height))
    return short >= SHORTEST_SIDE and long <= LARGEST_ASPECT * short
