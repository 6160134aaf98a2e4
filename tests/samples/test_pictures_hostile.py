"""Pictures that cost far more than their bytes say: scans without end, pixels without content, files that are no files."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import Refused
from sightline.samples import pictures
from sightline.samples.pictures import decode, describe, read_picture


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def speckled(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    bomb = data[:last] + data[last:-2] * 3000 + b"\xff\xd9"
    start = time.thread_time()
    with pytest.raises(Refused, match="too-many-scans at here") as refused:
        describe(bomb, "a.jpg", "here")
    assert time.thread_time() - start < 10.0
    assert "3005 scans of 3000x3000 px" in refused.value.problems[0].found


@pytest.mark.parametrize(("progressive", "scans"), [(False, 1), (True, 10)])
def test_scans_are_counted_outside_segments_and_before_the_end(progressive: bool, scans: int) -> None:
    exif = Image.Exif()
    exif[0x010E] = "\u00ff\u00da" * 50
    data = saved(speckled(90, 70), "JPEG", progressive=progressive, quality=95, exif=exif, comment=b"\xff\xda" * 50)
    assert pictures._scans(data + b"\xff\xda" * 50) == scans
    assert pictures._scans(b"") == 0 and pictures._scans(b"\xff\xd8\xff\xda") == 1


@pytest.mark.parametrize(("form", "mode"), [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "1"), ("TIFF", "CMYK"), ("JPEG", "L"), ("PNG", "RGB")])
def test_large_pictures_are_converted_in_stripes_with_the_same_pixels(form: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"transparency": bytes(range(200))} if mode == "P" else {}
    data = saved(speckled(57, 33).convert(mode), form, **options)
    at_once = decode(data, "")
    monkeypatch.setattr(pictures, "_STRIPE", 200)
    assert at_once.shape == (33, 57, 3)
    np.testing.assert_array_equal(decode(data, ""), at_once)


def test_only_plain_files_of_a_sane_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "hole.png").open("wb").truncate(1 << 40)
    (tmp_path / "broken.png").symlink_to("absent")
    for name, found in (("pipe", "no plain file"), ("zero", "no plain file"), ("folder", "no plain file"), ("hole", "bytes"), ("broken", "is not there")):
        with pytest.raises(Refused, match=found) as refused:
            read_picture(tmp_path / f"{name}.png", "list.json:row 3")
        (problem,) = refused.value.problems
        assert problem.place == "list.json:row 3" and problem.fix
