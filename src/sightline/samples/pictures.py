"""Decoding of pictures: hostile until checked, upright after EXIF, never repaired in silence.

Red, green and blue of 8 bits are decoded by Pillow. TIFF of other bands or depths is decoded by `geo_tiff`, and where its compression is another one by rasterio. Alpha is no band:
it is laid on white where it belongs to colours of 8 bits, and left out elsewhere.
"""

from __future__ import annotations

import io
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes
from sightline.samples.bands import COLOURS, colours_alone, composite, depth_of, taken
from sightline.samples.dihedral import turned_pixels
from sightline.samples.geo_rasters import EXTRA, opened_raster, there
from sightline.samples.geo_tiff import LeftToRasterio, NotRead, TiffLayout, decode_tiff, encode_tiff, is_tiff, layout
from sightline.samples.sample import Geo, Picture

MAX_PIXELS = 178_000_000
"""Pictures above this are refused before decoding: a few kB can hold gigabytes. Pillow itself refuses from 178,956,971 on."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
LARGEST_FILE = 1 << 30
"""Bytes of a file above which it is refused unread: more than the pixels of an allowed picture, unpacked."""
SCANNED_PIXELS = 12 * MAX_PIXELS
"""Pixels times scans above which a progressive JPEG is refused: ten scans are usual, and each of thousands costs as much as a whole picture."""
_SIGNATURES = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"II", ".tif"), (b"MM", ".tif"), (b"BM", ".bmp"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))
_ORIENTATION = 0x0112
"""Tag of EXIF."""
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".tif": "image/tiff", ".bmp": "image/bmp", ".gif": "image/gif", ".webp": "image/webp"}
_STRIPE = 1 << 24
"""Pixels that are converted at once."""
_SCANNED = ("JPEG", "MPO")
"""MPO is what Pillow calls a JPEG with further pictures behind the first."""
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_END, _SCAN = 0xD9, 0xDA
_LEAST_SCAN = 4
"""Bytes of a scan at least: a marker and a length."""
_TURNS = {2: 4, 3: 2, 4: 6, 5: 7, 6: 1, 7: 5, 8: 3}
"""The turn (see `dihedral`) that puts a picture upright, by its EXIF orientation."""


def _refuse(code: str, place: str, found: str, allowed: str, fix: str) -> Refused:
    return Refused(Problem(code=f"samples/{code}", place=place, found=found, allowed=allowed, fix=fix))


def ending(data: bytes, otherwise: str = ".bin") -> str:
    """The usual ending of a picture's file name, by its first bytes; `otherwise` where they are of no known format."""
    return next((name for start, name in _SIGNATURES if data.startswith(start)), otherwise)


def is_upright(data: bytes, place: str) -> bool:
    """Whether the pixels of a file are stored as they are seen: nothing in its EXIF turns them. Refused as `open_picture` is."""
    with open_picture(data, place) as opened:
        return opened.getexif().get(_ORIENTATION, 1) in (0, 1)


def media_type(data: bytes) -> str:
    """The media type of a picture, by its first bytes; empty where they are of no known format."""
    return _MEDIA.get(ending(data), "")


def open_picture(data: bytes, place: str) -> Image.Image:
    """The picture, its header read and its pixels not yet. Refused when it is of no known format, or its pixels or scans would cost too much."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(io.BytesIO(data), formats=list(FORMATS))
    except UnidentifiedImageError:
        raise _refuse(
            "not-a-picture", place, f"{len(data)} bytes that begin with {data[:8]!r}", ", ".join(FORMATS), "replace the file by the original picture"
        ) from None
    except Image.DecompressionBombError as error:
        raise _refuse("picture-too-large", place, str(error), f"at most {MAX_PIXELS} px", "tile the picture first") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise _refuse("broken-picture", place, str(error), "a picture that decodes", "fetch the file again") from None
    area = opened.width * opened.height
    if area > MAX_PIXELS:
        raise _refuse("picture-too-large", place, f"{opened.width}x{opened.height} px", f"at most {MAX_PIXELS} px", "tile the picture first")
    # Too few bytes for so many scans need not be searched for them.
    if (
        opened.format in _SCANNED
        and len(data) // _LEAST_SCAN * area > SCANNED_PIXELS
        and data.count(b"\xff\xda") * area > SCANNED_PIXELS
        and (scans := _scans(data)) * area > SCANNED_PIXELS
    ):
        found = f"{scans} scans of {opened.width}x{opened.height} px"
        raise _refuse("too-many-scans", place, found, f"at most {SCANNED_PIXELS} px in all scans", "save the picture as a baseline JPEG")
    return opened


def _scans(data: bytes) -> int:
    """Scans of a JPEG (ITU-T T.81, annex B): from marker to marker, without what stands inside segments or after the end."""
    place, scans = 2, 0
    while (marker := _MARKER.search(data, place)) is not None and marker[1][0] != _END:
        scans += marker[1][0] == _SCAN
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))
    return scans


def describe(data: bytes, name: str, place: str, bands: Sequence[str] = ()) -> Picture:
    """A Picture from encoded bytes: its size after EXIF, its bands and depth, its hash, the bytes kept as they are. `bands` names its bands in order, over what the file says.

    The pixels are decoded once, so that a truncated file is refused here and not hours into a run.
    """
    known = tiff_layout(data, bands, place)
    if known is not None and (bands or known.beyond_colours):
        found = decode_bands(data, known.bands, place)
        geo = known.geo if known.orientation in (0, 1) else None
        return Picture(
            hash=sha256_bytes(data), width=found.shape[1], height=found.shape[0], bands=known.bands, depth=depth_of(found), data=data, geo=geo, name=name
        )
    with open_picture(data, place) as opened:
        upright = _upright(opened, place)
        width, height = (upright if bands else _eight_bits(upright, place)).size
    picture = Picture(hash=sha256_bytes(data), width=width, height=height, data=data, name=name)
    if known is not None and known.geo is not None and known.orientation in (0, 1):
        picture = replace(picture, geo=known.geo)
    return picture if not bands else replace(picture, bands=tuple(bands), depth=depth_of(decode_bands(data, bands, place)))


def tiff_layout(data: bytes, bands: Sequence[str], place: str) -> TiffLayout | None:
    """What the header of a TIFF says; None for other formats, and where Pillow may know better. Refused: more pixels than allowed, or names for other bands."""
    if not is_tiff(data):
        return None
    try:
        known = layout(data, bands)
    except NotRead as error:
        if not bands:
            return None
        raise _refuse("bands", place, str(error), "a name for each band of the file, in order", "correct `bands`") from None
    if known.width * known.height > MAX_PIXELS:
        raise _refuse("picture-too-large", place, f"{known.width}x{known.height} px", f"at most {MAX_PIXELS} px", "cut it into tiles: sightline data tile")
    return known


def read_picture(path: Path, place: str = "", bands: Sequence[str] = ()) -> Picture:
    """Read and check one picture file; `place` (file:row that names it) is what an error points at. `bands` as for `describe`."""
    place = place or str(path)
    return describe(picture_bytes(path, place), path.name, place if place == str(path) else f"{place} ({path})", bands)


def picture_bytes(path: Path, place: str) -> bytes:
    """The bytes of a picture file. Refused when it is not there, cannot be read, is too large, or is no plain file: a pipe never ends."""
    try:
        known = path.stat()
        if not stat.S_ISREG(known.st_mode):
            raise _refuse("unreadable-picture", place, f"{path} is no plain file", "a file", "replace it by the picture")
        if known.st_size > LARGEST_FILE:
            raise _refuse("picture-too-large", place, f"{path} has {known.st_size} bytes", f"at most {LARGEST_FILE} bytes", "tile the picture first")
        return path.read_bytes()
    except FileNotFoundError:
        raise _refuse(
            "missing-picture", place, f"{path} is not there", "a file that exists", "correct the path, or read with the folder that holds the pictures"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise _refuse("unreadable-picture", place, f"{path}: {error}", "a readable file", "check the path and its permissions") from None


def _upright(opened: Image.Image, place: str) -> Image.Image:
    try:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)  # a copy would hold a large picture twice
        return opened
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise _refuse("broken-picture", place, f"decoding stopped: {error}", "a whole picture", "fetch the file again") from None


def decode_labels(data: bytes, place: str) -> np.ndarray:
    """Upright values of a label picture as they are stored: (height, width) numbers of one band (palette index, grey, 16 bits), or (height, width, 3) RGB."""
    with open_picture(data, place) as opened:
        upright = _upright(opened, place)
        if upright.mode in ("RGB", "RGBA"):
            return np.asarray(upright)[..., :3]
        if upright.mode in ("1", "L", "P", "I;16", "I"):
            return np.asarray(upright, dtype=np.uint8 if upright.mode == "1" else None)
        raise _refuse(
            "unsupported-labels", place, f"pixel mode {upright.mode}", "one band of numbers, a palette, or RGB", "save the labels as an 8-bit or 16-bit PNG"
        )


def decode(data: bytes, place: str) -> np.ndarray:
    """Upright RGB pixels, (height, width, 3) uint8, of any picture. Alpha is laid on white; other bands are shown as `composite` does; truncated data is refused."""
    known = tiff_layout(data, (), place)
    if known is not None and known.beyond_colours:
        return composite(decode_bands(data, known.bands, place), known.bands)
    return _decode_colours(data, place)


def _decode_colours(data: bytes, place: str) -> np.ndarray:
    with open_picture(data, place) as opened:
        upright = _eight_bits(_upright(opened, place), place)
        width, height = upright.size
        rows = max(1, _STRIPE // width)
        if rows >= height:
            return rgb_on_white(upright)
        found = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            found[top : top + rows] = rgb_on_white(upright.crop((0, top, width, min(top + rows, height))))
        return found


def decode_bands(data: bytes, bands: Sequence[str], place: str) -> np.ndarray:
    """Upright pixels (height, width, bands) as stored, of a file with these bands. Refused: cut off, of another number of bands, or with numbers that are not finite."""
    if not is_tiff(data):
        return _decode_plain(data, bands, place)
    try:
        known = layout(data, bands)
        try:
            found = decode_tiff(data, known)
        except LeftToRasterio as error:
            found = _decode_by_rasterio(data, bands, place, str(error))
    except NotRead as error:
        raise _refuse("broken-picture", place, str(error), "a whole TIFF of 8 or 16 bits, or 32 floating bits", "fetch the file again") from None
    found = found[..., : len(bands)]
    if found.dtype == np.float32 and not np.isfinite(found).all():
        fix = "fill what holds no data, or cut the raster by `sightline data tile`, which does"
        raise _refuse("not-finite", place, f"{int((~np.isfinite(found)).sum())} of {found.size} numbers are NaN or infinite", "finite numbers", fix)
    return np.ascontiguousarray(turned_pixels(found, _TURNS.get(known.orientation, 0)))


def _decode_by_rasterio(data: bytes, bands: Sequence[str], place: str, found: str) -> np.ndarray:
    if not there():
        raise _refuse("no-rasterio", place, found, "TIFF that is deflated or not compressed, or the extra `geo`", EXTRA)
    with opened_raster(data, place, bands) as raster:
        return raster.read(0, 0, raster.width, raster.height)


def _decode_plain(data: bytes, bands: Sequence[str], place: str) -> np.ndarray:
    """Bands of a PNG or another format of Pillow whose names were given: there, a fourth band may be what other programs call alpha."""
    with open_picture(data, place) as opened:
        upright = _upright(opened, place)
        plain = upright.mode in ("L", "LA", "RGB", "RGBA", "RGBX", "I;16")
        found = np.atleast_3d(np.asarray(upright)) if plain else np.empty((0, 0, 0))
    if found.shape[2] != len(bands):
        said = f"pixel mode {upright.mode}, and names for {len(bands)} bands"
        raise _refuse("bands", place, said, "a name for each band of the file, in order", "correct `bands`")
    return np.ascontiguousarray(found)


def encoded(array: np.ndarray, bands: Sequence[str] = COLOURS, geo: Geo | None = None) -> bytes:
    """A file of pixels (height, width, bands) without loss: PNG where they are red, green and blue of 8 bits, else TIFF with the names of the bands and the georeference."""
    if tuple(bands) != COLOURS or array.dtype != np.uint8:
        return encode_tiff(array, bands, geo)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _eight_bits(upright: Image.Image, place: str) -> Image.Image:
    if upright.mode in ("I;16", "I;16B", "I", "F"):
        raise _refuse("unsupported-depth", place, f"pixel mode {upright.mode}", "8 bits a band", "convert the picture to 8 bits")
    return upright


def rgb_on_white(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) uint8 of an opened picture of 8 bits; alpha is laid on white."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layered.size, (255, 255, 255, 255)), layered)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def pixels(picture: Picture, root: Path | None = None) -> np.ndarray:
    """Decoded pixels of a Picture, (height, width, bands) of its depth, as stored; `root` is the store's folder when `data` is a path."""
    data = picture.data
    if isinstance(data, str):
        if root is None:
            raise _refuse(
                "picture-without-store",
                picture.name or picture.hash[:12],
                f"path {data}",
                "bytes, or a path with its store",
                "read the sample through its Store",
            )
        data = (root / data).read_bytes()
    place = picture.name or picture.hash[:12]
    return _decode_colours(data, place) if colours_alone(picture) else decode_bands(data, picture.bands, place)


def band_pixels(picture: Picture, bands: Sequence[str], root: Path | None = None, who: str = "the model") -> np.ndarray:
    """The named bands of a Picture in their order, (height, width, bands) of its depth. Refused where it lacks one; `who` takes them."""
    return taken(pixels(picture, root), picture, bands, "pictures", who)


def rgb_pixels(picture: Picture, root: Path | None = None) -> np.ndarray:
    """What eyes see of a Picture, (height, width, 3) uint8: its pixels, or a composite where it has other bands or another depth."""
    return composite(pixels(picture, root), picture.bands)
