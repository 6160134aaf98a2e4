"""A scene of noise with rotated boxes that do not touch, and the answerer that knows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.refine.annotate_oracle import Oracle
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import Codec
from sightline.samples.geo_tiff import encode_tiff
from sightline.samples.geometry import canonical
from sightline.samples.sample import Geo, Region, RotatedBox

UTM = Geo(crs="EPSG:32650", affine=(0.5, 0.1, 440000.0, 0.1, -0.5, 4420000.0))
"""Half a metre a px, turned by eleven degrees."""
LABELS = ("ship", "small plane")


def codec() -> Codec:
    """Rotated boxes on a grid of 1000."""
    return CODEC.parse({"kind": "xyhwt"})  # type: ignore[return-value]


def objects(rng: np.random.Generator, width: int, height: int, count: int, largest: float, gap: float = 1.0) -> list[Region]:
    """At most `count` boxes within the scene, whose diagonals are below `largest` px and whose circles are `gap` px apart."""
    found: list[Region] = []
    circles: list[tuple[float, float, float]] = []
    for _ in range(count):
        w = rng.uniform(0.3, 0.9) * largest
        h = min(w, rng.uniform(0.25, 1.0) * w + 2)
        reach = float(np.hypot(w, h)) / 2
        if 2 * reach >= largest or 2 * reach >= min(width, height):
            continue
        cx, cy = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
        if all(np.hypot(cx - x, cy - y) > reach + other + gap for x, y, other in circles):
            circles.append((cx, cy, reach))
            found.append(Region(label=LABELS[int(rng.integers(2))], shape=canonical(cx, cy, w, h, rng.uniform(-90, 90))))
    return found


def scene_file(folder: Path, rng: np.random.Generator, width: int, height: int, geo: Geo | None = None, name: str = "scene") -> Path:
    """A picture of noise: PNG, or GeoTIFF where it lies somewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    path = folder / f"{name}.{'tif' if geo is not None else 'png'}"
    if geo is None:
        Image.fromarray(pixels).save(path)
    else:
        path.write_bytes(encode_tiff(pixels, ("red", "green", "blue"), geo))
    return path


def oracle(truth: Sequence[Region]) -> Oracle:
    """The answerer that knows these regions."""
    return Oracle(truth, codec())


def boxes(regions: Sequence[Any], label: str) -> list[RotatedBox]:
    """Boxes of a label, of true regions or of a scene's."""
    found = [one.shape if isinstance(one, Region) else one.box for one in regions if one.label == label]
    return [box for box in found if isinstance(box, RotatedBox)]
