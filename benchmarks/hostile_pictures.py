"""Pictures that want to be a problem: bombs, torn and garbled files, strips, orientations. Each has to decode to what it is or be refused, fast and in bounded memory."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.data.readers.reader import Reader, Row, read_row
from sightline.data.reading import READER
from sightline.errors import Problem, Refused
from sightline.samples.pictures import FORMATS, decode, decode_labels

BOMB_SECONDS, BOMB_MEBIBYTES = 1.0, 64.0
"""What refusing one bomb may cost."""
LARGE_SECONDS, LARGE_BYTES_A_PIXEL = 30.0, 8.0
"""What decoding a large honest picture may cost: Pillow's four bytes a pixel, the three of the array, and a stripe on its way from one to the other."""
_ORIENTATION = 0x0112
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: p.transpose(1, 0, 2)[::-1],
}
"""Stored pixels to upright ones, by the EXIF orientation (EXIF 2.32, tag 0x0112)."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one hostile input."""

    name: str
    fault: str = ""
    """Empty when it behaved."""
    seconds: float = 0.0
    mebibytes: float = 0.0
    """Growth of this process's largest memory so far."""


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform != "darwin" else 1024.0**2)


def tried(name: str, attempt: Callable[[], object], refused: bool | None = None) -> Outcome:
    """Run `attempt`; a fault is any exception but Refused, or an end other than `refused` says (None: both are fine)."""
    before, start = peak(), time.monotonic()
    fault = ""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # remarks about thousands of garbled files
            warnings.simplefilter("ignore")
            attempt()
        fault = "was not refused" if refused else ""
    except Refused as refusal:
        fault = f"was refused: {refusal.problems[0].code}, {refusal.problems[0].found}" if refused is False else ""
    except Exception as error:
        fault = f"{type(error).__name__} came through: {error}"
    return Outcome(name=name, fault=fault[:300], seconds=time.monotonic() - start, mebibytes=peak() - before)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, extra: bytes = b"", body: bytes | None = None) -> bytes:
    """An RGB PNG whose header says this size. `body` is the compressed pixels; `extra` are chunks before them."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(bytes(64)) if body is None else body) + _chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """`count` zero bytes, compressed without ever being held whole."""
    packer = zlib.compressobj(9)
    piece = bytes(1 << 20)
    parts = [packer.compress(piece) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & ((1 << 20) - 1))), packer.flush()])


def bombs() -> dict[str, bytes]:
    """Small files that claim or unpack to gigabytes, by name."""
    text = zeros(256 << 20)
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", 4)
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 200_000), (257, 200_000), (258, 8), (262, 1))) + bytes(4)
    return {
        "png of 60000x60000": png(60_000, 60_000),
        "png with a bomb of text": png(16, 16, _chunk(b"zTXt", b"Comment\0\0" + text)),
        "png with a bomb of colour profile": png(16, 16, _chunk(b"iCCP", b"profile\0\0" + text)),
        "png whose pixels unpack to 256 MiB": png(16, 16, body=text),
        "gif of 65535x65535": b"GIF89a"
        + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
        + b"\x02\x02\x44\x01\0;",
        "bmp of 100000x100000": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "jpeg of 65500x65500": b"\xff\xd8\xff\xc0"
        + struct.pack(">HBHHB", 11, 8, 65_500, 65_500, 1)
        + b"\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0"
        + bytes(64),
        "webp of 16383x16383": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2,
        "tiff of 200000x200000": tiff,
    }


def sample_picture(width: int = 24, height: int = 16) -> Image.Image:
    """A small picture in which every pixel differs."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 10 % 256, y * 15 % 256, (x * 7 + y * 3) % 256], axis=-1).astype(np.uint8))


def encoded(picture: Image.Image, form: str, orientation: int | None = None) -> bytes:
    """The picture in one format; lossless but for JPEG."""
    stream = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[_ORIENTATION] = orientation
    options: dict[str, object] = {"exif": exif} if form in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    options |= {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    picture.save(stream, form, **options)
    return stream.getvalue()


def check_bombs() -> Iterator[Outcome]:
    """Every bomb is refused within a second and 64 MiB, or decodes to the small picture that it is."""
    decode(encoded(sample_picture(), "PNG"), "warm-up")
    for name, data in bombs().items():
        outcome = tried(name, lambda data=data: decode(data, "bomb"), refused=None if "256 MiB" in name else True)
        spent = outcome.seconds > BOMB_SECONDS or outcome.mebibytes > BOMB_MEBIBYTES
        cost = f"took {outcome.seconds:.1f} s and {outcome.mebibytes:.0f} MiB" if spent else ""
        yield Outcome(name=name, fault=outcome.fault or cost, seconds=outcome.seconds, mebibytes=outcome.mebibytes)


def check_large(side: int = 10_000) -> Iterator[Outcome]:
    """A large honest picture decodes in memory that follows from its size."""
    data = png(side, side, body=zeros(side * (3 * side + 1)))
    shapes: list[tuple[int, ...]] = []
    outcome = tried(f"png of {side}x{side}", lambda: shapes.append(decode(data, "large").shape), refused=False)
    most = LARGE_BYTES_A_PIXEL * side * side / 2**20
    spent = outcome.seconds > LARGE_SECONDS or outcome.mebibytes > most
    cost = f"took {outcome.seconds:.1f} s and {outcome.mebibytes:.0f} MiB, at most {LARGE_SECONDS:g} s and {most:.0f} MiB" if spent else ""
    yield Outcome(name=outcome.name, fault=outcome.fault or cost, seconds=outcome.seconds, mebibytes=outcome.mebibytes)


def check_torn(rng: np.random.Generator, tries: int) -> Iterator[Outcome]:
    """Files cut off anywhere, with bytes replaced anywhere, or of nothing but noise."""
    for form in FORMATS:
        data = encoded(sample_picture(), form, orientation=6)
        for length in np.unique(np.linspace(0, len(data) - 1, tries).astype(int)).tolist():
            yield from _both(f"{form} cut after {length} of {len(data)} bytes", data[:length])
        for number in range(tries):
            garbled = bytearray(data)
            for place in rng.integers(0, len(data), int(rng.integers(1, 9))).tolist():
                garbled[place] = int(rng.integers(256))
            yield from _both(f"{form} garbled {number}", bytes(garbled))
        yield from _both(f"{form} head and noise", data[:16] + rng.bytes(500))


def _both(name: str, data: bytes) -> Iterator[Outcome]:
    yield tried(name, lambda: decode(data, "torn"))
    yield tried(f"{name}, as labels", lambda: decode_labels(data, "torn"))


def check_orientations(rng: np.random.Generator, tries: int) -> Iterator[Outcome]:
    """All eight orientations in all formats that say one; values outside 1..8 and garbled EXIF leave the pixels as stored or are refused."""
    picture = sample_picture()
    stored = np.asarray(picture)
    for form in ("PNG", "WEBP", "TIFF", "JPEG"):
        for orientation, turn in _TURNS.items():
            yield tried(
                f"{form} orientation {orientation}", lambda f=form, o=orientation, t=turn: _upright(encoded(picture, f, o), t(stored), f), refused=False
            )
        for orientation in (0, 9, 65_535):
            yield tried(f"{form} orientation {orientation}", lambda f=form, o=orientation: _upright(encoded(picture, f, o), stored, f), refused=False)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    whole = exif.tobytes()
    for number in range(tries):
        garbled = bytearray(whole)
        for place in rng.integers(6, len(whole), 3).tolist():
            garbled[place] = int(rng.integers(256))
        stream = io.BytesIO()
        picture.save(stream, "PNG", exif=bytes(garbled))
        data = stream.getvalue()
        yield tried(f"PNG with garbled EXIF {number}", lambda data=data: decode(data, "exif"))


def _upright(data: bytes, wanted: np.ndarray, form: str) -> None:
    found = decode(data, "turned").astype(int)
    assert found.shape == wanted.shape, f"shape {found.shape}, wanted {wanted.shape}"
    assert np.abs(found - wanted).max() <= (24 if form == "JPEG" else 0), "other pixels than expected"


def check_strips() -> Iterator[Outcome]:
    """Strips of one pixel decode as they are, and no reader takes them."""
    for width, height in ((1, 20_000), (20_000, 1)):
        data = encoded(sample_picture(width, height), "PNG")
        yield tried(f"strip {width}x{height}", lambda data=data, w=width, h=height: _shaped(data, w, h), refused=False)
        yield tried(f"strip {width}x{height} in a row", lambda data=data: _row_of(data), refused=True)


def _shaped(data: bytes, width: int, height: int) -> None:
    assert decode(data, "strip").shape == (height, width, 3), "another shape than the picture's"


def _row_of(data: bytes) -> None:
    reader = READER.table()["openai-messages"]()
    assert isinstance(reader, Reader)
    made = read_row(reader, Path("strip"), Row(id="0", place="strip", number="0", pictures=(data,)), {})
    if problems := [found for found in made if isinstance(found, Problem)]:
        raise Refused(problems)


def check_all(seed: int = 0, tries: int = 60) -> Iterator[Outcome]:
    """Everything above; the bombs and the large picture come first, while memory is still small."""
    yield from check_bombs()
    yield from check_large()
    yield from check_strips()
    yield from check_orientations(np.random.default_rng([seed, 1]), tries)
    yield from check_torn(np.random.default_rng([seed, 2]), tries)
