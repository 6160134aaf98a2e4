"""Decoding of pictures: hostile until checked, upright after EXIF, never repaired in silence."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_bytes
from sightline.samples.sample import Picture

MAX_PIXELS = 178_000_000
"""Pictures above this are refused before decoding: a few kB can hold gigabytes. Pillow itself refuses from 178,956,971 on."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


def _refuse(code: str, place: str, found: str, allowed: str, fix: str) -> Refused:
    return Refused(Problem(code=f"samples/{code}", place=place, found=found, allowed=allowed, fix=fix))


def _open(data: bytes, place: str) -> Image.Image:
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
    if opened.width * opened.height > MAX_PIXELS:
        raise _refuse("picture-too-large", place, f"{opened.width}x{opened.height} px", f"at most {MAX_PIXELS} px", "tile the picture first")
    return opened


def describe(data: bytes, name: str, place: str) -> Picture:
    """A Picture from encoded bytes: its size after EXIF, its hash, the bytes kept as they are.

    The pixels are decoded once, so that a truncated file is refused here and not hours into a run.
    """
    height, width = decode(data, place).shape[:2]
    return Picture(hash=sha256_bytes(data), width=width, height=height, data=data, name=name)


def read_picture(path: Path, place: str = "") -> Picture:
    """Read and check one picture file; `place` (file:row that names it) is what an error points at."""
    place = place or str(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise _refuse(
            "missing-picture", place, f"{path} is not there", "a file that exists", "correct the path, or read with the folder that holds the pictures"
        ) from None
    except OSError as error:
        raise _refuse("unreadable-picture", place, f"{path}: {error}", "a readable file", "check the path and its permissions") from None
    return describe(data, path.name, place if place == str(path) else f"{place} ({path})")


def _upright(opened: Image.Image, place: str) -> Image.Image:
    try:
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)  # a copy would hold a large picture twice
        return opened
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise _refuse("broken-picture", place, f"decoding stopped: {error}", "a whole picture", "fetch the file again") from None


def decode_labels(data: bytes, place: str) -> np.ndarray:
    """Upright values of a label picture as they are stored: (height, width) numbers of one band (palette index, grey, 16 bits), or (height, width, 3) RGB."""
    with _open(data, place) as opened:
        upright = _upright(opened, place)
        if upright.mode in ("RGB", "RGBA"):
            return np.asarray(upright)[..., :3]
        if upright.mode in ("1", "L", "P", "I;16", "I"):
            return np.asarray(upright, dtype=np.uint8 if upright.mode == "1" else None)
        raise _refuse(
            "unsupported-labels", place, f"pixel mode {upright.mode}", "one band of numbers, a palette, or RGB", "save the labels as an 8-bit or 16-bit PNG"
        )


def decode(data: bytes, place: str) -> np.ndarray:
    """Upright RGB pixels, (height, width, 3) uint8. Alpha is laid on white; truncated data is refused."""
    with _open(data, place) as opened:
        upright = _upright(opened, place)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            layered = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layered.size, (255, 255, 255, 255)), layered)
        if upright.mode in ("I;16", "I", "F"):
            raise _refuse("unsupported-depth", place, f"pixel mode {upright.mode}", "8 bits a band", "convert the picture to 8 bits")
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def pixels(picture: Picture, root: Path | None = None) -> np.ndarray:
    """Decoded pixels of a Picture, (height, width, 3) uint8; `root` is the store's folder when `data` is a path."""
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
    return decode(data, picture.name or picture.hash[:12])
