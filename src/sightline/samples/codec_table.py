"""All kinds of region codec, in one table. Who needs them by kind imports CODEC from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.samples.codec_kinds.mask_codec import SegCodec
from sightline.samples.codec_kinds.point_codecs import MolmoCodec
from sightline.samples.codec_kinds.rotated_codecs import GeoChatCodec, XyhwtCodec
from sightline.samples.codec_kinds.upright_codecs import FerretCodec, FractionsCodec, InternVlCodec, MiniGptCodec, Qwen2VlCodec
from sightline.samples.codecs import CODEC

for _codec in (XyhwtCodec, GeoChatCodec, MiniGptCodec, FractionsCodec, FerretCodec, Qwen2VlCodec, InternVlCodec, MolmoCodec, SegCodec):
    CODEC.add(_codec)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "xyhwt-pad": {"kind": "xyhwt", "frame": "square"},
    "xyhwt-axis": {"kind": "xyhwt", "frame": "source"},
}
"""Codecs with a name for their fields."""


def codec_said(value: object) -> object:
    """What a recipe says of a codec as a mapping: a name alone is a preset's, or that of a kind with its defaults."""
    return dict(PRESETS.get(value, {"kind": value})) if isinstance(value, str) else value
