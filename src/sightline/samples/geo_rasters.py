"""Rasters through rasterio (extra `geo`): the one door to GDAL. Only GeoTIFF, PNG and JPEG files of this disk are opened; no VRT, no network, no file beside the named one.

GDAL opens whatever a name or a header points to. Here the driver is named, the file must be plain, sidecar files are not looked for, and the cache of blocks is small.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import Problem, Refused
from sightline.samples.bands import FULL, band_name
from sightline.samples.geo import LONGITUDE_LATITUDE, Project
from sightline.samples.geometry import Points
from sightline.samples.sample import Geo

EXTRA = "pip install 'sightline[geo]'"
_DRIVERS = ((b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"), (b"\x89PNG", "PNG"), (b"\xff\xd8", "JPEG"))
"""GDAL's drivers by the first bytes of a file; a cloud-optimised GeoTIFF is a GTiff. No other driver is ever asked."""
_BLOCKS = 64
"""MiB of decoded blocks that GDAL keeps."""
_SETTINGS = {
    "GDAL_CACHEMAX": _BLOCKS, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none", "GDAL_HTTP_MAX_RETRY": 0, "GDAL_PAM_ENABLED": False,
    "GDAL_NUM_THREADS": 1, "GTIFF_REPORT_COMPD_CS": False, "PROJ_NETWORK": "OFF",
}  # fmt: skip
_BIGGEST_BLOCK = 1 << 28
"""Bytes of one block above which a file is refused: a block is decoded whole, however small the window."""


def there() -> bool:
    """Whether rasterio is installed."""
    return find_spec("rasterio") is not None


def need(place: str, why: str) -> None:
    """Refused where rasterio is not installed; `why` says what it is needed for."""
    if not there():
        raise Refused(Problem(code="samples/no-rasterio", place=place, found=f"{why}, and rasterio is not installed", allowed="the extra `geo`", fix=EXTRA))


@dataclass(frozen=True, kw_only=True)
class Raster:
    """An opened raster: what its header says, and its pixels window by window."""

    opened: Any
    """rasterio's dataset."""
    place: str
    width: int
    height: int
    bands: tuple[str, ...]
    """Names of the bands of data, in the order of the file; alpha is none of them."""
    depth: str
    geo: Geo | None
    nodata: float | None

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Pixels (height, width, bands) of a window as stored. Refused when the file is cut off there."""
        from rasterio.errors import RasterioIOError
        from rasterio.windows import Window

        try:
            found = self.opened.read(list(range(1, len(self.bands) + 1)), window=Window(left, top, width, height))  # pyright: ignore[reportCallIssue]
        except RasterioIOError as error:
            raise _broken(self.place, f"px {left}, {top}: {error}") from None
        return np.ascontiguousarray(found.transpose(1, 2, 0))

    def valid(self, pixels: np.ndarray, left: int, top: int) -> np.ndarray:
        """Which pixels (height, width) of a window that was read hold data in any band: not the no-data value, not masked out, not transparent, finite."""
        from rasterio.enums import MaskFlags
        from rasterio.errors import RasterioIOError
        from rasterio.windows import Window

        finite = np.isfinite(pixels).all(-1) if pixels.dtype == np.float32 else True
        flags = {flag for band in self.opened.mask_flag_enums for flag in band}
        if flags <= {MaskFlags.all_valid, MaskFlags.nodata}:
            said = np.full(pixels.shape[:2], True) if self.nodata is None else (pixels != self.nodata).any(-1)
            return said & finite
        height, width = pixels.shape[:2]

        try:
            return (self.opened.dataset_mask(window=Window(left, top, width, height)) > 0) & finite  # pyright: ignore[reportCallIssue]
        except RasterioIOError as error:
            raise _broken(self.place, f"mask at px {left}, {top}: {error}") from None


def _broken(place: str, found: str) -> Refused:
    return Refused(Problem(code="samples/broken-raster", place=place, found=found, allowed="a whole GeoTIFF, PNG or JPEG", fix="fetch the file again"))


@contextmanager
def opened_raster(source: Path | bytes, place: str = "", bands: Sequence[str] = ()) -> Iterator[Raster]:
    """Open a raster file, or the bytes of one. `bands` names its bands of data in order, over what the file says.

    Refused: rasterio is not there; no plain file; no GeoTIFF, PNG or JPEG; a depth other than 8 or 16 unsigned or 32 floating bits; names for another number of bands; a block too large.
    """
    place = place or str(source)
    need(place, "a raster that only it reads")
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.io import MemoryFile

    with rasterio.Env(**_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            if isinstance(source, bytes):
                with MemoryFile(source) as memory, memory.open(driver=_driver(source, place)) as dataset:
                    yield _raster(dataset, place, bands)
                return
            if not stat.S_ISREG(source.stat().st_mode):
                raise _broken(place, "no plain file")
            with source.open("rb") as stream:
                driver = _driver(stream.read(8), place)
            # an absolute path is never taken for a scheme such as zip:// or s3://
            with rasterio.open(_plain_path(source), driver=driver) as dataset:
                yield _raster(dataset, place, bands)
        except (RasterioError, OSError) as error:
            raise _broken(place, str(error)) from None


def _driver(head: bytes, place: str) -> str:
    for start, driver in _DRIVERS:
        if head.startswith(start):
            return driver
    raise _broken(place, f"a file that begins with {head[:8]!r}")


def _plain_path(source: Path) -> str:
    path = str(source.resolve())
    if path.startswith("/vsi"):
        raise _broken(path, "a path of GDAL's virtual file systems")
    return path


def _raster(dataset: Any, place: str, given: Sequence[str]) -> Raster:
    alpha = [number for number, ink in enumerate(dataset.colorinterp) if ink.name == "alpha" and not dataset.descriptions[number]]
    data = [number for number in range(dataset.count) if number not in alpha]
    named = {number: band_name(text) for number, text in enumerate(dataset.descriptions) if text}
    inks = {number: band_name(ink.name) for number, ink in enumerate(dataset.colorinterp) if ink.name not in ("undefined", "gray", "palette", "alpha")}
    names = tuple((inks | named).get(number, f"band_{number + 1}") for number in data)
    if names == ("band_1",):
        names = ("grey",)
    problems = []
    if given and len(given) not in (dataset.count, len(data)):
        problems.append(("bands", f"{dataset.count} bands, and names for {len(given)}", "a name for each band, in the order of the file", "correct `bands`"))
    if data != list(range(len(data))):
        problems.append(("bands", "alpha between bands of data", "alpha last", "reorder the bands: gdal_translate -b"))
    depths = sorted(set(dataset.dtypes))
    if len(depths) != 1 or depths[0] not in FULL:
        problems.append(("unsupported-depth", f"bands of {', '.join(depths)}", ", ".join(FULL), "convert the raster: gdal_translate -ot UInt16 -scale"))
    largest = (
        max(high * wide for high, wide in dataset.block_shapes)
        * np.dtype(depths[0]).itemsize
        * (dataset.count if dataset.interleaving and dataset.interleaving.name == "pixel" else 1)
    )
    if largest > _BIGGEST_BLOCK:
        problems.append(("block-too-large", f"blocks of {largest} bytes", f"at most {_BIGGEST_BLOCK}", "tile the file: gdal_translate -co TILED=YES"))
    if problems:
        raise Refused(Problem(code=f"samples/{code}", place=place, found=found, allowed=allowed, fix=fix) for code, found, allowed, fix in problems)
    bands = tuple(given) or (names if len(set(names)) == len(names) else tuple(f"band_{number + 1}" for number in data))
    return Raster(
        opened=dataset, place=place, width=dataset.width, height=dataset.height, bands=bands, depth=depths[0], geo=_geo(dataset), nodata=dataset.nodata
    )


def _geo(dataset: Any) -> Geo | None:
    if dataset.crs is None or dataset.transform.is_identity:
        return None
    return Geo(crs=crs_name(dataset.crs), affine=tuple(map(float, dataset.transform[:6])))  # type: ignore[arg-type]


def crs_name(crs: Any) -> str:
    """`EPSG:CODE` where the system has a code, else its WKT."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()


def projection(origin: str, target: str = LONGITUDE_LATITUDE) -> Project:
    """The way from one coordinate system to another, x or longitude first. Refused: rasterio is not there, or a system that it does not know."""
    need(origin, f"places of {origin[:40]} are asked for in {target[:40]}")
    from rasterio.warp import transform

    start, end = _crs(origin), _crs(target)

    def project(points: Points) -> Points:
        x, y = transform(start, end, points[:, 0].tolist(), points[:, 1].tolist())[:2]
        made = np.array([x, y], np.float64).T
        if not np.isfinite(made).all():
            found = f"{int((~np.isfinite(made).all(1)).sum())} of {len(made)} points are nowhere in {target[:40]}"
            raise Refused(
                Problem(
                    code="samples/outside-crs", place=origin[:80], found=found, allowed="places that both systems know", fix="correct the coordinate system"
                )
            )
        return made

    return project


def same_crs(one: str, other: str) -> bool:
    """Whether two names mean the same coordinate system."""
    if one == other:
        return True
    return there() and _crs(one) == _crs(other)


def _crs(name: str) -> Any:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        return CRS.from_string(name)
    except CRSError as error:
        fix = "state the system as EPSG:CODE"
        raise Refused(Problem(code="samples/unknown-crs", place=name[:80], found=str(error)[:200], allowed="a coordinate system", fix=fix)) from None
