"""How fast `data check` is beside a bare loop that only decodes the same files: pictures per second of processor time, so that other work on the machine does not count.

    python benchmarks/check_speed.py [DATA] [--repeats 3]

Prints one line for a made set of photographs of 640x480, as COCO and most web sets have them, whose bar is 70 % of the bare loop; then, where DATA is given, one per real set and one for all of them
together: medians, and the spread of the share over the rounds. The real sets at hand are small copies (pictures of 0.2 to 0.4 ms, up to ten rows each): they show what a row costs, not what a picture
does; `rows` says what is left of the check for each row beyond the look at the pictures. The bare loop opens every picture file that the check decodes (masks too), decodes it whole and converts
it to RGB. The loops take turns in one process; the first round warms the disk and the caches and is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from figures import Figure, show
from PIL import Image

from sightline.data.check import gathering
from sightline.data.check.checking import check
from sightline.data.engine import Local

SETS = ("coco_mini", "flickr8k", "rsicd", "dota", "loveda", "hit_uav", "dronedeploy", "levir_cd")
LEAST = 0.7
PHOTOS = 400
WORDS = ("a", "white", "boat", "near", "the", "old", "harbour", "wall", "two", "people", "walk", "green", "field", "under", "tall", "trees")
_PICTURES = (".jpg", ".png")


def make_photos(folder: Path, count: int = PHOTOS) -> Path:
    """Distinct pictures of 640x480, as detailed as photographs (about 100 KB), with a caption and a question each, in LLaVA's layout."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + rng.integers(-24, 25, (480, 640, 1), np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{number:05}.jpg", quality=85)
        said = [" ".join(rng.choice(WORDS, 12)) for _ in range(2)]
        turns = [("human", "<image>\nDescribe it."), ("gpt", said[0]), ("human", f"Where is picture {number}?"), ("gpt", said[1])]
        rows.append({"id": str(number), "image": f"{number:05}.jpg", "conversations": [{"from": role, "value": text} for role, text in turns]})
    (folder / "photos.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def decode(files: Sequence[Path]) -> None:
    """Decode every file and nothing else."""
    for file in files:
        with Image.open(file) as opened:
            opened.convert("RGB")


def look(paths: Sequence[Path]) -> int:
    """Check the sets as a user does: recognise, read, look, apply all rules, over rows and over the whole. Gives the number of rows."""
    gathering._seen.clear()
    with contextlib.redirect_stderr(io.StringIO()):
        return len(check(paths, engine=Local(workers=1)).own)


def glance(files: Sequence[Path]) -> None:
    """The look at pictures alone: decode, size, mode, EXIF, both hashes in eight orientations."""
    gathering._seen.clear()
    for start in range(0, len(files), gathering.CHUNK):
        gathering._look({str(file): str(file) for file in files[start : start + gathering.CHUNK]})


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One set: rates, and the share of the bare loop's rate that the check reaches, per round."""

    files: int
    rows: int
    bare: float
    """Seconds of the bare loop, median."""
    pictures: float
    """Seconds of the look at pictures alone, median."""
    whole: float
    """Seconds of the check, median."""
    shares: tuple[float, ...]

    def __str__(self) -> str:
        row = 1e6 * (self.whole - self.pictures) / self.rows
        return (
            f"{self.files:5} files {self.rows:5} rows  bare {self.files / self.bare:5.0f}/s  pictures alone {100 * self.bare / self.pictures:4.0f} %  "
            f"check {100 * median(self.shares):3.0f} % ({100 * min(self.shares):.0f}..{100 * max(self.shares):.0f})  rows {row:5.0f} us each"
        )


def compare(paths: Sequence[Path], repeats: int) -> Compared:
    """Measure the three loops in turn."""
    files = [file for path in paths for file in sorted(path.rglob("*")) if file.suffix in _PICTURES]
    rows = look(paths)
    loops = (lambda: decode(files), lambda: glance(files), lambda: look(paths))
    rounds = [[seconds(loop) for loop in loops] for _ in range(repeats + 1)][1:]
    bare, pictures, whole = (median(column) for column in zip(*rounds, strict=True))
    return Compared(files=len(files), rows=rows, bare=bare, pictures=pictures, whole=whole, shares=tuple(one[0] / one[2] for one in rounds))


def check_speed(data: Path | None, repeats: int = 3, photos: int = PHOTOS) -> Iterator[Figure]:
    """Share of the bare loop's rate: photographs, whose bar it is, and the real sets."""
    with tempfile.TemporaryDirectory() as scratch:
        found = compare([make_photos(Path(scratch) / "photos", photos)], repeats)
        yield Figure(name="check speed, photos", values=found.shares, least=LEAST, note=str(found))
    sets = [data / name for name in SETS if (data / name).is_dir()] if data else []
    for paths in [*([path] for path in sets), *([sets] if len(sets) > 1 else [])]:
        found = compare(paths, repeats)
        yield Figure(name=f"check speed, {paths[0].name if len(paths) == 1 else 'all real sets'}", values=found.shares, note=str(found))


def main() -> int:
    """Exit code 1 when the photographs are below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the real data sets")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    return int(any(not figure.passed for figure in show(check_speed(arguments.data, arguments.repeats))))


if __name__ == "__main__":
    sys.exit(main())
