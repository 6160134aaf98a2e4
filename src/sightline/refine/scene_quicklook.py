"""The picture of an annotated scene at a glance: the scene made smaller, objects outlined and masks filled in the colours of their labels, and a legend below."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.refine.annotate import SceneRegion
from sightline.refine.scene_outputs import write_bytes
from sightline.refine.scene_reading import OpenScene, smaller
from sightline.samples.drawing import colours_of
from sightline.samples.geometry import corners

LONGEST = 2000
"""Longer side of the picture of the scene, px."""
_LARGEST = 2.0
"""Small scenes are enlarged by this at most."""
_TINT = 0.45
_TEXT = 22
_PAPER, _INK, _HALO, _SEAM = (250, 250, 248), (40, 40, 40), (0, 0, 0), (255, 255, 255)


def draw_scene(
    scene: OpenScene, regions: Sequence[SceneRegion], labels: Sequence[str], seams: Sequence[tuple[float, float, float, float]] = (), longest: int = LONGEST
) -> Image.Image:
    """The picture: `longest` px on its longer side, and the legend. Dashed outlines are fragments whose rest was not found. `seams`: bounds of windows to draw, px of the scene."""
    factor = min(longest / max(scene.size), _LARGEST)
    width, height = (max(1, round(side * factor)) for side in scene.size)
    array = smaller(scene, width, height)
    colours = colours_of(labels)
    for one in regions:
        if one.mask is not None:
            _tint(array, one, factor, colours[one.label])
    picture = Image.new("RGB", (width, height))
    picture.paste(Image.fromarray(array))
    pen = ImageDraw.Draw(picture, "RGBA")
    for left, top, right, bottom in seams:
        pen.rectangle((left * factor, top * factor, right * factor, bottom * factor), outline=(*_SEAM, 70))
    line = max(1, round(max(width, height) / 900))
    for one in regions:
        points = [(x * factor, y * factor) for x, y in corners(one.box).tolist()]
        _outline(pen, points, (*_HALO, 110), line + 2, one.cut)
        _outline(pen, points, (*colours[one.label], 255), line, one.cut)
    return _with_legend(picture, Counter(one.label for one in regions), colours, scene)


def _tint(array: np.ndarray, one: SceneRegion, factor: float, colour: tuple[int, int, int]) -> None:
    """Colour the px of the small picture whose centre lies on a px of the mask."""
    assert one.mask is not None
    rows, columns = one.mask.pixels.shape
    ys = np.arange(int(one.mask.top * factor), min(array.shape[0], int((one.mask.top + rows) * factor) + 1))
    xs = np.arange(int(one.mask.left * factor), min(array.shape[1], int((one.mask.left + columns) * factor) + 1))
    from_top = np.clip(((ys + 0.5) / factor).astype(int) - one.mask.top, -1, rows)
    from_left = np.clip(((xs + 0.5) / factor).astype(int) - one.mask.left, -1, columns)
    inside = np.pad(one.mask.pixels, 1)[np.ix_(from_top + 1, from_left + 1)]
    if inside.any():
        part = array[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        part[inside] = ((1 - _TINT) * part[inside] + _TINT * np.array(colour)).astype(np.uint8)


def _outline(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, ...], width: int, dashed: bool) -> None:
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        steps = max(1, round(np.hypot(x1 - x0, y1 - y0) / (4 * width))) if dashed else 1
        for step in range(0, steps, 2):
            ends = [(x0 + (x1 - x0) * at / steps, y0 + (y1 - y0) * at / steps) for at in (step, step + 1)]
            pen.line(ends, fill=colour, width=width)


def _with_legend(picture: Image.Image, counts: Counter[str], colours: dict[str, tuple[int, int, int]], scene: OpenScene) -> Image.Image:
    size = max(12, min(_TEXT, picture.width // 30))
    font = ImageFont.load_default(size)
    entries = [(colour, f"{label}  {counts[label]}") for label, colour in colours.items()]
    places: list[tuple[float, float]] = []
    x, y, high = size, size * 0.7, size * 1.7
    for _, text in entries:
        wide = size * 2.6 + font.getlength(text)
        if x > size and x + wide > picture.width:
            x, y = size, y + high
        places.append((x, y))
        x += wide
    title = f"{scene.path.name}   {scene.width} x {scene.height} px"
    whole = Image.new("RGB", (picture.width, picture.height + round(y + 2 * high + size * 0.3)), _PAPER)
    whole.paste(picture)
    pen = ImageDraw.Draw(whole)
    for (left, top), (colour, text) in zip(places, entries, strict=True):
        top += picture.height
        pen.rectangle((left, top, left + size, top + size), fill=colour, outline=_INK)
        pen.text((left + size * 1.4, top + size / 2), text, fill=_INK, font=font, anchor="lm")
    pen.text((size, picture.height + y + high + size / 2), title, fill=(120, 120, 120), font=ImageFont.load_default(round(size * 0.8)), anchor="lm")
    return whole


def write_quicklook(picture: Image.Image, path: Path, form: Literal["webp", "png"]) -> Path:
    """Write the picture at `path` with the ending of its form."""
    stream = io.BytesIO()
    picture.save(stream, form.upper(), **({"quality": 82, "method": 4} if form == "webp" else {}))
    path = path.with_name(f"{path.name}.{form}")
    write_bytes(path, stream.getvalue())
    return path
