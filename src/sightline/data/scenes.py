"""Made scenes: seeded aerial-looking tiles with exact masks, rotated boxes, texts and captions, written in layouts that ordinary readers read.

Scene number i of seed s is the same picture whatever the count, the number of workers or the machine: its generator is seeded by (s, i) alone.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image
from pydantic import Field

from sightline.data.scene_drawing import GLYPHS, INFRARED, PAD, SUB, Footprint, Thing, draw, footprint, infrared_band, owned
from sightline.data.wording import counted, listed
from sightline.data.workers import pool
from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.lineage import artifact, write_json
from sightline.progress import Progress
from sightline.samples.pictures import encoded

GROUNDS = ("bare", "field", "forest", "grass")
OBJECTS = ("building", "tank", "vehicle", "road", "pond", "pool", "grove", "marking")
CLASSES: dict[str, tuple[int, int, int]] = {
    "ignore": (0, 0, 0), "bare": (190, 160, 120), "field": (220, 200, 60), "forest": (20, 90, 30), "grass": (140, 200, 90), "building": (220, 60, 50), "tank": (240, 140, 40),
    "vehicle": (250, 250, 90), "road": (130, 130, 130), "pond": (30, 80, 170), "pool": (90, 200, 240), "grove": (40, 150, 60), "marking": (240, 240, 240),
}  # fmt: skip
"""Labels in the order of their ids, with the palette colour of each; 0 is ignored."""
IDS = {name: number for number, name in enumerate(CLASSES)}
HIDDEN = "net"
"""Label of scenes with near infrared alone: nets that look like the ground that they lie on in red, green and blue, and are dark beyond."""
_HIDDEN_RGB = (160, 90, 160)
BANDS = ("red", "green", "blue", "nir")
"""Bands of the pictures of such scenes."""

MIDLINE_GAP = 7.0
"""Centres of objects keep at least this many pixels from both midlines, so that a quadrant is never in doubt."""
_GAP = 5.0
_SHORTEST_ROAD = 22.0
_TRIES = 24
_GROUPS: tuple[tuple[tuple[int, ...], float], ...] = (
    ((1,), 0.07), ((2,), 0.06), ((3,), 0.06), ((4,), 0.08), ((1, 1), 0.11), ((2, 1), 0.14), ((2, 2), 0.08), ((3, 1), 0.12), ((3, 2), 0.05), ((4, 1), 0.11),
    ((1, 1, 1), 0.04), ((2, 1, 1), 0.06), ((2, 2, 1), 0.02),
)  # fmt: skip
"""How many objects of each of a scene's labels, and how often: counting must not be won by answering one."""
_SIZES = {
    "building": ((20, 40), (15, 28)), "tank": ((15, 30), (0, 0)), "vehicle": ((10, 13), (5, 6)), "road": ((60, 130), (9, 13)), "pond": ((24, 48), (20, 36)),
    "pool": ((18, 32), (12, 18)), "grove": ((24, 38), (0, 0)), "marking": ((0, 0), (0, 0)),
}  # fmt: skip
"""Ranges of width and height in sub-pixels."""
_GROUND_PHRASES = {"bare": ("on", "bare soil"), "field": ("on", "a field"), "forest": ("in", "a forest"), "grass": ("on", "grass")}
CAPTIONS = "dataset_scenes.json"
_INFRARED_DRAWS = 4
"""Marks the random stream of the near infrared."""
_SENTENCES = (
    "{objects} {prep} {ground}",
    "{ground} with {objects}",
    "an aerial view of {ground} with {objects}",
    "there {be} {objects} {prep} {ground}",
    "{prep} {ground} there {be} {objects}",
    "{objects} {prep} {ground} seen from above",
)


Made = TypeVar("Made")
MAKER = Family("maker")
"""What can make data in a published layout: a Config with `make(out)`."""


@MAKER.add
class Scenes(Config):
    """Which scenes to make."""

    kind: Literal["scenes"] = "scenes"
    count: int = Field(ge=1)
    """Number of scenes."""
    seed: int = Field(default=0, ge=0)
    """Scenes of different seeds have nothing in common."""
    first: int = Field(default=0, ge=0)
    """Number of the first scene: (seed, number) names a scene for ever."""
    size: int = Field(default=96, ge=64, le=224, multiple_of=2)
    """Side of a picture in pixels; objects keep their size in pixels."""
    text_share: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of scenes with a painted marking of two or three characters."""
    val_share: float = Field(default=0.05, ge=0.0, le=0.5)
    """Share of scenes whose split is `val`."""
    test_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of scenes whose split is `test`."""
    infrared: bool = False
    """Add a near-infrared band, and nets that only it shows: pictures are TIFF of four named bands, of which the first three are those of the same scene without it."""

    def make(self, out: Path) -> None:
        """Write the scenes to `out`; see the function `make`."""
        make(self, out)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One object of a finished scene. `corners` are px of the picture, (4, 2), clockwise from the top left of its own frame."""

    label: str
    corners: np.ndarray
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One finished scene: `picture` (size, size, 3, or 4 with near infrared), `mask` of label ids and `instances` (0 = ground, n = objects[n - 1]), both (size, size), all uint8."""

    index: int
    ground: str
    split: str
    picture: np.ndarray
    mask: np.ndarray
    instances: np.ndarray
    objects: tuple[Placed, ...]
    captions: tuple[str, ...]


def compose(config: Scenes, index: int) -> Scene:
    """Scene number `index`; depends on `config.seed`, `index`, `size` and the shares only."""
    rng = np.random.default_rng([config.seed, index])
    chance = rng.uniform()
    split = "val" if chance < config.val_share else "test" if chance < config.val_share + config.test_share else "train"
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    things, prints = place(_wanted(ground, config.text_share, rng), config.size, rng)
    picture, instances = draw(ground, things, prints, config.size, rng)
    labels = np.array([IDS[ground]] + [IDS[thing.label] for thing in things], np.uint8)
    objects = tuple(Placed(label=thing.label, corners=_corners(thing, at, config.size), text=thing.text) for thing, at in zip(things, prints))
    mask = labels[instances]
    if config.infrared:
        picture, mask, instances, objects = _with_infrared(config, index, ground, things, picture, mask, instances, objects)
    captions = captions_of(ground, objects, rng)
    return Scene(index=index, ground=ground, split=split, picture=picture, mask=mask, instances=instances, objects=objects, captions=captions)


def _with_infrared(
    config: Scenes, index: int, ground: str, things: list[Thing], picture: np.ndarray, mask: np.ndarray, instances: np.ndarray, objects: tuple[Placed, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[Placed, ...]]:
    """Picture, mask, instances and objects with one or two nets and the band that shows them. What is random here has a stream of its own."""
    rng = np.random.default_rng([config.seed, index, _INFRARED_DRAWS])
    things, mask, instances = list(things), mask.copy(), instances.copy()
    for _ in range(int(rng.integers(1, 3))):
        for attempt in range(_TRIES):
            net = _thing("pond", config.size * SUB, 1 - 0.35 * attempt / _TRIES, rng)
            at = footprint(net, config.size * SUB + 2 * PAD)
            if not any(_near(net, other) for other in things) and _fits(net, at, config.size):
                things.append(net)
                objects = (*objects, Placed(label=HIDDEN, corners=_corners(net, at, config.size)))
                own = owned(at, config.size) & (instances == 0)
                instances[own], mask[own] = len(objects), len(CLASSES)
                break
    names = [*CLASSES, HIDDEN]
    band = infrared_band(np.array([INFRARED.get(name, 0) for name in names], np.float32)[mask], picture, rng)
    return np.concatenate([picture, band[..., None]], axis=2), mask, instances, objects


def _wanted(ground: str, text_share: float, rng: np.random.Generator) -> list[str]:
    """Labels of the objects to place, largest first."""
    weights = np.array([weight for _, weight in _GROUPS])
    groups = _GROUPS[int(rng.choice(len(_GROUPS), p=weights / weights.sum()))][0]
    marked = rng.uniform() < text_share
    choices = [label for label in OBJECTS if label != "marking" and not (label == "grove" and ground == "forest")]
    chosen = rng.permutation(len(choices))
    wanted = [choices[number] for number, count in zip(chosen, groups) for _ in range(count)]
    return ["marking"] * int(marked) + sorted(wanted[: 5 - int(marked)], key=lambda label: -_SIZES[label][0][1])


def place(
    wanted: list[str], size: int, rng: np.random.Generator, beside: Sequence[Thing] = (), shaped: Callable[[Thing], Thing] | None = None
) -> tuple[list[Thing], list[Footprint]]:
    """Place one object after the other; one that finds no room after some tries, ever smaller, is left out. On an empty tile the first always finds room.

    `beside`: things that stand there already; `shaped` changes a thing before it is tried.
    """
    things: list[Thing] = []
    prints: list[Footprint] = []
    for label in wanted:
        for attempt in range(_TRIES):
            thing = _thing(label, size * SUB, 1 - 0.35 * attempt / _TRIES, rng)
            thing = shaped(thing) if shaped else thing
            if any(_near(thing, other) for other in (*beside, *things)):
                continue
            at = footprint(thing, size * SUB + 2 * PAD)
            if _fits(thing, at, size):
                things.append(thing)
                prints.append(at)
                break
    assert things or beside, f"no room for {wanted[0]} on an empty tile of {size} px"
    return things, prints


def _thing(label: str, side: int, shrink: float, rng: np.random.Generator) -> Thing:
    """One object at a random place in one of the quadrants, turned at random."""
    (w_low, w_high), (h_low, h_high) = _SIZES[label]
    w, h, theta = rng.uniform(w_low, w_high) * shrink, rng.uniform(h_low, h_high) * shrink, rng.uniform(0, math.pi)
    details: tuple[float, ...] = ()
    text = ""
    if label == "tank":
        h = w
    elif label == "vehicle":
        w, h = w / shrink, h / shrink
    elif label == "building":
        details = tuple(rng.uniform((-0.3, -0.2, -0.2), (1.0, 0.3, 0.3)).tolist())
    elif label == "road":
        h, details = h / shrink, (rng.uniform(),)
    elif label == "pond":
        details = tuple(rng.uniform((0.04, 0.03, 0.0, 0.0), (0.11, 0.08, 6.28, 6.28)).tolist())
    elif label == "grove":
        h = w * rng.uniform(0.72, 1.0)
        details = _grove(w, h, rng)
    elif label == "marking":
        text = "".join(np.array(list(GLYPHS))[rng.integers(0, len(GLYPHS), int(rng.integers(2, 4)))])
        cell = rng.uniform(2.4, 3.0)
        w, h, theta, details = cell * (6 * len(text) + 2.5), cell * 10.5, rng.uniform(-0.2, 0.2), (cell,)
    margin = MIDLINE_GAP * SUB
    low = 8.0 if label == "road" else min(w, h) / 2
    place = rng.uniform(low, side / 2 - margin, 2)
    cx, cy = (float(p if keep else side - p) for p, keep in zip(place, rng.integers(0, 2, 2)))
    return Thing(label=label, cx=cx, cy=cy, w=float(w), h=float(h), theta=float(theta), details=details, text=text)


def _grove(w: float, h: float, rng: np.random.Generator) -> tuple[float, ...]:
    """Crowns (u, v, radius) of a grove: a ring of trees that touch the one in the middle."""
    narrow = min(w, h)
    crowns = [0.0, 0.0, narrow * 0.28]
    count = int(rng.integers(5, 9))
    for number in range(count):
        angle, radius = (number + rng.uniform(-0.25, 0.25)) * 2 * math.pi / count, rng.uniform(0.18, 0.26) * narrow
        crowns += [math.cos(angle) * (w / 2 - radius), math.sin(angle) * (h / 2 - radius), radius]
    return tuple(float(value) for value in crowns)


def _near(a: Thing, b: Thing) -> bool:
    """Whether two rectangles come closer than the gap (separating axes of both)."""
    dx, dy = b.cx - a.cx, b.cy - a.cy
    for first, second in ((a, b), (b, a)):
        c, s = math.cos(first.theta), math.sin(first.theta)
        turn_c, turn_s = abs(math.cos(second.theta - first.theta)), abs(math.sin(second.theta - first.theta))
        if abs(dx * c + dy * s) > first.w / 2 + (second.w * turn_c + second.h * turn_s) / 2 + _GAP:
            return False
        if abs(dy * c - dx * s) > first.h / 2 + (second.w * turn_s + second.h * turn_c) / 2 + _GAP:
            return False
    return True


def _fits(thing: Thing, at: Footprint, size: int) -> bool:
    """Whole inside the picture (roads may leave it, when enough stays), and the centre of its visible part clear of the midlines."""
    reach_x, reach_y = thing.reach()
    if thing.label != "road" and not (reach_x + 3 <= thing.cx <= size * SUB - reach_x - 3 and reach_y + 3 <= thing.cy <= size * SUB - reach_y - 3):
        return False
    corners = _corners(thing, at, size)
    if thing.label == "road" and np.hypot(*(corners[1] - corners[0])) < _SHORTEST_ROAD:
        return False
    return bool((np.abs(corners.mean(0) - size / 2) >= MIDLINE_GAP).all())


def _corners(thing: Thing, at: Footprint, size: int) -> np.ndarray:
    """(4, 2) px: the tightest rectangle in the thing's own frame around its sub-pixels that lie within the picture."""
    rows = slice(max(PAD - at.rows.start, 0), PAD + size * SUB - at.rows.start)
    columns = slice(max(PAD - at.columns.start, 0), PAD + size * SUB - at.columns.start)
    inside = at.inside[rows, columns]
    if not inside.any():
        return np.full((4, 2), size / 2)
    u, v = at.u[rows, columns][inside], at.v[rows, columns][inside]
    left, right, top, bottom = float(u.min()) - 0.5, float(u.max()) + 0.5, float(v.min()) - 0.5, float(v.max()) + 0.5
    own = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    c, s = math.cos(thing.theta), math.sin(thing.theta)
    return (np.array([thing.cx, thing.cy]) + own @ np.array([(c, s), (-s, c)])) / SUB


def captions_of(ground: str, objects: Sequence[Placed], rng: np.random.Generator) -> tuple[str, ...]:
    """Two or three captions, each naming the ground and every label with its count: what a caption does not name is not there."""
    counts = Counter(placed.label for placed in objects)
    text = next((placed.text for placed in objects if placed.text), "")
    prep, ground_phrase = _GROUND_PHRASES[ground]
    captions = []
    for number, sentence in enumerate(rng.permutation(len(_SENTENCES))[: int(rng.integers(2, 4))]):
        names = [list(counts)[i] for i in rng.permutation(len(counts))]
        nouns = [counted(name, counts[name]) + (f" that reads {text}" if name == "marking" and number == 1 else "") for name in names]
        captions.append(_SENTENCES[sentence].format(objects=listed(nouns), prep=prep, ground=ground_phrase, be="are" if counts[names[0]] > 1 else "is"))
    return tuple(captions)


def make(config: Scenes, out: Path, workers: int = 2) -> None:
    """Write scenes as a data set in published layouts; the folder `out` appears whole or not at all.

    `images/NNNNN.png` RGB (with near infrared `NNNNN.tif` of four bands); `masks/NNNNN.png` palette PNG of label ids; `instances/NNNNN.png` 8-bit object numbers; `labelTxt/NNNNN.txt` DOTA; `texts/NNNNN.txt` ICDAR 2015
    (quadrangle and transcription, a file for each scene with a marking); `dataset_scenes.json` captions in Karpathy's form; `classes.json`. The bytes do not depend on `workers`.
    Earlier scenes at `out` are replaced; raises Refused when something else stands there.
    """
    check_free(out)
    chunk = min(100, -(-config.count // max(workers, 1)))
    starts = range(config.first, config.first + config.count, chunk)
    progress = Progress("scenes", config.count, "scenes")
    rows: list[tuple[str, tuple[str, ...]]] = []
    with artifact(out) as folder:
        for name in ("images", "masks", "instances", "labelTxt", "texts"):
            (folder / name).mkdir()
        for made in in_chunks(partial(_write, config, folder, chunk), starts, workers):
            rows.extend(made)
            progress.advance(len(made))
        progress.close()
        named = [(f"{config.first + number:05d}{_ending(config)}", split, captions) for number, (split, captions) in enumerate(rows)]
        write_json(folder / CAPTIONS, karpathy(named))
        palette = _palette(config)
        classes = [
            {"id": number, "name": name, "rgb": list(rgb), "countable": name in (*OBJECTS, HIDDEN)} for number, (name, rgb) in enumerate(palette.items())
        ]
        write_json(folder / "classes.json", classes)


def check_free(out: Path) -> None:
    """Refused where something stands that is no earlier output of a maker."""
    if out.exists() and not (out / CAPTIONS).is_file():
        found = "a folder that holds no scenes" if out.is_dir() else "a file"
        raise Refused(
            Problem(code="data/out-taken", place=str(out), found=found, allowed="a new folder, or one of earlier scenes", fix="choose another folder")
        )


def in_chunks(write: Callable[[int], Made], starts: range, workers: int) -> Iterator[Made]:
    """What a picklable function makes of each start, in order, in `workers` processes."""
    if workers <= 1 or len(starts) == 1:
        yield from map(write, starts)
        return
    with pool(min(workers, len(starts)), "spawn") as processes:
        yield from processes.map(write, starts)


def _write(config: Scenes, folder: Path, chunk: int, start: int) -> list[tuple[str, tuple[str, ...]]]:
    """Write one chunk of scenes; gives the split and the captions of each."""
    rows = []
    for index in range(start, min(start + chunk, config.first + config.count)):
        scene = compose(config, index)
        stem = f"{index:05d}"
        mask = Image.fromarray(scene.mask).convert("P")
        mask.putpalette([value for rgb in _palette(config).values() for value in rgb])
        if config.infrared:
            (folder / "images" / f"{stem}{_ending(config)}").write_bytes(encoded(scene.picture, BANDS))
        else:
            _save_png(Image.fromarray(scene.picture), folder / "images" / f"{stem}.png")
        _save_png(mask, folder / "masks" / f"{stem}.png")
        _save_png(Image.fromarray(scene.instances), folder / "instances" / f"{stem}.png")
        quads = [[f"{value:.2f}" for value in placed.corners.ravel().tolist()] for placed in scene.objects]
        lines = [f"{' '.join(quad)} {placed.label} 0\n" for quad, placed in zip(quads, scene.objects)]
        (folder / "labelTxt" / f"{stem}.txt").write_text("imagesource:scenes\ngsd:null\n" + "".join(lines), encoding="utf-8")
        texts = [f"{','.join(quad)},{placed.text}\n" for quad, placed in zip(quads, scene.objects) if placed.text]
        if texts:
            (folder / "texts" / f"{stem}.txt").write_text("".join(texts), encoding="utf-8")
        rows.append((scene.split, scene.captions))
    return rows


def _save_png(image: Image.Image, file: Path) -> None:
    image.save(file, compress_level=1, compress_type=zlib.Z_RLE)


def _ending(config: Scenes) -> str:
    return ".tif" if config.infrared else ".png"


def _palette(config: Scenes) -> dict[str, tuple[int, int, int]]:
    return {**CLASSES, HIDDEN: _HIDDEN_RGB} if config.infrared else CLASSES


def karpathy(rows: Sequence[tuple[str, str, tuple[str, ...]]]) -> dict[str, object]:
    """(file name, split, captions) of pictures in the form of Karpathy's `dataset_*.json`."""
    images, sentence = [], 0
    for number, (name, split, captions) in enumerate(rows):
        ids = list(range(sentence, sentence + len(captions)))
        sentence += len(captions)
        sentences = [{"raw": raw, "tokens": raw.replace(",", "").lower().split(), "imgid": number, "sentid": sentid} for raw, sentid in zip(captions, ids)]
        images.append({"filename": name, "imgid": number, "split": split, "sentids": ids, "sentences": sentences})
    return {"images": images, "dataset": "scenes"}
