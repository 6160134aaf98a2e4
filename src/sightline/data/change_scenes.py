"""Made pairs: one place on two days, with the buildings that were built or torn down between them, in the layout of LEVIR-CD.

What is no change differs too: light and shadows, the sensor, a shift of the earlier picture by a pixel or so, and vehicles that come and go. So a difference of pixels alone says little.
Pair number i of seed s is the same whatever the count, the number of workers or the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

from sightline.data.quality_faults import moved
from sightline.data.scene_drawing import PAD, SUB, Thing, draw, footprint
from sightline.data.scenes import CAPTIONS, GROUNDS, Placed, captions_of, check_free, in_chunks, karpathy, place
from sightline.kinds import Config
from sightline.lineage import artifact, write_json
from sightline.progress import Progress

BUILT, TORN_DOWN = "built", "torn-down"
CHANGES = "changes.json"
_OTHERS = ("tank", "road", "pond", "pool", "grove")
_SCALE = 1.8
"""Buildings of pairs are larger than those of scenes: 18 to 36 by 14 to 25 px, so that a box a few pixels off still lies on its building."""
_CHUNK = 100


class ScenePairs(Config):
    """Which pairs to make."""

    kind: Literal["scene-pairs"] = "scene-pairs"
    count: int = Field(ge=1)
    """Number of pairs."""
    seed: int = Field(default=0, ge=0)
    """Pairs of different seeds have nothing in common."""
    first: int = Field(default=0, ge=0)
    """Number of the first pair: (seed, number) names a pair for ever."""
    size: int = Field(default=96, ge=96, le=224, multiple_of=2)
    """Side of a picture in pixels; objects keep their size in pixels."""
    same_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of pairs in which no building changed."""
    most_changed: int = Field(default=2, ge=1, le=4)
    """Buildings that change in the other pairs, 1 to so many; fewer where there is no room."""
    turn: float = Field(default=10.0, ge=0.0, le=90.0)
    """Buildings are turned by at most so many degrees from the sides of the picture."""
    jitter: int = Field(default=1, ge=0, le=8)
    """The earlier picture is shifted by at most so many whole pixels right or left, up or down."""
    vehicles: int = Field(default=2, ge=0, le=4)
    """Vehicles on each of the two days, 0 to so many: they are no change."""
    val_share: float = Field(default=0.05, ge=0.0, le=0.5)
    """Share of pairs whose split is `val`."""
    test_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of pairs whose split is `test`."""

    def make(self, out: Path) -> None:
        """Write the pairs to `out`; see the function `make_pairs`."""
        make_pairs(self, out)


Standing = tuple[str, float, float]
"""Label and centre (x, y) of a thing, px."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One finished pair: `before` and `after` (size, size, 3) uint8, `changed` (size, size) bool in the frame of `after`."""

    index: int
    split: str
    before: np.ndarray
    after: np.ndarray
    changed: np.ndarray
    events: tuple[str, ...]
    """What happened: `built`, `torn-down`, both or neither."""
    things: tuple[tuple[Standing, ...], tuple[Standing, ...]]
    """What stands where on each day."""
    captions: tuple[tuple[str, ...], tuple[str, ...]]
    """Captions of the earlier and of the later picture."""


def compose_pair(config: ScenePairs, index: int) -> Pair:
    """Pair number `index`; depends on `config.seed`, `index` and the other settings but `count` and `first`."""
    rng = np.random.default_rng([config.seed, 2, index])
    chance = rng.uniform()
    split = "val" if chance < config.val_share else "test" if chance < config.val_share + config.test_share else "train"
    ground = GROUNDS[int(rng.integers(len(GROUNDS)))]
    shaped = lambda thing: _large(thing, config.turn, rng)  # noqa: E731
    changing = 0 if rng.uniform() < config.same_share else int(rng.integers(1, config.most_changed + 1))
    moving, _ = place(["building"] * changing, config.size, rng, shaped=shaped) if changing else ([], [])
    kept = ["building"] * int(rng.integers(0, 3)) + [_OTHERS[number] for number in rng.permutation(len(_OTHERS))[: int(rng.integers(1, 3))]]
    staying, _ = place([label for label in kept if not (label == "grove" and ground == "forest")] or ["road"], config.size, rng, moving, shaped)
    taken = [*moving, *staying]
    parked = [place(["vehicle"] * int(rng.integers(0, config.vehicles + 1)), config.size, rng, taken)[0] for _ in range(2)] if taken else [[], []]
    built = rng.random(len(moving)) < 0.5
    days = [
        [*staying, *(thing for thing, later in zip(moving, built) if not later), *parked[0]],
        [*staying, *(thing for thing, later in zip(moving, built) if later), *parked[1]],
    ]
    pictures, owners = zip(*(_drawn(config, index, day, ground, things) for day, things in enumerate(days)), strict=True)
    right, down = (int(step) for step in rng.integers(-config.jitter, config.jitter + 1, 2))
    first = len(staying)
    changed = np.zeros((config.size, config.size), bool)
    for owner, number in zip(owners, (int((~built).sum()), int(built.sum()))):
        changed |= (owner > first) & (owner <= first + number)
    told = [captions_of(ground, [Placed(label=thing.label, corners=np.zeros((4, 2))) for thing in things], rng) if things else (ground,) for things in days]
    events = (*([BUILT] if built.any() else []), *([TORN_DOWN] if (~built).any() else []))
    return Pair(
        index=index,
        split=split,
        before=moved(pictures[0], right, down),
        after=pictures[1],
        changed=changed,
        events=events,
        things=(_standing(days[0]), _standing(days[1])),
        captions=(told[0], told[1]),
    )


def _standing(things: list[Thing]) -> tuple[Standing, ...]:
    return tuple((thing.label, round(thing.cx / SUB, 1), round(thing.cy / SUB, 1)) for thing in things)


def _large(thing: Thing, turn: float, rng: np.random.Generator) -> Thing:
    """A building larger, nearly upright and without a notch; every other thing as it is."""
    if thing.label != "building":
        return thing
    theta = np.radians(rng.uniform(-turn, turn)) + (np.pi / 2 if rng.random() < 0.5 else 0.0)
    return replace(thing, w=thing.w * _SCALE, h=thing.h * _SCALE, theta=float(theta), details=(abs(thing.details[0]), *thing.details[1:]))


def _drawn(config: ScenePairs, index: int, day: int, ground: str, things: list[Thing]) -> tuple[np.ndarray, np.ndarray]:
    """The picture of one day, and the number of the thing at each pixel. Ground and colours are those of the place, light and sensor those of the day."""
    prints = [footprint(thing, config.size * SUB + 2 * PAD) for thing in things]
    rngs = (np.random.default_rng([config.seed, 3, index]), np.random.default_rng([config.seed, 4, index, day]))
    return draw(ground, things, prints, config.size, *rngs)


def make_pairs(config: ScenePairs, out: Path, workers: int = 2) -> None:
    """Write pairs as LEVIR-CD has them; the folder `out` appears whole or not at all.

    `A/NNNNN.png` earlier and `B/NNNNN.png` later pictures, RGB; `label/NNNNN.png` 0 or 255; `list/SPLIT.txt` names of a split; `changes.json` by name what happened, and what stands where on each day;
    `dataset_scenes.json` captions of all single pictures in Karpathy's form. The bytes do not depend on `workers`. Raises Refused when something else stands there.
    """
    check_free(out)
    starts = range(config.first, config.first + config.count, _CHUNK)
    progress = Progress("pairs", config.count, "pairs")
    rows: list[_Told] = []
    with artifact(out) as folder:
        for name in ("A", "B", "label", "list"):
            (folder / name).mkdir()
        for made in in_chunks(partial(_write, config, folder), starts, workers):
            rows.extend(made)
            progress.advance(len(made))
        progress.close()
        for split in ("train", "val", "test"):
            names = [f"{row.name}\n" for row in rows if row.split == split]
            (folder / "list" / f"{split}.txt").write_text("".join(names), encoding="utf-8")
        write_json(folder / CHANGES, {row.name.removesuffix(".png"): {"changes": row.events, "things": row.things} for row in rows})
        write_json(folder / CAPTIONS, karpathy([(f"{day}/{row.name}", row.split, row.captions[n]) for row in rows for n, day in enumerate("AB")]))


@dataclass(frozen=True, kw_only=True)
class _Told:
    """What is written down of a pair beside its pictures."""

    name: str
    split: str
    events: tuple[str, ...]
    things: tuple[tuple[Standing, ...], tuple[Standing, ...]]
    captions: tuple[tuple[str, ...], tuple[str, ...]]


def _write(config: ScenePairs, folder: Path, start: int) -> list[_Told]:
    """Write the pairs of one chunk."""
    rows = []
    for index in range(start, min(start + _CHUNK, config.first + config.count)):
        pair, name = compose_pair(config, index), f"{index:05d}.png"
        for where, pixels in (("A", pair.before), ("B", pair.after), ("label", pair.changed.astype(np.uint8) * 255)):
            Image.fromarray(pixels).save(folder / where / name, compress_level=1)
        rows.append(_Told(name=name, split=pair.split, events=pair.events, things=pair.things, captions=pair.captions))
    return rows
