"""Large rasters with their outlines cut into training tiles, window by window: a scene is never in memory, and a killed pass goes on where it stopped.

Windows are those of `tile` (see tiling_annotations.py). Every window is one of four: a tile that is kept, one without data, one without a region that is not kept, and none is
lost without being counted. All tiles of a scene are in one split: neighbours overlap, and a model that has learnt one knows the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from sightline.data.engine import Engine, Local
from sightline.data.geo_vectors import OutlineConfig, Placed, read_vectors, vector_files, vectors_beside
from sightline.data.joining import summary
from sightline.data.operators import Count, Judged
from sightline.data.parts import Entry, Part, Parts, counts_of, digest, state, write
from sightline.data.readers.files import files_below, plain, refuse
from sightline.data.readers.reader import SPLITS
from sightline.data.tiling_annotations import Tile, Window, tile_geo, tile_picture
from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes, sha256_json
from sightline.progress import Progress
from sightline.samples.bands import band_name
from sightline.samples.geo_rasters import Raster, opened_raster
from sightline.samples.sample import Geo, Origin, Region, Sample
from sightline.samples.store import Store

RASTERS = (".tif", ".tiff")
CHUNK_BYTES = 16 << 20
"""Bytes of the windows that are cut together: what is done again after a kill, and what a worker holds a few times over."""
_LARGEST = 1 << 44
"""Bytes of a raster: more than a disk holds, since it is read window by window."""
_KEPT, _EMPTY, _NO_DATA, _WHOLE, _FRAGMENT = "tile", "tile/nothing-in-it", "tile/no-data", "region", "region/fragment"


class RasterTiles(OutlineConfig):
    """How rasters are cut."""

    window: int = Field(default=1024, ge=16, le=8192)
    """Side of a tile, px."""
    gap: int = Field(default=200, ge=0)
    """Overlap of neighbouring tiles, px: at least as large as most objects, so that each is whole in one of them."""
    empty: float = Field(default=0.0, ge=0, le=1)
    """Share of the tiles without any region that is kept: true negatives."""
    nodata: float = Field(default=0.5, ge=0, le=1)
    """Tiles of which a larger share of the px holds no data are dropped."""
    bands: tuple[str, ...] = Field(default=(), strict=False)
    """Names of all bands of the rasters, in order; empty: as the files say."""
    take: tuple[str, ...] = Field(default=(), strict=False)
    """Bands that the tiles have; empty: all."""
    split: dict[str, float] = Field(default_factory=dict)
    """Shares of the scenes: `{train: 0.8, val: 0.2}`. Folders named after splits are believed before; empty: no other scene is in a split."""
    seed: int = 0
    """Draws the scenes of each split, and the empty tiles that are kept."""
    licence: str = ""
    """Licence of the tiles, as stated by the publisher."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.gap >= self.window:
            raise ValueError(f"gap {self.gap}: below the window of {self.window}, or the tiles would not move on")
        if self.split and (min(self.split.values()) < 0 or abs(sum(self.split.values()) - 1) > 1e-6):
            raise ValueError(f"shares {self.split}: at least 0 each, and 1 together")
        return self


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One raster, its header read and its pixels not."""

    name: str
    """Its path below the source without ending: names of tiles begin with it."""
    path: Path
    vectors: Path | None
    split: str | None
    geo: Geo | None
    windows: tuple[Window, ...]
    bytes: int
    """Of one window."""
    outside: int
    """Outlines that lie beside the raster."""


@dataclass(kw_only=True)
class Tiled:
    """What became of the windows of all scenes. windows = tiles + empty + nodata; a scene adds to one split."""

    scenes: int = 0
    windows: int = 0
    tiles: int = 0
    empty: int = 0
    """Windows without a region that were left out."""
    nodata: int = 0
    """Windows that were left out because too little of them holds data."""
    regions: int = 0
    fragments: int = 0
    outside: int = 0
    """Outlines that lie beside their raster."""
    splits: Counter[str] = field(default_factory=Counter)
    """Tiles of each split; of none under the empty name."""

    def record(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return {**vars(self), "splits": dict(sorted(self.splits.items()))}


def rasters_at(source: Path) -> list[Path]:
    """The raster itself, or all below a folder, sorted. Refused when there is none."""
    found = [source] if source.is_file() else [source / name for name in files_below(source, RASTERS)] if source.is_dir() else []
    if not found:
        raise Refused(refuse("no-raster", str(source), "no raster", f"a GeoTIFF, or a folder with files {', '.join(RASTERS)}", "correct the path"))
    return found


def scenes_at(source: Path, config: RasterTiles, vectors: Path | None = None) -> list[Scene]:
    """All scenes of a source with their windows. `vectors`: outlines of all of them; None: of each the file of its stem, where there is one.

    Refused with the problems of all scenes: broken files, bands that are not there, outlines without a georeference to place them by.
    """
    tile = Tile(window=config.window, gap=config.gap)
    paths = rasters_at(source)
    names = [path.stem if source.is_file() else path.relative_to(source).with_suffix("").as_posix() for path in paths]
    splits = split_of(names, config.split, config.seed)
    scenes: list[Scene] = []
    problems: list[Problem] = []
    for path, name in zip(paths, names, strict=True):
        said = next((SPLITS[part.lower()] for part in Path(name).parts[:-1] if part.lower() in SPLITS), splits.get(name))
        try:
            scenes.append(_scene(path, name, said, vectors or vectors_beside(path), config, tile))
        except Refused as refused:
            problems += refused.problems
    doubled = [name for name, count in Counter(names).items() if count > 1]
    problems += [refuse("scene-name", str(source), f"two rasters named {name}", "names that differ before the ending", "rename one") for name in doubled]
    if problems:
        raise Refused(summary(problems))
    return scenes


def _scene(path: Path, name: str, split: str | None, vectors: Path | None, config: RasterTiles, tile: Tile) -> Scene:
    plain(path, _LARGEST)
    with opened_raster(path, bands=config.bands) as raster:
        absent = [band for band in config.take if band_name(band) not in raster.bands]
        if absent:
            found = f"no {', '.join(absent)} among its bands {', '.join(raster.bands)}"
            raise Refused(
                refuse("missing-band", str(path), found, "rasters with all bands of `take`", "name the bands of the file with `bands`, or take others")
            )
        outside = 0
        if vectors is not None:
            outside = _placed(raster, vectors, config).outside(raster.width, raster.height)
        windows = tuple(tile.windows(raster.width, raster.height))
        size = windows[0].width * windows[0].height * len(raster.bands) * np.dtype(raster.depth).itemsize
        return Scene(name=name, path=path, vectors=vectors, split=split, geo=raster.geo, windows=windows, bytes=size, outside=outside)


def _placed(raster: Raster, vectors: Path, config: RasterTiles) -> Placed:
    if raster.geo is None:
        found = "a raster without a georeference, and outlines on the map"
        raise Refused(refuse("no-georeference", raster.place, found, "a GeoTIFF that says where it lies", "gdal_edit.py -a_srs EPSG:CODE -a_ullr ..."))
    return Placed(read_vectors(vectors, config), raster.geo)


def split_of(names: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each scene: scenes in an order drawn by the seed, cut at the shares to whole scenes. The same names give the same splits in any order."""
    ordered = sorted(names, key=lambda name: sha256_bytes(f"{seed}\0{name}".encode()))
    found: dict[str, str] = {}
    start = total = 0.0
    for split, share in shares.items():
        total += share
        found |= dict.fromkeys(ordered[round(start * len(ordered)) : round(total * len(ordered))], split)
        start = total
    return found


def tile_rasters(source: Path, out: Path, config: RasterTiles, *, vectors: Path | None = None, engine: Engine | None = None, fresh: bool = False) -> Tiled:
    """Cut the raster at `source`, or all rasters below it, into a store at `out`; returns what became of every window.

    A killed pass goes on when it is called again with the same files and Config, unless `fresh`. Raises Refused as `scenes_at` does, where pixels are broken, and when no tile is kept.
    """
    scenes = scenes_at(source, config, vectors)
    name = source.stem if source.is_file() else source.resolve().name
    tiled = Tiled(scenes=len(scenes), outside=sum(scene.outside for scene in scenes))
    with Parts(out, fresh=fresh) as parts:
        tasks = list(_tasks(scenes, config, name, parts))
        progress = Progress(f"tile {name}", sum(len(task.windows) for task in tasks), "windows")
        resumed = sum(len(task.windows) for task in tasks if task.part.is_file())
        identity = sha256_json({"tile": config.model_dump(mode="json"), "sources": [task.part.name for task in tasks]})
        with (
            Store.writer(out, source=name, config=identity, maker={"step": "tile"}, seed=config.seed) as writer,
            closing((engine or Local()).map(_cut, tasks)) as done,
        ):
            for task, part in zip(tasks, done, strict=True):
                for _ in Part(part).write(writer, repeated="raise"):
                    pass
                _count(tiled, task, counts_of(part))
                progress.advance(len(task.windows), f"{resumed} windows were done before" if resumed else "")
            for scene in scenes:
                if scene.outside:
                    found = f"{scene.outside} outlines of {scene.vectors} lie beside it"
                    writer.warn(Problem(code="data/outlines-outside", place=str(scene.path), found=found, allowed="outlines on the raster", severity="warn"))
            progress.close()
            if not writer.kept:
                found = f"{tiled.windows} windows: {tiled.empty} without a region, {tiled.nodata} without data"
                raise Refused(refuse("nothing-kept", str(source), found, "at least one tile", "keep empty tiles, or check that the outlines lie on the raster"))
        parts.remove()
    return tiled


def _count(tiled: Tiled, task: _Task, counts: Sequence[Count]) -> None:
    number = {count.operator: count.rows_in for count in counts}
    tiled.windows += len(task.windows)
    tiled.tiles += number[_KEPT]
    tiled.empty += number[_EMPTY]
    tiled.nodata += number[_NO_DATA]
    tiled.regions += number[_WHOLE] + number[_FRAGMENT]
    tiled.fragments += number[_FRAGMENT]
    tiled.splits[task.scene.split or ""] += number[_KEPT]


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Some windows of a scene."""

    scene: Scene
    windows: tuple[Window, ...]
    config: RasterTiles
    source: str
    part: Path


def _tasks(scenes: Sequence[Scene], config: RasterTiles, source: str, parts: Parts) -> Iterator[_Task]:
    number = 0
    for scene in scenes:
        files = state(map(str, [scene.path, *(vector_files(scene.vectors) if scene.vectors else [])]))
        together = max(1, CHUNK_BYTES // scene.bytes)
        for start in range(0, len(scene.windows), together):
            windows = scene.windows[start : start + together]
            part = parts.path("tile", number, digest(config, source, scene.name, scene.split, files, windows))
            yield _Task(scene=scene, windows=windows, config=config, source=source, part=part)
            number += 1


def _cut(task: _Task) -> Path:
    """Write the part of a task, in any process, unless it is there."""
    if task.part.is_file():
        return task.part
    counts = {name: Count(operator=name) for name in (_KEPT, _EMPTY, _NO_DATA, _WHOLE, _FRAGMENT)}
    with opened_raster(task.scene.path, bands=task.config.bands) as raster:
        placed = None if task.scene.vectors is None else _placed(raster, task.scene.vectors, task.config)
        _write(task, raster, placed, counts)
    return task.part


def _write(task: _Task, raster: Raster, placed: Placed | None, counts: dict[str, Count]) -> None:
    """The tiles of a task as a part, with what became of its windows."""
    entries: list[Entry] = []
    for window in task.windows:
        made = _tile(task, raster, placed, window)
        if isinstance(made, str):
            _tally(counts[made], 1)
            continue
        entries.append(Entry(row=Judged(sample=made)))
        _tally(counts[_KEPT], 1)
        cut_off = sum("difficult" in region.attributes for region in made.annotations)
        _tally(counts[_WHOLE], len(made.annotations) - cut_off)
        _tally(counts[_FRAGMENT], cut_off)
    write(task.part, entries, counts=list(counts.values()))


def _tally(count: Count, number: int) -> None:
    count.rows_in += number
    count.kept += number
    count.rows_out += number


def _tile(task: _Task, raster: Raster, placed: Placed | None, window: Window) -> Sample | str:
    """The tile of a window, or the rule by which there is none."""
    config, scene = task.config, task.scene
    identity = f"{scene.name}__{window.rate:g}__{window.left}___{window.top}"
    regions: list[Region] = [] if placed is None else placed.regions(window, config)
    if not regions and config.empty < 1 and _drawn(config.seed, identity) >= config.empty:
        return _EMPTY
    pixels = raster.read(window.left, window.top, window.width, window.height)
    nodata = 1 - float(raster.valid(pixels, window.left, window.top).mean())
    if nodata > config.nodata:
        return _NO_DATA
    pixels = np.nan_to_num(pixels, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if pixels.dtype == np.float32 else pixels
    bands = tuple(map(band_name, config.take)) or raster.bands
    if bands != raster.bands:
        pixels = pixels[..., [raster.bands.index(band) for band in bands]]
    geo = scene.geo and tile_geo(scene.geo, window)
    attributes: dict[str, Any] = {"scene": scene.name, "left": window.left, "up": window.top, "rate": window.rate}
    attributes |= {"nodata": round(nodata, 4)} if nodata else {}
    attributes |= {"split": scene.split} if scene.split else {}
    picture = tile_picture(pixels, bands, geo, identity.replace("/", "_"))
    origin = Origin(source=task.source, row=identity, licence=config.licence, parents=(scene.name,))
    return Sample(id=identity, pictures=(picture,), annotations=tuple(regions), attributes=attributes, origin=origin)


def _drawn(seed: int, identity: str) -> float:
    """A number in 0..1 of its own for every window."""
    return int(sha256_bytes(f"{seed}\0{identity}".encode())[:16], 16) / 2**64


def described(tiled: Tiled) -> str:
    """What became of the windows, in words."""
    splits = ", ".join(f"{count} {name or 'in no split'}" for name, count in sorted(tiled.splits.items()))
    return "\n".join(
        [
            f"  {tiled.scenes} scenes, {tiled.windows} windows: {tiled.tiles} tiles, {tiled.empty} without a region left out, {tiled.nodata} without data left out",
            f"  {tiled.regions} regions, {tiled.fragments} of them fragments; {tiled.outside} outlines lie beside their raster",
            f"  tiles: {splits}",
        ]
    )
