"""Pictures that are rare, large, broken or bombs, one drawn at a time: what may stand where an annotation names a picture."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from hostile_pictures import bombs, encoded, png, sample_picture, zeros
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from sightline.samples.pictures import FORMATS

_SIDE = 6000
"""Side in px of a picture whose pixels are all zero: few bytes, and still allowed."""


def _saved(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def _torn(rng: np.random.Generator) -> bytes:
    data = encoded(sample_picture(), FORMATS[int(rng.integers(len(FORMATS)))], orientation=int(rng.integers(0, 10)))
    if rng.random() < 0.5:
        return data[: int(rng.integers(len(data)))]
    garbled = bytearray(data)
    for place in rng.integers(0, len(data), 4).tolist():
        garbled[place] = int(rng.integers(256))
    return bytes(garbled)


def _palette(rng: np.random.Generator) -> bytes:
    picture = sample_picture().convert("P", palette=Image.Palette.ADAPTIVE, colors=int(rng.integers(2, 256)))
    clear: bytes | int = bytes(rng.integers(0, 256, int(rng.integers(1, 300))).astype(np.uint8)) if rng.random() < 0.6 else int(rng.integers(0, 256))
    return _saved(picture, "PNG", transparency=clear)


def _transparent(rng: np.random.Generator) -> bytes:
    """A tRNS chunk of any length before any kind of pixels."""
    mode = ("1", "L", "RGB", "LA", "RGBA", "P", "I;16")[int(rng.integers(7))]
    picture = Image.new("I;16", (24, 16), 5) if mode == "I;16" else sample_picture().convert(mode)
    data = _saved(picture, "PNG")
    chunk = b"tRNS" + rng.bytes(int(rng.integers(0, 9)))
    place = data.index(b"IDAT") - 4
    return data[:place] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[place:]


def _mode(rng: np.random.Generator) -> bytes:
    """Rare pixels: 16 bits, floats, CMYK, Lab, YCbCr, two levels, alpha."""
    form, mode = (
        ("PNG", "I;16"),
        ("PNG", "1"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("TIFF", "F"),
        ("TIFF", "I"),
        ("TIFF", "I;16"),
        ("TIFF", "CMYK"),
        ("TIFF", "LAB"),
        ("TIFF", "YCbCr"),
        ("TIFF", "1"),
        ("TIFF", "PA"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "1"),
    )[int(rng.integers(17))]
    grey = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 170
    if mode in ("I;16", "I", "F"):
        picture = Image.fromarray(grey.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    else:
        picture = (
            Image.new("LAB", (24, 16)) if mode == "LAB" else sample_picture().convert("LA").convert("PA") if mode == "PA" else sample_picture().convert(mode)
        )
    return _saved(picture, form)


def _animated(rng: np.random.Generator) -> bytes:
    frames = [sample_picture().rotate(number) for number in range(int(rng.integers(2, 40)))]
    form = ("GIF", "WEBP", "PNG", "TIFF")[int(rng.integers(4))]
    data = _saved(frames[0], form, save_all=True, append_images=frames[1:])
    return data[: int(rng.integers(len(data) // 2, len(data)))] if rng.random() < 0.3 else data


def _progressive(rng: np.random.Generator) -> bytes:
    data = _saved(sample_picture(200, 160), "JPEG", progressive=True, quality=95)
    return data[: int(rng.integers(20, len(data)))]


def many_scans(_: np.random.Generator) -> bytes:
    """A progressive JPEG of 3000 x 3000 px whose last scan comes a few thousand times."""
    data = _saved(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 3000 + b"\xff\xd9"


def _tags(rng: np.random.Generator) -> bytes:
    """A TIFF whose tags are many, huge, or lead in a circle."""
    drawn = int(rng.integers(4))
    if drawn == 0:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270] = "x" * 2_000_000
        return _saved(sample_picture(), "TIFF", tiffinfo=tags)
    data = bytearray(encoded(sample_picture(), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    if drawn == 1:
        struct.pack_into("<I", data, start + 2 + 12 * count, start)
    elif drawn == 2:
        struct.pack_into("<H", data, start, 65_535)
    else:
        place = start + 2 + 12 * int(rng.integers(count))
        struct.pack_into("<I", data, place + 4, int(rng.integers(1 << 32)))
    return bytes(data)


def _exif(rng: np.random.Generator) -> bytes:
    """EXIF whose directories lead into themselves, or whose tag of the orientation has other types and counts."""
    kind, count = int(rng.integers(0, 14)), int(rng.integers(0, 1 << int(rng.integers(1, 32))))
    entries = (
        struct.pack("<HHII", 0x0112, kind, count, int(rng.integers(0, 10))) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x8825, 4, 1, 8)
    )
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries + struct.pack("<I", 8)
    return _saved(sample_picture(), ("JPEG", "PNG", "WEBP")[int(rng.integers(3))], exif=body)


def _texts(rng: np.random.Generator) -> bytes:
    """PNG with huge texts, packed or not, in many chunks."""
    info = PngInfo()
    for number in range(int(rng.integers(1, 60))):
        info.add_text(f"k{number}", "t" * int(rng.integers(1, 900_000)), zip=bool(rng.random() < 0.8))
    return _saved(sample_picture(), "PNG", pnginfo=info)


@cache
def _huge() -> bytes:
    return png(_SIDE, _SIDE, body=zeros(_SIDE * (3 * _SIDE + 1)))


@cache
def _bombs() -> tuple[bytes, ...]:
    return tuple(bombs().values())


def _bomb(rng: np.random.Generator) -> bytes:
    return _bombs()[int(rng.integers(len(_bombs())))]


def _strip(rng: np.random.Generator) -> bytes:
    size = [int(side) for side in rng.permutation([1, int(rng.integers(1, 30_000))])]
    return encoded(sample_picture(*size), "PNG")


def _other(rng: np.random.Generator) -> bytes:
    """What Pillow would read and nobody wants here: text that draws, other containers, other formats."""
    picture = sample_picture()
    forms = (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        lambda: _saved(picture, "ICO"),
        lambda: _saved(picture, "PPM"),
        lambda: _saved(picture, "PDF"),
    )
    more = (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", lambda: b"PK\x03\x04" + rng.bytes(99), lambda: b"\x1f\x8b" + rng.bytes(99), lambda: b"")
    return (forms + more)[int(rng.integers(8))]()


_COMMON: tuple[Callable[[np.random.Generator], bytes], ...] = (
    _torn,
    _palette,
    _transparent,
    _mode,
    _animated,
    _progressive,
    _tags,
    _exif,
    _strip,
    _other,
    _bomb,
)
_RARE: tuple[Callable[[np.random.Generator], bytes], ...] = (_texts, many_scans, lambda rng: _huge())
"""They take seconds, even where all is well."""


def painting(rng: np.random.Generator) -> bytes:
    """The bytes of a hostile picture; one in sixty takes long."""
    table = _RARE if rng.random() < 1 / 60 else _COMMON
    return table[int(rng.integers(len(table)))](rng)
