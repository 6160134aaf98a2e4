"""Scenes of any size: a raster is read window by window, an ordinary picture is decoded once; both at the scale that a model was trained at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from sightline.data.readers.files import PICTURE_SUFFIXES, files_below
from sightline.data.tiling_annotations import Tile, Window, tile_geo, tile_picture
from sightline.errors import Problem, Refused
from sightline.samples.bands import composite, resized
from sightline.samples.geo_rasters import opened_raster, there
from sightline.samples.pictures import pixels, read_picture
from sightline.samples.sample import Geo, Picture

_RASTERS = (".tif", ".tiff")
_REACH = 3
"""Px, at the coarser of two scales, that a filter sees beyond a window: windows that overlap show the same where they do."""
_STRIP = 1 << 25
"""Pixels of a scene that are held at a time while it is made smaller."""


class ScenePixels(Protocol):
    """Where the pixels of a scene come from: `geo_rasters.Raster`, or a picture that was decoded."""

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Pixels (height, width, bands) of a window as stored."""
        ...

    def valid(self, pixels: np.ndarray, left: int, top: int) -> np.ndarray:
        """Which pixels (height, width) of a window that was read hold data."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenScene:
    """One scene, its header read."""

    name: str
    """What its results are called: its path below the source without ending."""
    path: Path
    width: int
    height: int
    bands: tuple[str, ...]
    geo: Geo | None
    source: ScenePixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        return self.width, self.height


class _Decoded:
    """Pixels of a picture that is in memory. All of them hold data: what is transparent was laid on white."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See ScenePixels."""
        return self._array[top : top + height, left : left + width]

    def valid(self, pixels: np.ndarray, left: int, top: int) -> np.ndarray:
        """See ScenePixels."""
        return np.full(pixels.shape[:2], True)


def scenes_in(source: Path) -> list[tuple[Path, str]]:
    """A scene, or all pictures below a folder, with their names, sorted. Refused: none, or two of one name."""
    if source.is_file():
        return [(source, source.stem)]
    names = files_below(source, PICTURE_SUFFIXES) if source.is_dir() else []
    found = [(source / name, Path(name).with_suffix("").as_posix()) for name in names]
    if not found:
        allowed = f"a picture, or a folder with files {', '.join(PICTURE_SUFFIXES)}"
        raise Refused(Problem(code="refine/no-scene", place=str(source), found="no picture", allowed=allowed, fix="correct the path"))
    doubled = sorted(name for name, count in Counter(name for _, name in found).items() if count > 1)
    if doubled:
        allowed, fix = "names that differ before the ending", "rename one, or name a single scene"
        raise Refused(Problem(code="refine/scene-name", place=str(source), found=f"two pictures named {name}", allowed=allowed, fix=fix) for name in doubled)
    return found


@contextmanager
def opened_scene(path: Path, name: str = "", bands: Sequence[str] = ()) -> Iterator[OpenScene]:
    """Open a scene: a TIFF by rasterio where it is there, and then never whole in memory; other pictures are decoded once.

    `bands`: names of its bands in order, over what the file says. Refused as `opened_raster` and `read_picture` do.
    """
    name = name or path.stem
    if path.suffix.lower() in _RASTERS and there() and path.is_file():
        with opened_raster(path, bands=bands) as raster:
            yield OpenScene(name=name, path=path, width=raster.width, height=raster.height, bands=raster.bands, geo=raster.geo, source=raster)
        return
    picture = read_picture(path, bands=bands)
    decoded = _Decoded(pixels(picture))
    yield OpenScene(name=name, path=path, width=picture.width, height=picture.height, bands=picture.bands, geo=picture.geo, source=decoded)


def windows_of(scene: OpenScene, window: int, overlap: int, rate: float = 1.0) -> list[Window]:
    """Windows of `window` px of the scene scaled by `rate`, row by row, those at its end shifted back; see `Tile`."""
    return Tile(window=window, gap=overlap, rate=rate).windows(scene.width, scene.height)


def step_of(scene: OpenScene, window: Window) -> tuple[float, float]:
    """How many px of the scene one px of a window is, across and down: 1 / rate, but for the rounding of the whole scaled scene to px."""
    return scene.width / max(1, round(scene.width * window.rate)), scene.height / max(1, round(scene.height * window.rate))


def bounds_of(scene: OpenScene, window: Window) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a window in px of the scene."""
    across, down = step_of(scene, window)
    return window.left * across, window.top * down, (window.left + window.width) * across, (window.top + window.height) * down


def read_window(scene: OpenScene, window: Window) -> tuple[np.ndarray, float]:
    """Pixels (height, width, bands) of a window, and the share of it that holds no data, 0..1."""
    x0, y0, x1, y1 = bounds_of(scene, window)
    beyond = 0 if window.rate == 1 else math.ceil(_REACH * max(1.0, 1 / window.rate))
    left, top = max(0, math.floor(x0) - beyond), max(0, math.floor(y0) - beyond)
    right, bottom = min(scene.width, math.ceil(x1) + beyond), min(scene.height, math.ceil(y1) + beyond)
    found = scene.source.read(left, top, right - left, bottom - top)
    nodata = 1 - float(scene.source.valid(found, left, top).mean())
    if found.dtype == np.float32:
        found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    if window.rate != 1:
        kind = Image.Resampling.BICUBIC if window.rate > 1 else Image.Resampling.LANCZOS
        part = (x0 - left, y0 - top, min(x1 - left, right - left), min(y1 - top, bottom - top))
        found = resized(np.ascontiguousarray(found), (window.width, window.height), kind, box=part)
    return found, nodata


def window_picture(scene: OpenScene, window: Window, array: np.ndarray) -> Picture:
    """The picture of a window's pixels, named by its place in the scene."""
    name = f"{scene.name}__{window.rate:g}__{window.left}___{window.top}".replace("/", "_")
    return tile_picture(array, scene.bands, scene.geo and tile_geo(scene.geo, window), name)


def smaller(scene: OpenScene, width: int, height: int) -> np.ndarray:
    """The whole scene for eyes, (height, width, 3) uint8, resampled strip by strip."""
    down = scene.height / height
    rows = max(1, min(height, int(_STRIP / scene.width / down)))
    strips = []
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        start = max(0, math.floor(top * down) - math.ceil(_REACH * down))
        end = min(scene.height, math.ceil(bottom * down) + math.ceil(_REACH * down))
        found = scene.source.read(0, start, scene.width, end - start)
        found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0) if found.dtype == np.float32 else found
        part = (0.0, top * down - start, float(scene.width), min(bottom * down - start, end - start))
        strips.append(resized(np.ascontiguousarray(found), (width, bottom - top), Image.Resampling.BOX if down > 1 else Image.Resampling.BICUBIC, box=part))
    return composite(np.concatenate(strips), scene.bands)
