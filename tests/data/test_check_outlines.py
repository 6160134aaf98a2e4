"""Regions in the convention of another codec: written as text by one, read as another would, on made scenes; each mistake is named, and right regions are left alone."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.checking import check
from sightline.lineage import sha256_bytes
from sightline.samples.codec_kinds.rotated_codecs import GeoChatCodec, XyhwtCodec
from sightline.samples.codec_kinds.upright_codecs import FerretCodec, FractionsCodec
from sightline.samples.codecs import Codec, regions_in, text_of
from sightline.samples.frames import frame_of
from sightline.samples.geometry import canonical, corners
from sightline.samples.sample import Box, Origin, Picture, Region, Regions, RotatedBox, Sample
from sightline.samples.store import Store

WIDTH, HEIGHT, ROWS = 240, 160, 60
Scene = tuple[Picture, list[RotatedBox]]


@cache
def scene(number: int, seed: int, upright: bool) -> Scene:
    """Coloured blocks on a noisy ground, some of them partly hidden, and the boxes that they fill."""
    rng = np.random.default_rng([seed, number])
    ground = rng.integers(40, 120, 3)
    drawn = Image.fromarray(np.clip(ground + rng.normal(0, 14, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8))
    pen, boxes = ImageDraw.Draw(drawn), []
    for _ in range(6):
        w, h = rng.uniform(24, 60), rng.uniform(10, 26)
        reach = math.hypot(w, h) / 2
        box = canonical(rng.uniform(reach, WIDTH - reach), rng.uniform(reach, HEIGHT - reach), w, h, 0 if upright else rng.uniform(-90, 90))
        pen.polygon([tuple(corner) for corner in corners(box).tolist()], fill=tuple(rng.integers(130, 256, 3).tolist()))
        boxes.append(box)
    stream = io.BytesIO()
    drawn.save(stream, "PNG")
    return Picture(hash=sha256_bytes(stream.getvalue()), width=WIDTH, height=HEIGHT, data=stream.getvalue()), boxes


def found(tmp_path: Path, seed: int, wrong: Callable[[Codec, list[RotatedBox]], str], one: Codec, upright: bool = False) -> list[str]:
    """What is said of regions that `wrong` writes and `one` reads."""
    folder = tmp_path / f"store-{seed}"
    with Store.writer(folder) as writer:
        for number in range(ROWS):
            picture, boxes = scene(number, seed, upright)
            items, _ = one.parse(wrong(one, boxes), frame_of(one.frame, WIDTH, HEIGHT))
            regions = tuple(Region(shape=region.shape, label="block") for region in regions_in(items))
            writer.add(Sample(id=str(number), pictures=(picture,), annotations=regions, origin=Origin(source="made")))
    checked = check([folder], CheckConfig(rules=("wrong-convention",)))
    return [finding.found for finding in checked.by_rule.get("wrong-convention", [])]


def written(codec: Codec, boxes: list[RotatedBox]) -> str:
    shapes = [Box(x0=box.cx - box.w / 2, y0=box.cy - box.h / 2, x1=box.cx + box.w / 2, y1=box.cy + box.h / 2) for box in boxes]
    held = boxes if RotatedBox in codec.holds else shapes
    return text_of(codec.render(Regions(regions=tuple(Region(shape=shape) for shape in held)), frame_of(codec.frame, WIDTH, HEIGHT)))


def numbers(form: str, x: float, y: float, change: Callable[[RotatedBox], tuple[float, ...]]) -> Callable[[Codec, list[RotatedBox]], str]:
    """Boxes as numbers `change` of them, x and y of them scaled."""
    scale = {"x": x, "w": x, "y": y, "h": y}

    def write(codec: Codec, boxes: list[RotatedBox]) -> str:
        told = []
        for box in boxes:
            known = {"x": box.cx, "y": box.cy, "w": box.w, "h": box.h}
            scaled = RotatedBox(cx=known["x"] * scale["x"], cy=known["y"] * scale["y"], w=known["w"] * scale["w"], h=known["h"] * scale["h"], theta=box.theta)
            told.append(form.format(*change(scaled)))
        return ", ".join(told)

    return write


S, X, Y = 1000 / max(WIDTH, HEIGHT), 1000 / WIDTH, 1000 / HEIGHT
FIVE = "{{{:.0f},{:.0f},{:.0f},{:.0f},{:.3f}}}"
PAD, AXIS = XyhwtCodec(), XyhwtCodec(frame="source")
TURNED: dict[str, tuple[Callable[[Codec, list[RotatedBox]], str], Codec]] = {
    "width and height swapped": (numbers(FIVE, S, S, lambda b: (b.cx, b.cy, b.w, b.h, b.theta)), PAD),
    "width and height swapped, per axis": (numbers(FIVE, X, Y, lambda b: (b.cx, b.cy, b.w, b.h, b.theta)), AXIS),
    "angles counter-clockwise": (numbers(FIVE, S, S, lambda b: (b.cx, b.cy, b.h, b.w, -b.theta)), PAD),
    "angles are radians": (numbers(FIVE, S, S, lambda b: (b.cx, b.cy, b.h, b.w, math.radians(b.theta))), PAD),
    "y before x": (numbers(FIVE, S, S, lambda b: (b.cy, b.cx, b.h, b.w, b.theta)), PAD),
    "numbers per axis read as of the padded square": (lambda codec, boxes: written(AXIS, boxes), PAD),
    "numbers of the padded square read as per axis": (lambda codec, boxes: written(PAD, boxes), AXIS),
    "0..100 read as 0..1000": (numbers("{{{:.1f},{:.1f},{:.1f},{:.1f},{:.0f}}}", S / 10, S / 10, lambda b: (b.cx, b.cy, b.h, b.w, b.theta)), PAD),
    "corner taken as the centre": (numbers(FIVE, S, S, lambda b: (b.cx - b.w / 2, b.cy - b.h / 2, b.h, b.w, b.theta)), PAD),
    "angles counter-clockwise ": (lambda codec, boxes: written(GeoChatCodec(turn="counter-clockwise"), boxes), GeoChatCodec()),
}
CORNERS = "[{:.3f}, {:.3f}, {:.3f}, {:.3f}]"
UPRIGHT: dict[str, tuple[Callable[[Codec, list[RotatedBox]], str], Codec]] = {
    "fractions 0..1 read as 0..1000": (numbers(CORNERS, X / 1000, Y / 1000, lambda b: (b.cx - b.w / 2, b.cy - b.h / 2, b.cx + b.w / 2, b.cy + b.h / 2)), FerretCodec()),
    "0..100 read as 0..1000": (numbers(CORNERS, X / 10, Y / 10, lambda b: (b.cx - b.w / 2, b.cy - b.h / 2, b.cx + b.w / 2, b.cy + b.h / 2)), FerretCodec()),
    "y before x, per axis": (numbers(CORNERS, X, Y, lambda b: (b.cy - b.h / 2, b.cx - b.w / 2, b.cy + b.h / 2, b.cx + b.w / 2)), FerretCodec()),
    "numbers of the padded square read as per axis": (lambda codec, boxes: written(FractionsCodec(frame="square"), boxes), FractionsCodec(frame="source")),
    "numbers per axis read as of the padded square": (lambda codec, boxes: written(FractionsCodec(frame="source"), boxes), FractionsCodec(frame="square")),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_a_wrong_convention_of_rotated_boxes_is_named(name: str, tmp_path: Path) -> None:
    texts = found(tmp_path, 0, *TURNED[name])
    assert len(texts) == 1 and name.strip() in texts[0].partition(":")[0] + texts[0].rpartition(":")[2], texts


@pytest.mark.parametrize("name", UPRIGHT)
def test_a_wrong_convention_of_upright_boxes_is_named(name: str, tmp_path: Path) -> None:
    texts = found(tmp_path, 0, *UPRIGHT[name], upright=True)
    assert len(texts) == 1 and texts[0].partition(":")[0] == name, texts


@pytest.mark.parametrize("seed", range(5))
def test_right_regions_are_left_alone(seed: int, tmp_path: Path) -> None:
    others = [(AXIS, False), (GeoChatCodec(), False), (FerretCodec(), True), (FractionsCodec(frame="square"), True), (FractionsCodec(frame="source"), True)]
    for number, (one, upright) in enumerate([(PAD, False), others[seed]]):
        assert found(tmp_path / str(number), seed, written, one, upright) == []


def test_pictures_without_outlines_say_nothing(tmp_path: Path) -> None:
    """Boxes anywhere on noise: no reading is better than another."""
    rng = np.random.default_rng(9)

    def anywhere(codec: Codec, boxes: list[RotatedBox]) -> str:
        return written(codec, [canonical(rng.uniform(40, 200), rng.uniform(40, 120), 40, 16, rng.uniform(-90, 90)) for _ in boxes])

    assert found(tmp_path, 0, anywhere, PAD) == []
