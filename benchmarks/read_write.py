"""Reading and writing captions at scale: seconds and memory of `read_sets`, beside a plain loop that decodes the same pictures and writes the same Parquet columns.

    python benchmarks/read_write.py [ROWS]      100,000 rows with pictures of 20 KB, made in a temporary folder, by default

Memory is the sum over this process and its children, sampled ten times a second: once with pages that processes share counted in each (rss), once counted in parts (pss).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 150
"""A JPEG of noise of this side has 20 KB."""
PICTURES = 2000
"""Distinct pictures; the others are hard links, so that the disk is not filled. Each file is read and decoded all the same."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one way of reading took."""

    rows: int
    seconds: float
    rss: int
    """Highest sum of resident bytes of all processes."""
    pss: int
    """The same, with shared pages counted once."""

    def __str__(self) -> str:
        return f"{self.rows} rows in {self.seconds:.1f} s, {self.rows / self.seconds:.0f} rows/s, {self.rss / 1e6:.0f} MB (rss), {self.pss / 1e6:.0f} MB (pss)"


def make_captions(folder: Path, rows: int) -> Path:
    """Rows in LLaVA's layout, each with a picture file of its own of about 20 KB; gives the annotation file."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(rows):
        file = folder / "images" / f"{number:06d}.jpg"
        if number < PICTURES:
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, quality=75)
            with file.open("ab") as stream:
                stream.write(bytes(max(0, 20_000 - file.stat().st_size)))
        else:
            os.link(folder / "images" / f"{number % PICTURES:06d}.jpg", file)
    said = [
        {
            "id": f"{number:06d}",
            "image": f"{number:06d}.jpg",
            "conversations": [
                {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"},
                {"from": "gpt", "value": f"caption {number} about ships in a harbour near the coast"},
            ],
        }
        for number in range(rows)
    ]
    (folder / "captions.json").write_text(json.dumps(said), encoding="utf-8")
    return folder / "captions.json"


def plain_loop(annotations: Path, out: Path) -> int:
    """Decode and write row by row, as a script would."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rows = json.loads(annotations.read_text(encoding="utf-8"))
    schema = pa.schema([("id", pa.string()), ("image", pa.binary()), ("width", pa.int32()), ("height", pa.int32()), ("text", pa.string())])
    with pq.ParquetWriter(out, schema, compression="NONE", use_dictionary=False) as writer:
        for start in range(0, len(rows), 64):
            lines = []
            for row in rows[start : start + 64]:
                file = annotations.parent / "images" / row["image"]
                with Image.open(file) as image:
                    width, height = np.asarray(image.convert("RGB")).shape[1::-1]
                lines.append({"id": row["id"], "image": file.read_bytes(), "width": width, "height": height, "text": row["conversations"][1]["value"]})
            writer.write_table(pa.Table.from_pylist(lines, schema=schema))
    return len(rows)


def ours(annotations: Path, out: Path) -> int:
    """The reader, in parallel and durable."""
    from sightline.data.readers.llava_json import LlavaJson
    from sightline.data.reading import read_sets

    return len(read_sets([[(LlavaJson(), annotations)]], out))


def measured(function: Callable[[Path, Path], int], annotations: Path, out: Path) -> Cost:
    """Run in a process of its own, and watch it and its children."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_put, args=(queue, function, annotations, out))
    peak = [0, 0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if process.pid is not None:
                for place, value in enumerate(memory(process.pid)):
                    peak[place] = max(peak[place], value)

    watcher = threading.Thread(target=watch, daemon=True)
    process.start()
    watcher.start()
    rows, seconds = queue.get()
    done.set()
    watcher.join()
    process.join()
    return Cost(rows=rows, seconds=seconds, rss=peak[0], pss=peak[1])


def _put(queue: multiprocessing.Queue[tuple[int, float]], function: Callable[[Path, Path], int], annotations: Path, out: Path) -> None:
    start = time.monotonic()
    rows = function(annotations, out)
    queue.put((rows, time.monotonic() - start))


def memory(process: int) -> tuple[int, int]:
    """(rss, pss) in bytes of a process and all below it; what ends meanwhile counts nothing."""
    rss = pss = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines():
            rss += int(line.split()[1]) * 1024 if line.startswith("Rss:") else 0
            pss += int(line.split()[1]) * 1024 if line.startswith("Pss:") else 0
        children = [child for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return rss, pss
    below = [memory(int(child)) for child in children]
    return rss + sum(one for one, _ in below), pss + sum(one for _, one in below)


def main(rows: int) -> None:
    """Measure both and print them."""
    with tempfile.TemporaryDirectory() as scratch:
        annotations = make_captions(Path(scratch) / "captions", rows)
        for name, function in (("plain loop", plain_loop), ("sightline", ours)):
            print(f"{name}: {measured(function, annotations, Path(scratch) / name)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
