"""TIFF files of any number of bands of 8, 16 or 32 bits, with their georeference, read and written without a library.

Classic TIFF 6.0 and BigTIFF in strips or tiles, chunky or planar, uncompressed or deflated, with horizontal differencing or without; the georeference and the names of bands by
GeoTIFF 1.1 (OGC 19-008r4, section 7) and GDAL's tags 42112 and 42113. Other compressions are left to rasterio (see geo_rasters.py). Every number in a file is hostile until checked.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from sightline.samples.bands import COLOURS, Depth, band_name
from sightline.samples.sample import Geo

LARGEST = 1 << 30
"""Bytes of decoded pixels above which a file is refused: of 8192x8192 px, eight bands of 16 bits."""
_MOST_BANDS = 256
_MOST_TAGS = 4096
_MOST_VALUES = 1 << 22
"""Values of all tags together: the places and lengths of two million blocks."""
_TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_DEPTHS: dict[tuple[int, int], Depth] = {(1, 8): "uint8", (1, 16): "uint16", (3, 32): "float32"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS = 256, 257, 258, 259, 262, 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT = 284, 317, 322, 323, 324, 325, 338, 339
_SCALE, _TIEPOINT, _MATRIX, _KEYS, _METADATA, _NODATA = 33550, 33922, 34264, 34735, 42112, 42113
_MODEL_TYPE, _RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
_USER_DEFINED = 32767
_EFFORT = 1
"""Of deflate, 1..9: on differences of neighbours more effort takes three times as long and saves a few percent."""
_GREY, _RGB = (0, 1), 2
_ITEM = re.compile(r'<Item ([^>]*)role="(description|colorinterp)"([^>]*)>([^<]{1,200})</Item>')
_SAMPLE = re.compile(r'sample="(\d{1,4})"')
_INK = {"undefined", "grey", "palette", "alpha", ""}
"""Colour interpretations that name no band."""


class NotRead(ValueError):
    """What is wrong with a file, in words."""


class LeftToRasterio(NotRead):
    """A whole file, perhaps, of a form that only rasterio reads."""


@dataclass(frozen=True, kw_only=True)
class TiffLayout:
    """What the header of a file says. `bands` has a name for each band of data; samples beyond them are alpha."""

    width: int
    height: int
    """Width and height in px, as stored."""
    samples: int
    """Numbers of a pixel, alpha included."""
    depth: Depth
    bands: tuple[str, ...]
    photometric: int
    """Tag 262: 0 and 1 grey, 2 red, green and blue, others a palette, print colours and so on."""
    orientation: int
    """Tag 274, as in EXIF; 1 = upright."""
    geo: Geo | None
    nodata: float | None
    tags: dict[int, tuple[Any, ...]]
    """All tags of the directory."""
    order: Literal["<", ">"]
    """Of bytes: < or >."""

    @property
    def beyond_colours(self) -> bool:
        """Whether the file holds more than grey, a palette, or red, green and blue of 8 bits."""
        usual = self.photometric not in (*_GREY, _RGB) or len(self.bands) == (len(COLOURS) if self.photometric == _RGB else 1)
        return self.depth != "uint8" or not usual


def is_tiff(data: bytes) -> bool:
    """Whether the first bytes are those of a TIFF file."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def layout(data: bytes, bands: Sequence[str] = ()) -> TiffLayout:
    """The layout of the first picture of a file. `bands` names all its samples that are data, over what the file says of them.

    Raises NotRead for what is broken, or of a depth that pictures do not have (1 or 4 bits, signed or 64-bit numbers).
    """
    tags, order = _tags(data)
    width, height, samples = (_one(tags, tag, default) for tag, default in ((_WIDTH, 0), (_HEIGHT, 0), (_SAMPLES, 1)))
    if width < 1 or height < 1 or not 1 <= samples <= _MOST_BANDS:
        raise NotRead(f"{width}x{height} px of {samples} bands")
    bits, kinds = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    depth = _DEPTHS.get((next(iter(kinds)), next(iter(bits)))) if len(bits) == len(kinds) == 1 else None
    if depth is None:
        raise NotRead(f"samples of {', '.join(map(str, sorted(bits)))} bits and sample format {', '.join(map(str, sorted(kinds)))}")
    photometric = _one(tags, _PHOTOMETRIC, 1)
    names = _named(tags, samples, photometric, bands)
    return TiffLayout(
        width=width, height=height, samples=samples, depth=depth, bands=names, photometric=photometric, orientation=_one(tags, _ORIENTATION, 1),
        geo=_geo(tags), nodata=_nodata(tags), tags=tags, order=order,
    )  # fmt: skip


def _tags(data: bytes) -> tuple[dict[int, tuple[Any, ...]], Literal["<", ">"]]:
    """Values of the tags of the first directory, and the byte order."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        start = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
        if count > _MOST_TAGS:
            raise NotRead(f"{count} tags")
        first, size, room = (start + 8, 20, 8) if big else (start + 2, 12, 4)
        tags: dict[int, tuple[Any, ...]] = {}
        left = _MOST_VALUES
        for number in range(count):
            at = first + number * size
            tag, kind, length = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
            form = _TYPES.get(kind)
            if form is None:
                continue
            left -= length
            if left < 0:
                raise NotRead(f"tags of over {_MOST_VALUES} values")
            body = f"{order}{length * len(form)}{form[0]}"
            held = at + size - room
            place = held if struct.calcsize(body) <= room else struct.unpack_from(order + ("Q" if big else "I"), data, held)[0]
            tags[tag] = struct.unpack_from(body, data, place)
    except struct.error as error:
        raise NotRead(f"a header that ends early ({error})") from None
    return tags, order


def _one(tags: dict[int, tuple[Any, ...]], tag: int, default: int) -> int:
    values = tags.get(tag, (default,))
    return int(values[0]) if values and not isinstance(values[0], bytes) else default


def _named(tags: dict[int, tuple[Any, ...]], samples: int, photometric: int, given: Sequence[str]) -> tuple[str, ...]:
    said = {} if given else _said(tags)
    inks = len(COLOURS) if photometric == _RGB else 1
    alpha = {inks + number for number, value in enumerate(tags.get(_EXTRA, ())) if value in (1, 2)} - said.keys()
    data = [number for number in range(samples) if number not in alpha]
    if given:
        if len(given) not in (samples, len(data)):
            raise NotRead(f"{samples} bands{f', {len(alpha)} of them alpha' if alpha else ''}, and names for {len(given)}")
        return tuple(given)
    if alpha and data != list(range(len(data))):
        raise NotRead("alpha between bands of data")
    names = [said.get(number) or (COLOURS[number] if photometric == _RGB and number < inks else f"band_{number + 1}") for number in data]
    if names == ["band_1"]:
        return ("grey",)
    return tuple(names) if len(set(names)) == len(names) else tuple(f"band_{number + 1}" for number in data)


def _said(tags: dict[int, tuple[Any, ...]]) -> dict[int, str]:
    """Names of bands by sample: descriptions before colour interpretations."""
    text = tags.get(_METADATA, (b"",))[0]
    found: dict[str, dict[int, str]] = {"description": {}, "colorinterp": {}}
    for before, role, after, value in _ITEM.findall(text.decode("utf-8", "replace") if isinstance(text, bytes) else ""):
        sample = _SAMPLE.search(before) or _SAMPLE.search(after)
        name = band_name(value.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        if sample and not (role == "colorinterp" and name in _INK):
            found[role][int(sample[1])] = name
    return found["colorinterp"] | found["description"]


def _geo(tags: dict[int, tuple[Any, ...]]) -> Geo | None:
    """Coordinate system and affine map of the outer corners of pixels; None where the file states neither, or a system without an EPSG number."""
    keys = tags.get(_KEYS, ())
    known = {keys[at]: keys[at + 3] for at in range(4, len(keys) - 3, 4) if keys[at + 1] == 0}
    code = known.get(_PROJECTED) if known.get(_MODEL_TYPE) == 1 else known.get(_GEOGRAPHIC)
    matrix, scale, tie = tags.get(_MATRIX, ()), tags.get(_SCALE, ()), tags.get(_TIEPOINT, ())
    if len(matrix) == 16:
        a, b, _, c, d, e, _, f = matrix[:8]
    elif len(scale) >= 2 and len(tie) >= 6:
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    else:
        return None
    if known.get(_RASTER_TYPE) == 2:  # the point is the centre of the pixel
        c, f = c - (a + b) / 2, f - (d + e) / 2
    values = tuple(float(value) for value in (a, b, c, d, e, f))
    if not code or code == _USER_DEFINED or not all(map(math.isfinite, values)) or a * e == b * d:
        return None
    return Geo(crs=f"EPSG:{code}", affine=values)  # type: ignore[arg-type]


def _nodata(tags: dict[int, tuple[Any, ...]]) -> float | None:
    text = tags.get(_NODATA, (b"",))[0]
    try:
        return float(text.rstrip(b"\0 ").decode("ascii")) if isinstance(text, bytes) and text else None
    except ValueError:
        return None


def decode_tiff(data: bytes, known: TiffLayout) -> np.ndarray:
    """(height, width, samples) of the file, as stored and not turned. Raises NotRead: data that is cut off or too large; LeftToRasterio: another compression."""
    dtype = np.dtype(known.depth).newbyteorder(known.order)
    if known.width * known.height * known.samples * dtype.itemsize > LARGEST:
        raise NotRead(f"{known.width}x{known.height} px of {known.samples} bands, {known.depth}: over {LARGEST} bytes")
    tags = known.tags
    unpack = _unpacked(_one(tags, _COMPRESSION, 1))
    predictor, planar = _one(tags, _PREDICTOR, 1), _one(tags, _PLANAR, 1) == 2
    if predictor not in (1, 2) or (predictor == 2 and known.depth == "float32"):
        raise LeftToRasterio(f"predictor {predictor}")
    tiled = _TILE_OFFSETS in tags
    wide, high = (_one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)) if tiled else (known.width, min(_one(tags, _ROWS, known.height), known.height))
    offsets, counts = (tags.get(_TILE_OFFSETS, ()), tags.get(_TILE_COUNTS, ())) if tiled else (tags.get(_OFFSETS, ()), tags.get(_COUNTS, ()))
    if wide < 1 or high < 1 or wide * high * known.samples * dtype.itemsize > LARGEST:
        raise NotRead(f"blocks of {wide}x{high} px")
    across, down = -(-known.width // wide), -(-known.height // high)
    planes, together = (known.samples, 1) if planar else (1, known.samples)
    if len(offsets) != across * down * planes or len(counts) != len(offsets):
        raise NotRead(f"{len(offsets)} blocks, and {len(counts)} lengths, where {across * down * planes} are needed")
    made = np.empty((known.height, known.width, known.samples), known.depth)
    for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        plane, place = divmod(number, across * down)
        top, left = place // across * high, place % across * wide
        rows = high if tiled else min(high, known.height - top)
        size = rows * wide * together * dtype.itemsize
        held = unpack(data[offset : offset + count], size)
        if len(held) < size:
            raise NotRead(f"block {number} of {len(held)} bytes, {size} are needed")
        block = np.frombuffer(held, dtype, rows * wide * together).reshape(rows, wide, together)
        if predictor == 2:
            block = np.cumsum(block, axis=1, dtype=known.depth)
        part = block[: known.height - top, : known.width - left]
        made[top : top + part.shape[0], left : left + part.shape[1], plane : plane + together] = part
    return made


def _unpacked(compression: int) -> Callable[[bytes, int], bytes]:
    if compression == 1:
        return lambda block, size: block[:size]
    if compression in (8, 32946):
        return _inflated
    raise LeftToRasterio(f"compression {compression}")


def _inflated(block: bytes, size: int) -> bytes:
    """At most `size` bytes of a deflated block: a bomb is not unpacked."""
    try:
        return zlib.decompressobj().decompress(block, size)
    except zlib.error as error:
        raise NotRead(f"deflated data that is broken ({error})") from None


def encode_tiff(pixels: np.ndarray, bands: Sequence[str], geo: Geo | None = None, nodata: float | None = None) -> bytes:
    """A file of pixels (height, width, bands) of uint8, uint16 or float32: one deflated strip of chunky samples per 64 KiB or so, names of bands as GDAL writes them.

    The same pixels, names and georeference give the same bytes. The georeference is written where its system is `EPSG:CODE`.
    """
    height, width, samples = pixels.shape
    assert len(bands) == samples, f"{samples} bands and {len(bands)} names"
    little = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    rows = max(1, min(height, (1 << 16) // max(1, little[0].nbytes)))
    differenced = pixels.dtype != np.float32
    strips = [_strip(little[top : top + rows], differenced) for top in range(0, height, rows)]
    colours = tuple(bands[:3]) == COLOURS
    extra = samples - (3 if colours else 1)
    items = "".join(f'  <Item name="DESCRIPTION" sample="{number}" role="description">{_escaped(name)}</Item>\n' for number, name in enumerate(bands))
    said: list[tuple[int, int, Sequence[Any] | bytes]] = [
        (_WIDTH, 4, [width]), (_HEIGHT, 4, [height]), (_BITS, 3, [pixels.itemsize * 8] * samples), (_COMPRESSION, 3, [8]), (_PHOTOMETRIC, 3, [_RGB if colours else 1]),
        (_OFFSETS, 4, [0] * len(strips)), (_SAMPLES, 3, [samples]), (_ROWS, 4, [rows]), (_COUNTS, 4, [len(strip) for strip in strips]), (_PLANAR, 3, [1]),
        (_PREDICTOR, 3, [2 if differenced else 1]), *([(_EXTRA, 3, [0] * extra)] if extra else []), (_FORMAT, 3, [1 if differenced else 3] * samples),
        *_georeference(geo), (_METADATA, 2, f"<GDALMetadata>\n{items}</GDALMetadata>\0".encode()),
        *([(_NODATA, 2, f"{nodata:g}\0".encode())] if nodata is not None else []),
    ]  # fmt: skip
    return _assembled(sorted(said), strips)


def _escaped(name: str) -> str:
    return quoteattr(name)[1:-1]


def _strip(part: np.ndarray, differenced: bool) -> bytes:
    if differenced:
        part = np.concatenate([part[:, :1], part[:, 1:] - part[:, :-1]], axis=1)  # wraps as the format wants it
    return zlib.compress(part.tobytes(), _EFFORT)


def _georeference(geo: Geo | None) -> list[tuple[int, int, Sequence[Any] | bytes]]:
    code = re.fullmatch(r"EPSG:(\d{1,5})", geo.crs) if geo is not None else None
    if geo is None or code is None:
        return []
    a, b, c, d, e, f = geo.affine
    geographic = 4000 <= int(code[1]) < 5000
    keys = [1, 1, 0, 3, _MODEL_TYPE, 0, 1, 2 if geographic else 1, _RASTER_TYPE, 0, 1, 1, _GEOGRAPHIC if geographic else _PROJECTED, 0, 1, int(code[1])]
    if b == d == 0 and a > 0 > e:
        return [(_SCALE, 12, [a, -e, 0.0]), (_TIEPOINT, 12, [0.0, 0.0, 0.0, c, f, 0.0]), (_KEYS, 3, keys)]
    return [(_MATRIX, 12, [a, b, 0.0, c, d, e, 0.0, f, *[0.0] * 7, 1.0]), (_KEYS, 3, keys)]


def _assembled(said: Sequence[tuple[int, int, Sequence[Any] | bytes]], strips: Sequence[bytes]) -> bytes:
    """Header, directory, values that do not fit into it, then the strips."""
    packed = {tag: value if isinstance(value, bytes) else struct.pack(f"<{len(value)}{_TYPES[kind]}", *value) for tag, kind, value in said}
    at = 8 + 2 + 12 * len(said) + 4
    places: dict[int, int] = {}
    for tag, body in packed.items():
        if len(body) > 4:
            places[tag], at = at, at + len(body) + len(body) % 2
    offsets = [at + sum(map(len, strips[:number])) for number in range(len(strips))] if len(strips) < 2 else np.cumsum([at, *map(len, strips[:-1])]).tolist()
    assert at + sum(map(len, strips)) < 1 << 32, "a picture of over 4 GiB"
    packed[_OFFSETS] = struct.pack(f"<{len(offsets)}I", *offsets)
    parts = [b"II*\0", struct.pack("<IH", 8, len(said))]
    for tag, kind, value in said:
        body = packed[tag]
        parts.append(struct.pack("<HHI", tag, kind, len(value)) + (body.ljust(4, b"\0") if tag not in places else struct.pack("<I", places[tag])))
    parts.append(b"\0\0\0\0")
    parts += [packed[tag] + b"\0" * (len(packed[tag]) % 2) for tag in places]
    return b"".join([*parts, *strips])
