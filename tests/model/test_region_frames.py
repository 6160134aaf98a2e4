"""Regions through tilers: whatever a tiler does to a picture, text in the frame of a codec comes back in px of the picture that was given, upright as a person sees it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_models as tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_tilers import NAMES, PUBLISHED, takes

from sightline.errors import Refused
from sightline.model.chat import CHAT_FORMATS
from sightline.model.region_words import frame
from sightline.model.tiling import WholeTiler
from sightline.samples.codec_table import CODEC, PRESETS
from sightline.samples.codecs import Codec, regions_in, rotated, text_of
from sightline.samples.pictures import pixels, read_picture
from sightline.samples.sample import Box, Origin, Region, Regions, Sample, Show, Text, Turn

TILERS: dict[str, Any] = dict(zip(NAMES, PUBLISHED, strict=True)) | {f"whole-{fit}": WholeTiler(size=224, fit=fit) for fit in ("pad", "squash")}
CODECS: list[Codec] = [cast(Codec, CODEC.parse(said)) for said in ({"kind": "llava-box"}, {"kind": "llava-box", "frame": "source"}, *PRESETS.values())]
SIZES = st.one_of(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), st.sampled_from([(1, 10_000), (10_000, 1), (10_000, 100), (3, 1000)]))


@pytest.mark.parametrize("name", TILERS)
@settings(max_examples=25, deadline=None)
@given(size=SIZES, shares=st.tuples(*[st.floats(0, 1)] * 4))
def test_regions_come_back_in_px_of_the_picture(name: str, size: tuple[int, int], shares: tuple[float, ...]) -> None:
    width, height = size
    assume(takes(TILERS[name], width, height))
    try:
        tiling = TILERS[name].tile(width, height)
    except Refused:
        assume(False)
        raise
    (x0, x1), (y0, y1) = sorted((shares[0] * width, shares[1] * width)), sorted((shares[2] * height, shares[3] * height))
    for codec in CODECS:
        where = frame(codec, tiling)
        text = text_of(codec.render(Regions(regions=(Region(shape=Box(x0=x0, y0=y0, x1=x1, y1=y1)),)), where))
        items, problems = codec.parse(text, where)
        [found] = regions_in(items)
        box = rotated(found.shape)
        assert box is not None and not problems
        step = [1.0001 * codec.quantum * side / scale for side, scale in zip((where.width, where.height), where.scale, strict=True)]
        assert abs(box.cx - (x0 + x1) / 2) <= step[0] and abs(box.cy - (y0 + y1) / 2) <= step[1], (text, where)
        # one step of the frame is at most a thousandth of what the model sees of the picture's longest side, margins included
        assert max(step) <= 0.001 * 1.01 * max(where.width / where.scale[0], where.height / where.scale[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_exif_turns_is_answered_upright(orientation: int, tmp_path: Path) -> None:
    """A bright block, stored turned: the answer's box lies on it in the picture as it is shown."""
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[8:24, 40:56] = 255
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's transpositions that the tag takes back
    stored = Image.fromarray(upright) if undo is None else Image.fromarray(upright).transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(stream.getvalue())
    picture = read_picture(tmp_path / "turned.png")
    assert (picture.width, picture.height) == (64, 40) and np.array_equal(pixels(picture), upright)
    _, processor = tiny.built(tiny.writer(codec={"kind": "xyhwt"}), tiny.byte_level(CHAT_FORMATS["turns"], tmp_path))
    sample = Sample(id="s", pictures=(picture,), turns=(Turn(role="user", items=(Show(), Text(text="Where?"))),), origin=Origin(source="made"))
    items, problems = processor.items("{750,250,250,250,0}", sample)
    box = rotated(regions_in(items)[0].shape)
    assert not problems and box is not None and (box.cx, box.cy, box.w, box.h) == (48, 16, 16, 16)
