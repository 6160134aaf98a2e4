"""One look at a picture: every byte is decoded once, most of them at a reduced size, and what remains is a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sightline.data.check.row_facts import PictureFacts
from sightline.data.hashing import hashed, stacked, thumbnail
from sightline.lineage import sha256_bytes
from sightline.samples.bands import COLOURS, composite
from sightline.samples.pictures import decode, describe, open_picture, pixels, tiff_layout
from sightline.samples.sample import Picture

_DRAFT = 64
"""Least side in px to which JPEG is decoded: the hashes then differ by one bit on average from those of the whole picture."""
_PROBE = 16
_PLAIN = ("RGB", "L")
_GREY = 6
"""Bands of a grey picture that was saved as colour JPEG differ by less than this."""


@dataclass(frozen=True, kw_only=True)
class Glance:
    """A picture's facts, still without hashes, and what they are made from: a grey thumbnail, and colours at 16x16 places."""

    facts: PictureFacts
    thumbnail: Image.Image
    colours: Image.Image


def glance(data: bytes, name: str) -> Glance | None:
    """Decode a picture to the size at which it is compared; None when it cannot be decoded, which `samples.pictures.describe` then explains.

    JPEG is decoded at a half, a quarter or an eighth of its size where that is enough for 64x64: all its bytes are still read, so a truncated file is found.
    """
    try:
        known = tiff_layout(data, (), name)
        if known is not None and known.beyond_colours:
            return banded_glance(describe(data, name, name))
        opened = open_picture(data, name)
        size, mode = opened.size, opened.mode
        orientation = int(opened.getexif().get(ExifTags.Base.Orientation, 1))
        small = _small(opened, data, orientation)
    except Exception:  # Pillow raises what it likes at hostile bytes
        return None
    width, height = size[::-1] if orientation in (5, 6, 7, 8) else size
    facts = PictureFacts(hash=sha256_bytes(data), name=name, width=width, height=height, mode=mode, orientation=orientation)
    return Glance(facts=facts, thumbnail=thumbnail(small), colours=small.resize((_PROBE, _PROBE), Image.Resampling.NEAREST).convert("RGB"))


def banded_glance(picture: Picture) -> Glance:
    """The glance at a picture of other bands or of another depth, whose bytes are at hand."""
    assert isinstance(picture.data, bytes)
    array = pixels(picture)
    known = tiff_layout(picture.data, picture.bands, picture.name)
    empty = (known.nodata if known is not None else None) or 0.0
    ranges = zip(picture.bands, array.min((0, 1)).tolist(), array.max((0, 1)).tolist(), strict=True)
    facts = PictureFacts(
        hash=picture.hash, name=picture.name, width=picture.width, height=picture.height, mode=f"{len(picture.bands)} bands, {picture.depth}",
        bands=picture.bands, depth=picture.depth, constant=tuple(name for name, low, high in ranges if low == high), nodata=float((array == empty).all(-1).mean()),
    )  # fmt: skip
    small = Image.fromarray(composite(array, picture.bands))
    return Glance(facts=facts, thumbnail=thumbnail(small), colours=small.resize((_PROBE, _PROBE), Image.Resampling.NEAREST))


def _small(opened: Image.Image, data: bytes, orientation: int) -> Image.Image:
    """The upright picture, reduced if that is cheap. Rare modes are decoded as everywhere else."""
    if opened.mode not in _PLAIN or "transparency" in opened.info:
        return Image.fromarray(decode(data, ""))
    try:
        # The Y of a JPEG is the grey picture, ready made.
        opened.draft("YCbCr" if opened.mode == "RGB" else opened.mode, (_DRAFT, _DRAFT))
        opened.load()
    except OSError:
        # Few JPEGs hold red, green and blue themselves; what is broken fails again.
        opened = open_picture(data, "")
        opened.load()
    if orientation != 1:
        ImageOps.exif_transpose(opened, in_place=True)
    return opened


def colours_of(facts: PictureFacts) -> bool:
    """Whether a picture claims to be in colour."""
    return set(COLOURS) <= set(facts.bands)


def seen(glances: Sequence[Glance]) -> list[PictureFacts]:
    """The facts with their hashes and whether the colours are grey, for many pictures at once."""
    if not glances:
        return []
    bands = np.ascontiguousarray(stacked([one.colours for one in glances]).reshape(len(glances), -1, 3).transpose(2, 0, 1))
    grey = (bands.max(0) - bands.min(0)).max(-1) < _GREY
    for one, plain, hashes in zip(glances, grey.tolist(), hashed([one.thumbnail for one in glances]), strict=True):
        one.facts.grey, one.facts.prints = plain and colours_of(one.facts), hashes.text()
    return [one.facts for one in glances]
